//! One pass through a log, step by step: first the keys, then the segments.

use std::fmt;

use dure_proto::{BatchLimits, Offset, Records, TopicPartition, split_entries};

use super::progress::Due;
use super::rewrite::{Becomes, Rewriting, Rule};
use super::{KeyMap, READ_BYTES, STEP_BYTES};
use crate::disk::{Disk, DiskOp, DiskResult};
use crate::log::{Cursor, LogLayout, LogView, ReadError, ReadOutcome, SegmentId, SegmentMeta, Wait};

/// What a pass is told.
pub(crate) struct Task {
    pub(crate) partition: TopicPartition,
    /// Directory of the log.
    pub(crate) dir: String,
    /// The log as it was when the pass began: whatever it replaces stays readable through it.
    pub(crate) view: LogView,
    /// The sealed segments, ascending.
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) due: Due,
    /// Size up to which small segments become one.
    pub(crate) segment_bytes: u64,
    /// Low half of the epoch, for entries without records.
    pub(crate) epoch: u32,
    /// Not in the name of any file yet, nor any number above it.
    pub(crate) generation: u64,
}

/// A pass between two of its steps.
pub(crate) struct Pass {
    task: Task,
    keys: KeyMap,
    /// Keys below this are in `keys`, from `task.due.from` on.
    upto: Offset,
    phase: Phase,
    /// Tombstones that stay below `upto`.
    tombstones: u64,
    /// Read in the last step.
    bytes: u64,
}

enum Phase {
    Keys(Cursor),
    /// The next segment to look at, by its place in `task.segments`.
    Segments(usize),
    Group(Box<Group>),
}

