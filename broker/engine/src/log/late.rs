//! Entries that are durable in the journal and not in their segment: they found no room there, or a start found them in
//! the journal. They are kept in memory, where readers find them, and go to the segment when there is room; until then
//! no checkpoint is made, so that a restart finds them in the journal again. How many there can be is bounded: producing
//! is refused where there is no room, and a start finds no more than the journal holds.

use std::collections::VecDeque;

use bytes::Bytes;
use dure_proto::{EntryHeader, Offset};

use super::layout::Placement;

/// One entry, whole.
#[derive(Clone)]
pub(crate) struct LateEntry {
    pub(crate) placement: Placement,
    pub(crate) header: EntryHeader,
    pub(crate) bytes: Bytes,
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
