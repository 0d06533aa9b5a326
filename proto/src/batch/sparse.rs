//! Batches that compaction wrote. They are Kafka's, as its log cleaner leaves them: a batch keeps the offsets that it
//! had, so that `last offset delta` may be larger than the number of records tells, the records keep their offset
//! deltas, and there may be no record left at all.
//!
//! The entries of a segment thus follow each other without a gap, whatever was taken out: a batch also takes the
//! offsets of those that stood behind it and are gone. Whoever meets a gap meets damage.

use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, CHECKED_FROM, Compression, Records, compress};
use crate::{Offset, crc32c};

impl Records {
    /// The batch without the records for which `keep` says no, by index: the same offsets, the same codec where it
    /// pays, everything else as it was.
    #[must_use]
    pub fn retain(&self, mut keep: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut body = vec![0; BATCH_HEADER_BYTES];
        let mut record_count = 0;
        for index in (0..self.len()).filter(|index| keep(*index)) {
            body.extend_from_slice(self.raw(index));
            record_count += 1;
        }
        if record_count == 0 {
            return empty(self.header());
        }
        let codec = self.header().compression;
        let packed = compress::compress(codec, &body[BATCH_HEADER_BYTES..], BATCH_HEADER_BYTES);
        let (compression, mut batch) = match packed {
            Some(packed) => (codec, packed),
            None => (Compression::None, body),
        };
        let batch_bytes = batch.len() as u32; // no more than it was unpacked
        BatchHeader { compression, record_count, batch_bytes, ..*self.header() }.write(&mut batch);
        batch
    }
}

/// A batch without records that takes `offset_count` offsets from `base` on.
///
/// # Panics
/// If there are no offsets, or more than a batch can take (`i32::MAX`).
#[must_use]
pub fn empty_batch(base: Offset, offset_count: u32, leader_epoch: u32) -> Vec<u8> {
    assert!(offset_count >= 1 && i32::try_from(offset_count).is_ok(), "{offset_count} offsets in one batch");
    empty(&BatchHeader {
        base_offset: base,
        batch_bytes: 0,
        leader_epoch,
        checksum: 0,
        compression: Compression::None,
        append_time: false,
        record_count: 0,
        offset_count,
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer: None,
    })
}

/// Nothing, packed: no batch is as short as its header, so that zeros behind one are never taken for one.
fn empty(header: &BatchHeader) -> Vec<u8> {
    let mut batch = compress::nothing(BATCH_HEADER_BYTES);
    let batch_bytes = batch.len() as u32; // a few bytes
    BatchHeader { compression: Compression::Lz4, record_count: 0, batch_bytes, ..*header }.write(&mut batch);
    batch
}

/// Makes a stored batch take so many offsets, more than it took.
///
/// # Errors
/// [`BatchError`] if it is none.
///
/// # Panics
/// If it took more, or it would be more than a batch can take (`i32::MAX`).
pub fn extend_batch(batch: &mut [u8], offset_count: u32) -> Result<(), BatchError> {
    let header = BatchHeader::parse_stored(batch)?;
    assert!(offset_count >= header.offset_count, "{} offsets become {offset_count}", header.offset_count);
    let last_offset_delta = i32::try_from(offset_count - 1).expect("as many offsets as a batch can take");
    batch[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    let checksum = crc32c(&batch[CHECKED_FROM..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}
