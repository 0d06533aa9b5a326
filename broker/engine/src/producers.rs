//! What a log remembers of producer sessions, so that a retry after a lost answer never appends twice.
//!
//! The rule is that of Kafka's idempotent producer (KIP-98): sequence numbers of a session are contiguous per
//! partition, and the last batches are remembered, as many as a client may have in flight: not the five of Kafka, since a
//! disk that takes 2 GB/s wants more under way than those hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dure_proto::journal::{ProducedBatch, ProducerSnapshot};
use dure_proto::{BATCHES_IN_FLIGHT_MAX, ProducerId, ProducerStamp, TopicPartition};

use crate::mutant::{self, Mutant};
use crate::request::RequestError;

/// Sessions remembered per partition; the one unseen for longest is forgotten first, and costs its producer a new session
/// with its next batch. So there is room for one on each connection that a broker serves.
pub const PRODUCER_SESSIONS_MAX: usize = 1 << 14;
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
    /// All of them, the one unseen for longest first.
    by_last_seen: BTreeSet<(u64, ProducerId)>,
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
        let sessions: BTreeMap<_, _> =
            snapshots.iter().filter(|s| !s.batches.is_empty()).map(session).collect();
        let by_last_seen = sessions.iter().map(|(id, session)| (session.seen_wall_ms, *id)).collect();
        Producers { sessions, by_last_seen }
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
        self.by_last_seen.remove(&(session.seen_wall_ms, stamp.producer));
        self.by_last_seen.insert((wall_ms, stamp.producer));
        session.seen_wall_ms = wall_ms;
        session.batches.push_back(batch);
        let mut duplicates = if has_duplicates { self.duplicates() } else { 0 };
        while self.sessions.len() > PRODUCER_SESSIONS_MAX
            || (duplicates > DUPLICATES_MAX && self.sessions.len() > 1)
        {
            let oldest = self.by_last_seen.iter().find(|(_, id)| *id != stamp.producer);
            let oldest = *oldest.expect("there is another one");
            self.by_last_seen.remove(&oldest);
            let forgotten = self.sessions.remove(&oldest.1);
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

    /// 10,000 producers of one partition each needed a new session for every message: 18 ms in place of 0.6.
    #[test]
    fn more_producers_than_connections_do_not_push_each_other_out() {
        let mut producers = Producers::default();
        let of = |id, sequence| ProducerStamp { producer: ProducerId(id), ..stamp(sequence) };
        let most = PRODUCER_SESSIONS_MAX as u64;
        for (round, id) in (0..2).flat_map(|round| (0..most).map(move |id| (round, id))) {
            assert_eq!(producers.admit(P, &of(id, round), 1), Ok(Admission::New));
            producers.apply(&of(id, round), batch(round, 1, 0), u64::from(round));
        }
        // One more, and the one that was unseen for longest goes, whatever its number.
        producers.apply(&of(0, 2), batch(2, 1, 0), 9);
        producers.apply(&of(most, 0), batch(0, 1, 0), 9);
        assert_eq!(producers.admit(P, &of(1, 2), 1), Err(RequestError::UnknownProducer(ProducerId(1))));
        assert!([0, 2, most].iter().all(|id| producers.sessions.contains_key(&ProducerId(*id))));
        assert_eq!(Producers::restore(&producers.snapshot()), producers);
    }

    /// A wall clock that is set back makes the newest session the one that was seen first.
    #[test]
    fn a_session_is_not_pushed_out_by_its_own_batch() {
        let mut producers = Producers::default();
        let of = |id| ProducerStamp { producer: ProducerId(id), ..stamp(0) };
        for id in 0..=PRODUCER_SESSIONS_MAX as u64 {
            producers.apply(&of(id), batch(0, 1, 0), 1_000_000 - id);
        }
        let newest = ProducerId(PRODUCER_SESSIONS_MAX as u64);
        assert!(producers.sessions.contains_key(&newest));
        assert!(!producers.sessions.contains_key(&ProducerId(newest.0 - 1)));
        assert_eq!(producers.sessions.len(), producers.by_last_seen.len());
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = Producers::default();
        producers.apply(&stamp(SEQUENCES - 2), batch(SEQUENCES - 2, 2, 0), 0);
        assert_eq!(producers.admit(P, &stamp(0), 1), Ok(Admission::New));
    }
}
