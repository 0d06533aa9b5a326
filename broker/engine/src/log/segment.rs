//! The files of one segment: `<base offset, 20 digits>.log` and the `.index` beside it. What compaction wrote also has
//! its generation in the name, `<base offset>-<generation, 16 hex digits>.log`: no name is used twice, and what is
//! replaced stands beside what replaces it.
//!
//! ```text
//! log:    0  4  magic "DuSg"
//!         4  4  CRC-32 of bytes 8..64
//!         8  4  version, 1
//!        12  4  topic
//!        16  4  partition
//!        20  4  zero
//!        24  8  base offset
//!        32  8  generation, 0 as it was appended
//!        40 24  zero
//!        64     entries: entry header, record batch
//! ```
//!
//! A segment is written behind the journal and not synced; a checkpoint syncs it. Its entries carry their own
//! checksums, so that what is read is judged without the index.

use std::fmt;
use std::sync::OnceLock;

use dure_proto::{Offset, PartitionId, TopicId, TopicPartition};

use super::index::{IndexWriter, SegmentIndex};
use super::run::{EntryRun, PlacedEntry};
use crate::disk::{Disk, DiskRef, DiskResult, FileRef, OpenMode};

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"DuSg";
const VERSION: u32 = 1;

pub(crate) fn log_dir(shard_dir: &str, partition: TopicPartition) -> String {
    format!("{shard_dir}/log/{}/{}", partition.topic, partition.partition)
}

/// Which segment of a log: one that compaction wrote has the base offset of one that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub(crate) base: Offset,
    pub(crate) generation: u64,
}

impl SegmentId {
    /// As it was appended.
    pub(crate) fn appended(base: Offset) -> SegmentId {
        SegmentId { base, generation: 0 }
    }

    /// Out of the name of a file without its extension.
    pub(crate) fn parse(stem: &str) -> Option<SegmentId> {
        let (base, generation) = match stem.split_once('-') {
            Some((base, generation)) => (base, u64::from_str_radix(generation, 16).ok()?),
            None => (stem, 0),
        };
        let id = SegmentId { base: Offset(base.parse().ok()?), generation };
        (id.to_string() == stem).then_some(id)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 => write!(f, "{:020}", self.base),
            generation => write!(f, "{:020}-{generation:016x}", self.base),
        }
    }
}

pub(crate) fn segment_path(log_dir: &str, id: SegmentId) -> String {
    format!("{log_dir}/{id}.log")
}

pub(crate) fn index_path(log_dir: &str, id: SegmentId) -> String {
    format!("{log_dir}/{id}.index")
}

/// Which segment the file of that name is of, or the index of which.
pub(crate) fn segment_of(name: &str) -> Option<SegmentId> {
    SegmentId::parse(name.strip_suffix(".log").or_else(|| name.strip_suffix(".index"))?)
}

/// The header of this segment.
pub(crate) fn segment_header(partition: TopicPartition, id: SegmentId) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&partition.topic.0.to_le_bytes());
    out[16..20].copy_from_slice(&partition.partition.0.to_le_bytes());
    out[24..32].copy_from_slice(&id.base.0.to_le_bytes());
    out[32..40].copy_from_slice(&id.generation.to_le_bytes());
    let checksum = crc32fast::hash(&out[8..]);
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Which segment these bytes are the header of.
pub(crate) fn header_of(bytes: &[u8]) -> Option<(TopicPartition, SegmentId)> {
    let bytes = bytes.get(..SEGMENT_HEADER_BYTES)?;
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let partition = TopicPartition { topic: TopicId(u32_at(12)), partition: PartitionId(u32_at(16)) };
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let id = SegmentId { base: Offset(u64_at(24)), generation: u64_at(32) };
    is_header_of(bytes, partition, id).then_some((partition, id))
}

/// Whether these bytes are the header of this segment.
pub(crate) fn is_header_of(bytes: &[u8], partition: TopicPartition, id: SegmentId) -> bool {
    bytes.get(..SEGMENT_HEADER_BYTES) == Some(&segment_header(partition, id))
}

/// A segment as readers hold it: its files are opened when they are first needed.
pub(crate) struct SegmentFiles {
    disk: DiskRef,
    dir: String,
    pub(crate) id: SegmentId,
    data: OnceLock<FileRef>,
    index: OnceLock<SegmentIndex>,
}

impl SegmentFiles {
    pub(crate) fn new(disk: DiskRef, dir: String, id: SegmentId) -> SegmentFiles {
        SegmentFiles { disk, dir, id, data: OnceLock::new(), index: OnceLock::new() }
    }

    pub(crate) fn data(&self) -> DiskResult<&FileRef> {
        if let Some(file) = self.data.get() {
            return Ok(file);
        }
        let file = self.disk.open(&segment_path(&self.dir, self.id), OpenMode::Read)?;
        Ok(self.data.get_or_init(|| file))
    }

    /// Where its files are.
    pub(crate) fn paths(&self) -> [String; 2] {
        [segment_path(&self.dir, self.id), index_path(&self.dir, self.id)]
    }

    /// Reads what the device holds, as [`Disk::read_past_cache_at`].
    pub(crate) fn read_past_cache(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        self.disk.read_past_cache_at(&segment_path(&self.dir, self.id), position, buf)
    }

