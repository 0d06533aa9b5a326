//! Walking the entries of one segment file.

use std::ops::Range;

use bytes::Bytes;
use dure_proto::{ENTRY_HEADER_BYTES, EntryHeader, verify_entry};

use crate::log::SEGMENT_HEADER_BYTES;

/// What stands at a place of a segment.
pub(super) enum Found {
    /// A valid entry.
    Entry { position: u64, header: EntryHeader, batch: Bytes },
    /// Bytes that are no valid entry, up to the next valid one or the end.
    Damage { bytes: Range<u64>, what: String },
}

/// All of a segment, entry by entry. Behind damage it goes on where readers do.
pub(super) fn walk(segment: &Bytes) -> impl Iterator<Item = Found> {
    let mut at = SEGMENT_HEADER_BYTES;
    std::iter::from_fn(move || {
        if at >= segment.len() {
            return None;
        }
        let from = at;
        Some(match entry_at(segment, at) {
            Ok((header, batch)) => {
                at += header.entry_bytes();
                Found::Entry { position: from as u64, header, batch }
            }
            Err(what) => {
                at = behind_damage(segment, from);
                Found::Damage { bytes: from as u64..at as u64, what }
            }
        })
    })
}

/// Where to go on: behind the damaged entry if its header is whole, since a message may hold what looks like an entry;
/// else at the next valid one that is followed by another or by the end, which an image inside a message is not.
fn behind_damage(segment: &Bytes, at: usize) -> usize {
    let end = segment.len();
    let is_followed = |at: usize| {
        entry_at(segment, at).is_ok_and(|(header, _)| {
            let next = at + header.entry_bytes();
            next == end || EntryHeader::parse(&segment[next..]).is_ok()
        })
    };
    match EntryHeader::parse(&segment[at..]) {
        Ok(header) => end.min(at + header.entry_bytes()),
        Err(_) => (at + 1..end).find(|next| is_followed(*next)).unwrap_or(end),
    }
}

fn entry_at(segment: &Bytes, at: usize) -> Result<(EntryHeader, Bytes), String> {
    let header = EntryHeader::parse(&segment[at..]).map_err(|error| error.to_string())?;
    let end = at + header.entry_bytes();
    if end > segment.len() {
        return Err(format!("the entry at {at} is cut off"));
    }
    let batch = segment.slice(at + ENTRY_HEADER_BYTES..end);
    verify_entry(&header, &batch).map_err(|error| error.to_string())?;
    Ok((header, batch))
}
