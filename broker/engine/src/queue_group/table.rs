//! The lease table: its fields, its queries, and the one function that moves a message between indexes.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{KeyHash, LeaseToken, Offset, Priority};

use super::expiry::Expiries;
use super::held::Held;
use super::message::{DeadLetter, Doom, Message, MessageState, Phase, Place};
use super::rates::Rates;
use super::settings::LeaseSettings;
use super::window::Window;
use crate::Now;
use crate::settled_set::SettledSet;

/// The messages of one partition as one queue group sees them.
///
/// An offset below `high_watermark` is in exactly one state. Settled: in `settled` and not in `messages`
/// (dead: in `dead` too). Known singly: in `messages` and in exactly one index. Otherwise untouched, ready,
/// and costing no memory.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    pub(crate) settings: LeaseSettings,
    /// Nothing below is left in the log. At most `settled.floor()`.
    pub(crate) log_start: Offset,
    /// The first offset that readers do not see yet. At least `settled.floor()`.
    pub(crate) high_watermark: Offset,
    /// Settled as far as the source log is concerned: acknowledged, dead, redriven, or removed by retention.
    pub(crate) settled: SettledSet,
    /// Every unsettled offset from the floor up to here is in `messages`. A hint that only saves searching.
    pub(crate) fresh: Offset,
    /// Not settled; or redriven, and then settled in the source. At most `messages_max`.
    pub(crate) messages: BTreeMap<Offset, Message>,
    /// All of them in `settled`, none of them in `messages`. At most `dead_max`.
    pub(crate) dead: BTreeMap<Offset, DeadLetter>,
    /// Of `dead`, and of redriven `messages`: by where each lies in the dead-letter log, its offset in the source.
    pub(crate) letters: BTreeMap<Offset, Offset>,
    /// Everything in the dead-letter log below is in the group's dead-letter topic, as far as it is in `dead`.
    pub(crate) letters_copied: Offset,
    /// Members of `messages` that have a letter.
    pub(crate) redriven_count: u64,
    /// Of `messages`: those that can be granted again.
    pub(crate) ready_again: BTreeSet<Offset>,
    /// Of `messages`: those that wait, by the monotonic time at which they are due.
    pub(crate) waits: BTreeSet<(u64, Offset)>,
    /// Of `messages`: those out with a worker, by the monotonic time at which the lease ends.
    pub(crate) deadlines: BTreeSet<(u64, Offset)>,
    /// Of `messages`: those on their way to the dead letters.
    pub(crate) dying_count: u64,
    /// Those of the dying whose bytes nobody fetches yet.
    pub(crate) dying_new: BTreeSet<Offset>,
    /// What is not granted before a commit is durable.
    pub(crate) held: Held,
    /// Set for a group that looks into messages: it says what can be granted.
    pub(crate) window: Option<Window>,
    pub(crate) expiries: Expiries,
    pub(crate) arrived: u64,
    pub(crate) serviced: u64,
    /// Of `serviced`: those that expired.
    pub(crate) expired: u64,
    pub(crate) rates: Rates,
}

/// How many messages are in which state. Lag is the sum of the first three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be granted.
    pub ready: u64,
    /// Out with workers, or on their way to the dead letters.
    pub leased: u64,
    /// Waiting after a release or for backoff.
    pub delayed: u64,
    /// In the dead letters.
    pub dead: u64,
}

impl Counts {
    /// Messages that are neither settled nor dead.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.ready + self.leased + self.delayed
    }
}

impl LeaseTable {
    /// A group that works a partition from `start` on.
    #[must_use]
    pub fn new(settings: LeaseSettings, start: Offset) -> LeaseTable {
        LeaseTable {
            window: settings.looks_inside().then(|| Window::new(start, settings.by_priority)),
            settings,
            log_start: Offset::ZERO,
            high_watermark: start,
            settled: SettledSet::new(start),
            fresh: start,
            messages: BTreeMap::new(),
            dead: BTreeMap::new(),
            letters: BTreeMap::new(),
            letters_copied: Offset::ZERO,
            redriven_count: 0,
            ready_again: BTreeSet::new(),
            waits: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            dying_count: 0,
            dying_new: BTreeSet::new(),
            expiries: Expiries::default(),
            held: Held::default(),
            arrived: 0,
            serviced: 0,
            expired: 0,
            rates: Rates::default(),
        }
    }

    /// What is in the log below `high_watermark` can be granted. A lower one than before is ignored.
    pub fn handle_high_watermark(&mut self, high_watermark: Offset) {
        self.arrived += high_watermark.since(self.high_watermark);
        self.high_watermark = self.high_watermark.max(high_watermark);
    }

