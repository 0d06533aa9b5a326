//! Tails of segments that a start found in the journal and not in a checkpoint. They are durable, and served from memory;
//! once the shard runs they are written to their segments, a part in each turn, and no checkpoint is made before that.

use std::collections::BTreeSet;

use dure_proto::TopicPartition;

use super::Shard;
use crate::effect::Effect;

/// Written in one turn, beside what it takes to open the segments.
const TURN_BYTES: u64 = 4 << 20;
/// Logs written to in one turn.
const TURN_LOGS: usize = 16;

/// The logs that have one.
#[derive(Debug, Default)]
pub(super) struct Tails {
    of: BTreeSet<TopicPartition>,
}

impl Tails {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

impl Shard {
    /// What a replay found no room for, or did not write, is written from now on.
    pub(super) fn note_tails(&mut self) {
        for (partition, writer) in self.writers.iter().filter(|(_, writer)| writer.is_late()) {
            self.tails.of.insert(*partition);
            self.space.admit(writer.late_bytes());
        }
    }

    /// Writes a part of them.
    pub(super) fn write_tails(&mut self) {
        let mut bytes_left = TURN_BYTES;
        for _ in 0..TURN_LOGS {
            let Some(partition) = self.tails.of.pop_first() else { return };
            // A topic that was deleted meanwhile has none.
            let Some(writer) = self.writers.get_mut(&partition) else { continue };
            let written = writer.write_late(bytes_left);
            let (is_late, failed) = (writer.is_late(), writer.late_for().is_some());
            self.effects.push(Effect::Publish(writer.view()));
            self.space.wrote(written);
            if failed {
                self.note_late(partition);
            } else if is_late {
                self.tails.of.insert(partition);
            }
            bytes_left = bytes_left.saturating_sub(written);
            if bytes_left == 0 {
                return;
            }
        }
    }

    /// Writes all of them: the last checkpoint has to cover them.
    pub(super) fn write_all_tails(&mut self) {
        while !self.tails.is_empty() && self.stopped.is_none() {
            self.write_tails();
        }
    }
}
