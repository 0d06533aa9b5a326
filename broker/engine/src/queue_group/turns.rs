//! Whose turn it is among the messages of a window that can be granted: whoever can be granted gets a turn at the end of
//! the turns. Where urgent ones go first, seven of eight grants are by priority, and by turn within one priority; the
//! eighth is by turn alone, so that whoever waits is granted in the end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{KeyHash, Offset, Priority};

use crate::mutant::{self, Mutant};

/// Of so many grants of a window that goes by priority, one goes to the message that has waited longest.
pub const PRIORITY_ROUND: u32 = 8;
/// A turn in its two maps.
const TURN_BYTES: usize = 64;

/// A message that can be granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    number: u64,
    /// The table knows it singly.
    pub(super) known: bool,
    pub(super) key: Option<KeyHash>,
    pub(super) priority: Priority,
}

#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// What can be granted and is known singly.
    again: Side,
    /// What can be granted and is untouched.
    fresh: Side,
    /// Exactly the members of `again` and `fresh`.
    by_offset: BTreeMap<Offset, Turn>,
    number_next: u64,
    /// Set where urgent ones go first: grants since the last one that was by turn alone. Below [`PRIORITY_ROUND`].
    urgent_first: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct Side {
    by_number: BTreeMap<u64, Offset>,
    /// Of the same turns; empty where all are alike.
    by_priority: BTreeSet<(Reverse<Priority>, u64)>,
}

impl Side {
    fn first(&self) -> Option<u64> {
        self.by_number.first_key_value().map(|(number, _)| *number)
    }
}

impl Turns {
    pub(super) fn new(urgent_first: bool) -> Turns {
        Turns {
            again: Side::default(),
            fresh: Side::default(),
            by_offset: BTreeMap::new(),
            number_next: 0,
            urgent_first: urgent_first.then_some(0),
        }
    }

    /// Nobody has a turn any more.
    pub(super) fn clear(&mut self) {
        let number_next = self.number_next;
        *self = Turns { number_next, ..Turns::new(self.urgent_first.is_some()) };
    }

    pub(super) fn urgent_first(&self) -> bool {
        self.urgent_first.is_some()
    }

    /// The message whose turn it is; `known_only`: of those that the table knows singly.
    pub(super) fn next(&self, known_only: bool) -> Option<Offset> {
        let sides = [Some(&self.again), Some(&self.fresh).filter(|_| !known_only)];
        let sides = sides.into_iter().flatten();
        let by_priority = self
            .urgent_first
            .is_some_and(|granted| granted + 1 < PRIORITY_ROUND || mutant::is(Mutant::LowPriorityStarves))
            && !mutant::is(Mutant::PriorityIgnored);
        let number = if by_priority {
            sides.filter_map(|side| side.by_priority.first()).min()?.1
        } else {
            sides.filter_map(Side::first).min()?
        };
        self.again.by_number.get(&number).or(self.fresh.by_number.get(&number)).copied()
    }

    /// A message was granted by its turn.
    pub(super) fn count_grant(&mut self) {
        if let Some(granted) = &mut self.urgent_first {
            *granted = (*granted + 1) % PRIORITY_ROUND;
        }
    }

    pub(super) fn of(&self, offset: Offset) -> Option<&Turn> {
        self.by_offset.get(&offset)
    }

    /// Untouched messages of a range that have a turn, with their keys.
    pub(super) fn untouched_in(&self, from: Offset, to: Offset) -> Vec<(Offset, Option<KeyHash>)> {
        let untouched = self.by_offset.range(from..to).filter(|(_, turn)| !turn.known);
        untouched.map(|(offset, turn)| (*offset, turn.key)).collect()
    }

    /// How many can be granted: known singly, and untouched.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.again.by_number.len(), self.fresh.by_number.len())
    }

    /// What they take in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.by_offset.len() * TURN_BYTES * if self.urgent_first() { 2 } else { 1 }
    }

    pub(super) fn open(&mut self, offset: Offset, known: bool, key: Option<KeyHash>, priority: Priority) {
        let number = self.number_next;
        self.number_next += 1;
        let side = if known { &mut self.again } else { &mut self.fresh };
        side.by_number.insert(number, offset);
        if self.urgent_first.is_some() {
            side.by_priority.insert((Reverse(priority), number));
        }
        let before = self.by_offset.insert(offset, Turn { number, known, key, priority });
        assert!(before.is_none(), "message {offset} has two turns");
    }

    pub(super) fn close(&mut self, offset: Offset) {
        let turn = self.by_offset.remove(&offset).expect("what is closed has a turn");
        let side = if turn.known { &mut self.again } else { &mut self.fresh };
        side.by_number.remove(&turn.number);
        side.by_priority.remove(&(Reverse(turn.priority), turn.number));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Offset, &Turn)> {
        self.by_offset.iter().map(|(offset, turn)| (*offset, turn))
    }

    /// Panics if an invariant that is written on the fields does not hold.
    pub(super) fn check(&self) {
        let (mut again, mut fresh) = (0, 0);
        for (offset, turn) in &self.by_offset {
            let side = if turn.known { &self.again } else { &self.fresh };
            assert_eq!(side.by_number.get(&turn.number), Some(offset));
            let ranked = side.by_priority.contains(&(Reverse(turn.priority), turn.number));
            assert_eq!(
                ranked,
                self.urgent_first(),
                "{offset} is ranked and should not be, or the other way round"
            );
            *(if turn.known { &mut again } else { &mut fresh }) += 1;
        }
        assert_eq!((again, fresh), self.counts(), "a turn without a message");
        let ranked = self.again.by_priority.len() + self.fresh.by_priority.len();
        assert_eq!(ranked, if self.urgent_first() { self.by_offset.len() } else { 0 });
        assert!(self.urgent_first.is_none_or(|granted| granted < PRIORITY_ROUND));
    }
}
