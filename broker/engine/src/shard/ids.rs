//! Message ids: what of a batch is new, and what was accepted before.
//!
//! A batch in which some records are duplicates is appended without them, under fresh offsets and without its session's
//! stamp; what its producer was told is remembered with the session (`ProducerSeen`), in the same commit. So the
//! sequence goes on, and the same batch sent again is answered as it was the first time.

use bytes::Bytes;
use dure_proto::journal::{MessageIds, ProducedBatch, ProducerSeen, event};
use dure_proto::{BatchHeader, BatchLimits, IdHash, Offset, PartitionId, Records, TopicPartition, wire};

use super::Shard;
use crate::already_hashed::HashedTable;
use crate::catalogue::dedup_window_ms;
use crate::dedup::First;
use crate::mutant::{self, Mutant};
use crate::request::{Produce, RequestError, Response};
use crate::time::Now;

/// What of a batch is to be appended.
pub(super) struct Sifted {
    /// What is new of it; `None`: nothing.
    pub(super) batch: Option<Bytes>,
    /// What is not.
    pub(super) duplicates: Vec<wire::Duplicates>,
    /// The ids among what is new, by their place in it.
    ids: Vec<(u32, IdHash)>,
}

impl Shard {
    /// Looks at the ids of a batch that is new to its session. `base` is the offset that its first record would get now, if
    /// it gets one now.
    pub(super) fn sift(
        &mut self,
        now: Now,
        produce: &Produce,
        base: Option<Offset>,
    ) -> Result<Sifted, RequestError> {
        let topic = produce.partition.topic;
        let window_ms = self.dedup_window_ms(topic);
        if produce.ids.is_empty() || window_ms == 0 {
            let batch = Some(produce.batch.clone());
            return Ok(Sifted { batch, duplicates: Vec::new(), ids: Vec::new() });
        }
        let at_ms = self.id_clock.at(now);
        let (mut duplicates, mut ids, mut is_new) = (Vec::new(), Vec::new(), Vec::new());
        let mut here: HashedTable<IdHash, First> = HashedTable::default();
        here.reserve(produce.ids.len());
        let mut kept = 0;
        for (index, id) in (0..).zip(&produce.ids) {
            let known = |id| {
                let before = self.state.dedup.first(topic, id, at_ms, window_ms);
                before.or_else(|| here.get(&id).copied())
            };
            if let Some(first) = id.and_then(known) {
                note_duplicate(&mut duplicates, index, first);
                is_new.push(false);
                continue;
            }
            if let Some(id) = *id {
                let offset = base.map(|base| base.plus(kept.into()));
                here.insert(id, First { partition: produce.partition.partition, offset });
                ids.push((kept, id));
            }
            is_new.push(true);
            kept += 1;
        }
        self.check_ids_max(now, ids.len())?;
        let batch = match duplicates.is_empty() {
            true => Some(produce.batch.clone()),
            false => part(&produce.batch, &is_new)?,
        };
        Ok(Sifted { batch, duplicates, ids })
    }

    /// How long a topic remembers ids.
    fn dedup_window_ms(&self, topic: dure_proto::TopicId) -> u64 {
        self.state.catalogue.table().by_id(topic).map_or(0, |topic| dedup_window_ms(&topic.config))
    }

    /// An id is never forgotten to make room for another one.
    fn check_ids_max(&mut self, now: Now, more: usize) -> Result<(), RequestError> {
        let ids_max = self.config.message_ids_max;
        if self.state.dedup.len() + more > ids_max {
            self.forget_ids(now);
        }
        match self.state.dedup.len() {
            remembered if remembered + more > ids_max => Err(RequestError::Busy(format!(
                "{remembered} message ids are remembered, and {ids_max} are the most; a shorter `dedup-window` of the topic \
                 forgets them sooner"
            ))),
            _ => Ok(()),
        }
    }

