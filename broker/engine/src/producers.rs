//! What a log remembers of producer sessions, so that a retry after a lost answer never appends twice.
//!
//! The rule is that of Kafka's idempotent producer (KIP-98): sequence numbers of a session are contiguous per
//! partition, and the last batches are remembered, as many as a client may have in flight: not the five of Kafka, since a
//! disk that takes 2 GB/s wants more under way than those hold.

use std::collections::{BTreeMap, VecDeque};

use dure_proto::journal::{ProducedBatch, ProducerSnapshot};
use dure_proto::{BATCHES_IN_FLIGHT_MAX, ProducerId, ProducerStamp, TopicPartition};

use crate::mutant::{self, Mutant};
use crate::request::RequestError;

/// Sessions remembered per partition; the one unseen for longest is forgotten first.
const SESSIONS_MAX: usize = 4096;
/// Runs of duplicates that are remembered per partition with the batches that they were in; at it, the session unseen for
/// longest is forgotten as well.
const DUPLICATES_MAX: usize = 1 << 16;
/// Sequence numbers wrap here.
const SEQUENCES: u32 = 1 << 31;

/// What a batch is to a log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Admission {
    New,
    /// It was taken before.
    Known(ProducedBatch),
}

#[derive(Clone, Debug, PartialEq)]
struct Session {
    epoch: u16,
    seen_wall_ms: u64,
    /// The last ones, oldest first, at most [`BATCHES_IN_FLIGHT_MAX`]; never empty.
    batches: VecDeque<ProducedBatch>,
}

impl Session {
    fn duplicates(&self) -> usize {
        self.batches.iter().map(|batch| batch.duplicates.len()).sum()
    }
}

/// The sessions that produced to one partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Producers {
    sessions: BTreeMap<ProducerId, Session>,
}

impl Producers {
    pub(crate) fn restore(snapshots: &[ProducerSnapshot]) -> Producers {
        let session = |s: &ProducerSnapshot| {
            let session = Session {
                epoch: s.epoch as u16,
                seen_wall_ms: s.seen_wall_ms,
                batches: s.batches.iter().cloned().collect(),
            };
            (ProducerId(s.producer), session)
        };
        Producers { sessions: snapshots.iter().filter(|s| !s.batches.is_empty()).map(session).collect() }
    }

    pub(crate) fn snapshot(&self) -> Vec<ProducerSnapshot> {
        let snapshot = |(id, session): (&ProducerId, &Session)| ProducerSnapshot {
            producer: id.0,
            epoch: session.epoch.into(),
            seen_wall_ms: session.seen_wall_ms,
            batches: session.batches.iter().cloned().collect(),
        };
        self.sessions.iter().map(snapshot).collect()
    }

    /// Decides on a batch of `records` records.
    pub(crate) fn admit(
        &self,
        partition: TopicPartition,
        stamp: &ProducerStamp,
        records: u32,
    ) -> Result<Admission, RequestError> {
        let out_of_order = |expected: u32| RequestError::OutOfOrderSequence {
            producer: stamp.producer,
            partition,
            got: stamp.sequence.0,
            expected,
        };
        let Some(session) = self.sessions.get(&stamp.producer) else {
            // A session's first batch to a partition. One that goes on with another number was forgotten here.
            return match stamp.sequence.0 {
                0 => Ok(Admission::New),
                _ => Err(RequestError::UnknownProducer(stamp.producer)),
            };
        };
        if stamp.epoch < session.epoch {
            return Err(RequestError::UnknownProducer(stamp.producer));
        }
        if stamp.epoch > session.epoch {
            return if stamp.sequence.0 == 0 { Ok(Admission::New) } else { Err(out_of_order(0)) };
        }
        let known = session.batches.iter().find(|b| b.sequence == stamp.sequence.0 && b.records == records);
        if let Some(batch) = known {
            return Ok(Admission::Known(batch.clone()));
        }
        let last = session.batches.back().expect("a session has a batch");
        let expected = last.sequence.wrapping_add(last.records) % SEQUENCES;
        let follows = stamp.sequence.0 == expected || mutant::is(Mutant::SequenceNotChecked);
        if follows { Ok(Admission::New) } else { Err(out_of_order(expected)) }
    }

