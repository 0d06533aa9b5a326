//! Logs, and the group that reads them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::facts::Facts;
use super::{Kind, Violation};
use crate::faults::history::{At, Event, Found, Outcome, Place, What};

type Partition = (&'static str, u32);

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Violation>) {
    for event in events {
        match &event.what {
            What::Log { topic, partition, start, end, records } => {
                let log = Log { topic, partition: *partition, start: *start, end: *end, records };
                log.check_offsets(found);
                log.check_order(found);
                log.check_nothing_lost(event.begun, facts, found);
            }
            What::Damaged { topic, partition, from, to } => {
                let text = format!("{topic}/{partition}: from {from} to {to} is said to be damaged");
                found.push(Violation { kind: Kind::Damaged, text, place: None, id: None });
            }
            _ => {}
        }
    }
    let commits = Commits::gather(events);
    commits.check_asked(found);
    check_starts(events, &commits, found);
    check_group_read_all(events, &commits, found);
    check_lone_readers(events, found);
}

/// One partition's log as it was read.
struct Log<'e> {
    topic: &'static str,
    partition: u32,
    start: u64,
    end: u64,
    records: &'e [(u64, Found)],
}

impl Log<'_> {
    fn at(&self, offset: u64) -> Place {
        Place { topic: self.topic, partition: self.partition, offset }
    }

    fn check_offsets(&self, found: &mut Vec<Violation>) {
        let mut next = self.start;
        for offset in self.records.iter().map(|(offset, _)| *offset).chain([self.end]) {
            if offset != next {
                let text =
                    format!("the log goes on at {offset} where {next} is next; it ends at {}", self.end);
                found.push(Violation { kind: Kind::Gap, text, place: Some(self.at(next)), id: None });
            }
            next = offset + 1;
        }
    }

    fn check_order(&self, found: &mut Vec<Violation>) {
        let mut last = HashMap::new();
        for (offset, what) in self.records {
            let Found::Intact(id) = what else { continue };
            match last.insert(id.producer, id.sequence) {
                Some(before) if before > id.sequence => {
                    let text = format!("number {before} of this producer stands before it");
                    found.push(Violation {
                        kind: Kind::Order,
                        text,
                        place: Some(self.at(*offset)),
                        id: Some(*id),
                    });
                }
                _ => {}
            }
        }
    }

    fn check_nothing_lost(&self, asked: At, facts: &Facts, found: &mut Vec<Violation>) {
        let there: BTreeSet<u64> = self.records.iter().map(|(offset, _)| *offset).collect();
        let here = |place: &Place| (place.topic, place.partition) == (self.topic, self.partition);
        let mut told = BTreeSet::new();
        for seen in facts.seen.iter().filter(|seen| seen.at < asked && here(&seen.place)) {
            let offset = seen.place.offset;
            if offset >= self.start && !there.contains(&offset) && told.insert(offset) {
                let how = if seen.acked { "acknowledged" } else { "shown" };
                let text =
                    format!("it was {how}, and the log from {} to {} has it not", self.start, self.end);
                let (place, id) = (Some(seen.place), Some(seen.id));
                found.push(Violation { kind: Kind::Lost, text, place, id });
            }
        }
    }
}

/// What was known of committed offsets, and when.
#[derive(Default)]
struct Commits {
    /// Answered commits and what the broker said when it was asked: known from then on. In the order of time, each
    /// the largest up to then.
    known: BTreeMap<Partition, Vec<(At, u64)>>,
    /// Begin and offset of those that may have been carried out.
    tried: BTreeMap<Partition, Vec<(At, u64)>>,
    /// Begin and end of asking, and what came of it.
    asked: Vec<(At, At, Place)>,
}

impl Commits {
    fn gather(events: &[Event]) -> Commits {
        let mut commits = Commits::default();
        for event in events {
            match event.what {
                What::Commit { place, outcome, .. } => {
                    let partition = (place.topic, place.partition);
                    if outcome == Outcome::Ok {
                        commits.known.entry(partition).or_default().push((event.ended, place.offset));
                    }
                    if outcome != Outcome::Fail {
                        commits.tried.entry(partition).or_default().push((event.begun, place.offset));
                    }
                }
                What::Committed { place } => {
                    let partition = (place.topic, place.partition);
                    commits.known.entry(partition).or_default().push((event.ended, place.offset));
                    commits.asked.push((event.begun, event.ended, place));
                }
                _ => {}
            }
        }
        for known in commits.known.values_mut() {
            known.sort_unstable();
            let mut largest = 0;
            for (_, offset) in known {
                largest = largest.max(*offset);
                *offset = largest;
            }
        }
        commits
    }

