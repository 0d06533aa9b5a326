//! Entries that are durable in the journal and are not in their segment: the disk had no room for them or refused to
//! write, or a start found them in the journal. They are kept in memory, where readers find them, and go to the segment
//! when the disk takes them.
//!
//! A restart finds them again. While there is no room, or the start's are not written, no checkpoint is made, so that
//! they are in the journal still; where the disk refuses to write one log, the others go on, and every checkpoint carries
//! what is late of that one. How much that can be is bounded: producing is refused meanwhile, and a start finds no more
//! than the journal holds.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::Bytes;
use dure_proto::journal::{LateEntrySnapshot, LogSnapshot};
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, Offset, verify_entry};

use super::layout::Placement;
use super::segment::SEGMENT_HEADER_BYTES;

/// One entry, whole.
#[derive(Clone)]
pub(crate) struct LateEntry {
    pub(crate) placement: Placement,
    pub(crate) header: EntryHeader,
    pub(crate) bytes: Bytes,
}

impl LateEntry {
    pub(crate) fn snapshot(&self) -> LateEntrySnapshot {
        let Placement { segment, position } = self.placement;
        LateEntrySnapshot { segment: segment.0, position, entry: self.bytes.to_vec() }
    }

    /// What a checkpoint carries of a log; the error says what in it cannot be.
    pub(crate) fn restore(log: &LogSnapshot) -> Result<Vec<LateEntry>, String> {
        // The log's start may have moved in between them.
        let mut end = 0;
        let mut late = Vec::with_capacity(log.late.len());
        for LateEntrySnapshot { segment, position, entry } in &log.late {
            let header = EntryHeader::parse(entry).map_err(|error| format!("a late entry: {error}"))?;
            let batch =
                entry.get(ENTRY_HEADER_BYTES..header.entry_bytes()).ok_or("a late entry is cut off")?;
            verify_entry(&header, batch).map_err(|error| format!("a late entry: {error}"))?;
            let (from, to) = (header.base_offset.0, header.end_offset().0);
            let bytes = entry.len() as u64;
            let has_a_place = log.segments.iter().any(|s| {
                let inside = s.base <= from && to <= s.end;
                s.base == *segment && inside && position.checked_add(bytes).is_some_and(|at| at <= s.bytes)
            });
            if !has_a_place || from < end || *position < SEGMENT_HEADER_BYTES as u64 {
                return Err(format!("a late entry from {from} to {to} has no place in segment {segment}"));
            }
            end = to;
            let placement = Placement { segment: Offset(*segment), position: *position };
            late.push(LateEntry { placement, header, bytes: Bytes::copy_from_slice(entry) });
        }
        Ok(late)
    }
}

/// A log of a checkpoint as its files hold it: without what is late.
pub(crate) fn written(log: &LogSnapshot) -> Cow<'_, LogSnapshot> {
    let Some(first) = log.late.first() else { return Cow::Borrowed(log) };
    let from = EntryHeader::parse(&first.entry).map_or(Offset(first.segment), |header| header.base_offset);
    let mut written = LogSnapshot { late: Vec::new(), lost: Vec::new(), ..log.clone() };
    written.log_end = from.0.max(log.log_start);
    written.segments.retain(|segment| segment.base < from.0);
    if let Some(last) = written.segments.last_mut().filter(|last| last.base == first.segment) {
        (last.end, last.bytes) = (from.0, first.position);
    }
    Cow::Owned(written)
}

/// The entry among these, which ascend, that holds an offset.
pub(super) fn find(late: &[LateEntry], offset: Offset) -> Option<&LateEntry> {
    let i = late.partition_point(|entry| entry.header.end_offset() <= offset);
    late.get(i).filter(|entry| entry.header.base_offset <= offset)
}

/// Forgets those whose segment is dropped, which nobody will write. Returns the segments that this was so for.
pub(super) fn forget(late: &mut VecDeque<LateEntry>, dropped: &[Offset]) -> Vec<Offset> {
    let mut forgotten = Vec::new();
    late.retain(|LateEntry { placement: Placement { segment, .. }, .. }| {
        let is_dropped = dropped.contains(segment);
        if is_dropped && forgotten.last() != Some(segment) {
            forgotten.push(*segment);
        }
        !is_dropped
    });
    forgotten
}
