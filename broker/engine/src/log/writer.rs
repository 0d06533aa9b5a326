//! Puts durable entries into the segments and makes the views.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dure_proto::{EntryHeader, Offset, TopicPartition};

use super::late::{self, LateEntry};
use super::layout::{LogLayout, Placement, SegmentMeta};
use super::removal::Removal;
use super::run::{EntryRun, PlacedEntry};
use super::segment::{SegmentFiles, SegmentId, SegmentWriter, index_path, log_dir, segment_path};
use super::view::{Cursor, LogView, SegmentView, Wait};
use crate::disk::{DiskError, DiskRef, DiskResult, FileRef};

/// The files of one log. Runs behind the layout: it holds what is durable, the layout what is decided.
pub(crate) struct LogWriter {
    disk: DiskRef,
    dir: String,
    partition: TopicPartition,
    active: Option<SegmentWriter>,
    /// Ascending. `end` and `bytes` of the last one are what was written so far.
    segments: VecDeque<SegmentView>,
    /// The sealed ones and the active one's files, shared with every view since the last roll.
    published: Arc<[SegmentView]>,
    log_start: Offset,
    high_watermark: Offset,
    /// Ascending, behind everything in the segments.
    late: VecDeque<LateEntry>,
    /// Why the first of them could not be written when that was last tried; `None`: it was not tried yet.
    late_for: Option<DiskError>,
    /// Files written and not synced since the last checkpoint.
    dirty: Vec<DirtyFile>,
    /// A directory entry was made since the last checkpoint.
    dir_dirty: bool,
    /// Everything below is synced, and will be once the checkpoint that is under way is written.
    synced: Offset,
    syncing: Offset,
}

/// A segment's file with what was written to it since the last checkpoint.
pub(crate) struct DirtyFile {
    pub(crate) file: FileRef,
    from: u64,
    upto: u64,
}

/// A part of a segment that was written between two checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenPart {
    /// Of the file.
    pub(crate) path: String,
    /// Where it ends in the file; what lies before it was written earlier.
    pub(crate) upto: u64,
    pub(crate) bytes: u64,
}

impl DirtyFile {
    pub(crate) fn part(&self) -> WrittenPart {
        let path = self.file.path().to_owned();
        WrittenPart { path, upto: self.upto, bytes: self.upto.saturating_sub(self.from) }
    }
}

impl LogWriter {
    /// The files of a log whose layout comes from a checkpoint: everything in it is written and synced.
    pub(crate) fn restore(
        disk: DiskRef,
        shard_dir: &str,
        partition: TopicPartition,
        layout: &LogLayout,
    ) -> LogWriter {
        let dir = log_dir(shard_dir, partition);
        let view_of = |segment: &SegmentMeta| SegmentView {
            files: Arc::new(SegmentFiles::new(disk.clone(), dir.clone(), segment.id())),
            end: segment.end,
            bytes: segment.bytes,
        };
        let segments: VecDeque<SegmentView> = layout.segments().map(view_of).collect();
        LogWriter {
            published: segments.iter().cloned().collect(),
            segments,
            dir,
            partition,
            active: None,
            log_start: layout.log_start(),
            high_watermark: layout.log_end(),
            late: VecDeque::new(),
            late_for: None,
            dirty: Vec::new(),
            dir_dirty: false,
            synced: layout.log_end(),
            syncing: layout.log_end(),
            disk,
        }
    }

