//! Groups that look into messages before they grant them: what they ask for, and what comes back.

use dure_proto::{KeySeed, TopicPartition};

use super::queue_topic::QueueTopic;
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
        for partition in topic.wanting() {
            if let Some(from) = topic.table_mut(partition).and_then(|table| table.take_wanted_records(now)) {
                let partition = TopicPartition { topic: key.1, partition };
                self.effects.push(Effect::FetchRecords { group: key.0, partition, from, seed });
            }
        }
    }

    /// What expired is not granted: it is settled first. Where nothing has changed, a timer has seen to that.
    pub(super) fn settle_expired(&mut self, now: Now, key: QueueKey) {
        let changed = self.state.queue_topic(key.0, key.1).map(|topic| topic.changed()).unwrap_or_default();
        for partition in changed {
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
    if topic.is_looking() { LOOK_MS_MAX } else { 0 }
}
