//! The batches of one partition that are on their way, in order, and what a failure means for them.
//!
//! The broker takes a producer session's batches for a partition in the order of their sequences and answers one
//! that it has already with the offset that it got. So whatever may be sent again is sent again, in order and
//! unchanged, once everything in flight has been answered. Only a batch that failed for good leaves a gap in the
//! sequences: those behind it go on in a new session, if it is certain that they are not in the log.

use std::collections::VecDeque;

use bytes::Bytes;
use dure_proto::wire::produce::Due;
use dure_proto::{BatchBuilder, BatchLimits, ProducerId, ProducerStamp, Records, Sequence};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::delivery::Appended;
use crate::backoff::Backoff;
use crate::error::{Error, ErrorCode, Result};

/// Sequences wrap here, as in Kafka.
const SEQUENCES: u64 = 1 << 31;

/// A batch with its place in the order.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) batch: Bytes,
    pub(super) records: u32,
    pub(super) keyed: bool,
    pub(super) all_keyed: bool,
    pub(super) expiring: bool,
    pub(super) identified: bool,
    pub(super) record_bytes_max: u32,
    pub(super) due: Option<Due>,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
    pub(super) reserved: usize,
    pub(super) deadline: Instant,
    pub(super) sent: bool,
    /// An attempt was written and not answered: it may be in the log. Never taken back.
    pub(super) doubt: bool,
    pub(super) last_error: Option<Error>,
}

/// A batch that is done with, one way or the other.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) entry: Entry,
    pub(super) outcome: Result<Appended>,
}

#[derive(Debug)]
struct Session {
    producer: ProducerId,
    epoch: u16,
    sequence_next: u64,
}

impl Session {
    fn stamp(&mut self, records: u32) -> ProducerStamp {
        let sequence = Sequence(self.sequence_next as u32);
        self.sequence_next = (self.sequence_next + u64::from(records)) % SEQUENCES;
        ProducerStamp { producer: self.producer, epoch: self.epoch, sequence }
    }
}

#[derive(Debug)]
struct Trouble {
    /// The session has a gap or is gone: what follows needs a new one.
    broken: bool,
    retry_at: Instant,
}

#[derive(Debug)]
pub(super) struct Line {
    /// Oldest first. In one session their sequences are contiguous.
    queue: VecDeque<Entry>,
    session: Option<Session>,
    /// While there is some, nothing is sent; it is repaired once nothing is in flight.
    trouble: Option<Trouble>,
    backoff: Backoff,
}

impl Line {
    pub(super) fn new() -> Line {
        Line { queue: VecDeque::new(), session: None, trouble: None, backoff: Backoff::later() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.queue.iter().filter(|entry| entry.sent).count()
    }

    /// Stamps what stamps can be asked for with the next sequence of the session.
    pub(super) fn stamp(&mut self, records: u32) -> Option<ProducerStamp> {
        self.session.as_mut().map(|session| session.stamp(records))
    }

    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.queue.push_back(entry);
    }

