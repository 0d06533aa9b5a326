//! Everything that clients can learn of a data directory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dure_engine::{Cursor, LogView, ReadError, ReadOutcome, Request, Response, TopicInfo, Wait};
use dure_proto::{Offset, PartitionId, TopicId, TopicPartition, split_entries, wire};

use super::driver::Driver;
use super::reference::{QUEUE, Sent, WORK};
use crate::sim::Violation;

/// Read at a time: what a thread of a broker reads for several entries, and for one.
const READ_BYTES: usize = 8 << 10;
/// Longer than any lease of the reference.
const LEASES_END_MS: u64 = 120_000;
const RECEIVES_MAX: u32 = 50;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) logs: BTreeMap<TopicPartition, Log>,
    pub(super) topics: BTreeMap<TopicId, Arc<TopicInfo>>,
    /// What the queue group has to give out, with the number of the attempt.
    pub(super) leases: BTreeMap<(TopicPartition, Offset), u32>,
    pub(super) letters: BTreeMap<(PartitionId, Offset), DeadLetter>,
    /// By group, topic and partition.
    pub(super) committed: BTreeMap<(String, String, u32), Option<u64>>,
    /// Where the last batch of each producer session is said to be when it is sent again.
    pub(super) sent_again: Vec<Result<Offset, String>>,
}

/// One log from its start to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// All entries, one behind the other.
    pub(super) bytes: Vec<u8>,
    /// What is named lost.
    pub(super) lost: Vec<Range<Offset>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetter {
    pub(super) kept_in: TopicPartition,
    pub(super) letter: Offset,
    pub(super) attempts: u32,
    pub(super) reason: String,
}

/// Reads and works everything off. The shard is not as it was afterwards.
pub(super) fn observe(driver: &mut Driver, sent: &[Sent]) -> Result<Observed, Violation> {
    let mut observed = Observed::default();
    for (partition, view) in &driver.views {
        observed.logs.insert(*partition, read_log(view)?);
    }
    observed.topics = driver.topics.iter().map(|topic| (topic.id, topic.clone())).collect();
    describe_groups(driver, &mut observed)?;
    list_letters(driver, &mut observed)?;
    for Sent { produce } in sent {
        observed.sent_again.push(match driver.ask(Request::Produce(produce.clone()))? {
            Ok(Response::Produced { base_offset, .. }) => Ok(base_offset),
            Ok(other) => return Err(Violation(format!("{other:?}"))),
            Err(error) => Err(error.to_string()),
        });
    }
    work_off(driver, &mut observed)?;
    Ok(observed)
}

fn read_log(view: &LogView) -> Result<Log, Violation> {
    let mut log =
        Log { start: view.log_start, end: view.high_watermark, bytes: Vec::new(), lost: Vec::new() };
    let mut cursor = Cursor::at(view.log_start);
    loop {
        let before = cursor.offset();
        match view.read(&mut cursor, READ_BYTES, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => log.bytes.extend_from_slice(&entries),
            Ok(ReadOutcome::Lost(range)) => log.lost.push(range),
            Ok(ReadOutcome::AtEnd) => return Ok(log),
            other => return Err(unreadable(view, before, &other)),
        }
        if cursor.offset() <= before {
            return Err(Violation(format!("{}: reading stands still at {before}", view.partition)));
        }
    }
}

fn unreadable(view: &LogView, at: Offset, outcome: &Result<ReadOutcome, ReadError>) -> Violation {
    Violation(format!("{}: reading at {at}: {outcome:?}", view.partition))
}

/// Each entry that the log should hold, looked up by its offset: it is that, or lost if it lies in `may_be_lost`.
pub(super) fn check_lookups(
    view: &LogView,
    truth: &Log,
    may_be_lost: Option<&Range<Offset>>,
) -> Result<(), Violation> {
    for (base, bytes) in entries_of(&truth.bytes) {
        match view.read(&mut Cursor::at(base), 1, Wait::MayWait) {
            Ok(ReadOutcome::Entries(found)) if found.starts_with(bytes) => {}
            Ok(ReadOutcome::Lost(range))
                if may_be_lost.is_some_and(|may| may.start <= range.start && range.end <= may.end) => {}
            other => return Err(unreadable(view, base, &other)),
        }
    }
    Ok(())
}