    /// The offset below which nothing may be read again by who asks from `at` on.
    fn known_before(&self, partition: Partition, at: At) -> u64 {
        let Some(known) = self.known.get(&partition) else { return 0 };
        let before = known.partition_point(|(ended, _)| *ended < at);
        before.checked_sub(1).map_or(0, |last| known[last].1)
    }

    fn check_asked(&self, found: &mut Vec<Violation>) {
        for (begun, ended, place) in &self.asked {
            let partition = (place.topic, place.partition);
            let before = self.known_before(partition, *begun);
            if place.offset < before {
                let text = format!("{before} was committed before, now it is {}", place.offset);
                found.push(Violation { kind: Kind::CommitWentBack, text, place: Some(*place), id: None });
            }
            let tried = self.tried.get(&partition).into_iter().flatten();
            let largest = tried.filter(|(at, _)| at <= ended).map(|(_, offset)| *offset).max().unwrap_or(0);
            if place.offset > largest {
                let text = format!("{} is committed, and nobody committed more than {largest}", place.offset);
                found.push(Violation { kind: Kind::CommitAhead, text, place: Some(*place), id: None });
            }
        }
    }
}

/// A member begins a partition where the group is, not before that.
fn check_starts(events: &[Event], commits: &Commits, found: &mut Vec<Violation>) {
    let mut began = HashMap::new();
    let mut started = BTreeSet::new();
    for event in events {
        match event.what {
            What::Subscribe { reader, in_group: true } => drop(began.insert(reader, event.begun)),
            What::Read { reader, in_group: true, place, .. } => {
                let partition = (place.topic, place.partition);
                if !started.insert((reader, partition)) {
                    continue;
                }
                let begun = began.get(&reader).copied().unwrap_or_default();
                let before = commits.known_before(partition, begun);
                if place.offset < before {
                    let text =
                        format!("reader {reader} begins here, and {before} was committed before it came");
                    found.push(Violation { kind: Kind::CommitWentBack, text, place: Some(place), id: None });
                }
            }
            _ => {}
        }
    }
}

/// What is committed was read by some member.
fn check_group_read_all(events: &[Event], commits: &Commits, found: &mut Vec<Violation>) {
    let mut read: BTreeMap<Partition, BTreeSet<u64>> = BTreeMap::new();
    let mut starts: BTreeMap<Partition, u64> = BTreeMap::new();
    for event in events {
        match event.what {
            What::Read { in_group: true, place, .. } => {
                read.entry((place.topic, place.partition)).or_default().insert(place.offset);
            }
            What::Log { topic, partition, start, .. } => drop(starts.insert((topic, partition), start)),
            _ => {}
        }
    }
    for (partition, known) in &commits.known {
        let committed = known.last().map_or(0, |(_, offset)| *offset);
        let start = starts.get(partition).copied().unwrap_or(0);
        let read = read.get(partition);
        let passed = (start..committed).find(|offset| read.is_none_or(|read| !read.contains(offset)));
        if let Some(offset) = passed {
            let place = Place { topic: partition.0, partition: partition.1, offset };
            let text = format!("the group has committed {committed}, and no member was given this");
            found.push(Violation { kind: Kind::Skipped, text, place: Some(place), id: None });
        }
    }
}

/// A reader without a group is given every message after its first.
fn check_lone_readers(events: &[Event], found: &mut Vec<Violation>) {
    let mut last = HashMap::new();
    for event in events {
        let What::Read { reader, in_group: false, place, .. } = event.what else { continue };
        match last.insert((reader, place.topic, place.partition), place.offset) {
            Some(before) if before + 1 != place.offset => {
                let text = format!("reader {reader} was given {before} and then this");
                found.push(Violation { kind: Kind::Skipped, text, place: Some(place), id: None });
            }
            _ => {}
        }
    }
}