/// Adjacent segments that may become one.
struct Group {
    from: usize,
    to: usize,
    cursor: Cursor,
    /// Set once it is known that something changes; the group is gone through again from its start then.
    out: Option<Rewriting>,
    tombstones: u64,
}

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Stepped {
    /// It goes on.
    More,
    /// This segment is on the disk, to take the place of those whose offsets it takes. It goes on.
    Replace(SegmentMeta),
    /// All is looked at.
    Done(PassEnd),
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassEnd {
    pub(crate) due: Due,
    pub(crate) upto: Offset,
    pub(crate) tombstones: u64,
}

/// Why a pass is given up. What it has put in place stays; another one begins later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    #[error("{0}")]
    Disk(#[from] crate::disk::DiskError),
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl PassError {
    /// The sync of a directory failed: names of other files may have been lost with it, and another sync would not say so.
    pub(crate) fn lost_names(&self) -> bool {
        matches!(self, PassError::Disk(error) if error.op == DiskOp::SyncDir)
    }
}

impl Pass {
    pub(crate) fn new(task: Task, keys: KeyMap) -> Pass {
        let from = task.due.from;
        Pass { task, keys, upto: from, phase: Phase::Keys(Cursor::at(from)), tombstones: 0, bytes: 0 }
    }

    pub(crate) fn partition(&self) -> TopicPartition {
        self.task.partition
    }

    /// Whether all that it goes through is still there, be it in a segment that it has put in place.
    pub(crate) fn goes_through(&self, layout: &LogLayout) -> bool {
        let covered = |segment: &SegmentMeta| {
            layout.segments().any(|there| there.base <= segment.base && segment.end <= there.end)
        };
        self.task.segments.iter().all(covered)
    }

    /// Read in the last step.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Above all that it used.
    pub(crate) fn next_generation(&self) -> u64 {
        self.task.generation
    }

    /// The segment that is being written, if there is one: its files belong to nothing should the pass end now.
    pub(crate) fn unfinished(&self) -> Option<SegmentId> {
        match &self.phase {
            Phase::Group(group) => group.out.as_ref().map(Rewriting::id),
            _ => None,
        }
    }

    /// Goes on for a few megabytes.
    pub(crate) fn step(&mut self, disk: &dyn Disk) -> Result<Stepped, PassError> {
        self.bytes = 0;
        while self.bytes < STEP_BYTES {
            match &mut self.phase {
                Phase::Keys(_) => self.read_keys()?,
                Phase::Segments(next) => match self.task.segments.get(*next) {
                    Some(segment) if segment.base < self.upto_or_tombstones() => self.begin_group(),
                    _ => {
                        let (due, upto, tombstones) = (self.task.due, self.upto, self.tombstones);
                        return Ok(Stepped::Done(PassEnd { due, upto, tombstones }));
                    }
                },
                Phase::Group(_) => {
                    if let Some(meta) = self.go_through_group(disk)? {
                        return Ok(Stepped::Replace(meta));
                    }
                }
            }
        }
        Ok(Stepped::More)
    }

    /// Segments from here on have nothing that could go.
    fn upto_or_tombstones(&self) -> Offset {
        self.upto.max(self.task.due.tombstones_below)
    }

    fn read_keys(&mut self) -> Result<(), PassError> {
        let Phase::Keys(cursor) = &mut self.phase else { unreachable!("only while keys are read") };
        let end = self.task.due.sealed_end;
        if cursor.offset() >= end {
            self.upto = end;
            self.phase = Phase::Segments(0);
            return Ok(());
        }
        let ReadOutcome::Entries(entries) = self.task.view.read(cursor, READ_BYTES, Wait::MayWait)? else {
            return Ok(()); // Damaged: it has no keys, and stays as it is.
        };
        self.bytes += entries.len() as u64;
        for entry in split_entries(entries).map_while(Result::ok) {
            let Ok(records) = Records::decode(&entry.1, &BatchLimits::stored()) else { continue };
            for i in 0..records.len() {
                let offset = records.offset(i);
                let counts = offset >= self.task.due.from && offset < end;
                if counts && records.key(i).is_some_and(|key| !self.keys.note(&key, offset)) {
                    self.upto = offset;
                    self.phase = Phase::Segments(0);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes the next segment, and those behind it that it could become one with.
    fn begin_group(&mut self) {
        let Phase::Segments(from) = self.phase else { unreachable!("only between groups") };
        let segments = &self.task.segments;
        let (mut to, mut bytes) = (from + 1, segments[from].bytes);
        while let Some(next) = segments.get(to) {
            let adjacent = next.base == segments[to - 1].end && next.base < self.upto_or_tombstones();
            let fits = bytes + next.bytes <= self.task.segment_bytes;
            let spans = next.end.since(segments[from].base) <= u64::from(u32::MAX);
            if !(adjacent && fits && spans) {
                break;
            }
            (to, bytes) = (to + 1, bytes + next.bytes);
        }
        let cursor = self.start_of(from);
        self.phase = Phase::Group(Box::new(Group { from, to, cursor, out: None, tombstones: 0 }));
    }

    /// The log may start within its first segment.
    fn start_of(&self, segment: usize) -> Cursor {
        Cursor::at(self.task.segments[segment].base.max(self.task.view.log_start))
    }

    /// One read further. Returns the segment that takes the place of the group once it is written.
    fn go_through_group(&mut self, disk: &dyn Disk) -> Result<Option<SegmentMeta>, PassError> {
        let Phase::Group(group) = &mut self.phase else { unreachable!("only within a group") };
        let (from, to) = (group.from, group.to);
        let end = self.task.segments[to - 1].end;
        if group.cursor.offset() >= end {
            return self.end_group(disk);
        }
        let outcome = self.task.view.read(&mut group.cursor, READ_BYTES, Wait::MayWait)?;
        let ReadOutcome::Entries(entries) = outcome else {
            // What is damaged is left as it is: it may be restored yet, and it is named where it stands.
            self.leave_group(disk);
            return Ok(None);
        };
        self.bytes += entries.len() as u64;
        let rule =
            Rule { keys: &self.keys, upto: self.upto, tombstones_below: self.task.due.tombstones_below };
        for (header, batch) in split_entries(entries).map_while(Result::ok) {
            if header.base_offset >= end {
                break;
            }
            let judged = rule.judge(&header, &batch);
            let Some(out) = &mut group.out else {
                group.tombstones += judged.tombstones;
                if matches!(judged.becomes, Becomes::Same) {
                    continue;
                }
                return self.rewrite_group(disk, from, to);
            };
            group.tombstones += judged.tombstones;
            match judged.becomes {
                Becomes::Same => out.push(&header, &batch)?,
                Becomes::Less(less) => out.push(&header, &less)?,
                Becomes::Nothing => {}
            }
        }
        Ok(None)
    }

    /// Begins a segment in the place of the group, which is gone through once more.
    fn rewrite_group(
        &mut self,
        disk: &dyn Disk,
        from: usize,
        to: usize,
    ) -> Result<Option<SegmentMeta>, PassError> {
        let segments = &self.task.segments[from..to];
        let like = SegmentMeta {
            base: segments[0].base,
            end: segments[segments.len() - 1].end,
            bytes: 0,
            first_ms: segments.iter().map(|segment| segment.first_ms).min().unwrap_or_default(),
            last_ms: segments.iter().map(|segment| segment.last_ms).max().unwrap_or_default(),
            generation: self.task.generation,
        };
        self.task.generation += 1;
        let out = begin(disk, &self.task, like)?;
        let cursor = self.start_of(from);
        self.phase = Phase::Group(Box::new(Group { from, to, cursor, out: Some(out), tombstones: 0 }));
        Ok(None)
    }

    fn end_group(&mut self, disk: &dyn Disk) -> Result<Option<SegmentMeta>, PassError> {
        let Phase::Group(group) = &mut self.phase else { unreachable!("only within a group") };
        let (from, to) = (group.from, group.to);
        let segments = &self.task.segments[from..to];
        let (bytes, largest) = (
            segments.iter().map(|segment| segment.bytes).sum::<u64>(),
            segments.iter().map(|segment| segment.bytes).max().unwrap_or_default(),
        );
        // Nothing goes; many small segments become one all the same, but not one large one again and again.
        if group.out.is_none() && 2 * largest <= bytes {
            return self.rewrite_group(disk, from, to);
        }
        let (out, tombstones) = (group.out.take(), group.tombstones);
        let written = out.map(|out| (out.id(), out.finish(disk)));
        self.tombstones += tombstones;
        self.phase = Phase::Segments(to);
        match written {
            None => Ok(None),
            Some((_, Ok(meta))) => Ok(Some(meta)),
            Some((id, Err(error))) => {
                remove(disk, &self.task.dir, id);
                Err(error.into())
            }
        }
    }

    fn leave_group(&mut self, disk: &dyn Disk) {
        self.abandon(disk);
        if let Phase::Group(group) = &self.phase {
            self.tombstones += group.tombstones;
            self.phase = Phase::Segments(group.to);
        }
    }

    /// Removes what was begun. If that fails too, the next start does it.
    pub(crate) fn abandon(&self, disk: &dyn Disk) {
        if let Some(id) = self.unfinished() {
            remove(disk, &self.task.dir, id);
        }
    }
}

fn begin(disk: &dyn Disk, task: &Task, like: SegmentMeta) -> DiskResult<Rewriting> {
    let id = like.id();
    Rewriting::begin(disk, &task.dir, task.partition, like, task.epoch)
        .inspect_err(|_| remove(disk, &task.dir, id))
}

fn remove(disk: &dyn Disk, dir: &str, id: SegmentId) {
    for path in [crate::log::segment_path(dir, id), crate::log::index_path(dir, id)] {
        let _ = disk.remove(&path);
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Keys(cursor) => format!("keys at {}", cursor.offset()),
            Phase::Segments(next) => format!("before segment {next}"),
            Phase::Group(group) => format!("segments {} to {}", group.from, group.to),
        };
        write!(f, "Pass({}, {phase})", self.task.partition)
    }
}
