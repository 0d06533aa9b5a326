//! The log of one partition: segments as the journal's sorted form. `layout` says what lies where, `writer` puts it
//! there, `view` is what readers see.

mod expiry;
mod index;
mod late;
mod layout;
mod mapped;
mod removal;
mod run;
mod segment;
#[cfg(test)]
mod tests;
mod view;
mod writer;

pub(crate) use expiry::{Held, Judge};
pub(crate) use index::{IndexEntry, IndexWriter, SegmentIndex, is_index_of};
pub(crate) use late::{LateEntry, written};
pub(crate) use layout::{LogLayout, Placement, SegmentMeta};
pub(crate) use removal::{Freeing, Nameless, Removal};
pub(crate) use run::{EntryRun, PlacedEntry};
pub(crate) use segment::segment_header;
pub(crate) use segment::{
    SEGMENT_HEADER_BYTES, SegmentId, header_of, index_path, is_header_of, log_dir, segment_of, segment_path,
};
pub use view::{Cursor, LogView, ReadError, ReadOutcome, Wait};
pub(crate) use writer::{DirtyFile, LogWriter, WrittenPart};
