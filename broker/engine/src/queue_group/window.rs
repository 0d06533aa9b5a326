//! Which messages may be granted, for a group that looks into messages before it grants them: in the order of keys.
//!
//! Messages of one key stand in a line, lowest offset first. The head of a line can be granted if nobody has another
//! message of its key; messages without a key stand in no line. Whoever can be granted gets a [turn](super::turns), so
//! that a key with a million messages is served as often as one with two.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dure_proto::{KeyHash, Offset, Priority};

use super::hot::HotKey;
use super::offset_runs::OffsetRuns;
use super::turns::Turns;

/// What the lines and turns of one window take in memory, about: at the bound it looks no further.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;
/// A window looks further when it has fewer untouched messages to grant.
const FRESH_MIN: usize = 1024;
/// The same where urgent ones go first: one that comes behind so many is not seen yet.
pub const PRIORITY_LOOK_AHEAD: usize = 4096;
/// A line in its map, with a known message in it.
const LINE_BYTES: usize = 256;

/// Where a message that the table knows singly stands in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be granted when its key is free.
    Ready,
    /// Not yet, and no other of its key before it.
    Waiting,
    /// Out with a worker. Of each key at most one is.
    Leased,
    /// On its way to the dead letters. It holds its key: an extend or a crash may bring it back.
    Dying,
}

impl Standing {
    /// Whether it keeps the others of its key from being granted.
    pub(crate) fn is_out(self) -> bool {
        matches!(self, Standing::Leased | Standing::Dying)
    }
}

/// Knows no message but by offset and key; what is settled or known singly, the lease table tells.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// The record of every unsettled message below was looked at; nothing from here on is granted.
    scanned: Offset,
    lines: HashMap<KeyHash, Line>,
    /// What the lines hold on the heap.
    runs_bytes: usize,
    turns: Turns,
    /// A record table is on its way.
    pub(super) is_asked: bool,
    /// Set if the last one could not be read: not asked again before.
    pub(super) asks_again_mono_ms: Option<u64>,
}

/// The messages of one key. Never empty.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Those that the table knows singly, ascending.
    known: VecDeque<(Offset, Standing)>,
    /// Members of `known` that are out.
    out: u32,
    /// Those below `scanned` that nobody was ever granted. May hold settled or known ones behind its front.
    untouched: OffsetRuns,
    /// The head, while it has a turn.
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    offset: Offset,
    known: bool,
}

impl Line {
    /// The message that can be granted now.
    fn next(&self, scanned: Offset) -> Option<Open> {
        if self.out > 0 {
            return None;
        }
        match (self.known.front(), self.untouched.front()) {
            (Some((offset, standing)), untouched) if untouched.is_none_or(|other| *offset < other) => {
                let ready = *standing == Standing::Ready && *offset < scanned;
                ready.then_some(Open { offset: *offset, known: true })
            }
            (_, Some(offset)) => Some(Open { offset, known: false }),
            (_, None) => None,
        }
    }

    fn put(&mut self, offset: Offset, standing: Standing) {
        match self.known.binary_search_by_key(&offset, |(known, _)| *known) {
            Ok(at) => {
                self.out -= u32::from(self.known[at].1.is_out());
                self.known[at].1 = standing;
            }
            Err(at) => self.known.insert(at, (offset, standing)),
        }
        self.out += u32::from(standing.is_out());
    }

    fn take(&mut self, offset: Offset) {
        if let Ok(at) = self.known.binary_search_by_key(&offset, |(known, _)| *known) {
            let (_, standing) = self.known.remove(at).expect("it was just found");
            self.out -= u32::from(standing.is_out());
        }
    }
}

impl Window {
    /// `urgent_first`: not by turn alone, but by priority.
    pub(crate) fn new(scanned: Offset, urgent_first: bool) -> Window {
        Window {
            scanned,
            lines: HashMap::new(),
            runs_bytes: 0,
            turns: Turns::new(urgent_first),
            is_asked: false,
            asks_again_mono_ms: None,
        }
    }

    pub(crate) fn scanned(&self) -> Offset {
        self.scanned
    }

