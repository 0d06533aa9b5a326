//! Topics and producing.

use dure_engine::{Produce, Request};
use dure_proto::{ProducerStamp, Sequence, TopicPartition, wire};

use super::{Op, TOPICS, topic_config};
use crate::sim::copied::GRAVES;
use crate::sim::identified::hashes;
use crate::sim::knobs::Knobs;
use crate::sim::model::{Delay, Place, RecordShape, Sender, Session, TopicShape};
use crate::sim::world::World;

/// Batches that a producer session has in flight to one partition at most.
const SESSION_BATCHES_MAX: usize = dure_proto::BATCHES_IN_FLIGHT_MAX;
/// Records of one batch.
const RECORDS_MAX: u32 = 3;

impl World {
    pub(super) fn create_topic(&mut self) {
        let name = self.pick(&TOPICS).to_owned();
        let partitions = self.rng.u32(1..=2);
        let config = self.config_for(&name);
        let topic = self.model.topics.entry(name.clone()).or_default();
        if topic.shape.pending.is_some() || topic.purging {
            return;
        }
        let after = match &topic.shape.now {
            Some(now) => now.clone(),
            None => {
                topic.configs = vec![config];
                TopicShape { partitions, config }
            }
        };
        topic.shape.pending = Some(Some(after));
        let create = wire::CreateTopic { name: name.clone(), partitions, config: Some(config) };
        self.send(Request::CreateTopic(create), Op::Topic { name });
    }

    /// What dead letters are copied to is not compacted, so that all of them can be counted.
    fn config_for(&mut self, name: &str) -> wire::TopicConfig {
        let mut config = topic_config(&mut self.rng);
        if self.knobs.copies_letters && name == GRAVES && config.cleanup() == wire::Cleanup::Compact {
            config.set_cleanup(wire::Cleanup::Delete);
        }
        config
    }

    pub(super) fn alter_topic(&mut self) {
        let name = self.pick(&TOPICS).to_owned();
        let config = self.config_for(&name);
        let more = self.rng.u8(0..4) == 0;
        let Some(topic) = self.model.topics.get_mut(&name) else { return };
        let Some(now) = topic.shape.now.clone() else { return };
        if topic.shape.pending.is_some() || topic.purging {
            return;
        }
        let partitions = if more { (now.partitions + 1).min(3) } else { now.partitions };
        topic.configs.push(config);
        topic.shape.pending = Some(Some(TopicShape { partitions, config }));
        let alter = wire::AlterTopic {
            name: name.clone(),
            partitions: more.then_some(partitions),
            config: Some(config),
            force: true,
        };
        self.send(Request::AlterTopic(alter), Op::Topic { name });
    }

    pub(super) fn delete_or_purge_topic(&mut self) {
        let name = self.pick(&TOPICS).to_owned();
        let purge = self.rng.bool();
        let Some(topic) = self.model.topics.get_mut(&name) else { return };
        if topic.shape.pending.is_some() || topic.shape.now.is_none() || topic.purging {
            return;
        }
        if purge {
            topic.purging = true;
            topic.id.into_iter().for_each(|id| self.model.purge(id));
            self.send(Request::PurgeTopic(wire::PurgeTopic { name: name.clone() }), Op::PurgeTopic { name });
        } else {
            topic.shape.pending = Some(None);
            self.send(
                Request::DeleteTopic(wire::DeleteTopic { name: name.clone() }),
                Op::DeleteTopic { name },
            );
        }
    }

    pub(super) fn produce(&mut self) {
        let Some(partition) = self.pick_partition() else { return };
        let records = self.rng.u32(1..=RECORDS_MAX);
        let shape = self.record_shape(partition);
        let ids = self.choose_ids(partition, records);
        let batch = self.model.new_batch(&mut self.rng, partition, shape, None, &ids);
        self.choose_delay(batch);
        self.send_batch(batch);
    }

