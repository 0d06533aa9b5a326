//! What readers see of a log: an immutable state that the shard publishes after each commit that touched it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dure_proto::{
    ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, EntryHeader, Offset, ReusedBuffer, TopicPartition, verify_entry,
};

use super::late::{self, LateEntry};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentFiles, SegmentId};
use crate::disk::{DIRECT_ALIGN, DiskError, DiskResult, FileRef};
use crate::mutant::{self, Mutant};

/// A log as it was when this was published. Cheap to clone.
#[derive(Clone)]
pub struct LogView {
    /// Which log.
    pub partition: TopicPartition,
    /// The first offset that is still there.
    pub log_start: Offset,
    /// Behind the last durable record.
    pub high_watermark: Offset,
    /// Bytes in all segments.
    pub bytes: u64,
    /// Ascending; the last one may be active.
    pub(crate) segments: Arc<[SegmentView]>,
    /// Length of the last segment, which grows while the others stand.
    pub(crate) tail_bytes: u64,
    /// What there was no room for in the segments: ascending, behind everything in them.
    pub(crate) late: Arc<[LateEntry]>,
}

impl fmt::Debug for LogView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogView { partition, log_start, high_watermark, segments, .. } = self;
        write!(f, "LogView({partition}: {log_start}..{high_watermark}, {} segments)", segments.len())
    }
}

/// One segment of a view.
#[derive(Clone)]
pub(crate) struct SegmentView {
    pub(crate) files: Arc<SegmentFiles>,
    /// Exclusive; of the last one the view's high watermark counts instead.
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
}

/// Where a sequential reader stands. Keeps the position in the segment, so that the index is asked only once.
#[derive(Clone, Debug)]
pub struct Cursor {
    offset: Offset,
    /// A segment and a position in it at which an entry at or before `offset` begins.
    place: Option<(SegmentId, u64)>,
    /// About what the first entry of the last read took: the next one likely takes as much, and a read that is too short
    /// for it is made in vain.
    entry_bytes: usize,
}

impl Cursor {
    /// A reader that wants the record at this offset next.
    #[must_use]
    pub fn at(offset: Offset) -> Cursor {
        Cursor { offset, place: None, entry_bytes: 0 }
    }

    /// A reader that stands at the first entry of a segment and wants the record at this offset next.
    pub(crate) fn at_segment(segment: SegmentId, offset: Offset) -> Cursor {
        Cursor { place: Some((segment, SEGMENT_HEADER_BYTES as u64)), ..Cursor::at(offset) }
    }

    /// The segment that it stands in, if it knows.
    pub(crate) fn segment(&self) -> Option<SegmentId> {
        self.place.map(|(segment, _)| segment)
    }

    /// What a read of at most `bytes_max` brings at most, unless its first entry is larger than the one before.
    #[must_use]
    pub fn read_bytes(&self, bytes_max: usize) -> usize {
        bytes_max.max(self.entry_bytes).max(ENTRY_HEADER_BYTES)
    }

    /// The next offset wanted.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Only what is in memory: for threads that must not wait.
    CachedOnly,
    /// As long as it takes.
    MayWait,
    /// As long as it takes, from the device: what is read is neither looked for in memory nor kept there.
    PastCache,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Whole entries, each an entry header and its batch, every checksum verified. The first may begin below the
    /// cursor's offset.
    Entries(Bytes),
    /// Nothing more below the high watermark.
    AtEnd,
    /// These offsets are damaged and cannot be read; the cursor stands behind them.
    Lost(Range<Offset>),
    /// The disk would have to be waited for.
    WouldWait,
}

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset lies outside the log.
    #[error("offset {offset} is out of range: {partition} holds {log_start} to {high_watermark} (exclusive)")]
    OutOfRange {
        /// The log.
        partition: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The first one that is there.
        log_start: Offset,
        /// Behind the last one.
        high_watermark: Offset,
    },
    /// The disk refused; the same read may succeed later.
    #[error("reading {partition} at offset {offset}: {source}")]
    Disk {
        /// The log.
        partition: TopicPartition,
        /// Where the reader stood.
        offset: Offset,
        /// What the disk said.
        source: DiskError,
    },
}

