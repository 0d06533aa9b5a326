//! Writes a segment anew: what stays of several, one behind the other, with every offset taken by an entry.

use dure_proto::{
    BATCH_BYTES_MAX, BatchHeader, BatchLimits, ENTRY_HEADER_BYTES, EntryHeader, Offset, Records,
    TopicPartition, empty_batch, extend_batch,
};

use super::KeyMap;
use crate::disk::{Disk, DiskResult, FileRef, OpenMode};
use crate::log::{
    IndexWriter, SEGMENT_HEADER_BYTES, SegmentId, SegmentMeta, index_path, segment_header, segment_path,
};

/// Written at once.
const WRITE_BYTES: usize = 1 << 20;
/// Offsets that one entry may take.
const ENTRY_OFFSETS_MAX: u64 = i32::MAX as u64;

/// What stays of the messages below an offset.
#[derive(Clone, Copy)]
pub(super) struct Rule<'a> {
    pub(super) keys: &'a KeyMap,
    /// What is not below this stays.
    pub(super) upto: Offset,
    /// Tombstones below this go.
    pub(super) tombstones_below: Offset,
}

/// What the rule makes of a batch.
pub(super) struct Judged {
    /// The batch that stays, unless it is the same.
    pub(super) becomes: Becomes,
    /// Tombstones that stay and count.
    pub(super) tombstones: u64,
}

pub(super) enum Becomes {
    Same,
    Less(Vec<u8>),
    Nothing,
}

impl Rule<'_> {
    /// A batch that cannot be unpacked stays whole, and so does a message without a key.
    pub(super) fn judge(&self, header: &EntryHeader, batch: &bytes::Bytes) -> Judged {
        let whole = Judged { becomes: Becomes::Same, tombstones: 0 };
        if header.base_offset >= self.upto {
            return whole;
        }
        let Ok(records) = Records::decode(batch, &BatchLimits::stored()) else { return whole };
        let (mut tombstones, mut kept) = (0, 0);
        let stays: Vec<bool> = (0..records.len())
            .map(|i| {
                let (offset, key) = (records.offset(i), records.key(i));
                let tombstone = key.is_some() && records.value(i).is_none();
                let superseded =
                    offset < self.upto && key.is_some_and(|key| self.keys.supersedes(&key, offset));
                let forgotten = tombstone && offset < self.tombstones_below;
                let stays = !superseded && !forgotten;
                tombstones += u64::from(stays && tombstone && offset < self.upto);
                kept += usize::from(stays);
                stays
            })
            .collect();
        let becomes = match kept {
            all if all == records.len() && all > 0 => Becomes::Same,
            0 => Becomes::Nothing,
            _ => {
                let less = records.retain(|i| stays[i]);
                // A codec may do worse than the producer's did.
                if less.len() <= BATCH_BYTES_MAX { Becomes::Less(less) } else { Becomes::Same }
            }
        };
        Judged { becomes, tombstones }
    }
}

/// A segment in the making.
pub(super) struct Rewriting {
    dir: String,
    file: FileRef,
    index: IndexWriter,
    meta: SegmentMeta,
    epoch: u32,
    /// The last entry: it takes the offsets up to the next one that stays, so that it is written when that is known.
    pending: Option<(EntryHeader, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl Rewriting {
    /// Makes the files. `like` says what the new segment stands for; its length is found out.
    pub(super) fn begin(
        disk: &dyn Disk,
        dir: &str,
        partition: TopicPartition,
        like: SegmentMeta,
        epoch: u32,
    ) -> DiskResult<Rewriting> {
        let id = like.id();
        let file = disk.open(&segment_path(dir, id), OpenMode::Create)?;
        let index = IndexWriter::open(disk, &index_path(dir, id), id.base, 0)?;
        Ok(Rewriting {
            dir: dir.to_owned(),
            file,
            index,
            meta: SegmentMeta { bytes: SEGMENT_HEADER_BYTES as u64, ..like },
            epoch,
            pending: None,
            buffer: segment_header(partition, id).to_vec(),
        })
    }

    pub(super) fn id(&self) -> SegmentId {
        self.meta.id()
    }

    /// The next entry that stays.
    pub(super) fn push(&mut self, header: &EntryHeader, batch: &[u8]) -> DiskResult<()> {
        self.cover(header.base_offset)?;
        let changed = BatchHeader::parse_stored(batch).expect("it was read or made as a batch");
        let header =
            EntryHeader { batch_bytes: changed.batch_bytes, batch_checksum: changed.checksum, ..*header };
        self.pending = Some((header, batch.to_vec()));
        Ok(())
    }

    /// Ends the segment and makes it durable.
    pub(super) fn finish(mut self, disk: &dyn Disk) -> DiskResult<SegmentMeta> {
        self.cover(self.meta.end)?;
        self.flush()?;
        self.file.sync()?;
        // No checkpoint may have synced the names that lead to it yet.
        let above = self.dir.match_indices('/').map(|(at, _)| &self.dir[..at]);
        for dir in above.chain([&*self.dir]).collect::<Vec<_>>().into_iter().rev() {
            disk.sync_dir(dir)?;
        }
        Ok(self.meta)
    }

    /// Everything below `offset` is taken by an entry, and all of them are on their way to the file.
    fn cover(&mut self, offset: Offset) -> DiskResult<()> {
        // Without one before it there is nothing in the segment yet.
        let mut covered = self.meta.base;
        if let Some((header, batch)) = self.pending.take() {
            let offsets = offset.since(header.base_offset).min(ENTRY_OFFSETS_MAX) as u32;
            let (header, batch) = extended(header, batch, offsets);
            covered = header.end_offset();
            self.write(&header, &batch)?;
        }
        while covered < offset {
            let offsets = offset.since(covered).min(ENTRY_OFFSETS_MAX) as u32;
            let batch = empty_batch(covered, offsets, self.epoch);
            let header = BatchHeader::parse_stored(&batch).expect("just made");
            let header = EntryHeader::for_batch(&header, covered, self.meta.first_ms, self.epoch);
            self.write(&header, &batch)?;
            covered = header.end_offset();
        }
        Ok(())
    }

    fn write(&mut self, header: &EntryHeader, batch: &[u8]) -> DiskResult<()> {
        self.index.note([(self.meta.bytes, header.base_offset, header.append_time_ms)])?;
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(batch);
        self.meta.bytes += (ENTRY_HEADER_BYTES + batch.len()) as u64;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> DiskResult<()> {
        let position = self.meta.bytes - self.buffer.len() as u64;
        self.file.write_all_at(position, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// The entry with so many offsets.
fn extended(header: EntryHeader, mut batch: Vec<u8>, offsets: u32) -> (EntryHeader, Vec<u8>) {
    if offsets <= header.record_count {
        return (header, batch);
    }
    extend_batch(&mut batch, offsets).expect("it was read or made as a batch");
    let checksum = BatchHeader::parse_stored(&batch).expect("it was one").checksum;
    (EntryHeader { record_count: offsets, batch_checksum: checksum, ..header }, batch)
}