    /// A session sends what follows, sends again what was not answered before a restart, or says something twice.
    pub(super) fn produce_in_session(&mut self) {
        while self.model.sessions.len() < 2 {
            self.model.sessions.push(Session::default());
        }
        let at = self.rng.usize(0..2);
        if self.model.sessions[at].producer.is_none() || self.rng.u8(0..40) == 0 {
            self.model.sessions[at] = Session::default();
            return self.send(Request::InitProducer, Op::InitProducer { session: at });
        }
        let producer = self.model.sessions[at].producer.expect("just looked");
        let Some(partition) = self.pick_partition() else { return };
        let again = self.rng.u8(0..4) == 0;
        let nth = self.rng.usize(..);
        let stream = self.model.sessions[at].streams.entry(partition).or_default();
        if stream.sent < stream.unacked.len() {
            let batch = stream.unacked[stream.sent];
            stream.sent += 1;
            self.count("batches sent again after a restart");
            return self.send_batch(batch);
        }
        if again {
            let recent = SESSION_BATCHES_MAX.saturating_sub(stream.unacked.len());
            let recent = stream.acked.iter().rev().take(recent).chain(&stream.unacked);
            let known: Vec<u64> = recent.copied().collect();
            if !known.is_empty() {
                self.count("batches sent twice");
                return self.send_batch(known[nth % known.len()]);
            }
            return;
        }
        if stream.unacked.len() >= SESSION_BATCHES_MAX {
            return;
        }
        let sequence = Sequence(stream.next_sequence);
        let records = self.rng.u32(1..=RECORDS_MAX);
        let stamp = ProducerStamp { producer, epoch: 0, sequence };
        let shape = self.record_shape(partition);
        let ids = self.choose_ids(partition, records);
        let batch = self.model.new_batch(&mut self.rng, partition, shape, Some(stamp), &ids);
        self.choose_delay(batch);
        let stream = self.model.sessions[at].streams.get_mut(&partition).expect("just made");
        stream.next_sequence += records;
        stream.unacked.push_back(batch);
        stream.sent = stream.unacked.len();
        self.send_batch(batch);
    }

    fn record_shape(&self, partition: TopicPartition) -> RecordShape {
        let Knobs { value_bytes_max, ttl_percent, .. } = self.knobs;
        RecordShape { value_bytes_max, keyed: self.is_compacted(partition), ttl_percent }
    }

    /// Whether compaction goes through this partition, so that its messages need keys.
    pub(crate) fn is_compacted(&self, partition: TopicPartition) -> bool {
        let topic = self.topics.by_id(partition.topic);
        topic.is_some_and(|topic| topic.config.cleanup() == wire::Cleanup::Compact)
    }

    pub(crate) fn send_batch(&mut self, id: u64) {
        let reply_to = self.next_reply_to();
        let batch = self.model.batches.get_mut(&id).expect("it was just made");
        batch.place.get_or_insert(Place { sender: Sender::Connection(reply_to.connection), nth: id });
        batch.asked_ms.get_or_insert(self.ran_ms);
        let produce = Produce {
            partition: batch.partition,
            batch: batch.bytes.clone(),
            keyed: batch.keys.iter().any(Option::is_some),
            all_keyed: batch.keys.iter().all(Option::is_some),
            record_bytes_max: batch.record_bytes_max,
            expiring: batch.ttls_ms.iter().any(Option::is_some),
            ids: hashes(&batch.ids),
        };
        let request = match batch.delay {
            Some(Delay { due, .. }) => Request::ProduceLater { produce, due },
            None => Request::Produce(produce),
        };
        self.send_from(reply_to, request, Op::Produce { batch: id });
    }

    /// Whatever the session sent from this batch on is sent again. Returns whether that was to be expected: one before
    /// was refused, or the session is over.
    pub(super) fn session_refused(&mut self, partition: TopicPartition, batch: u64) -> bool {
        let mut expected = None;
        for session in &mut self.model.sessions {
            let Some(stream) = session.streams.get_mut(&partition) else { continue };
            if let Some(at) = stream.unacked.iter().position(|id| *id == batch) {
                stream.sent = stream.sent.min(at);
                expected = Some(std::mem::replace(&mut stream.was_refused, true));
            }
        }
        expected.unwrap_or(true)
    }

    /// The session's batch is acknowledged: the front of what waits moves up.
    pub(super) fn session_acked(&mut self, partition: TopicPartition, batch: u64) {
        for session in &mut self.model.sessions {
            let Some(stream) = session.streams.get_mut(&partition) else { continue };
            if let Some(at) = stream.unacked.iter().position(|id| *id == batch) {
                stream.unacked.remove(at);
                stream.sent = stream.sent.saturating_sub(1);
                stream.acked.push_back(batch);
                if stream.acked.len() > SESSION_BATCHES_MAX {
                    stream.acked.pop_front();
                }
            }
        }
    }
}