impl LogView {
    /// Whether nothing is appended any more to the segment that holds this offset.
    #[must_use]
    pub fn is_sealed_at(&self, offset: Offset) -> bool {
        self.segments.last().is_some_and(|active| offset < active.files.id.base)
    }

    /// Whether the byte that lies so far behind a cursor, or the last one of its segment, is in memory.
    #[must_use]
    pub fn is_cached(&self, cursor: &Cursor, behind: usize) -> bool {
        let Some((segment, bytes, _)) = self.segment_for(cursor.offset) else { return false };
        let Some((_, position)) = cursor.place.filter(|(id, _)| *id == segment.id) else { return false };
        let at = (position + behind as u64).min(bytes.saturating_sub(1));
        segment.data().is_ok_and(|file| matches!(file.read_cached_at(at, &mut [0]), Ok(Some(1))))
    }

    /// Whether this very segment is among those that it reads.
    pub(crate) fn has_segment(&self, id: SegmentId) -> bool {
        let at = self.segments.binary_search_by_key(&id.base, |segment| segment.files.id.base);
        at.is_ok_and(|at| self.segments[at].files.id == id)
    }

    /// Reads on from the cursor, at most [`Cursor::read_bytes`] unless a single entry is larger, and moves the cursor.
    pub fn read(&self, cursor: &mut Cursor, bytes_max: usize, wait: Wait) -> Result<ReadOutcome, ReadError> {
        if cursor.offset < self.log_start || cursor.offset > self.high_watermark {
            return Err(ReadError::OutOfRange {
                partition: self.partition,
                offset: cursor.offset,
                log_start: self.log_start,
                high_watermark: self.high_watermark,
            });
        }
        if cursor.offset == self.high_watermark {
            return Ok(ReadOutcome::AtEnd);
        }
        if let Some(entry) = late::find(&self.late, cursor.offset) {
            *cursor = Cursor::at(entry.header.end_offset());
            return Ok(ReadOutcome::Entries(entry.bytes.clone()));
        }
        let Some((segment, bytes, end)) = self.segment_for(cursor.offset) else {
            let next = self.next_base(cursor.offset);
            return Ok(lose(cursor, next));
        };
        let offset = cursor.offset;
        let read = SegmentRead { view: self, segment, bytes, end };
        read.run(cursor, bytes_max, wait).map_err(|source| ReadError::Disk {
            partition: self.partition,
            offset,
            source,
        })
    }

    /// The first offset whose record was appended at or after `time_ms`; the high watermark if there is none. May
    /// wait for the disk.
    pub fn locate_time(&self, time_ms: u64) -> Result<Offset, ReadError> {
        for i in 0..self.segments.len() {
            let active = i + 1 == self.segments.len();
            let segment = &self.segments[i];
            let base = segment.files.id.base.max(self.log_start);
            let last_ms = if active { None } else { segment.files.sealed_index().entries().flatten().last() };
            if last_ms.is_some_and(|last| last.largest_ms < time_ms) && !self.tail_reaches(i, time_ms)? {
                continue;
            }
            let position = match active {
                true => segment.files.active_index().before_time(time_ms),
                false => segment.files.sealed_index().before_time(time_ms),
            };
            let mut cursor = Cursor { place: Some((segment.files.id, position)), ..Cursor::at(base) };
            if let Some(offset) = self.scan_for_time(&mut cursor, i, time_ms)? {
                return Ok(offset);
            }
        }
        let late = self.late.iter().find(|entry| entry.header.append_time_ms >= time_ms);
        Ok(late.map_or(self.high_watermark, |entry| entry.header.base_offset.max(self.log_start)))
    }

    /// Whether an entry behind the last indexed one of a sealed segment is of that time or later.
    fn tail_reaches(&self, segment: usize, time_ms: u64) -> Result<bool, ReadError> {
        let files = &self.segments[segment].files;
        let position = files.sealed_index().before_time(u64::MAX);
        let base = files.id.base.max(self.log_start);
        let mut cursor = Cursor { place: Some((files.id, position)), ..Cursor::at(base) };
        Ok(self.scan_for_time(&mut cursor, segment, time_ms)?.is_some())
    }

