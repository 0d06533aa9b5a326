//! What a group that looks into messages learns of them before it grants them: a record table for a range of offsets,
//! made outside from decoded batches, since nothing is decompressed on a shard's thread.

use dure_proto::{KeyHash, KeySeed, Offset, Priority, Records, ttl_ms};

use super::table::LeaseTable;
use super::window::Window;
use crate::Now;
use crate::mutant::{self, Mutant};

/// Records in one table.
pub const RECORD_TABLE_MAX: u32 = 4096;
/// Messages of a batch that cannot be decoded which go to the dead letters at a time.
const UNDECODABLE_AT_ONCE: usize = 256;
/// When records that the disk refused are asked for again.
const ASK_AGAIN_MS: u64 = 1_000;

/// What the group has to know of one record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFacts {
    /// The number of its key; absent if it has none.
    pub key: Option<KeyHash>,
    /// When it expires, on the wall clock; absent: never.
    pub expires_wall_ms: Option<u64>,
    /// How urgent it is.
    pub priority: Priority,
}

impl RecordFacts {
    /// Of every offset of a batch from one on, which must be in it, appended at that time. Of an offset without a record
    /// nothing is known: whoever is granted it finds that out.
    pub fn of_batch(
        records: &Records,
        from: Offset,
        append_time_ms: u64,
        seed: KeySeed,
    ) -> impl Iterator<Item = RecordFacts> {
        let offsets = (from.0..records.header().end_offset().0).map(Offset);
        offsets.map(move |offset| match records.at(offset) {
            None => RecordFacts::default(),
            Some(record) => RecordFacts {
                key: record.key.map(|key| KeyHash::of(&key, seed)),
                expires_wall_ms: ttl_ms(&record.headers).map(|ttl| append_time_ms.saturating_add(ttl)),
                priority: Priority::of_record(&record.headers),
            },
        })
    }
}

/// What was found where a record table was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordTable {
    /// Of contiguous records from the offset on that was asked for; at most [`RECORD_TABLE_MAX`].
    Records(Vec<RecordFacts>),
    /// The batch of that record, which ends at `end`, is damaged or cannot be decoded.
    Undecodable {
        /// Behind its last record.
        end: Offset,
        /// Why, for the dead letters.
        reason: String,
    },
    /// It cannot be read now, or is gone: it is asked for again if it is still needed.
    Failed,
}

impl LeaseTable {
    /// Whether a record table is wanted, but perhaps [not yet](LeaseTable::take_wanted_records).
    #[must_use]
    pub fn wants_records(&self) -> bool {
        let Some(window) = &self.window else { return false };
        !window.is_asked
            && self.has_room_to_look()
            && self.settled.next_unsettled(window.scanned()) < self.high_watermark
    }

    /// From where on a record table is wanted. It is asked for from now on, until
    /// [`handle_records`](LeaseTable::handle_records).
    pub fn take_wanted_records(&mut self, now: Now) -> Option<Offset> {
        let window = self.window.as_ref()?;
        let waits = window.asks_again_mono_ms.is_some_and(|at| at > now.mono_ms);
        if window.is_asked || waits || !self.has_room_to_look() {
            return None;
        }
        let from = self.settled.next_unsettled(window.scanned()).min(self.high_watermark);
        self.advance_window(from);
        if from >= self.high_watermark {
            return None;
        }
        let window = self.window.as_mut().expect("looked at above");
        window.is_asked = true;
        window.asks_again_mono_ms = None;
        Some(from)
    }

    /// A record table was asked for and is not here yet: what can be granted is about to be known.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.is_asked)
    }

    /// The records from `from` on are like this. Whatever happened since they were asked for, the log's records are
    /// what they are.
    pub fn handle_records(&mut self, from: Offset, records: &RecordTable, now: Now) {
        let Some(window) = &mut self.window else { return };
        window.is_asked = false;
        match records {
            RecordTable::Failed => window.asks_again_mono_ms = Some(now.mono_ms + ASK_AGAIN_MS),
            RecordTable::Records(facts) => {
                for (nth, facts) in (0..).zip(facts) {
                    if self.is_window_full() || !self.look_at(from.plus(nth), *facts, now) {
                        break;
                    }
                }
            }
            RecordTable::Undecodable { end, reason } => {
                let mut offset = from;
                while offset < *end && self.has_room_for_undecodable() && self.is_next_to_look_at(offset) {
                    self.handle_undeliverable(offset, reason);
                    offset = offset.plus(1);
                    self.advance_window(offset);
                }
            }
        }
    }

    /// Lines and turns take as much memory as they may: nothing further is looked at until some are settled.
    #[must_use]
    pub fn is_window_full(&self) -> bool {
        let bytes = |window: &Window| window.bytes() + self.expiries.bytes();
        self.window.as_ref().is_some_and(|window| bytes(window) >= self.settings.window_bytes_max)
    }

    /// Up to here every unsettled message's record was looked at. `None` if the group does not look into messages.
    #[must_use]
    pub fn scanned(&self) -> Option<Offset> {
        self.window.as_ref().map(|window| window.scanned())
    }

    /// Everything below is looked at or settled; known messages stand in their lines now.
    pub(crate) fn advance_window(&mut self, to: Offset) {
        let Some(window) = &mut self.window else { return };
        let before = window.scanned();
        window.advance(to);
        let passed: Vec<Offset> = match before < to {
            true => self.messages.range(before..to).map(|(offset, _)| *offset).collect(),
            false => Vec::new(),
        };
        passed.into_iter().for_each(|offset| self.stand(offset));
    }

    fn has_room_to_look(&self) -> bool {
        let wants_more = self.window.as_ref().is_some_and(Window::wants_more);
        wants_more && !self.is_window_full() && self.has_room_for_undecodable()
    }

    fn has_room_for_undecodable(&self) -> bool {
        !self.is_full() && self.dying_new.len() < UNDECODABLE_AT_ONCE
    }

    /// Everything before was looked at or is settled.
    fn is_next_to_look_at(&self, offset: Offset) -> bool {
        let scanned = self.window.as_ref().map_or(Offset::ZERO, |window| window.scanned());
        offset < self.high_watermark && self.settled.next_unsettled(scanned) >= offset
    }

    /// Says whether the next record can be looked at.
    fn look_at(&mut self, offset: Offset, facts: RecordFacts, now: Now) -> bool {
        if !self.is_next_to_look_at(offset) {
            return false;
        }
        let scanned = self.window.as_ref().map_or(Offset::ZERO, |window| window.scanned());
        if offset < scanned || self.settled.contains(offset) {
            self.advance_window(offset.plus(1));
            return true;
        }
        let key = facts.key.filter(|_| self.settings.by_key && !mutant::is(Mutant::KeyOrderIgnored));
        if let Some(wall_ms) = facts.expires_wall_ms {
            let at_mono_ms = now.mono_ms.saturating_add(wall_ms.saturating_sub(now.wall_ms));
            let is_out = self.messages.get(&offset).is_some_and(|message| message.standing().is_out());
            self.expiries.set(offset, at_mono_ms, key, is_out);
        }
        if let Some(message) = self.messages.get_mut(&offset) {
            message.priority = facts.priority;
            self.advance_window(offset.plus(1));
            return true;
        }
        self.advance_window(offset);
        let LeaseTable { window, settled, messages, .. } = self;
        if let Some(window) = window {
            let next_untouched = |from| super::table::next_untouched(settled, messages, from);
            window.scan(offset, key, facts.priority, next_untouched);
        }
        true
    }
}
