//! Messages that are good for a while only: what is not granted in time is settled as expired, or dies.
//!
//! When a message expires its record says, by the broker's time of append; it counts down on the monotonic clock. One
//! that is out is left to its worker, and expires when it comes back. A redriven one does not expire: somebody wants it.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{KeyHash, Offset};

use super::table::LeaseTable;
use super::window::Window;
use crate::Now;
use crate::mutant::{self, Mutant};

/// Why an expired message is in the dead letters.
pub const EXPIRED_REASON: &str = "expired";
/// An entry in both maps, and the message that the table knows singly when it dies.
const ENTRY_BYTES: usize = 256;

/// The messages of a table that were looked at, are not settled, and expire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expiries {
    of: BTreeMap<Offset, Life>,
    /// Those of `of` that are not out, by when they expire.
    due: BTreeSet<(u64, Offset)>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    /// When it expires, on the monotonic clock.
    at_mono_ms: u64,
    /// Where the group keeps the order of keys: it may die in the middle of its line.
    key: Option<KeyHash>,
}

impl Expiries {
    pub(crate) fn first_due(&self) -> Option<(u64, Offset)> {
        self.due.first().copied()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.of.len() * ENTRY_BYTES
    }

    /// A message was looked at.
    pub(crate) fn set(&mut self, offset: Offset, at_mono_ms: u64, key: Option<KeyHash>, is_out: bool) {
        if let Some(before) = self.of.insert(offset, Life { at_mono_ms, key }) {
            self.due.remove(&(before.at_mono_ms, offset));
        }
        self.stand(offset, is_out);
    }

    /// The key of a message that expires.
    pub(crate) fn key_of(&self, offset: Offset) -> Option<KeyHash> {
        self.of.get(&offset)?.key
    }

    /// A message is out from now on, or is not any more.
    pub(crate) fn stand(&mut self, offset: Offset, is_out: bool) {
        let Some(Life { at_mono_ms, .. }) = self.of.get(&offset) else { return };
        match is_out {
            true => self.due.remove(&(*at_mono_ms, offset)),
            false => self.due.insert((*at_mono_ms, offset)),
        };
    }

    /// `from..to` is settled.
    pub(crate) fn settle(&mut self, from: Offset, to: Offset) {
        while let Some((offset, life)) = self.of.range(from..to.max(from)).next().map(|(o, life)| (*o, *life))
        {
            self.of.remove(&offset);
            self.due.remove(&(life.at_mono_ms, offset));
        }
    }

    pub(super) fn check(&self, is_out: impl Fn(Offset) -> bool) {
        let due = self.of.iter().filter(|(offset, _)| !is_out(**offset));
        let due = due.map(|(offset, life)| (life.at_mono_ms, *offset));
        assert_eq!(self.due, due.collect(), "a message expires unseen, or is settled and expires");
    }
}

impl LeaseTable {
    /// From now on messages may come that expire: they are looked at before they are granted. What was granted once
    /// was looked at, or came before.
    pub fn look_inside(&mut self) {
        if self.window.is_some() {
            return;
        }
        self.window = Some(Window::new(self.fresh.max(self.floor()), false));
        let known: Vec<Offset> = self.messages.keys().copied().collect();
        known.into_iter().for_each(|offset| self.stand(offset));
    }

    /// Whether [`handle_expired`](LeaseTable::handle_expired) has something to do.
    #[must_use]
    pub fn has_expired(&self, now: Now) -> bool {
        self.expiries.first_due().is_some_and(|(at, _)| at <= now.mono_ms)
    }

    /// Settles what expired, or sends it to the dead letters, as the group wants it. To be called before each grant.
    pub fn handle_expired(&mut self, now: Now, events: &mut Vec<QueueEvent>) {
        if mutant::is(Mutant::ExpiredDelivered) {
            return;
        }
        while let Some((_, offset)) = self.expiries.first_due().filter(|(at, _)| *at <= now.mono_ms) {
            if self.settings.expired_die {
                self.condemn(offset, EXPIRED_REASON);
            } else {
                let settled = journal::Settled { offset: offset.0, count: 1, expired: true };
                self.decide(Event::Settled(settled), now, events);
            }
        }
    }

    /// Messages settled or dead because they expired, since the table was made or recovered.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }
}
