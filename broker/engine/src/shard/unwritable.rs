//! Logs that the disk refuses to write, for another reason than that there is no room.
//!
//! What is durable in the journal is not lost: it is served from memory and goes into every checkpoint (`log/late.rs`),
//! so that the journal need not be kept for it. Producing to that log is refused, and what dies into it waits; so what
//! is late stays as much as was under way. Everything else goes on. It is tried again whenever the housekeeper comes
//! round. A *sync* that fails is none of this: it stops the shard.

use std::collections::BTreeMap;

use dure_proto::journal::Checkpoint;
use dure_proto::{PartitionId, TopicId, TopicPartition};

use super::Shard;
use crate::effect::{Effect, Unwritable};
use crate::log::{LateEntry, LogWriter};
use crate::mutant::{self, Mutant};
use crate::request::RequestError;

/// Which logs they are, and what the outside was last told of them.
#[derive(Debug, Default)]
pub(super) struct UnwritableLogs {
    why: BTreeMap<TopicPartition, String>,
    told: Vec<Unwritable>,
}

impl Shard {
    /// Notes whether a log has entries that are late, and why.
    pub(super) fn note_late(&mut self, partition: TopicPartition) {
        let Some(error) = self.writers.get(&partition).and_then(|writer| writer.late_for()) else { return };
        match error.waits_for_room() {
            true => self.lacks_room(partition),
            false => drop(self.unwritable.why.insert(partition, error.to_string())),
        }
    }

    /// Tries again what is late, whatever the reason.
    pub(super) fn write_what_is_late(&mut self) {
        let unwritable = std::mem::take(&mut self.unwritable.why).into_keys();
        let late = std::mem::take(&mut self.space.late).into_iter().chain(unwritable);
        let mut letters_resume = false;
        for partition in late.collect::<std::collections::BTreeSet<_>>() {
            let Some(writer) = self.writers.get_mut(&partition) else { continue };
            writer.write_late(u64::MAX);
            letters_resume |= !writer.is_late();
            self.effects.push(Effect::Publish(writer.view()));
            self.note_late(partition);
        }
        if letters_resume {
            let keys = self.state.queue_keys();
            self.queues.touch(keys);
        }
    }

    /// Refuses what would be late, too.
    pub(super) fn check_writable(&self, partition: TopicPartition) -> Result<(), RequestError> {
        let Some(what) = self.unwritable.why.get(&partition) else { return Ok(()) };
        let topic = self.state.catalogue.table().by_id(partition.topic);
        let topic = topic.map_or_else(|| partition.topic.to_string(), |info| info.name.clone());
        Err(RequestError::Unwritable { topic, partition: partition.partition, what: what.clone() })
    }

    /// Why producing to a log is refused, if it is.
    pub(super) fn unwritable_for(&self, partition: TopicPartition) -> Option<&str> {
        self.unwritable.why.get(&partition).map(String::as_str)
    }

    /// A checkpoint holds what is in no segment yet.
    pub(super) fn add_what_is_unwritten(&self, checkpoint: &mut Checkpoint) {
        for log in checkpoint.logs.iter_mut().filter(|_| !mutant::is(Mutant::LateNotKept)) {
            let partition =
                TopicPartition { topic: TopicId(log.topic), partition: PartitionId(log.partition) };
            let late = self.writers.get(&partition).into_iter().flat_map(|writer| writer.late());
            log.late = late.map(LateEntry::snapshot).collect();
        }
    }

    /// At the end of a turn: says what changed.
    pub(super) fn tell_unwritable(&mut self) {
        let UnwritableLogs { why, told } = &mut self.unwritable;
        let same = |told: &Unwritable| why.get(&told.partition) == Some(&told.what);
        if why.len() == told.len() && told.iter().all(same) {
            return;
        }
        // Those whose topic was deleted meanwhile.
        why.retain(|partition, _| self.writers.get(partition).is_some_and(LogWriter::is_late));
        let now = |(partition, what): (&TopicPartition, &String)| {
            let from = self.writers.get(partition)?.late().next()?.header.base_offset;
            let topic = self.state.catalogue.table().by_id(partition.topic)?.name.clone();
            Some(Unwritable { partition: *partition, topic, from, what: what.clone() })
        };
        let before = std::mem::take(told);
        *told = why.iter().filter_map(now).collect();
        if *told != before {
            self.effects.push(Effect::Unwritable(told.clone()));
        }
    }
}