    /// The message whose turn it is; `known_only`: of those that the table knows singly.
    pub(crate) fn next(&self, known_only: bool) -> Option<Offset> {
        self.turns.next(known_only)
    }

    /// What [`next`](Window::next) said is granted.
    pub(crate) fn count_grant(&mut self) {
        self.turns.count_grant();
    }

    /// The key and the priority of a message that can be granted.
    pub(crate) fn of_open(&self, offset: Offset) -> Option<(Option<KeyHash>, Priority)> {
        self.turns.of(offset).map(|turn| (turn.key, turn.priority))
    }

    /// How many can be granted: known singly, and untouched.
    pub(crate) fn open_counts(&self) -> (usize, usize) {
        self.turns.counts()
    }

    /// It has few untouched messages to grant, and would look further for more.
    pub(super) fn wants_more(&self) -> bool {
        let fresh_min = if self.turns.urgent_first() { PRIORITY_LOOK_AHEAD } else { FRESH_MIN };
        self.open_counts().1 < fresh_min
    }

    /// Somebody has a message of this key.
    pub(crate) fn is_out(&self, key: KeyHash) -> bool {
        self.lines.get(&key).is_some_and(|line| line.out > 0)
    }

    /// The line of each key, in any order. Those of `untouched` that are settled behind others count, too: they are few.
    pub(crate) fn lines(&self) -> impl Iterator<Item = HotKey> {
        self.lines.values().filter_map(|line| {
            let known = line.known.front().map(|(offset, _)| *offset);
            Some(HotKey {
                offset: line.untouched.front().or(known)?,
                waiting: line.untouched.len() + line.known.len() as u64 - u64::from(line.out),
                out: u64::from(line.out),
            })
        })
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * LINE_BYTES + self.runs_bytes + self.turns.bytes()
    }

    /// Forgets everything, to look at records from `at` on.
    pub(crate) fn restart(&mut self, at: Offset) {
        self.turns.clear();
        self.lines.clear();
        (self.scanned, self.runs_bytes, self.asks_again_mono_ms) = (at, 0, None);
    }

    /// Nothing below `to` is left to be looked at. Known messages that lie between stand anew afterwards.
    pub(crate) fn advance(&mut self, to: Offset) {
        self.scanned = self.scanned.max(to);
    }

    /// The record of an untouched message at or behind `scanned` was looked at. `next_untouched` says which message
    /// from an offset on is neither settled nor known singly.
    pub(crate) fn scan(
        &mut self,
        offset: Offset,
        key: Option<KeyHash>,
        priority: Priority,
        next_untouched: impl Fn(Offset) -> Offset,
    ) {
        debug_assert!(offset >= self.scanned, "{offset} was looked at already");
        self.scanned = offset.plus(1);
        let Some(key) = key else { return self.turns.open(offset, false, None, priority) };
        let line = self.lines.entry(key).or_default();
        self.runs_bytes -= line.untouched.heap_bytes();
        line.untouched.push(offset);
        self.runs_bytes += line.untouched.heap_bytes();
        self.refresh(key, next_untouched);
    }

    /// A message that the table knows singly stands like this from now on.
    pub(crate) fn stand(
        &mut self,
        offset: Offset,
        key: Option<KeyHash>,
        priority: Priority,
        standing: Standing,
        next_untouched: impl Fn(Offset) -> Offset,
    ) {
        match key {
            Some(key) => {
                self.lines.entry(key).or_default().put(offset, standing);
                self.refresh(key, next_untouched);
            }
            None => {
                let opens = standing == Standing::Ready && offset < self.scanned;
                let open = self.turns.of(offset).map(|turn| turn.known);
                if open.is_some_and(|known| !(known && opens)) {
                    self.turns.close(offset);
                }
                if opens && open != Some(true) {
                    self.turns.open(offset, true, None, priority);
                }
            }
        }
    }

    /// The table forgets a message; [`settle`](Window::settle) with its key follows.
    pub(crate) fn leave(&mut self, offset: Offset, key: Option<KeyHash>) {
        match key.map(|key| self.lines.get_mut(&key)) {
            Some(line) => line.into_iter().for_each(|line| line.take(offset)),
            None if self.turns.of(offset).is_some() => self.turns.close(offset),
            None => {}
        }
    }

