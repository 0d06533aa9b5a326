//! Entries that are durable in the journal and found no room in their segment. They are kept in memory, where readers
//! find them, and go to the segment when there is room; until then no checkpoint is made, so that a restart finds them
//! in the journal again. How many there can be is bounded, since producing is refused meanwhile.

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

/// Forgets those whose segment is dropped, which nobody will write.
pub(super) fn forget(late: &mut VecDeque<LateEntry>, dropped: &[Offset]) {
    late.retain(|entry| !dropped.contains(&entry.placement.segment));
}