/// The first offsets at and behind some times.
pub(super) fn look_up_times(view: &LogView, truth: &Log) -> Result<Vec<Offset>, Violation> {
    let times: Vec<u64> = headers_of(&truth.bytes).map(|header| header.append_time_ms).collect();
    let some = times.iter().step_by(4).flat_map(|ms| [*ms, ms + 1]);
    some.map(|ms| view.locate_time(ms).map_err(|error| Violation(error.to_string()))).collect()
}

/// What [`look_up_times`] gives where nothing is damaged.
pub(super) fn times_of(truth: &Log) -> Vec<Offset> {
    let headers: Vec<_> = headers_of(&truth.bytes).collect();
    let times =
        headers.iter().step_by(4).flat_map(|header| [header.append_time_ms, header.append_time_ms + 1]);
    let first = |ms| headers.iter().find(|header| header.append_time_ms >= ms);
    times.map(|ms| first(ms).map_or(truth.end, |header| header.base_offset)).collect()
}

/// The entries of a log's bytes, with their base offsets.
pub(super) fn entries_of(bytes: &[u8]) -> impl Iterator<Item = (Offset, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = dure_proto::EntryHeader::parse(bytes.get(at..)?).ok()?;
        let entry = bytes.get(at..at + header.entry_bytes())?;
        at += entry.len();
        Some((header.base_offset, entry))
    })
}

pub(super) fn headers_of(bytes: &[u8]) -> impl Iterator<Item = dure_proto::EntryHeader> {
    entries_of(bytes).filter_map(|(_, entry)| dure_proto::EntryHeader::parse(entry).ok())
}

fn describe_groups(driver: &mut Driver, observed: &mut Observed) -> Result<(), Violation> {
    let Response::Groups(groups) = driver.expect(Request::ListGroups)? else {
        return Err(Violation("groups are listed as something else".into()));
    };
    for group in groups {
        for row in group.partitions {
            observed.committed.insert((group.name.clone(), row.topic, row.partition), row.committed);
        }
    }
    Ok(())
}

fn list_letters(driver: &mut Driver, observed: &mut Observed) -> Result<(), Violation> {
    let list = wire::ListDeadLetters {
        topic: WORK.into(),
        group: QUEUE.into(),
        count_max: 1_000,
        ..wire::ListDeadLetters::default()
    };
    let Response::DeadLetters { letters, .. } = driver.expect(Request::ListDeadLetters(list))? else {
        return Err(Violation("dead letters are listed as something else".into()));
    };
    for letter in letters {
        let key = (letter.partition, letter.offset);
        let dead = DeadLetter {
            kept_in: letter.kept_in,
            letter: letter.letter,
            attempts: letter.attempts,
            reason: letter.reason,
        };
        observed.letters.insert(key, dead);
    }
    Ok(())
}

/// Leases that went on have run out by then, and everything that is not settled is given out.
fn work_off(driver: &mut Driver, observed: &mut Observed) -> Result<(), Violation> {
    driver.advance(LEASES_END_MS)?;
    for _ in 0..RECEIVES_MAX {
        let leases = driver.receive(WORK, QUEUE, 1_000)?;
        if leases.is_empty() {
            return Ok(());
        }
        for lease in leases {
            let again = observed.leases.insert((lease.partition, lease.offset), lease.attempt);
            if again.is_some() {
                let what = format!("message {} of {} is leased twice", lease.offset, lease.partition);
                return Err(Violation(what));
            }
        }
    }
    Err(Violation("the queue has no end".into()))
}

/// That all of it is entries, none cut off.
pub(super) fn is_whole(log: &Log) -> bool {
    split_entries(log.bytes.clone().into()).all(|entry| entry.is_ok())
}