    /// When the repair may start: at once, if that is past. `None`: there is nothing to repair.
    pub(super) fn trouble_until(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// The first batch that is not under way.
    pub(super) fn unsent(&mut self) -> Option<&mut Entry> {
        self.queue.iter_mut().find(|entry| !entry.sent)
    }

    /// Takes in what became of an attempt to send. Returns the batch if that is final.
    pub(super) fn answered(&mut self, id: u64, outcome: Result<Appended>, now: Instant) -> Option<Finished> {
        let position = self.queue.iter().position(|entry| entry.id == id)?;
        let entry = &mut self.queue[position];
        entry.sent = false;
        let error = match outcome {
            Ok(appended) => {
                if self.trouble.is_none() {
                    self.backoff.reset();
                }
                let entry = self.queue.remove(position)?;
                return Some(Finished { entry, outcome: Ok(appended) });
            }
            Err(error) => error,
        };
        entry.doubt |= error.is_outcome_unknown();
        entry.last_error = Some(error.clone());
        // Behind a batch that is not in the log, that is what the broker says of the next; of the first one it
        // means that it has forgotten the session.
        let session_lost =
            matches!(error.code(), Some(ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer));
        let again = error.is_worth_asking_again()
            || matches!(error, Error::Timeout { .. })
            || (session_lost && position > 0);
        let retry_at = if error.code().is_some() && self.trouble.is_none() {
            now + self.backoff.next_delay()
        } else {
            now // a lost connection has a backoff of its own
        };
        let trouble = self.trouble.get_or_insert(Trouble { broken: false, retry_at });
        if again {
            return None;
        }
        trouble.broken = true;
        if session_lost && !entry.doubt {
            return None; // it was not appended, and can be in a new session
        }
        let entry = self.queue.remove(position)?;
        let outcome = Err(if entry.doubt { in_doubt(&error) } else { error });
        Some(Finished { entry, outcome })
    }

    /// With nothing in flight: gives up what has no time left, and with it, if the session is broken, what may
    /// or may not be in the log. The rest is ready to be sent again.
    pub(super) fn repair(&mut self, now: Instant) -> Vec<Finished> {
        assert_eq!(self.in_flight(), 0, "what is in flight has to be answered first");
        let Some(trouble) = self.trouble.take() else { return Vec::new() };
        let broken = trouble.broken || self.queue.iter().any(|entry| entry.deadline <= now);
        let mut given_up = Vec::new();
        for entry in std::mem::take(&mut self.queue) {
            let expired = entry.deadline <= now;
            if expired || (broken && entry.doubt) {
                let last = entry.last_error.clone();
                let last = last.unwrap_or_else(|| Error::timeout("waiting to be sent"));
                let outcome = Err(if entry.doubt { in_doubt(&last) } else { last });
                given_up.push(Finished { entry, outcome });
            } else {
                self.queue.push_back(entry);
            }
        }
        if broken {
            self.session = None;
        }
        given_up
    }

    /// Goes on in a new session; what is queued gets new stamps.
    pub(super) fn start_session(&mut self, producer: ProducerId, epoch: u16) {
        let mut session = Session { producer, epoch, sequence_next: 0 };
        for entry in &mut self.queue {
            assert!(!entry.doubt && !entry.sent, "what may be in the log keeps its stamp");
            entry.batch = restamp(&entry.batch, session.stamp(entry.records));
        }
        self.session = Some(session);
    }

    /// Gives up everything that is queued.
    pub(super) fn fail_all(&mut self, error: &Error) -> Vec<Finished> {
        let entries = std::mem::take(&mut self.queue).into_iter();
        entries.map(|entry| Finished { entry, outcome: Err(error.clone()) }).collect()
    }
}

fn in_doubt(last: &Error) -> Error {
    match last {
        _ if last.is_outcome_unknown() => last.clone(),
        _ => Error::unknown(format!("an earlier attempt was not answered; the last one: {last}")),
    }
}

/// The same records under another stamp. Rare, so it takes the long way that needs no second knowledge of the
/// format.
fn restamp(batch: &Bytes, stamp: ProducerStamp) -> Bytes {
    let records = Records::decode(batch, &BatchLimits::default()).expect("this producer encoded it");
    let mut builder = BatchBuilder::new(records.header().compression);
    for record in &records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder
            .push_owned(key, value, &record.headers, record.timestamp_ms)
            .expect("it fitted into a batch of the same size before");
    }
    builder.build(Some(stamp))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Retry;

    fn line_with(batches: u64) -> (Line, Instant) {
        let now = Instant::now();
        let mut line = Line::new();
        line.start_session(ProducerId(1), 0);
        for id in 0..batches {
            let mut builder = BatchBuilder::new(dure_proto::Compression::None);
            builder.push(None, Some(b"value"), &[], 0).expect("small");
            let batch = builder.build(line.stamp(1));
            line.push(Entry {
                id,
                batch,
                records: 1,
                keyed: false,
                all_keyed: false,
                expiring: false,
                identified: false,
                record_bytes_max: 5,
                due: None,
                reply: oneshot::channel().0,
                reserved: 0,
                deadline: now + Duration::from_secs(30),
                sent: true,
                doubt: false,
                last_error: None,
            });
        }
        (line, now)
    }

    fn broker(code: ErrorCode, retry: Retry) -> Error {
        Error::Broker { code, message: String::new(), retry }
    }

