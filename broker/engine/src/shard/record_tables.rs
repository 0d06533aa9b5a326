//! Groups that look into messages before they grant them: what they ask for, and what comes back.

use dure_proto::{KeySeed, PartitionId, TopicPartition};

use super::state::QueueTopic;
use super::{QueueKey, Shard};
use crate::effect::{Effect, FoundRecords};
use crate::time::Now;

/// A receive whose wait is over is answered with none only once what is there was looked at, or after this long.
const LOOK_MS_MAX: u64 = 1_000;

impl Shard {
    /// Asks for record tables where somebody wants messages and it is not known which could be granted.
    pub(super) fn ask_for_records(&mut self, now: Now, key: QueueKey) {
        let seed = KeySeed(self.config.salt);
        let Some(topic) = self.state.queue_topic(key.0, key.1) else { return };
        if !topic.dispatcher.is_hungry() {
            return;
        }
        for (p, table) in topic.tables.iter_mut().enumerate() {
            if let Some(from) = table.take_wanted_records(now) {
                let partition = TopicPartition { topic: key.1, partition: PartitionId(p as u32) };
                self.effects.push(Effect::FetchRecords { group: key.0, partition, from, seed });
            }
        }
    }

    /// What expired is not granted: it is settled first.
    pub(super) fn settle_expired(&mut self, now: Now, key: QueueKey) {
        let partitions = self.state.queue_topic(key.0, key.1).map_or(0, |topic| topic.tables.len());
        for partition in (0..partitions).map(|p| PartitionId(p as u32)) {
            let partition = TopicPartition { topic: key.1, partition };
            if !self.state.table(key.0, partition).is_some_and(|table| table.has_expired(now)) {
                continue;
            }
            self.commit_path.make_room();
            let mut events = Vec::new();
            if let Some(table) = self.state.table(key.0, partition) {
                table.handle_expired(now, &mut events);
            }
            self.commit_queue_events(key.0, partition, events);
        }
    }

    pub(super) fn records_found(&mut self, now: Now, found: &FoundRecords) {
        if let Some(table) = self.state.table(found.group, found.partition) {
            table.handle_records(found.from, &found.table, now);
            self.queues.touch([(found.group, found.partition.topic)]);
        }
    }
}

/// How much longer a receive waits than it wanted to.
pub(super) fn patience_ms(topic: &QueueTopic) -> u64 {
    if topic.tables.iter().any(|table| table.is_looking()) { LOOK_MS_MAX } else { 0 }
}
