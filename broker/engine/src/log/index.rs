//! The sparse index of one segment: a hint where to begin looking for an offset or a time, never evidence. Whoever
//! uses it checks that an entry with a valid header stands at the position; if not, the segment is searched from its
//! start.
//!
//! ```text
//!  0  4  magic "DuIx"       then, for about every 4 KiB of the segment:
//!  4  4  version, 1          0  4  first offset of the entry, relative to the base offset
//!  8  8  base offset         4  4  its position in the segment
//!                            8  8  largest append time so far, milliseconds since the epoch
//!                           16  4  CRC-32 of base offset and bytes 0..16
//! ```

use dure_proto::Offset;

use super::mapped::map_read_only;
use super::segment::SEGMENT_HEADER_BYTES;
use crate::disk::{Disk, DiskResult, FileRef, OpenMode};

const MAGIC: &[u8; 4] = b"DuIx";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 20;
/// Distance of indexed entries in the segment.
const INTERVAL_BYTES: u64 = 4096;

/// What is read of an index at most: one entry for every 4 KiB that a position of 32 bits can name.
const INDEX_BYTES_MAX: u64 =
    HEADER_BYTES as u64 + (u32::MAX as u64 / INTERVAL_BYTES + 1) * ENTRY_BYTES as u64;

/// One entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: Offset,
    pub(crate) position: u64,
    pub(crate) largest_ms: u64,
}

impl IndexEntry {
    fn encode(&self, base: Offset) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[0..4].copy_from_slice(&(self.offset.since(base) as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.position as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.largest_ms.to_le_bytes());
        let checksum = checksum(base, &out[..16]);
        out[16..20].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8], base: Offset) -> Option<IndexEntry> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let valid = u32_at(16) == checksum(base, &bytes[..16]) && base <= Offset::MAX;
        valid.then(|| IndexEntry {
            offset: base.plus(u64::from(u32_at(0))),
            position: u64::from(u32_at(4)),
            largest_ms: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
        })
    }
}

/// Not of zeroes for zeroes: the base offset goes in behind a constant.
fn checksum(base: Offset, fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(MAGIC);
    hasher.update(&base.0.to_le_bytes());
    hasher.update(fields);
    hasher.finalize()
}

/// Whether these bytes begin as the index of the segment with this base offset does.
pub(crate) fn is_index_of(bytes: &[u8], base: Offset) -> bool {
    bytes.get(..HEADER_BYTES) == Some(&header(base))
}

fn header(base: Offset) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&VERSION.to_le_bytes());
    out[8..].copy_from_slice(&base.0.to_le_bytes());
    out
}

/// Writes the index of an active segment.
pub(crate) struct IndexWriter {
    file: FileRef,
    base: Offset,
    length: u64,
    next_position: u64,
    largest_ms: u64,
    /// What is written at once: kept so that its memory is used again.
    noted: Vec<u8>,
}

impl IndexWriter {
    /// Opens the index behind what it says of the first `segment_bytes` of the segment.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &str,
        base: Offset,
        segment_bytes: u64,
    ) -> DiskResult<IndexWriter> {
        let kept = SegmentIndex::read(disk, path, base);
        let file = disk.open(path, OpenMode::Create)?;
        file.write_all_at(0, &header(base))?;
        let kept =
            kept.entries().take_while(|entry| entry.is_some_and(|entry| entry.position < segment_bytes));
        let (mut count, mut last) = (0, None);
        for entry in kept {
            count += 1;
            last = entry;
        }
        let length = (HEADER_BYTES + count * ENTRY_BYTES) as u64;
        Ok(IndexWriter {
            file,
            base,
            length,
            next_position: last.map_or(0, |entry| entry.position + INTERVAL_BYTES),
            largest_ms: last.map_or(0, |entry| entry.largest_ms),
            noted: Vec::new(),
        })
    }

    /// Takes note of entries of the segment, in order and each with its position, offset and append time, of those that are
    /// far enough from the last one indexed.
    pub(crate) fn note(&mut self, entries: impl IntoIterator<Item = (u64, Offset, u64)>) -> DiskResult<()> {
        self.noted.clear();
        let mut next_position = self.next_position;
        for (position, offset, append_time_ms) in entries {
            self.largest_ms = self.largest_ms.max(append_time_ms);
            if position >= next_position {
                let entry = IndexEntry { offset, position, largest_ms: self.largest_ms };
                self.noted.extend_from_slice(&entry.encode(self.base));
                next_position = position + INTERVAL_BYTES;
            }
        }
        if self.noted.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(self.length, &self.noted)?;
        self.length += self.noted.len() as u64;
        self.next_position = next_position;
        Ok(())
    }
}

/// The index as it was read or mapped. Anything that is wrong with it only makes it less of a help.
pub(crate) struct SegmentIndex {
    base: Offset,
    bytes: IndexBytes,
}

enum IndexBytes {
    Read(Vec<u8>),
    Mapped(memmap2::Mmap),
}

impl SegmentIndex {
    /// Reads what the file holds now.
    pub(crate) fn read(disk: &dyn Disk, path: &str, base: Offset) -> SegmentIndex {
        let read = || -> DiskResult<Vec<u8>> {
            let file = disk.open(path, OpenMode::Read)?;
            let mut bytes = vec![0; file.len()?.min(INDEX_BYTES_MAX) as usize];
            file.read_exact_at(0, &mut bytes)?;
            Ok(bytes)
        };
        SegmentIndex { base, bytes: IndexBytes::Read(read().unwrap_or_default()) }
    }

