//! Producing: a batch gets its offsets and goes into the open commit.

use dure_proto::journal::{ProducedBatch, TopicExpiring, TopicKeyed, event};
use dure_proto::{BatchHeader, ENTRY_HEADER_BYTES, EntryHeader, Offset, ProducerId, TopicPartition, wire};

use super::ids::{ProducedAt, known_response};
use super::{Shard, Step};
use crate::effect::Effect;
use crate::mutant::{self, Mutant};
use crate::producers::Admission;
use crate::request::{Produce, ReplyTo, RequestError, Response};
use crate::time::Now;

/// A batch may hold this much even where a single record may not.
const BATCH_BYTES_ALWAYS: usize = 1 << 20;
/// What batch and record headers may add to the records' own bytes.
const BATCH_OVERHEAD_BYTES: usize = 64 << 10;

impl Shard {
    pub(super) fn produce(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        produce: &Produce,
    ) -> Result<(), RequestError> {
        let partition = produce.partition;
        self.check_produce(produce)?;
        let batch = parse(&produce.batch)?;
        let append_time_ms = self.retention.append_ms(now);
        if let Some(known) = self.admit(partition, &batch)? {
            self.reply_durably(reply_to, known_response(known, append_time_ms, now.wall_ms));
            return Ok(());
        }
        let base_offset = self.state.logs[&partition].layout.log_end();
        let sifted = self.sift(now, produce, Some(base_offset))?;
        if let Some(bytes) = &sifted.batch {
            // Not before: a batch that is in the log must not be called refused.
            self.check_room(bytes.len())?;
            self.check_writable(partition)?;
            self.note_content(now, produce);
            match sifted.duplicates.is_empty() {
                true => self.append(now, partition, &batch, bytes),
                false => self.append(now, partition, &parse(bytes)?, bytes),
            };
        }
        self.note_sifted(now, produce, &batch, &sifted, ProducedAt::Log(base_offset));
        let duplicates = sifted.duplicates;
        self.reply_durably(reply_to, Response::Produced { base_offset, append_time_ms, duplicates });
        Ok(())
    }

    /// What is known of a batch that its session has sent before, and that may still be on its way to the disk.
    pub(super) fn admit(
        &self,
        partition: TopicPartition,
        batch: &BatchHeader,
    ) -> Result<Option<ProducedBatch>, RequestError> {
        let Some(stamp) = &batch.producer else { return Ok(None) };
        match self.state.logs[&partition].producers.admit(partition, stamp, batch.record_count)? {
            Admission::New => Ok(None),
            Admission::Known(batch) => Ok(Some(batch)),
        }
    }

    /// What a topic has to know of the messages that are in it, or will be.
    pub(super) fn note_content(&mut self, now: Now, produce: &Produce) {
        let topic = produce.partition.topic;
        if produce.keyed && self.state.catalogue.table().by_id(topic).is_some_and(|topic| !topic.keyed) {
            self.commit_event(now, event::Event::TopicKeyed(TopicKeyed { topic: topic.0 }));
        }
        if produce.expiring && self.state.catalogue.table().by_id(topic).is_some_and(|topic| !topic.expiring)
        {
            self.commit_event(now, event::Event::TopicExpiring(TopicExpiring { topic: topic.0 }));
        }
    }

    /// Puts a batch at the end of a log, in the open commit.
    pub(super) fn append(
        &mut self,
        now: Now,
        partition: TopicPartition,
        batch: &BatchHeader,
        bytes: &[u8],
    ) -> Offset {
        self.append_at(partition, batch, bytes, self.retention.append_ms(now))
    }

    /// The same under a given time, which in a delay log is the due time.
    pub(super) fn append_at(
        &mut self,
        partition: TopicPartition,
        batch: &BatchHeader,
        bytes: &[u8],
        append_time_ms: u64,
    ) -> Offset {
        let base_offset = self.state.logs[&partition].layout.log_end();
        let header = EntryHeader::for_batch(batch, base_offset, append_time_ms, self.commit_path.epoch_low());
        let placement = self.state.apply_batch(partition, &header, batch.producer.as_ref());
        let placement = placement.expect("the log's end is free");
        self.commit_path.push_batch(partition, placement, header, bytes);
        self.space.admit((ENTRY_HEADER_BYTES + bytes.len()) as u64);
        base_offset
    }

    pub(super) fn check_produce(&self, produce: &Produce) -> Result<(), RequestError> {
        let topic = produce.partition.topic;
        let info = self.state.catalogue.table().by_id(topic).ok_or(RequestError::UnknownTopicId(topic))?;
        if info.is_hidden() {
            return Err(RequestError::UnknownTopic(info.name.clone()));
        }
        info.partition(produce.partition.partition)?;
        if info.config.cleanup() == wire::Cleanup::Compact && !produce.all_keyed {
            return Err(RequestError::KeyRequired { topic: info.name.clone() });
        }
        let record_bytes_max = info.config.message_bytes_max;
        let batch_bytes_max = BATCH_BYTES_ALWAYS.max(record_bytes_max as usize) + BATCH_OVERHEAD_BYTES;
        let too_large = |bytes: u64, bytes_max: u64| RequestError::MessageTooLarge {
            topic: info.name.clone(),
            bytes,
            bytes_max,
        };
        if produce.record_bytes_max > record_bytes_max {
            return Err(too_large(produce.record_bytes_max.into(), record_bytes_max.into()));
        }
        if produce.batch.len() > batch_bytes_max {
            return Err(too_large(produce.batch.len() as u64, batch_bytes_max as u64));
        }
        Ok(())
    }

    /// The epoch is durable and never repeated, so that a session's number needs no entry of its own.
    pub(super) fn init_producer(&mut self, reply_to: ReplyTo) -> Result<(), RequestError> {
        self.producer_next += 1;
        let epoch = if mutant::is(Mutant::ProducerIdsRepeat) { 1 } else { self.commit_path.epoch_low() };
        let producer = ProducerId((u64::from(epoch) << 32) | self.producer_next);
        self.commit_path.then(Step::Effect(Effect::Reply {
            to: reply_to,
            result: Ok(Response::Producer { producer, epoch: 0 }),
        }));
        Ok(())
    }
}

/// Its bytes were checked by whoever received it.
pub(super) fn parse(batch: &[u8]) -> Result<BatchHeader, RequestError> {
    BatchHeader::parse(batch).map_err(|error| RequestError::Invalid(error.to_string()))
}
