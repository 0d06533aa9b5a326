//! Which offsets lie in which segment, as plain arithmetic. Deterministic: the same entries and settings give the
//! same layout, when they are first appended and when they are replayed.

use std::collections::VecDeque;
use std::ops::Range;

use dure_proto::journal::{LogSnapshot, SegmentSnapshot};
use dure_proto::wire::{OffsetRange, TopicConfig};
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, Offset, TopicPartition};

use super::segment::{SEGMENT_HEADER_BYTES, SegmentId};
use crate::mutant::{self, Mutant};

/// A topic with a time limit rolls its segments at this fraction of it, so that what is over the limit does not
/// wait for a segment to fill.
const ROLLS_PER_RETENTION: u64 = 8;
/// But not more often than this.
const ROLL_MS_MIN: u64 = 1_000;

/// No segment is longer: positions in it have 32 bits in its index.
const SEGMENT_FILE_BYTES_MAX: u64 = u32::MAX as u64;

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub(crate) base: Offset,
    /// Exclusive.
    pub(crate) end: Offset,
    /// Length of the file, header included.
    pub(crate) bytes: u64,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    /// In the names of its files; 0 as it was appended.
    pub(crate) generation: u64,
}

impl SegmentMeta {
    pub(crate) fn id(&self) -> SegmentId {
        SegmentId { base: self.base, generation: self.generation }
    }

    pub(crate) fn restore(s: &SegmentSnapshot) -> SegmentMeta {
        SegmentMeta {
            base: Offset(s.base),
            end: Offset(s.end),
            bytes: s.bytes,
            first_ms: s.first_ms,
            last_ms: s.last_ms,
            generation: s.generation,
        }
    }

    pub(crate) fn snapshot(&self) -> SegmentSnapshot {
        SegmentSnapshot {
            base: self.base.0,
            end: self.end.0,
            bytes: self.bytes,
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            generation: self.generation,
        }
    }
}

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) segment: Offset,
    pub(crate) position: u64,
}

/// The segments of one log. The last one is active, unless it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogLayout {
    segments: VecDeque<SegmentMeta>,
    /// Nothing is appended to the last segment any more. Never so without one.
    sealed: bool,
    /// Not above `log_end`.
    log_start: Offset,
    /// The next offset to assign: the end of the last segment, if there is one.
    log_end: Offset,
    /// Damaged ranges, each within `log_start..log_end`.
    lost: Vec<Range<Offset>>,
}

impl LogLayout {
    pub(crate) fn new() -> LogLayout {
        LogLayout {
            segments: VecDeque::new(),
            sealed: false,
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            lost: Vec::new(),
        }
    }

    /// The layout of a snapshot; the error says what in it cannot be.
    pub(crate) fn restore(snapshot: &LogSnapshot) -> Result<LogLayout, String> {
        check_snapshot(snapshot)?;
        Ok(LogLayout {
            segments: snapshot.segments.iter().map(SegmentMeta::restore).collect(),
            sealed: snapshot.sealed,
            log_start: Offset(snapshot.log_start),
            log_end: Offset(snapshot.log_end),
            lost: snapshot.lost.iter().map(|range| Offset(range.from)..Offset(range.to)).collect(),
        })
    }

    pub(crate) fn snapshot(&self, partition: TopicPartition) -> LogSnapshot {
        LogSnapshot {
            topic: partition.topic.0,
            partition: partition.partition.0,
            log_start: self.log_start.0,
            log_end: self.log_end.0,
            segments: self.segments.iter().map(SegmentMeta::snapshot).collect(),
            sealed: self.sealed,
            lost: self.lost.iter().map(|r| OffsetRange { from: r.start.0, to: r.end.0 }).collect(),
            ..LogSnapshot::default()
        }
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.log_start
    }

    pub(crate) fn log_end(&self) -> Offset {
        self.log_end
    }

    /// Largest append time of the active segment, if there is one.
    pub(crate) fn last_ms(&self) -> Option<u64> {
        self.segments.back().map(|active| active.last_ms)
    }

    pub(crate) fn lost(&self) -> &[Range<Offset>] {
        &self.lost
    }

    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = &SegmentMeta> {
        self.segments.iter()
    }

    /// The segment of that number, counted from the oldest.
    pub(crate) fn segment(&self, at: usize) -> &SegmentMeta {
        &self.segments[at]
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes of what lies in a range of offsets; of a segment that lies in it in part, in proportion.
    pub(crate) fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        let part = |segment: &SegmentMeta| {
            let (from, to) = (from.max(segment.base), to.min(segment.end));
            let whole = u128::from(segment.end.since(segment.base).max(1));
            if from >= to {
                0
            } else {
                (u128::from(segment.bytes) * u128::from(to.since(from)) / whole) as u64
            }
        };
        self.segments.iter().map(part).sum()
    }