    /// Maps the index of a sealed segment, which nothing writes any more. Where it cannot be mapped it is read.
    pub(crate) fn open_sealed(disk: &dyn Disk, path: &str, base: Offset) -> SegmentIndex {
        let mapped = disk
            .open(path, OpenMode::Read)
            .ok()
            .and_then(|file| file.as_std_file().and_then(|file| map_read_only(file).ok()));
        match mapped {
            Some(map) => SegmentIndex { base, bytes: IndexBytes::Mapped(map) },
            None => SegmentIndex::read(disk, path, base),
        }
    }

    fn raw_entries(&self) -> &[u8] {
        let bytes: &[u8] = match &self.bytes {
            IndexBytes::Read(bytes) => bytes,
            IndexBytes::Mapped(map) => map,
        };
        match bytes.split_at_checked(HEADER_BYTES) {
            Some((head, entries)) if head == header(self.base) => entries,
            _ => &[],
        }
    }

    /// Every entry that has its full length; `None` where the checksum is wrong.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Option<IndexEntry>> {
        self.raw_entries().chunks_exact(ENTRY_BYTES).map(|bytes| IndexEntry::parse(bytes, self.base))
    }

    /// Where to begin looking for an offset: the position of an entry at or before it.
    pub(crate) fn before_offset(&self, offset: Offset) -> u64 {
        self.last_where(|entry| entry.offset <= offset)
    }

    /// Where to begin looking for the first record appended at or after a time.
    pub(crate) fn before_time(&self, time_ms: u64) -> u64 {
        self.last_where(|entry| entry.largest_ms < time_ms)
    }

    fn last_where(&self, fits: impl Fn(&IndexEntry) -> bool) -> u64 {
        let raw = self.raw_entries();
        let at = |i: usize| {
            raw.get(i * ENTRY_BYTES..(i + 1) * ENTRY_BYTES).and_then(|b| IndexEntry::parse(b, self.base))
        };
        let (mut low, mut high) = (0, raw.len() / ENTRY_BYTES);
        while low < high {
            let middle = low + (high - low) / 2;
            match at(middle) {
                Some(entry) if fits(&entry) => low = middle + 1,
                Some(_) => high = middle,
                // A damaged entry says nothing of its neighbours: go by those that are whole.
                None => return self.last_where_linear(fits),
            }
        }
        low.checked_sub(1).and_then(at).map_or(SEGMENT_HEADER_BYTES as u64, |entry| entry.position)
    }

    fn last_where_linear(&self, fits: impl Fn(&IndexEntry) -> bool) -> u64 {
        let last = self.entries().flatten().take_while(|entry| fits(entry)).last();
        last.map_or(SEGMENT_HEADER_BYTES as u64, |entry| entry.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn finds_the_entry_before_and_survives_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("a disk");
        let mut writer = IndexWriter::open(&disk, "i", Offset(100), 0).expect("an index");
        for i in 0..100 {
            writer.note([(64 + i * 5000, Offset(100 + i * 10), 1000 + i)]).expect("written");
        }
        let index = SegmentIndex::open_sealed(&disk, "i", Offset(100));
        assert_eq!(index.before_offset(Offset(100)), 64);
        assert_eq!(index.before_offset(Offset(555)), 64 + 45 * 5000);
        assert_eq!(index.before_time(1045), 64 + 44 * 5000);
        assert_eq!(index.before_time(0), 64);

        let mut bytes = std::fs::read(dir.path().join("i")).expect("read");
        bytes[HEADER_BYTES + 49 * ENTRY_BYTES] ^= 1;
        bytes[HEADER_BYTES + 50 * ENTRY_BYTES] ^= 1;
        let damaged = SegmentIndex { base: Offset(100), bytes: IndexBytes::Read(bytes) };
        assert_eq!(damaged.before_offset(Offset(605)), 64 + 48 * 5000);
        let foreign = SegmentIndex { base: Offset(0), bytes: IndexBytes::Read(vec![0; 400]) };
        assert_eq!(foreign.before_offset(Offset(605)), 64);
        assert!(
            SegmentIndex { base: Offset(0), bytes: IndexBytes::Read(vec![0; 400]) }
                .entries()
                .all(|e| e.is_none())
        );
    }

    #[test]
    fn reopened_it_goes_on_behind_what_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("a disk");
        let mut writer = IndexWriter::open(&disk, "i", Offset(0), 0).expect("an index");
        for i in 0..10 {
            writer.note([(64 + i * 5000, Offset(i), 7)]).expect("written");
        }
        let mut writer = IndexWriter::open(&disk, "i", Offset(0), 64 + 3 * 5000).expect("an index");
        writer.note([(64 + 3 * 5000, Offset(33), 8)]).expect("written");
        let index = SegmentIndex::read(&disk, "i", Offset(0));
        let fourth = index.entries().nth(3).flatten().expect("an entry");
        assert_eq!((fourth.offset, fourth.largest_ms), (Offset(33), 8));
    }

    #[test]
    fn what_is_noted_at_once_is_what_would_be_noted_one_by_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(dir.path()).expect("a disk");
        let mut together = IndexWriter::open(&disk, "together", Offset(0), 0).expect("an index");
        let entries = (0..100).map(|i| (64 + i * 500, Offset(i), 7 + i));
        together.note(entries.clone()).expect("written");
        let mut apart = IndexWriter::open(&disk, "apart", Offset(0), 0).expect("an index");
        entries.for_each(|entry| apart.note([entry]).expect("written"));
        let content = |path| disk.read_past_cache(path).expect("read");
        assert_eq!(content("together"), content("apart"));
        assert_eq!(content("together").len(), HEADER_BYTES + 12 * ENTRY_BYTES, "one for each 4 KiB");
    }
}
