//! What a flipped bit may cost: nothing, the one entry that it is in, or the one commit.

use std::collections::BTreeMap;
use std::ops::Range;

use dure_engine::Finding;
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, Offset, PartitionId, TopicId, TopicPartition};

use super::journal::Commit;
use super::observe::{Log, Observed, entries_of, headers_of, is_whole};
use crate::sim::{Checked, Violation, ensure};

/// Where the header of a segment ends and its first entry begins.
const SEGMENT_HEADER_BYTES: usize = 64;

/// What became of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It lies where nothing is read any more, or where what is read is written anew.
    Unnoticed,
    /// It was found, and nothing is lost.
    Repaired,
    /// The entry that it is in is lost and named; all others are served.
    EntryLost,
    /// The commit that it is in is lost and named.
    CommitLost,
    /// The commit that it is in was the last one, and is taken for a torn write.
    Residual,
}

/// The place of a flipped bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flip<'a> {
    pub(super) path: &'a str,
    pub(super) byte: u64,
    pub(super) bit: u32,
}

/// What is in the flipped directory, as it was before.
pub(super) struct Truth {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) observed: Observed,
    pub(super) commits: BTreeMap<u64, Commit>,
    /// The last commit that the newest checkpoint holds.
    pub(super) checkpoint: u64,
}

impl Truth {
    pub(super) fn judge(
        &self,
        flip: Flip<'_>,
        seen: &Observed,
        findings: &[Finding],
    ) -> Result<Outcome, Violation> {
        if *seen == self.observed {
            let found = findings.iter().any(Finding::is_damage);
            return Ok(if found { Outcome::Repaired } else { Outcome::Unnoticed });
        }
        if flip.path.ends_with(".log") {
            return self.judge_entry(flip, seen);
        }
        let commit = self
            .commits
            .values()
            .find(|commit| commit.piece == flip.path && commit.bytes.contains(&flip.byte));
        match commit.filter(|commit| commit.seq > self.checkpoint) {
            Some(commit) => self.judge_commit(commit, seen, findings),
            None => Err(Violation(format!("nothing may be lost by it; {}", self.difference(seen)))),
        }
    }

    /// The entry of a segment that a byte lies in.
    pub(super) fn entry_at(&self, flip: Flip<'_>) -> Option<(TopicPartition, Range<Offset>)> {
        let partition = log_of(flip.path)?;
        let bytes = &self.files[flip.path];
        let mut at = SEGMENT_HEADER_BYTES;
        while at + ENTRY_HEADER_BYTES <= bytes.len() {
            let header = EntryHeader::parse(&bytes[at..]).ok()?;
            let next = at + header.entry_bytes();
            if (at as u64..next as u64).contains(&flip.byte) {
                return Some((partition, header.base_offset..header.end_offset()));
            }
            at = next;
        }
        None
    }

    fn judge_entry(&self, flip: Flip<'_>, seen: &Observed) -> Result<Outcome, Violation> {
        let mut expected = self.observed.clone();
        if let Some((partition, lost)) = self.entry_at(flip) {
            let log = expected.logs.get_mut(&partition).expect("its segment is there");
            let kept = entries_of(&log.bytes).filter(|(base, _)| *base != lost.start);
            log.bytes = kept.map(|(_, entry)| entry).collect::<Vec<_>>().concat();
            log.lost.push(lost);
        }
        ensure!(*seen == expected, "more than its entry is lost; {}", self.difference(seen));
        Ok(Outcome::EntryLost)
    }

    fn judge_commit(
        &self,
        commit: &Commit,
        seen: &Observed,
        findings: &[Finding],
    ) -> Result<Outcome, Violation> {
        let seq = commit.seq;
        let is_named_durable =
            self.commits.values().any(|other| other.seq > seq && other.durable_upto >= seq);
        let is_reported = findings.iter().any(
            |finding| matches!(finding, Finding::JournalLost { from, to, .. } if (from.0..to.0).contains(&seq)),
        );
        ensure!(is_reported || !is_named_durable, "commit {seq} is lost, and the findings are {findings:?}");
        for (partition, truth) in &self.observed.logs {
            if commit.topics_created.contains(&partition.topic) && !seen.logs.contains_key(partition) {
                continue;
            }
            let log = seen.logs.get(partition);
            let log = log.ok_or_else(|| Violation(format!("log {partition} is gone")))?;
            check_log(*partition, commit, truth, log)?;
        }
        let unknown = seen.logs.keys().find(|partition| !self.observed.logs.contains_key(partition));
        ensure!(unknown.is_none(), "log {unknown:?} came from nowhere");
        self.check_topics(commit, seen)?;
        self.check_queue(commit, seen)?;
        self.check_rest(commit, seen)?;
        Ok(if is_named_durable { Outcome::CommitLost } else { Outcome::Residual })
    }

    fn check_topics(&self, commit: &Commit, seen: &Observed) -> Checked {
        for (id, topic) in &self.observed.topics {
            let found = seen.topics.get(id);
            let may_be_gone = commit.topics_created.contains(id);
            ensure!(
                found == Some(topic) || (found.is_none() && may_be_gone),
                "topic {id} is {found:?} instead of {topic:?}"
            );
        }
        Ok(())
    }