    /// In the commit in which what is new was appended: its ids are known from here on, and so is to its session what
    /// became of the batch.
    pub(super) fn note_sifted(
        &mut self,
        now: Now,
        produce: &Produce,
        sent: &BatchHeader,
        sifted: &Sifted,
        at: ProducedAt,
    ) {
        if mutant::is(Mutant::IdsInTwoCommits) && !sifted.ids.is_empty() {
            self.commit_path.make_room();
        }
        let at_ms = self.id_clock.at(now);
        let TopicPartition { topic, partition } = produce.partition;
        for run in sifted.ids.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let offset = match at {
                ProducedAt::Log(base) => Some(base.plus(run[0].0.into()).0),
                ProducedAt::DelayLog(_) => None,
            };
            let ids = run.iter().flat_map(|(_, id)| id.0.to_le_bytes()).collect();
            let ids = MessageIds { topic: topic.0, partition: partition.0, offset, at_ms, ids };
            self.commit_event(now, event::Event::MessageIds(ids));
        }
        if !sifted.duplicates.is_empty() {
            self.note_session(now, produce.partition, sent, at, sifted.duplicates.clone());
        }
    }

    /// What became of a session's batch is known to the log that it was sent to, where the log itself does not tell.
    pub(super) fn note_session(
        &mut self,
        now: Now,
        partition: TopicPartition,
        sent: &BatchHeader,
        at: ProducedAt,
        duplicates: Vec<wire::Duplicates>,
    ) {
        let (offset, delayed) = match at {
            ProducedAt::Log(base) => (base, false),
            ProducedAt::DelayLog(offset) => (offset, true),
        };
        let Some(stamp) = sent.producer.filter(|_| !(delayed && mutant::is(Mutant::DelayedNotRemembered)))
        else {
            return;
        };
        let batch = ProducedBatch {
            sequence: stamp.sequence.0,
            records: sent.record_count,
            offset: offset.0,
            delayed,
            duplicates,
        };
        let seen = ProducerSeen {
            topic: partition.topic.0,
            partition: partition.partition.0,
            producer: stamp.producer.0,
            epoch: stamp.epoch.into(),
            wall_ms: self.retention.append_ms(now),
            batch: Some(batch),
        };
        self.commit_event(now, event::Event::ProducerSeen(seen));
    }

    /// Ids whose windows are over go.
    pub(super) fn forget_ids(&mut self, now: Now) {
        let at_ms = self.id_clock.at(now);
        let windows = |topic| self.dedup_window_ms(topic);
        for expired in self.state.dedup.expired(at_ms, windows) {
            self.commit_event(now, event::Event::MessageIdsExpired(expired));
        }
    }
}

/// Where a batch was put.
#[derive(Clone, Copy, Debug)]
pub(super) enum ProducedAt {
    /// In the log that it was sent to, from this offset on.
    Log(Offset),
    /// In a delay log, at this offset of that.
    DelayLog(Offset),
}

/// What the producer of a batch that was taken before is told.
pub(super) fn known_response(known: ProducedBatch, append_time_ms: u64, due_ms: u64) -> Response {
    let ProducedBatch { offset, delayed, duplicates, .. } = known;
    match delayed {
        true => Response::Scheduled { due_ms, duplicates },
        false => Response::Produced { base_offset: Offset(offset), append_time_ms, duplicates },
    }
}

fn note_duplicate(duplicates: &mut Vec<wire::Duplicates>, index: u32, first: First) {
    let PartitionId(partition) = first.partition;
    let offset = first.offset.map(|offset| offset.0);
    let follows = |last: &&mut wire::Duplicates| {
        let next = last.offset.map(|offset| offset + u64::from(last.count));
        last.index + last.count == index && last.partition == partition && next == offset
    };
    match duplicates.last_mut().filter(follows) {
        Some(last) => last.count += 1,
        None => duplicates.push(wire::Duplicates { index, count: 1, partition, offset }),
    }
}

/// The records that are new.
fn part(batch: &Bytes, is_new: &[bool]) -> Result<Option<Bytes>, RequestError> {
    if !is_new.contains(&true) {
        return Ok(None);
    }
    let records = Records::decode(batch, &BatchLimits::identified());
    let part =
        records.and_then(|records| records.part(|index| is_new.get(index).is_none_or(|is_new| *is_new)));
    part.map_err(|error| RequestError::Invalid(error.to_string()))
}