    fn stamps(line: &Line) -> Vec<(u64, u32)> {
        let header = |entry: &Entry| dure_proto::BatchHeader::parse(&entry.batch).expect("a batch");
        let stamp = |entry: &Entry| header(entry).producer.expect("stamped");
        line.queue.iter().map(|entry| (stamp(entry).producer.0, stamp(entry).sequence.0)).collect()
    }

    #[test]
    fn a_lost_connection_resends_the_same_batches_in_order() {
        let (mut line, now) = line_with(3);
        let before = stamps(&line);
        for id in 0..3 {
            assert!(line.answered(id, Err(Error::unknown("gone")), now).is_none());
        }
        assert!(line.repair(now).is_empty());
        assert_eq!(stamps(&line), before);
        assert_eq!(line.unsent().map(|entry| entry.id), Some(0));
        assert!(line.has_session());
    }

    #[test]
    fn what_follows_a_rejected_batch_moves_to_a_new_session() {
        let (mut line, now) = line_with(3);
        let rejected = line.answered(0, Err(broker(ErrorCode::MessageTooLarge, Retry::Never)), now);
        assert_eq!(rejected.map(|finished| finished.entry.id), Some(0));
        for id in 1..3 {
            let out_of_order = broker(ErrorCode::OutOfOrderSequence, Retry::Never);
            assert!(line.answered(id, Err(out_of_order), now).is_none());
        }
        assert!(line.repair(now).is_empty());
        assert!(!line.has_session());
        line.start_session(ProducerId(2), 0);
        assert_eq!(stamps(&line), [(2, 0), (2, 1)]);
    }

    #[test]
    fn what_may_be_in_the_log_is_never_sent_under_another_session() {
        let (mut line, now) = line_with(2);
        line.answered(0, Err(broker(ErrorCode::DiskFull, Retry::Later)), now).expect("final");
        assert!(line.answered(1, Err(Error::unknown("gone")), now).is_none());
        let given_up = line.repair(now);
        assert_eq!(given_up.len(), 1);
        assert!(matches!(given_up[0].outcome, Err(Error::OutcomeUnknown { .. })));
        assert!(line.is_empty() && !line.has_session());
    }

    #[test]
    fn a_busy_broker_is_asked_again_and_later_batches_wait_for_it() {
        let (mut line, now) = line_with(2);
        assert!(line.answered(0, Err(broker(ErrorCode::Busy, Retry::Later)), now).is_none());
        let out_of_order = broker(ErrorCode::OutOfOrderSequence, Retry::Never);
        assert!(line.answered(1, Err(out_of_order), now).is_none());
        assert!(line.trouble_until().is_some_and(|at| at > now));
        assert!(line.repair(now).is_empty());
        assert_eq!(stamps(&line), [(1, 0), (1, 1)]);
    }

    #[test]
    fn behind_an_unanswered_first_batch_an_unknown_producer_is_no_lost_session() {
        let (mut line, now) = line_with(2);
        let unknown = broker(ErrorCode::UnknownProducer, Retry::Never);
        assert!(line.answered(1, Err(unknown), now).is_none());
        assert!(line.answered(0, Err(Error::unknown("gone")), now).is_none());
        assert!(line.repair(now).is_empty());
        assert_eq!(stamps(&line), [(1, 0), (1, 1)]);
    }

    #[test]
    fn a_stopped_shard_is_not_asked_until_the_deadline() {
        let (mut line, now) = line_with(2);
        for id in 0..2 {
            let stopped = broker(ErrorCode::ShardStopped, Retry::Unknown);
            let finished = line.answered(id, Err(stopped.clone()), now).expect("final");
            assert_eq!(finished.outcome.err(), Some(stopped));
        }
        assert!(line.repair(now).is_empty());
        assert!(!line.has_session());
    }

    #[test]
    fn the_deadline_ends_it_with_what_is_known() {
        let (mut line, now) = line_with(2);
        assert!(line.answered(0, Err(Error::unknown("gone")), now).is_none());
        assert!(line.answered(1, Err(Error::disconnected("gone")), now).is_none());
        let given_up = line.repair(now + Duration::from_secs(31));
        assert!(matches!(given_up[0].outcome, Err(Error::OutcomeUnknown { .. })));
        assert!(matches!(given_up[1].outcome, Err(Error::Disconnected { .. })));
    }
}