    fn scan_for_time(
        &self,
        cursor: &mut Cursor,
        segment: usize,
        time_ms: u64,
    ) -> Result<Option<Offset>, ReadError> {
        let end = self.end_of(segment);
        while cursor.offset < end {
            match self.read(cursor, 256 << 10, Wait::MayWait)? {
                ReadOutcome::Entries(entries) => {
                    let mut at = 0;
                    while let Ok(header) = EntryHeader::parse(&entries[at..]) {
                        if header.append_time_ms >= time_ms {
                            return Ok(Some(header.base_offset.max(self.log_start)));
                        }
                        at += header.entry_bytes();
                    }
                }
                ReadOutcome::Lost(_) => {}
                ReadOutcome::AtEnd | ReadOutcome::WouldWait => break,
            }
        }
        Ok(None)
    }

    fn end_of(&self, segment: usize) -> Offset {
        match segment + 1 == self.segments.len() {
            true => self.late.first().map_or(self.high_watermark, |entry| entry.header.base_offset),
            false => self.segments[segment].end,
        }
    }

    /// The segment that holds an offset, its readable length and its end.
    fn segment_for(&self, offset: Offset) -> Option<(&SegmentFiles, u64, Offset)> {
        let i = self.segments.partition_point(|segment| segment.files.id.base <= offset).checked_sub(1)?;
        let segment = &self.segments[i];
        let bytes = if i + 1 == self.segments.len() { self.tail_bytes } else { segment.bytes };
        (offset < self.end_of(i)).then_some((&*segment.files, bytes, self.end_of(i)))
    }

    /// Where reading goes on behind offsets that are in no segment.
    fn next_base(&self, offset: Offset) -> Offset {
        let i = self.segments.partition_point(|segment| segment.files.id.base <= offset);
        let late = self.late.iter().map(|entry| entry.header.base_offset).find(|base| *base > offset);
        let next = self.segments.get(i).map(|segment| segment.files.id.base).or(late);
        next.unwrap_or(self.high_watermark)
    }

    fn is_active(&self, files: &SegmentFiles) -> bool {
        self.segments.last().is_some_and(|last| last.files.id == files.id)
    }
}

fn lose(cursor: &mut Cursor, upto: Offset) -> ReadOutcome {
    let lost = cursor.offset..upto;
    *cursor = Cursor::at(upto);
    ReadOutcome::Lost(lost)
}

/// One read within one segment.
struct SegmentRead<'a> {
    view: &'a LogView,
    segment: &'a SegmentFiles,
    /// Nothing behind this is written yet.
    bytes: u64,
    end: Offset,
}

