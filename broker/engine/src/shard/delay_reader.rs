//! The disk's part in delayed messages: reads those that are due, and finds those that wait.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, Offset, TopicPartition, without_producer};

use crate::delay::Waiting;
use crate::log::{Cursor, LogView, ReadError, ReadOutcome, Wait};

/// Read at a time of a delay log: batches that are due together often lie together.
const CHUNK_BYTES: usize = 16 << 10;

/// A batch that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DueBatch {
    /// Where it was sent to.
    pub(crate) partition: TopicPartition,
    /// The delay log that it lies in.
    pub(crate) log: TopicPartition,
    pub(crate) waiting: Waiting,
}

/// What became of reading one.
pub(crate) enum Found {
    /// Not read: others before it were large.
    Unread,
    /// As its producer encoded it, without the stamp of the session.
    Batch(Bytes),
    /// These offsets of the delay log are damaged.
    Lost(Range<Offset>),
    /// The disk refused; the same read may succeed later.
    Failed,
}

/// Reads batches that are due.
pub(crate) struct DelayRead {
    /// In the order in which they enter.
    pub(crate) batches: Vec<(DueBatch, Found)>,
    /// Of the logs that they lie in.
    views: BTreeMap<TopicPartition, LogView>,
    bytes_max: usize,
}

impl DelayRead {
    pub(super) fn new(
        due: Vec<DueBatch>,
        views: BTreeMap<TopicPartition, LogView>,
        bytes_max: usize,
    ) -> Self {
        DelayRead { batches: due.into_iter().map(|due| (due, Found::Unread)).collect(), views, bytes_max }
    }

    /// Goes through each log from its start to its end, whatever the order in which the batches are due.
    pub(crate) fn run(mut self) -> DelayRead {
        let mut order: Vec<usize> = (0..self.batches.len()).collect();
        order.sort_unstable_by_key(|at| {
            let due = &self.batches[*at].0;
            (due.log, due.waiting.offset())
        });
        let mut reader: Option<LogReader<'_>> = None;
        let mut bytes = 0;
        for at in order {
            let DueBatch { log, waiting, .. } = self.batches[at].0;
            if bytes >= self.bytes_max {
                break;
            }
            if reader.as_ref().is_none_or(|reader| reader.view.partition != log) {
                reader = self.views.get(&log).map(LogReader::new);
            }
            let found = reader.as_mut().map_or(Found::Failed, |reader| reader.read(waiting.offset()));
            if let Found::Batch(batch) = &found {
                bytes += batch.len();
            }
            self.batches[at].1 = found;
        }
        self
    }
}

impl fmt::Debug for DelayRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offsets = |due: &DueBatch| (due.log, due.waiting.offset());
        f.debug_list().entries(self.batches.iter().map(|(due, _)| offsets(due))).finish()
    }
}

/// Picks entries out of one log, in ascending order.
struct LogReader<'a> {
    view: &'a LogView,
    cursor: Cursor,
    /// Whole entries, of which the next one that may be wanted is the first.
    chunk: Bytes,
}

impl<'a> LogReader<'a> {
    fn new(view: &'a LogView) -> LogReader<'a> {
        LogReader { view, cursor: Cursor::at(view.log_start), chunk: Bytes::new() }
    }

    fn read(&mut self, offset: Offset) -> Found {
        if let Some(batch) = self.take(offset) {
            return batch;
        }
        if self.cursor.offset() != offset {
            self.cursor = Cursor::at(offset);
        }
        match self.view.read(&mut self.cursor, CHUNK_BYTES, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => {
                self.chunk = entries;
                self.take(offset).unwrap_or(Found::Lost(offset..offset.plus(1)))
            }
            Ok(ReadOutcome::Lost(lost)) => Found::Lost(lost),
            // Removed meanwhile, so that nobody waits for it.
            Err(ReadError::OutOfRange { .. }) => Found::Failed,
            Ok(ReadOutcome::AtEnd | ReadOutcome::WouldWait) | Err(ReadError::Disk { .. }) => Found::Failed,
        }
    }

    /// Out of what was read already.
    fn take(&mut self, offset: Offset) -> Option<Found> {
        while let Ok(header) = EntryHeader::parse(&self.chunk) {
            if header.base_offset > offset {
                return None;
            }
            let entry = self.chunk.split_to(header.entry_bytes());
            if header.base_offset == offset {
                let batch = without_producer(&entry[ENTRY_HEADER_BYTES..]);
                let lost = offset..header.end_offset();
                return Some(batch.map_or(Found::Lost(lost), |batch| Found::Batch(batch.into())));
            }
        }
        None
    }
}

/// A step through a delay log, to find what waits in it.
pub(crate) struct DelayScan {
    pub(crate) view: LogView,
    pub(crate) cursor: Cursor,
    pub(crate) bytes_max: usize,
    /// Offsets and due times of batches that were found.
    pub(crate) found: Vec<(Offset, u64)>,
    pub(crate) lost: Option<Range<Offset>>,
    pub(crate) failed: bool,
}

impl DelayScan {
    pub(super) fn new(view: LogView, cursor: Cursor, bytes_max: usize) -> DelayScan {
        DelayScan { view, cursor, bytes_max, found: Vec::new(), lost: None, failed: false }
    }

    pub(crate) fn run(mut self) -> DelayScan {
        match self.view.read(&mut self.cursor, self.bytes_max, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => {
                let mut at = 0;
                while let Ok(header) = EntryHeader::parse(&entries[at..]) {
                    self.found.push((header.base_offset, header.append_time_ms));
                    at += header.entry_bytes();
                }
            }
            Ok(ReadOutcome::Lost(lost)) => self.lost = Some(lost),
            Ok(ReadOutcome::AtEnd | ReadOutcome::WouldWait) | Err(_) => self.failed = true,
        }
        self
    }
}

impl fmt::Debug for DelayScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.view.partition, self.cursor.offset())
    }
}