    /// After a replay: what the layout says, also of offsets that are lost.
    pub(crate) fn set_bounds(&mut self, log_start: Offset, log_end: Offset) {
        self.log_start = log_start;
        self.high_watermark = log_end;
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Writes durable entries where the layout placed them. If the disk does not take them, they are late.
    pub(crate) fn write(&mut self, run: &EntryRun<'_>) {
        if self.late_for.is_none() {
            self.write_late(u64::MAX);
        }
        if self.late.is_empty() {
            match self.put(run) {
                Ok(()) => return,
                Err(error) => self.late_for = Some(error),
            }
        }
        for entry in run.entries() {
            self.keep(entry.placement, &entry.header, Bytes::copy_from_slice(entry.bytes));
        }
    }

    /// Takes a durable entry behind everything else and leaves it late.
    pub(crate) fn keep(&mut self, placement: Placement, header: &EntryHeader, bytes: Bytes) {
        self.late.push_back(LateEntry { placement, header: *header, bytes });
        self.high_watermark = header.end_offset();
    }

    /// Whether something durable is not in its segment.
    pub(crate) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Why something durable could not be written to its segment, if there is any.
    pub(crate) fn late_for(&self) -> Option<&DiskError> {
        self.late_for.as_ref().filter(|_| self.is_late())
    }

    /// What is durable and not in its segment.
    pub(crate) fn late(&self) -> impl Iterator<Item = &LateEntry> {
        self.late.iter()
    }

    /// How much is late.
    pub(crate) fn late_bytes(&self) -> u64 {
        self.late.iter().map(|entry| entry.bytes.len() as u64).sum()
    }

    /// Writes what is late, until that was so much, as far as the disk takes it now. Returns how much it was. A write
    /// that failed may be tried again: nothing counts on it before a sync.
    pub(crate) fn write_late(&mut self, bytes_max: u64) -> u64 {
        let high_watermark = self.high_watermark;
        self.late_for = None;
        let mut written = 0;
        while written < bytes_max
            && let Some(LateEntry { placement, header, bytes }) = self.late.front().cloned()
        {
            let entry = PlacedEntry { placement, header, bytes: &bytes };
            if let Err(error) = self.put(&EntryRun::of(self.partition, entry)) {
                self.late_for = Some(error);
                break;
            }
            written += bytes.len() as u64;
            self.late.pop_front();
        }
        self.high_watermark = high_watermark;
        written
    }

    fn put(&mut self, run: &EntryRun<'_>) -> DiskResult<()> {
        let placement = run.placement();
        if self.active.as_ref().is_none_or(|active| active.base != placement.segment) {
            self.open(placement)?;
        }
        self.active.as_mut().expect("just opened").write(run)?;
        let upto = placement.position + run.len();
        if let Some(dirty) = self.dirty.last_mut() {
            dirty.upto = upto;
        }
        let last = self.segments.back_mut().expect("the active segment is the last one");
        last.bytes = upto;
        last.end = run.last().header.end_offset();
        self.high_watermark = last.end;
        Ok(())
    }

    fn open(&mut self, placement: Placement) -> DiskResult<()> {
        let base = placement.segment;
        self.disk.create_dir_all(&self.dir)?;
        let active = SegmentWriter::open(&*self.disk, &self.dir, self.partition, base, placement.position)?;
        let (file, at) = (active.file().clone(), placement.position);
        self.dirty.push(DirtyFile { file, from: at, upto: at });
        if self.segments.back().is_none_or(|last| last.files.id.base != base) {
            self.dir_dirty = true;
            self.segments.push_back(SegmentView {
                files: Arc::new(SegmentFiles::new(
                    self.disk.clone(),
                    self.dir.clone(),
                    SegmentId::appended(base),
                )),
                end: base,
                bytes: placement.position,
            });
            self.publish_segments();
        }
        self.active = Some(active);
        Ok(())
    }

    /// The log's start has moved: forgets the segments below it and returns the paths to remove. Readers that hold
    /// an older view keep their open files.
    pub(crate) fn move_start(&mut self, log_start: Offset, dropped: &[Offset]) -> Removal {
        self.log_start = self.log_start.max(log_start);
        self.high_watermark = self.high_watermark.max(log_start);
        if dropped.is_empty() {
            return Removal::default();
        }
        let gone = |segment: &SegmentView| dropped.contains(&segment.files.id.base);
        let segments = self.segments.iter().filter(|s| gone(s)).map(|s| s.files.clone()).collect();
        let mut paths = Vec::new();
        // A life before this one may have written what is late.
        for base in late::forget(&mut self.late, dropped) {
            let id = SegmentId::appended(base);
            paths.extend([segment_path(&self.dir, id), index_path(&self.dir, id)]);
        }
        self.late_for = self.late_for.take().filter(|_| !self.late.is_empty());
        self.segments.retain(|segment| !gone(segment));
        if self.active.as_ref().is_some_and(|active| dropped.contains(&active.base)) {
            self.active = None;
            self.dirty.clear();
        }
        self.publish_segments();
        Removal { segments, paths, dirs: Vec::new() }
    }

    /// The log is gone: what it had.
    pub(crate) fn into_segments(self) -> impl Iterator<Item = Arc<SegmentFiles>> {
        self.segments.into_iter().map(|segment| segment.files)
    }

    /// Compaction wrote this instead of the segments whose offsets it takes. Returns the paths of those; readers that
    /// hold an older view keep their files, which are opened for them while they are there.
    pub(crate) fn replace(&mut self, by: &SegmentMeta) -> Vec<String> {
        let files = Arc::new(SegmentFiles::new(self.disk.clone(), self.dir.clone(), by.id()));
        let from = self.segments.partition_point(|segment| segment.files.id.base < by.base);
        let to = self.segments.partition_point(|segment| segment.end <= by.end);
        let replaced: Vec<SegmentView> = self.segments.drain(from..to).collect();
        for segment in &replaced {
            // One that cannot be opened any more cannot be read any more either.
            let _ = segment.files.data();
        }
        if self.active.as_ref().is_some_and(|active| active.base >= by.base && active.base < by.end) {
            self.active = None;
        }
        self.late.retain(|entry| !(by.base..by.end).contains(&entry.placement.segment));
        self.segments.insert(from, SegmentView { files, end: by.end, bytes: by.bytes });
        self.publish_segments();
        replaced.iter().flat_map(|segment| segment.files.paths()).collect()
    }

    fn publish_segments(&mut self) {
        self.published = self.segments.iter().cloned().collect();
    }

    pub(crate) fn view(&self) -> LogView {
        let tail_bytes = self.segments.back().map_or(0, |last| last.bytes);
        LogView {
            partition: self.partition,
            log_start: self.log_start,
            high_watermark: self.high_watermark,
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
            segments: self.published.clone(),
            tail_bytes,
            late: if self.late.is_empty() { Arc::default() } else { self.late.iter().cloned().collect() },
        }
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The first sealed segment that ends behind an offset.
    pub(crate) fn sealed_behind(&self, offset: Offset) -> Option<SegmentId> {
        let offset = offset.max(self.log_start);
        let i = self.segments.partition_point(|segment| segment.end <= offset);
        (i + 1 < self.segments.len()).then(|| self.segments[i].files.id)
    }

    /// One sealed segment as a log of its own, where its entries begin, and how it is best read by somebody who wants
    /// to know what the device holds: what is not synced may be in memory only.
    pub(crate) fn sealed_view(&self, id: SegmentId) -> Option<(LogView, Cursor, Wait)> {
        let segment = self.segments.iter().find(|segment| segment.files.id == id)?;
        let view = LogView {
            partition: self.partition,
            log_start: self.log_start.max(id.base),
            high_watermark: segment.end,
            bytes: segment.bytes,
            segments: Arc::new([segment.clone()]),
            tail_bytes: segment.bytes,
            late: Arc::default(),
        };
        let cursor = Cursor::at_segment(id, view.log_start);
        let wait = if segment.end <= self.synced { Wait::PastCache } else { Wait::MayWait };
        Some((view, cursor, wait))
    }

    /// The checkpoint that [`LogWriter::take_dirty`] was asked for is written.
    pub(crate) fn handle_checkpoint(&mut self) {
        self.synced = self.syncing;
    }

    /// What a checkpoint has to sync: files written since the last one, and the log's directory if names in it are
    /// new. The active segment is opened again by the next write, which puts it on the list again.
    pub(crate) fn take_dirty(&mut self) -> (Vec<DirtyFile>, Option<String>) {
        if !self.dirty.is_empty() {
            self.active = None;
        }
        let dir = std::mem::take(&mut self.dir_dirty).then(|| self.dir.clone());
        self.syncing = self.late.front().map_or(self.high_watermark, |late| late.header.base_offset);
        (std::mem::take(&mut self.dirty), dir)
    }
}
