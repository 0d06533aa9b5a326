//! The replay: brings the machines up to the end of the journal. What it finds of the segments' tails is kept in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use dure_proto::journal::Checkpoint;
use dure_proto::{BatchHeader, ENTRY_HEADER_BYTES, EntryHeader, PartitionId, TopicId, TopicPartition};

use super::commit_path::Step;
use super::open::OpenError;
use super::state::State;
use crate::disk::{DiskError, DiskRef, OpenMode};
use crate::finding::Finding;
use crate::journal::{JournalEntry, LiveCommit, decode_body};
use crate::log::{LateEntry, LogLayout, LogWriter, SegmentId, log_dir, segment_path, written};
use crate::mutant::{self, Mutant};
use crate::time::Now;

/// Brings machines and segments up to the end of the journal.
pub(super) struct Replay {
    disk: DiskRef,
    dir: String,
    pub(super) state: State,
    pub(super) writers: BTreeMap<TopicPartition, LogWriter>,
    /// Segments that hold less than the checkpoint says.
    short: Vec<(Finding, SegmentId)>,
    /// Logs of which that cannot be told.
    unlisted: Vec<Finding>,
}

impl Replay {
    pub(super) fn new(
        disk: DiskRef,
        dir: &str,
        checkpoint: Option<&Checkpoint>,
        now: Now,
    ) -> Result<Replay, OpenError> {
        let state = match checkpoint {
            Some(checkpoint) => State::restore(checkpoint, now)
                .map_err(|what| OpenError::Checkpoint { dir: dir.to_owned(), what })?,
            None => State::new(),
        };
        let (mut writers, mut short, mut unlisted) = (BTreeMap::new(), Vec::new(), Vec::new());
        for log in checkpoint.iter().flat_map(|checkpoint| &checkpoint.logs) {
            let of = TopicPartition { topic: TopicId(log.topic), partition: PartitionId(log.partition) };
            let impossible =
                |what| OpenError::Checkpoint { dir: dir.to_owned(), what: format!("{of}: {what}") };
            let layout = LogLayout::restore(&written(log)).map_err(impossible)?;
            match short_segments(&disk, dir, of, &layout) {
                Ok(segments) => short.extend(segments),
                // The others are served, and what can be read of this one is.
                Err(error) => {
                    let what = error.to_string();
                    unlisted.push(Finding::LogUnlisted { partition: of, what });
                }
            }
            let mut writer = LogWriter::restore(disk.clone(), dir, of, &layout);
            for LateEntry { placement, header, bytes } in LateEntry::restore(log).map_err(impossible)? {
                writer.keep(placement, &header, bytes);
            }
            writers.insert(of, writer);
        }
        Ok(Replay { disk, dir: dir.to_owned(), state, writers, short, unlisted })
    }

    /// Of what was wrong with segments before the replay, that of those which the journal did not remove.
    pub(super) fn findings(&mut self) -> Vec<Finding> {
        let still_there = |finding: &(Finding, SegmentId)| match finding {
            (Finding::SegmentShort { partition, .. }, id) => {
                let log = self.state.logs.get(partition);
                log.is_some_and(|log| log.layout.segments().any(|segment| segment.id() == *id))
            }
            _ => true,
        };
        let mut short = std::mem::take(&mut self.short);
        short.retain(still_there);
        stand_in_for_missing(&self.disk, &self.dir, &short);
        let mut unlisted = std::mem::take(&mut self.unlisted);
        unlisted.retain(|finding| match finding {
            Finding::LogUnlisted { partition, .. } => self.state.logs.contains_key(partition),
            _ => true,
        });
        short.into_iter().map(|(finding, _)| finding).chain(unlisted).collect()
    }

    pub(super) fn commit(
        &mut self,
        commit: &LiveCommit,
        now: Now,
        findings: &mut Vec<Finding>,
    ) -> Result<(), OpenError> {
        let seq = commit.header.seq;
        let entries = match decode_body(&commit.body, commit.header.entry_count) {
            Ok(entries) => entries,
            Err(error) => {
                findings.push(Finding::Unapplied { seq, what: error.to_string() });
                return Ok(());
            }
        };
        for entry in entries {
            match entry {
                JournalEntry::Batch { partition, header, bytes } => self.batch(partition, &header, bytes),
                JournalEntry::Event(event) => match self.state.apply(&event, now) {
                    Ok(steps) => self.steps(steps)?,
                    Err(what) => findings.push(Finding::Unapplied { seq, what }),
                },
            }
        }
        Ok(())
    }