    /// Finds the place of an entry and takes it in. Its base offset must not lie below the log's end; if it lies
    /// above, what is between is lost.
    pub(crate) fn append(&mut self, header: &EntryHeader, config: &TopicConfig) -> Placement {
        assert!(
            header.base_offset >= self.log_end,
            "entry at {} of a log that ends at {}",
            header.base_offset,
            self.log_end
        );
        if header.base_offset > self.log_end {
            self.lost.push(self.log_end..header.base_offset);
        }
        let bytes = (ENTRY_HEADER_BYTES + header.batch_bytes as usize) as u64;
        let rolls = self.segments.back().is_none_or(|active| {
            self.sealed
                || active.end != header.base_offset
                || active.bytes + bytes > config.segment_bytes
                || config.retention_ms.is_some_and(|retention_ms| {
                    let age_ms_max = (retention_ms / ROLLS_PER_RETENTION).max(ROLL_MS_MIN);
                    header.append_time_ms.saturating_sub(active.first_ms) > age_ms_max
                })
        });
        if rolls {
            let late = mutant::is(Mutant::BaseOffByOneAfterRoll) && !self.segments.is_empty();
            self.segments.push_back(SegmentMeta {
                base: header.base_offset.plus(u64::from(late)),
                end: header.base_offset,
                bytes: SEGMENT_HEADER_BYTES as u64,
                first_ms: header.append_time_ms,
                last_ms: header.append_time_ms,
                generation: 0,
            });
            self.sealed = false;
        }
        let active = self.segments.back_mut().expect("there is an active segment");
        let placement = Placement { segment: active.base, position: active.bytes };
        active.bytes += bytes;
        active.end = header.end_offset();
        active.last_ms = active.last_ms.max(header.append_time_ms);
        self.log_end = active.end;
        placement
    }

    /// The segments that nothing is appended to any more.
    pub(crate) fn sealed(&self) -> impl ExactSizeIterator<Item = &SegmentMeta> {
        let active = usize::from(!self.sealed && !self.segments.is_empty());
        self.segments.iter().take(self.segments.len() - active)
    }

    /// The segment that is appended to.
    pub(crate) fn active(&self) -> Option<&SegmentMeta> {
        self.segments.back().filter(|_| !self.sealed)
    }

    /// The next entry begins a segment.
    pub(crate) fn seal(&mut self) {
        self.sealed = !self.segments.is_empty();
    }

    /// Whether this can take the place of sealed segments: all of their offsets, and no others.
    pub(crate) fn can_replace(&self, by: &SegmentMeta) -> bool {
        let inside: Vec<&SegmentMeta> =
            self.sealed().filter(|segment| segment.base >= by.base && segment.end <= by.end).collect();
        let whole = inside.windows(2).all(|pair| pair[0].end == pair[1].base);
        let ends = inside.first().is_some_and(|first| first.base == by.base)
            && inside.last().is_some_and(|last| last.end == by.end);
        whole && ends && inside.iter().all(|segment| segment.generation < by.generation)
    }

    /// Puts it there. Call only where [`LogLayout::can_replace`].
    pub(crate) fn replace(&mut self, by: SegmentMeta) {
        assert!(self.can_replace(&by), "{by:?} replaces no whole segments");
        let from = self.segments.partition_point(|segment| segment.base < by.base);
        let to = self.segments.partition_point(|segment| segment.end <= by.end);
        self.segments.drain(from..to);
        self.segments.insert(from, by);
    }

    /// Moves the log's start up and forgets the segments that lie wholly below it. Returns their base offsets.
    pub(crate) fn move_start(&mut self, offset: Offset) -> Vec<Offset> {
        self.log_start = self.log_start.max(offset);
        self.log_end = self.log_end.max(offset);
        let mut dropped = Vec::new();
        while let Some(segment) = self.segments.pop_front_if(|segment| {
            segment.end <= offset || mutant::is(Mutant::StartDropsNextSegment) && segment.base <= offset
        }) {
            dropped.push(segment.base);
        }
        self.sealed &= !self.segments.is_empty();
        self.lost.retain(|range| range.end > offset);
        dropped
    }

