//! The files of one segment: `<base offset, 20 digits>.log` and the `.index` beside it.
//!
//! ```text
//! log:    0  4  magic "DuSg"
//!         4  4  CRC-32 of bytes 8..64
//!         8  4  version, 1
//!        12  4  topic
//!        16  4  partition
//!        20  4  zero
//!        24  8  base offset
//!        32 32  zero
//!        64     entries: entry header, record batch
//! ```
//!
//! A segment is written behind the journal and not synced; a checkpoint syncs it. Its entries carry their own
//! checksums, so that what is read is judged without the index.

use std::sync::OnceLock;

use dure_proto::{Offset, TopicPartition};

use super::index::{IndexWriter, SegmentIndex};
use crate::disk::{Disk, DiskRef, DiskResult, FileRef, OpenMode};

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"DuSg";
const VERSION: u32 = 1;

pub(crate) fn log_dir(shard_dir: &str, partition: TopicPartition) -> String {
    format!("{shard_dir}/log/{}/{}", partition.topic, partition.partition)
}

pub(crate) fn segment_path(log_dir: &str, base: Offset) -> String {
    format!("{log_dir}/{base:020}.log")
}

/// The base offset in the name of a segment or an index.
pub(crate) fn segment_base(name: &str) -> Option<Offset> {
    let base = name.strip_suffix(".log").or_else(|| name.strip_suffix(".index"))?;
    (base.len() == 20).then(|| base.parse().ok().map(Offset))?
}

pub(crate) fn index_path(log_dir: &str, base: Offset) -> String {
    format!("{log_dir}/{base:020}.index")
}

/// The header of this segment.
pub(crate) fn segment_header(partition: TopicPartition, base: Offset) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0; SEGMENT_HEADER_BYTES];
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&partition.topic.0.to_le_bytes());
    out[16..20].copy_from_slice(&partition.partition.0.to_le_bytes());
    out[24..32].copy_from_slice(&base.0.to_le_bytes());
    let checksum = crc32fast::hash(&out[8..]);
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Whether these bytes are the header of this segment.
pub(crate) fn is_header_of(bytes: &[u8], partition: TopicPartition, base: Offset) -> bool {
    bytes.get(..SEGMENT_HEADER_BYTES) == Some(&segment_header(partition, base))
}

/// A segment as readers hold it: its files are opened when they are first needed.
pub(crate) struct SegmentFiles {
    disk: DiskRef,
    dir: String,
    pub(crate) base: Offset,
    data: OnceLock<FileRef>,
    index: OnceLock<SegmentIndex>,
}

impl SegmentFiles {
    pub(crate) fn new(disk: DiskRef, dir: String, base: Offset) -> SegmentFiles {
        SegmentFiles { disk, dir, base, data: OnceLock::new(), index: OnceLock::new() }
    }

    pub(crate) fn data(&self) -> DiskResult<&FileRef> {
        if let Some(file) = self.data.get() {
            return Ok(file);
        }
        let file = self.disk.open(&segment_path(&self.dir, self.base), OpenMode::Read)?;
        Ok(self.data.get_or_init(|| file))
    }

    /// The index of a sealed segment, mapped once.
    pub(crate) fn sealed_index(&self) -> &SegmentIndex {
        self.index.get_or_init(|| {
            SegmentIndex::open_sealed(&*self.disk, &index_path(&self.dir, self.base), self.base)
        })
    }

    /// The index of an active segment as it is now.
    pub(crate) fn active_index(&self) -> SegmentIndex {
        SegmentIndex::read(&*self.disk, &index_path(&self.dir, self.base), self.base)
    }
}

/// The active segment as the shard writes it.
pub(crate) struct SegmentWriter {
    pub(crate) base: Offset,
    data: FileRef,
    index: IndexWriter,
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
        let data = disk.open(&segment_path(dir, base), OpenMode::Create)?;
        data.write_all_at(0, &segment_header(partition, base))?;
        let index = IndexWriter::open(disk, &index_path(dir, base), base, bytes)?;
        Ok(SegmentWriter { base, data, index })
    }

    pub(crate) fn file(&self) -> &FileRef {
        &self.data
    }

    /// Writes one entry, header and batch, where the layout placed it.
    pub(crate) fn write(
        &mut self,
        position: u64,
        entry: &[u8],
        base: Offset,
        append_time_ms: u64,
    ) -> DiskResult<()> {
        self.data.write_all_at(position, entry)?;
        self.index.note(position, base, append_time_ms)
    }
}