    /// A batch of a topic that is gone meanwhile is passed over.
    fn batch(&mut self, partition: TopicPartition, header: &EntryHeader, entry: Bytes) {
        let producer = BatchHeader::parse(&entry[ENTRY_HEADER_BYTES..]).ok().and_then(|batch| batch.producer);
        let producer = producer.filter(|_| !mutant::is(Mutant::ProducersNotReplayed));
        if let Some(placement) = self.state.apply_batch(partition, header, producer.as_ref())
            && let Some(writer) = self.writers.get_mut(&partition)
        {
            writer.keep(placement, header, entry);
        }
    }

    fn steps(&mut self, steps: Vec<Step>) -> Result<(), OpenError> {
        for step in steps {
            match step {
                Step::OpenLog(partition) => {
                    let writer =
                        LogWriter::restore(self.disk.clone(), &self.dir, partition, &LogLayout::new());
                    self.writers.insert(partition, writer);
                }
                Step::MoveStart { partition, log_start, dropped } => {
                    if let Some(writer) = self.writers.get_mut(&partition) {
                        // What stays behind is swept by a later start.
                        let _ = writer.move_start(log_start, &dropped).run(&*self.disk);
                    }
                }
                // What it replaces is removed once all is known, see `Shard::retire_what_was_replaced`.
                Step::Replace { partition, by } => {
                    if let Some(writer) = self.writers.get_mut(&partition) {
                        // What is replaced stands in a segment, and so does all before it. Where the disk takes none
                        // of that now, what was replaced is served, which says the same.
                        writer.write_late(u64::MAX);
                        if !writer.is_late() {
                            writer.replace(&by);
                        }
                    }
                }
                Step::DropTopic { topic, .. } => {
                    self.writers.retain(|partition, _| partition.topic != topic);
                    let _ = self.disk.remove_dir_all(&format!("{}/log/{topic}", self.dir));
                }
                Step::Append { .. } | Step::TopicsChanged(_) | Step::ReleaseHeld { .. } | Step::Effect(_) => {
                }
            }
        }
        Ok(())
    }
}

/// A segment whose file is gone gets an empty one: readers are told that its offsets are lost, and go on behind them,
/// instead of failing at it for ever. It stays too short, and is reported by every recovery. Where the disk refuses that
/// too, they do fail at it.
fn stand_in_for_missing(disk: &DiskRef, dir: &str, short: &[(Finding, SegmentId)]) {
    for (finding, id) in short {
        if let Finding::SegmentShort { partition, bytes: 0, .. } = finding {
            let log_dir = log_dir(dir, *partition);
            let made = disk.create_dir_all(&log_dir);
            let _ = made.and_then(|()| disk.open(&segment_path(&log_dir, *id), OpenMode::Create));
        }
    }
}

/// Segments that hold less than their checkpoint says: damaged, unless a later commit removed them.
fn short_segments(
    disk: &DiskRef,
    dir: &str,
    partition: TopicPartition,
    layout: &LogLayout,
) -> Result<Vec<(Finding, SegmentId)>, DiskError> {
    if layout.segments().len() == 0 {
        return Ok(Vec::new());
    }
    let log_dir = log_dir(dir, partition);
    let files = match disk.list(&log_dir) {
        Ok(files) => files,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    let findings = layout.segments().filter_map(|segment| {
        let path = segment_path(&log_dir, segment.id());
        let name = path.rsplit_once('/').map_or("", |(_, name)| name);
        let bytes = files.iter().find(|file| file.name == name).map_or(0, |file| file.bytes);
        let (base, expected) = (segment.base, segment.bytes);
        let short = || (Finding::SegmentShort { partition, base, bytes, expected }, segment.id());
        (bytes < expected).then(short)
    });
    Ok(findings.collect())
}
