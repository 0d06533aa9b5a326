//! The one place with `unsafe` in it: mapping an index.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file for reading.
///
/// Only for the index of a sealed segment: it was written to its full length and nothing in DureMQ writes, cuts or
/// renames it any more. It is unlinked at most, which a mapping survives.
#[allow(unsafe_code)]
pub(crate) fn map_read_only(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is not changed while it is mapped (see above). Should something outside DureMQ cut it, reading
    // the mapping raises SIGBUS; the data directory's lock and its permissions are what keeps others out.
    unsafe { Mmap::map(file) }
}