    /// `from..to` is settled, and messages of the keys `left` left.
    pub(crate) fn settle(
        &mut self,
        from: Offset,
        to: Offset,
        left: impl IntoIterator<Item = KeyHash>,
        next_untouched: impl Fn(Offset) -> Offset,
    ) {
        if from < to {
            for (offset, key) in self.turns.untouched_in(from, to) {
                match key {
                    Some(key) => self.refresh(key, &next_untouched),
                    None => self.turns.close(offset),
                }
            }
        }
        left.into_iter().for_each(|key| self.refresh(key, &next_untouched));
    }

    /// Gives the head of a line its turn, or takes it away, after anything happened to the line.
    fn refresh(&mut self, key: KeyHash, next_untouched: impl Fn(Offset) -> Offset) {
        let Some(line) = self.lines.get_mut(&key) else { return };
        self.runs_bytes -= line.untouched.heap_bytes();
        while let Some(front) = line.untouched.front() {
            let alive = next_untouched(front);
            if alive == front {
                break;
            }
            line.untouched.drop_below(alive);
        }
        self.runs_bytes += line.untouched.heap_bytes();
        let next = line.next(self.scanned);
        let before = std::mem::replace(&mut line.open, next);
        if line.known.is_empty() && line.untouched.front().is_none() {
            self.lines.remove(&key);
        }
        if before != next {
            before.into_iter().for_each(|open| self.turns.close(open.offset));
            // The order of keys is kept by turn alone.
            let priority = Priority::default();
            next.into_iter().for_each(|open| self.turns.open(open.offset, open.known, Some(key), priority));
        }
    }

    /// Panics if an invariant that is written on the fields does not hold. `messages` are those that the table knows
    /// singly, in order; `untouched` says whether a message is neither settled nor among them.
    pub(super) fn check(
        &self,
        messages: &BTreeMap<Offset, (Option<KeyHash>, Standing)>,
        untouched: impl Fn(Offset) -> bool,
        untouched_count: u64,
    ) {
        self.turns.check();
        for (offset, turn) in self.turns.iter() {
            assert_eq!(untouched(offset), !turn.known, "{offset} has a turn that is not its own");
            assert!(offset < self.scanned, "{offset} was not looked at and has a turn");
        }

        let mut untouched_found =
            self.turns.iter().filter(|(_, turn)| !turn.known && turn.key.is_none()).count();
        let mut known_found = 0;
        for (key, line) in &self.lines {
            for (offset, standing) in &line.known {
                assert_eq!(messages.get(offset), Some(&(Some(*key), *standing)), "{offset} stands elsewhere");
            }
            known_found += line.known.len();
            assert!(line.known.iter().is_sorted_by_key(|(offset, _)| *offset));
            let out = line.known.iter().filter(|(_, standing)| standing.is_out()).count();
            assert_eq!(line.out as usize, out);
            let leased = line.known.iter().filter(|(_, standing)| *standing == Standing::Leased).count();
            assert!(leased <= 1, "{leased} messages of one key are leased");
            assert_eq!(line.open, line.next(self.scanned));
            if let Some(open) = line.open {
                let turn = self.turns.of(open.offset).expect("the head of a free line has a turn");
                assert_eq!((turn.known, turn.key), (open.known, Some(*key)));
            }
            untouched_found += line.untouched.iter().filter(|offset| untouched(*offset)).count();
            assert!(!(line.known.is_empty() && line.untouched.front().is_none()), "an empty line");
        }
        let keyed = messages.values().filter(|(key, _)| key.is_some()).count();
        assert_eq!(known_found, keyed, "a known message stands in no line");
        for (offset, (key, standing)) in messages {
            let ready = *standing == Standing::Ready && *offset < self.scanned;
            assert!(key.is_some() || self.turns.of(*offset).is_some() == ready, "{offset} has no turn");
        }
        assert_eq!(untouched_found as u64, untouched_count, "a message is skipped for ever");
        assert_eq!(
            self.runs_bytes,
            self.lines.values().map(|line| line.untouched.heap_bytes()).sum::<usize>()
        );
    }
}