    /// The index of a sealed segment, mapped once.
    pub(crate) fn sealed_index(&self) -> &SegmentIndex {
        self.index.get_or_init(|| {
            SegmentIndex::open_sealed(&*self.disk, &index_path(&self.dir, self.id), self.id.base)
        })
    }

    /// The index of an active segment as it is now.
    pub(crate) fn active_index(&self) -> SegmentIndex {
        SegmentIndex::read(&*self.disk, &index_path(&self.dir, self.id), self.id.base)
    }
}

/// What is sent to the device at a time, long before it is synced.
const WRITE_BACK_BYTES: u64 = 1 << 20;

/// The active segment as the shard writes it.
pub(crate) struct SegmentWriter {
    pub(crate) base: Offset,
    data: FileRef,
    index: IndexWriter,
    /// Before this, everything is on its way to the device.
    sent_out: u64,
}

impl SegmentWriter {
    /// Opens the segment, creating its files if they are not there. The header is always written: after a crash it
    /// may be missing from a file whose name survived. `bytes` is the length up to which its content stands.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &str,
        partition: TopicPartition,
        base: Offset,
        bytes: u64,
    ) -> DiskResult<SegmentWriter> {
        let id = SegmentId::appended(base);
        let data = disk.open(&segment_path(dir, id), OpenMode::Create)?;
        data.write_all_at(0, &segment_header(partition, id))?;
        let index = IndexWriter::open(disk, &index_path(dir, id), base, bytes)?;
        Ok(SegmentWriter { base, data, index, sent_out: bytes })
    }

    pub(crate) fn file(&self) -> &FileRef {
        &self.data
    }

    /// Writes entries where the layout placed them.
    pub(crate) fn write(&mut self, run: &EntryRun<'_>) -> DiskResult<()> {
        let position = run.placement().position;
        self.data.write_all_at(position, &run.bytes())?;
        self.send_out(position + run.len());
        let noted = run.entries().map(|PlacedEntry { placement, header, .. }| {
            (placement.position, header.base_offset, header.append_time_ms)
        });
        // A hint that cannot be written is done without; the next one comes in its place.
        let _ = self.index.note(noted);
        Ok(())
    }

    /// Has whole pieces written as they fill up: else a checkpoint's sync sends out all that came since the one before at
    /// once, and the journal's syncs wait behind that.
    fn send_out(&mut self, end: u64) {
        let whole = end / WRITE_BACK_BYTES * WRITE_BACK_BYTES;
        if whole > self.sent_out {
            self.data.begin_write_back(self.sent_out, whole - self.sent_out);
            self.sent_out = whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::run::tests::at;
    use super::super::tests::PARTITION;
    use super::*;
    use crate::disk::{DiskFile, SimDisk};

    /// Notes which bytes are sent out.
    struct Noting {
        file: FileRef,
        sent: Mutex<Vec<(u64, u64)>>,
    }

    impl DiskFile for Noting {
        fn read_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
            self.file.read_at(position, buf)
        }
        fn write_all_at(&self, position: u64, bytes: &[u8]) -> DiskResult<()> {
            self.file.write_all_at(position, bytes)
        }
        fn sync(&self) -> DiskResult<()> {
            self.file.sync()
        }
        fn begin_write_back(&self, position: u64, bytes: u64) {
            self.sent.lock().unwrap().push((position, bytes));
        }
        fn len(&self) -> DiskResult<u64> {
            self.file.len()
        }
        fn set_len(&self, bytes: u64) -> DiskResult<()> {
            self.file.set_len(bytes)
        }
        fn allocate(&self, bytes: u64) -> DiskResult<()> {
            self.file.allocate(bytes)
        }
        fn read_cached_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<Option<usize>> {
            self.file.read_cached_at(position, buf)
        }
        fn path(&self) -> &str {
            self.file.path()
        }
    }

    /// A checkpoint sent out 64 MiB at once, and for 25 to 50 ms nobody's commit was synced.
    #[test]
    fn a_segment_is_sent_out_piece_by_piece_while_it_is_written() {
        const PIECE: u64 = WRITE_BACK_BYTES;
        let disk = SimDisk::new(1);
        let file = disk.open("data", OpenMode::Create).unwrap();
        let noting = Arc::new(Noting { file, sent: Mutex::default() });
        let index = IndexWriter::open(&disk, "index", Offset(0), 0).unwrap();
        let mut writer = SegmentWriter { base: Offset(0), data: noting.clone(), index, sent_out: 0 };
        let mut position = 0;
        for bytes in [PIECE - 1, 2, 10, 3 * PIECE] {
            writer.write(&EntryRun::of(PARTITION, at(position, &vec![7; bytes as usize]))).unwrap();
            position += bytes;
        }
        // Whole pieces, each once: a page that is not full yet would have to be written again.
        assert_eq!(*noting.sent.lock().unwrap(), [(0, PIECE), (PIECE, 3 * PIECE)]);
    }

    #[test]
    fn names_read_back_and_others_are_none() {
        for id in [SegmentId::appended(Offset(7)), SegmentId { base: Offset(1 << 62), generation: 0xab }] {
            assert_eq!(SegmentId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(
            SegmentId { base: Offset(7), generation: 10 }.to_string(),
            "00000000000000000007-000000000000000a"
        );
        for name in ["", "7", "-1", "next", "00000000000000000007-", "00000000000000000007-0000000000000000"]
        {
            assert_eq!(SegmentId::parse(name), None, "{name}");
        }
    }
}