    /// Retention removed everything below `log_start`: it is in no count any more, and leases there are void.
    /// Dead letters and redriven messages stay, since their bytes lie elsewhere.
    pub fn handle_log_start(&mut self, log_start: Offset) {
        if log_start <= self.log_start {
            return;
        }
        self.handle_high_watermark(log_start);
        self.log_start = log_start;
        let gone = self.messages.range(..log_start).filter(|(_, message)| message.letter.is_none());
        let gone: Vec<Offset> = gone.map(|(offset, _)| *offset).collect();
        let left = gone.into_iter().filter_map(|offset| self.remove(offset)?.key).collect();
        let floor = self.settled.floor();
        self.settled.insert_range(floor, log_start);
        self.settle_in_window(floor, log_start, left);
        self.fresh = self.fresh.max(self.settled.floor());
    }

    /// How the group leases and retries.
    #[must_use]
    pub fn settings(&self) -> &LeaseSettings {
        &self.settings
    }

    /// Everything below is settled: the source log is needed from here on.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.settled.floor()
    }

    /// The first offset that is not in the log yet.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The lowest offset that is neither settled nor dead; it may be a redriven one below the floor.
    #[must_use]
    pub fn oldest_unsettled(&self) -> Option<Offset> {
        let floor = (self.floor() < self.high_watermark).then_some(self.floor());
        let known = self.messages.first_key_value().map(|(offset, _)| *offset);
        floor.into_iter().chain(known).min()
    }

    /// How many messages are in which state, in constant time.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let in_log = self.unsettled_in_log();
        let delayed = self.waits.len() as u64 + self.held.ready_count;
        let leased = self.deadlines.len() as u64 + self.dying_count;
        let ready = in_log + self.redriven_count - delayed - leased;
        Counts { ready, leased, delayed, dead: self.dead.len() as u64 }
    }

    /// How many messages [`grant`](LeaseTable::grant) could give out now.
    #[must_use]
    pub fn grantable(&self) -> u64 {
        if self.held.is_all() {
            return 0;
        }
        let room = self.settings.messages_max.saturating_sub(self.messages.len()) as u64;
        let (again, fresh) = match &self.window {
            Some(window) => window.open_counts(),
            None => (self.ready_again.len(), self.counts().ready as usize - self.ready_again.len()),
        };
        again as u64 + room.min(fresh as u64)
    }

    /// The table knows as many messages singly as it may, and grants no fresh ones until some are settled.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.settings.messages_max
    }

    /// How many dead letters the table may know beyond those that it knows and those on their way.
    #[must_use]
    pub fn dead_room(&self) -> usize {
        let taken = self.dying_count as usize - self.dying_new.len();
        self.settings.dead_max.saturating_sub(self.dead.len() + taken)
    }

    /// Why nothing fresh is granted though there may be some: the table is at one of its bounds.
    #[must_use]
    pub fn why_full(&self) -> Option<String> {
        if self.is_full() {
            let bound = self.settings.messages_max;
            let dead = match self.dead_room() {
                0 => {
                    "; there are as many dead letters as can be, too, so that what is to die waits: purge some"
                }
                _ => "",
            };
            return Some(format!(
                "{bound} messages are leased, waiting or tried before, which is the most: settle some{dead}"
            ));
        }
        self.is_window_full().then(|| {
            let bound = self.settings.window_bytes_max >> 20;
            format!("what waits behind its key takes {bound} MiB, which is the most: messages behind it are not seen")
        })
    }

    /// Messages that entered since the table was made or recovered.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Messages acknowledged or dead-lettered since the table was made or recovered.
    #[must_use]
    pub fn serviced(&self) -> u64 {
        self.serviced
    }

    /// Something may have happened to it: to be called then, so that [`rates_per_s`](LeaseTable::rates_per_s) knows when.
    pub fn observe_rates(&mut self, now: Now) {
        self.rates.observe(now, self.arrived, self.serviced);
    }

    /// Messages that arrived, and that were serviced, per second of about the last minute.
    #[must_use]
    pub fn rates_per_s(&self, now: Now) -> (f64, f64) {
        self.rates.per_s(now, self.arrived, self.serviced)
    }

    /// Messages of the source log that are not settled, all at or above the floor.
    #[must_use]
    pub fn unsettled_in_log(&self) -> u64 {
        self.high_watermark.since(self.floor()) - self.settled.above_count()
    }

    /// What has become of one offset.
    #[must_use]
    pub fn state(&self, offset: Offset) -> MessageState {
        match self.messages.get(&offset).map(Message::place) {
            Some(Place::Ready) => MessageState::Ready,
            Some(Place::Held | Place::Waiting { .. }) => MessageState::Delayed,
            Some(Place::Leased { .. }) => MessageState::Leased,
            Some(Place::Dying { .. }) => MessageState::Dying,
            None if self.dead.contains_key(&offset) => MessageState::Dead,
            None if self.settled.contains(offset) => MessageState::Settled,
            None if offset < self.high_watermark => MessageState::Ready,
            None => MessageState::Absent,
        }
    }

    /// Whether this very grant of the message is still the last one.
    #[must_use]
    pub fn is_leased_by(&self, offset: Offset, token: LeaseToken) -> bool {
        self.messages.get(&offset).is_some_and(|message| message.token == Some(token))
    }

    /// Changes what is known of a message, makes it known if it was not, and moves it to the index where it
    /// then belongs. Nothing else touches the indexes.
    pub(crate) fn edit(&mut self, offset: Offset, change: impl FnOnce(&mut Message)) {
        let mut message = match self.messages.get_mut(&offset) {
            Some(known) => {
                let message = std::mem::take(known);
                self.unplace(offset, &message);
                message
            }
            None => {
                let open = self.window.as_ref().and_then(|window| window.of_open(offset));
                let unseen = || (self.expiries.key_of(offset), Priority::default());
                let (key, priority) = open.unwrap_or_else(unseen);
                Message { key, priority, ..Message::default() }
            }
        };
        change(&mut message);
        let attempts_max = self.settings.attempts_max;
        if message.attempts >= attempts_max && !message.is_leased() && message.dying.is_none() {
            let reason = match &message.why {
                Some(why) => why.to_string(),
                None => format!("no attempts left ({} of {attempts_max})", message.attempts),
            };
            message.phase = Phase::Ready;
            message.dying = Some(Box::new(Doom { reason, rejected: false, taken: false }));
        }
        match message.place() {
            Place::Ready => drop(self.ready_again.insert(offset)),
            Place::Held => self.held.ready_count += 1,
            Place::Waiting { due_mono_ms } => drop(self.waits.insert((due_mono_ms, offset))),
            Place::Leased { deadline_mono_ms } => drop(self.deadlines.insert((deadline_mono_ms, offset))),
            Place::Dying { taken } => {
                self.dying_count += 1;
                if !taken {
                    self.dying_new.insert(offset);
                }
            }
        }
        if message.held > 0 {
            self.held.messages.insert((message.held, offset));
        }
        if let Some(letter) = message.letter {
            self.redriven_count += 1;
            self.letters.insert(letter, offset);
        }
        self.messages.insert(offset, message);
        self.stand(offset);
    }

    /// Tells the window where a known message stands.
    pub(crate) fn stand(&mut self, offset: Offset) {
        let LeaseTable { window: Some(window), expiries, settled, messages, .. } = self else { return };
        let message = &messages[&offset];
        expiries.stand(offset, message.standing().is_out());
        let (key, priority, standing) = (message.key, message.priority, message.standing());
        window.stand(offset, key, priority, standing, |from| next_untouched(settled, messages, from));
    }

    /// Tells the window what is settled by now, and of which keys known messages were removed.
    pub(crate) fn settle_in_window(&mut self, from: Offset, to: Offset, left: Vec<KeyHash>) {
        let floor = self.floor();
        let LeaseTable { window: Some(window), expiries, settled, messages, .. } = self else { return };
        expiries.settle(from, to);
        window.settle(from, to, left, |from| next_untouched(settled, messages, from));
        self.advance_window(floor);
    }

    /// Forgets what is known of a message. What it is then is to be [told to the window](Self::settle_in_window).
    pub(crate) fn remove(&mut self, offset: Offset) -> Option<Message> {
        let message = self.messages.remove(&offset)?;
        self.unplace(offset, &message);
        if let Some(window) = &mut self.window {
            window.leave(offset, message.key);
        }
        Some(message)
    }

    fn unplace(&mut self, offset: Offset, message: &Message) {
        let found = match message.place() {
            Place::Ready => self.ready_again.remove(&offset),
            Place::Held => {
                self.held.ready_count -= 1;
                true
            }
            Place::Waiting { due_mono_ms } => self.waits.remove(&(due_mono_ms, offset)),
            Place::Leased { deadline_mono_ms } => self.deadlines.remove(&(deadline_mono_ms, offset)),
            Place::Dying { taken } => {
                self.dying_count -= 1;
                taken || self.dying_new.remove(&offset)
            }
        };
        if message.held > 0 {
            self.held.messages.remove(&(message.held, offset));
        }
        assert!(found, "message {offset} was not where it belongs: {message:?}");
        if let Some(letter) = message.letter {
            self.redriven_count -= 1;
            self.letters.remove(&letter);
        }
    }
}

/// The first message from `from` on that is neither settled nor known singly.
pub(super) fn next_untouched(
    settled: &SettledSet,
    messages: &BTreeMap<Offset, Message>,
    mut from: Offset,
) -> Offset {
    loop {
        from = settled.next_unsettled(from);
        if !messages.contains_key(&from) {
            return from;
        }
        from = from.plus(1);
    }
}