    /// A batch of the session is in the log.
    pub(crate) fn apply(&mut self, stamp: &ProducerStamp, batch: ProducedBatch, wall_ms: u64) {
        let session = self.sessions.entry(stamp.producer).or_insert_with(|| Session {
            epoch: stamp.epoch,
            seen_wall_ms: wall_ms,
            batches: VecDeque::new(),
        });
        if session.epoch != stamp.epoch {
            session.epoch = stamp.epoch;
            session.batches.clear();
        }
        let remembered = BATCHES_IN_FLIGHT_MAX - usize::from(mutant::is(Mutant::DedupeWindowOffByOne));
        while session.batches.len() >= remembered {
            session.batches.pop_front();
        }
        let has_duplicates = !batch.duplicates.is_empty();
        session.seen_wall_ms = wall_ms;
        session.batches.push_back(batch);
        let mut duplicates = if has_duplicates { self.duplicates() } else { 0 };
        while self.sessions.len() > SESSIONS_MAX || (duplicates > DUPLICATES_MAX && self.sessions.len() > 1) {
            let others = self.sessions.iter().filter(|(id, _)| **id != stamp.producer);
            let oldest = others.min_by_key(|(_, session)| session.seen_wall_ms);
            let oldest = *oldest.expect("there is another one").0;
            let forgotten = self.sessions.remove(&oldest);
            duplicates -= forgotten.map_or(0, |session| session.duplicates()).min(duplicates);
        }
    }

    fn duplicates(&self) -> usize {
        self.sessions.values().map(Session::duplicates).sum()
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::{PartitionId, Sequence, TopicId};

    use super::*;

    const P: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };

    fn stamp(sequence: u32) -> ProducerStamp {
        ProducerStamp { producer: ProducerId(7), epoch: 0, sequence: Sequence(sequence) }
    }

    fn batch(sequence: u32, records: u32, offset: u64) -> ProducedBatch {
        ProducedBatch { sequence, records, offset, ..ProducedBatch::default() }
    }

    #[test]
    fn a_retry_gets_the_offset_of_the_first_time() {
        let mut producers = Producers::default();
        let many = BATCHES_IN_FLIGHT_MAX as u32;
        for i in 0..=many {
            assert_eq!(producers.admit(P, &stamp(i * 10), 10), Ok(Admission::New));
            producers.apply(&stamp(i * 10), batch(i * 10, 10, 100 + u64::from(i)), 0);
        }
        assert_eq!(
            producers.admit(P, &stamp(many * 10), 10),
            Ok(Admission::Known(batch(many * 10, 10, 100 + u64::from(many))))
        );
        assert_eq!(producers.admit(P, &stamp(10), 10), Ok(Admission::Known(batch(10, 10, 101))));
        assert!(matches!(producers.admit(P, &stamp(0), 10), Err(RequestError::OutOfOrderSequence { .. })));
        assert!(matches!(
            producers.admit(P, &stamp(many * 10 + 20), 10),
            Err(RequestError::OutOfOrderSequence { .. })
        ));
        assert_eq!(Producers::restore(&producers.snapshot()), producers);
    }

    #[test]
    fn a_session_that_was_forgotten_is_named() {
        let producers = Producers::default();
        assert_eq!(producers.admit(P, &stamp(3), 1), Err(RequestError::UnknownProducer(ProducerId(7))));
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::default();
        producers.apply(&stamp(SEQUENCES - 2), batch(SEQUENCES - 2, 2, 0), 0);
        assert_eq!(producers.admit(P, &stamp(0), 1), Ok(Admission::New));
    }
}