    /// Invariants, for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert!(self.log_start <= self.log_end);
        let mut end = None;
        for segment in &self.segments {
            assert!(segment.base < segment.end && segment.end > self.log_start);
            assert!(end.is_none_or(|end| end <= segment.base));
            end = Some(segment.end);
        }
        assert!(end.is_none_or(|end| end == self.log_end));
    }
}

/// What would let a position or an offset run over, or out of order: files are written where a layout says.
fn check_snapshot(snapshot: &LogSnapshot) -> Result<(), String> {
    let LogSnapshot { topic, partition, log_start, log_end, .. } = *snapshot;
    let fail = |what: String| Err(format!("log {topic}/{partition}: {what}"));
    if log_start > log_end || log_end > Offset::MAX.0 {
        return fail(format!("it runs from {log_start} to {log_end}"));
    }
    let mut end = 0;
    for segment in &snapshot.segments {
        let SegmentSnapshot { base, end: segment_end, bytes, .. } = *segment;
        if base < end || segment_end <= base || segment_end > log_end {
            return fail(format!("a segment from {base} to {segment_end} behind {end}"));
        }
        if !(SEGMENT_HEADER_BYTES as u64..=SEGMENT_FILE_BYTES_MAX).contains(&bytes) {
            return fail(format!("a segment of {bytes} bytes"));
        }
        end = segment_end;
    }
    match snapshot.lost.iter().find(|range| range.from >= range.to || range.to > log_end) {
        Some(range) => fail(format!("offsets {} to {} are said to be lost", range.from, range.to)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(base: u64, records: u32, append_time_ms: u64) -> EntryHeader {
        EntryHeader {
            batch_bytes: 100,
            record_count: records,
            base_offset: Offset(base),
            append_time_ms,
            epoch: 1,
            batch_checksum: 0,
        }
    }

    fn config() -> TopicConfig {
        TopicConfig { segment_bytes: 64 + 2 * 140, retention_ms: Some(8_000), ..TopicConfig::default() }
    }

    #[test]
    fn bytes_of_a_range_are_those_of_its_segments_in_proportion() {
        let mut layout = LogLayout::new();
        for base in [0, 10, 20, 30] {
            layout.append(&entry(base, 10, 0), &config());
        }
        let all = layout.bytes();
        assert_eq!(layout.bytes_between(Offset(0), Offset(40)), all);
        let first = layout.bytes_between(Offset(0), Offset(7));
        assert!(first > 0 && first < all / 4);
        let rest = layout.bytes_between(Offset(7), Offset(40));
        assert!((all - 4..=all).contains(&(first + rest)), "{first} and {rest} of {all}");
        assert_eq!(layout.bytes_between(Offset(40), Offset(90)), 0);
        assert_eq!(layout.bytes_between(Offset(9), Offset(9)), 0);
    }

    #[test]
    fn segments_roll_by_size_and_age() {
        let mut layout = LogLayout::new();
        let mut at = |base, ms| layout.append(&entry(base, 10, ms), &config()).segment.0;
        assert_eq!([at(0, 0), at(10, 0), at(20, 0), at(30, 1_001)], [0, 0, 20, 30]);
        layout.check();
    }

    #[test]
    fn a_snapshot_that_cannot_be_is_refused() {
        let mut layout = LogLayout::new();
        layout.append(&entry(0, 10, 0), &config());
        layout.append(&entry(15, 5, 0), &config());
        let partition =
            TopicPartition { topic: dure_proto::TopicId(1), partition: dure_proto::PartitionId(0) };
        let sound = layout.snapshot(partition);
        assert_eq!(LogLayout::restore(&sound), Ok(layout));
        let changes: [fn(&mut LogSnapshot); 8] = [
            |log| log.log_start = 21,
            |log| log.log_end = u64::MAX,
            |log| log.segments[1].base = 9,
            |log| log.segments[1].end = 15,
            |log| log.segments[1].end = 21,
            |log| log.segments[0].bytes = 1 << 60,
            |log| log.segments[0].bytes = 0,
            |log| log.lost[0] = OffsetRange { from: 15, to: 10 },
        ];
        for (nth, change) in changes.iter().enumerate() {
            let mut snapshot = sound.clone();
            change(&mut snapshot);
            assert!(LogLayout::restore(&snapshot).is_err(), "change {nth}");
        }
    }

    #[test]
    fn a_gap_is_named_lost_and_starts_a_segment() {
        let mut layout = LogLayout::new();
        layout.append(&entry(0, 10, 0), &config());
        assert_eq!(layout.append(&entry(15, 5, 0), &config()).segment, Offset(15));
        assert_eq!(layout.lost(), [Offset(10)..Offset(15)]);
        layout.check();
    }
}