impl SegmentRead<'_> {
    fn run(&self, cursor: &mut Cursor, bytes_max: usize, wait: Wait) -> DiskResult<ReadOutcome> {
        let place = cursor.place.filter(|(id, _)| *id == self.segment.id);
        let mut position = match place {
            Some((_, position)) => position,
            None if wait == Wait::CachedOnly => return Ok(ReadOutcome::WouldWait),
            None => self.locate(cursor.offset)?,
        };
        let mut want = cursor.read_bytes(bytes_max);
        loop {
            let Some(chunk) = self.chunk(position, want, wait)? else { return Ok(ReadOutcome::WouldWait) };
            match self.take_entries(&chunk, cursor.offset) {
                Taken::Entries { range, next, end, entry_bytes } => {
                    let place = Some((self.segment.id, position + next as u64));
                    let entry_bytes = entry_bytes.next_multiple_of(DIRECT_ALIGN);
                    *cursor = Cursor { offset: end, place, entry_bytes };
                    return Ok(ReadOutcome::Entries(chunk.slice(range)));
                }
                Taken::Skipped { next } => position += next as u64,
                Taken::Larger { bytes } if bytes > want => want = bytes,
                Taken::Larger { .. } | Taken::Damaged if wait == Wait::CachedOnly => {
                    return Ok(ReadOutcome::WouldWait);
                }
                Taken::Larger { .. } | Taken::Damaged => match self.resynchronise(position, cursor, wait)? {
                    Behind::Damage(lost) => return Ok(ReadOutcome::Lost(lost)),
                    Behind::Others(next) => position = next,
                },
            }
            if position >= self.bytes {
                return Ok(lose(cursor, self.end));
            }
        }
    }

    /// The position of an entry at or before the offset: by the index if what it names can be believed.
    fn locate(&self, offset: Offset) -> DiskResult<u64> {
        let hint = match self.view.is_active(self.segment) {
            true => self.segment.active_index().before_offset(offset),
            false => self.segment.sealed_index().before_offset(offset),
        };
        let believed = hint + (ENTRY_HEADER_BYTES as u64) <= self.bytes && {
            let mut header = [0; ENTRY_HEADER_BYTES];
            read_what_is_there(self.segment.data()?, hint, &mut header)?;
            EntryHeader::parse(&header).is_ok_and(|header| header.base_offset <= offset)
        };
        Ok(if believed || mutant::is(Mutant::IndexTrusted) { hint } else { SEGMENT_HEADER_BYTES as u64 })
    }

    /// Up to `want` bytes from a position on; `None` if the disk would have to be waited for.
    fn chunk(&self, position: u64, want: usize, wait: Wait) -> DiskResult<Option<Bytes>> {
        let length = want.min(self.bytes.saturating_sub(position) as usize);
        let mut chunk = ReusedBuffer::of_length(length);
        let file = self.segment.data()?;
        match wait {
            Wait::MayWait => {
                let read = read_what_is_there(file, position, &mut chunk)?;
                chunk.truncate(read);
            }
            Wait::PastCache => {
                let read = self.segment.read_past_cache(position, &mut chunk)?;
                chunk.truncate(read);
            }
            Wait::CachedOnly => match file.read_cached_at(position, &mut chunk)? {
                Some(read) if read > 0 => chunk.truncate(read),
                _ => return Ok(None),
            },
        }
        Ok(Some(chunk.freeze()))
    }

    /// The whole, valid entries at the start of a chunk, without those that lie below the offset wanted.
    fn take_entries(&self, chunk: &[u8], wanted: Offset) -> Taken {
        let (mut start, mut at, mut end) = (None, 0, wanted);
        let mut entry_bytes = 0;
        while at + ENTRY_HEADER_BYTES <= chunk.len() {
            let Ok(header) = EntryHeader::parse(&chunk[at..]) else { break };
            let next = at + header.entry_bytes();
            if header.end_offset() <= wanted && start.is_none() {
                at = next;
                if at >= chunk.len() {
                    return Taken::Skipped { next };
                }
                continue;
            }
            if next > chunk.len() {
                return match start {
                    Some(start) => Taken::Entries { range: start..at, next: at, end, entry_bytes },
                    None if at > 0 => Taken::Skipped { next: at },
                    None => Taken::Larger { bytes: header.entry_bytes() },
                };
            }
            // A gap before this entry is told apart by itself, and so are offsets that come again; the entry waits for
            // the next read.
            let follows =
                if start.is_none() { header.base_offset <= wanted } else { header.base_offset == end };
            let whole = verify_entry(&header, &chunk[at + ENTRY_HEADER_BYTES..next]).is_ok();
            if !follows || !(whole || mutant::is(Mutant::EntryChecksumIgnored)) {
                break;
            }
            if start.is_none() {
                (start, entry_bytes) = (Some(at), next - at);
            }
            (at, end) = (next, header.end_offset());
        }
        match start {
            Some(start) => Taken::Entries { range: start..at, next: at, end, entry_bytes },
            None if at > 0 => Taken::Skipped { next: at },
            None if chunk.len() < ENTRY_HEADER_BYTES => Taken::Larger { bytes: ENTRY_HEADER_BYTES },
            None => Taken::Damaged,
        }
    }

    /// Finds the next valid entry behind damage and names what lies between as lost, if the offset wanted is in it.
    ///
    /// Where no header tells how far the damage goes, what producers sent has to be searched, and a message may hold the
    /// image of an entry: what is found there is believed only if an entry or the end of the segment follows on it.
    fn resynchronise(&self, from: u64, cursor: &mut Cursor, wait: Wait) -> DiskResult<Behind> {
        let wanted = cursor.offset;
        let first = self.behind_whole_headers(from)?;
        let mut position = first;
        while position + (ENTRY_HEADER_BYTES as u64) <= self.bytes {
            let window = self.chunk(position, 2 * ENTRY_BYTES_MAX, wait)?.unwrap_or_default();
            for at in 0..window.len().saturating_sub(ENTRY_HEADER_BYTES) + 1 {
                let Some(header) = self.valid_entry(&window[at..]) else { continue };
                let at = position + at as u64;
                if header.end_offset() <= wanted || (at > first && !self.is_followed(at, &header)?) {
                    continue;
                }
                let next = header.base_offset;
                if next > wanted {
                    *cursor = Cursor { place: Some((self.segment.id, at)), ..Cursor::at(next) };
                    return Ok(Behind::Damage(wanted..next));
                }
                if at > from {
                    return Ok(Behind::Others(at));
                }
            }
            // An entry that begins in the window's second half may end behind it: step by half a window.
            position += ENTRY_BYTES_MAX as u64;
        }
        *cursor = Cursor::at(self.end);
        Ok(Behind::Damage(wanted..self.end))
    }

    fn is_followed(&self, position: u64, header: &EntryHeader) -> DiskResult<bool> {
        let next = position + header.entry_bytes() as u64;
        let follows = |next: EntryHeader| next.base_offset >= header.end_offset();
        Ok(next == self.bytes || self.header_at(next)?.is_some_and(follows))
    }

    fn header_at(&self, position: u64) -> DiskResult<Option<EntryHeader>> {
        let bytes = self.chunk(position, ENTRY_HEADER_BYTES, Wait::MayWait)?.unwrap_or_default();
        Ok(EntryHeader::parse(&bytes).ok())
    }

    /// Passes over entries whose header is whole, and whose length is thus known, while their batch is not. Nothing
    /// inside of them is looked at: a message may hold what looks like an entry.
    fn behind_whole_headers(&self, from: u64) -> DiskResult<u64> {
        let mut position = from;
        loop {
            let window = self.chunk(position, ENTRY_BYTES_MAX, Wait::MayWait)?.unwrap_or_default();
            match EntryHeader::parse(&window) {
                Ok(header) if self.valid_entry(&window).is_none() => position += header.entry_bytes() as u64,
                _ => return Ok(position),
            }
        }
    }

    fn valid_entry(&self, bytes: &[u8]) -> Option<EntryHeader> {
        let header = EntryHeader::parse(bytes).ok()?;
        let batch = bytes.get(ENTRY_HEADER_BYTES..header.entry_bytes())?;
        (header.end_offset() <= self.end && verify_entry(&header, batch).is_ok()).then_some(header)
    }
}

/// Reads on to the end of the chunk or of the file: a file shorter than its view is damage, which is found out as such.
fn read_what_is_there(file: &FileRef, position: u64, chunk: &mut [u8]) -> DiskResult<usize> {
    let mut done = 0;
    while done < chunk.len() {
        match file.read_at(position + done as u64, &mut chunk[done..])? {
            0 => break,
            read if mutant::is(Mutant::ShortReadTakenAsWhole) => return Ok(read),
            read => done += read,
        }
    }
    Ok(done)
}

/// What lies behind damage.
enum Behind {
    /// These offsets were in it; the cursor stands behind them.
    Damage(Range<Offset>),
    /// The damage was of offsets below the one wanted, whose entry begins here.
    Others(u64),
}

/// What the start of a chunk holds.
enum Taken {
    /// Entries from the wanted offset on; `next` is the position behind them, `end` the offset, `entry_bytes` what the first
    /// one takes.
    Entries { range: Range<usize>, next: usize, end: Offset, entry_bytes: usize },
    /// Only entries below the wanted offset.
    Skipped { next: usize },
    /// The first entry needs a larger chunk.
    Larger { bytes: usize },
    /// No valid entry begins here.
    Damaged,
}