    /// Messages come again only if the commit settled them, and are missing only if it held them.
    fn check_queue(&self, commit: &Commit, seen: &Observed) -> Checked {
        let within = |ranges: &[(TopicPartition, Range<Offset>)], partition, offset| {
            ranges.iter().any(|(of, range)| *of == partition && range.contains(&offset))
        };
        for ((partition, offset), attempt) in &seen.leases {
            match self.observed.leases.get(&(*partition, *offset)) {
                Some(known) => ensure!(
                    attempt <= known,
                    "message {offset} of {partition} is in attempt {attempt} instead of {known}"
                ),
                None => ensure!(
                    within(&commit.settled, *partition, *offset)
                        || within(&commit.batches, *partition, *offset),
                    "message {offset} of {partition} was settled and came back"
                ),
            }
        }
        for (partition, offset) in self.observed.leases.keys() {
            ensure!(
                seen.leases.contains_key(&(*partition, *offset))
                    || within(&commit.batches, *partition, *offset),
                "message {offset} of {partition} is not given out any more"
            );
        }
        for (key, letter) in &seen.letters {
            let known = self.observed.letters.get(key);
            ensure!(known == Some(letter), "dead letter {key:?} is {letter:?} instead of {known:?}");
        }
        for (partition, offset) in self.observed.letters.keys() {
            let source = TopicPartition { topic: self.work_topic(), partition: *partition };
            ensure!(
                seen.letters.contains_key(&(*partition, *offset)) || within(&commit.settled, source, *offset),
                "the dead letter of message {offset} of {source} is gone"
            );
        }
        Ok(())
    }

    fn work_topic(&self) -> TopicId {
        let work = self.observed.topics.values().find(|topic| topic.name == super::reference::WORK);
        work.expect("it is in the reference").id
    }

    fn check_rest(&self, commit: &Commit, seen: &Observed) -> Checked {
        for (place, offset) in &seen.committed {
            let known = self.observed.committed.get(place);
            ensure!(
                known == Some(offset) || commit.moves_offsets,
                "{place:?} is at {offset:?} instead of {known:?}"
            );
        }
        for (found, known) in seen.sent_again.iter().zip(&self.observed.sent_again) {
            let base = known.as_ref().ok();
            let was_in_it =
                base.is_some_and(|base| commit.batches.iter().any(|(_, range)| range.contains(base)));
            ensure!(found == known || was_in_it, "sent again, a batch is at {found:?} instead of {known:?}");
        }
        Ok(())
    }

    /// Where what was seen is not what was there, in short.
    fn difference(&self, seen: &Observed) -> String {
        let truth = &self.observed;
        for (partition, log) in &truth.logs {
            match seen.logs.get(partition) {
                None => return format!("log {partition} is gone"),
                Some(found) if found != log => {
                    let bases =
                        |log: &Log| headers_of(&log.bytes).map(|h| h.base_offset.0).collect::<Vec<_>>();
                    return format!(
                        "log {partition} shows {}..{} with entries at {:?}, lost {:?}, instead of {}..{} with {:?}",
                        found.start,
                        found.end,
                        bases(found),
                        found.lost,
                        log.start,
                        log.end,
                        bases(log)
                    );
                }
                Some(_) => {}
            }
        }
        if seen.leases != truth.leases {
            return format!("the queue gives out {:?} instead of {:?}", seen.leases, truth.leases);
        }
        let rest = |of: &Observed| (of.letters.clone(), of.committed.clone(), of.sent_again.clone());
        format!("{:?} instead of {:?}", rest(seen), rest(truth))
    }
}

/// Entries are as they were; those that are missing were in the commit, and are named unless the log ends before.
fn check_log(partition: TopicPartition, commit: &Commit, truth: &Log, seen: &Log) -> Checked {
    ensure!(is_whole(seen) && seen.start == truth.start, "{partition} does not begin where it did");
    let held =
        |offset: Offset| commit.batches.iter().any(|(of, range)| *of == partition && range.contains(&offset));
    let known: BTreeMap<Offset, &[u8]> = entries_of(&truth.bytes).collect();
    let found: BTreeMap<Offset, &[u8]> = entries_of(&seen.bytes).collect();
    for (base, entry) in &found {
        ensure!(known.get(base) == Some(entry), "{partition}: the entry at {base} is not what was there");
    }
    for base in known.keys().filter(|base| !found.contains_key(base)) {
        ensure!(held(*base), "{partition}: the entry at {base} is gone, and was not in the flipped commit");
        let named = seen.lost.iter().any(|range| range.contains(base));
        ensure!(named || *base >= seen.end, "{partition}: the entry at {base} is gone and not named");
    }
    for range in &seen.lost {
        let all = (range.start.0..range.end.0).all(|offset| held(Offset(offset)));
        ensure!(all, "{partition}: {range:?} is named lost, and is more than was in the flipped commit");
    }
    Ok(())
}

/// The log that a segment is of: `shard-0000/log/<topic>/<partition>/<base>.log`.
pub(super) fn log_of(path: &str) -> Option<TopicPartition> {
    let mut parts = path.rsplit('/').skip(1);
    let partition = parts.next()?.parse().ok()?;
    let topic = parts.next()?.parse().ok()?;
    Some(TopicPartition { topic: TopicId(topic), partition: PartitionId(partition) })
}
