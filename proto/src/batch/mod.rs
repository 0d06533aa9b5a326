//! The record batch: Kafka's format v2 (`DefaultRecordBatch` of Apache Kafka, KIP-98 and KIP-82), big endian.
//!
//! ```text
//!  0 i64 base offset             patched in place by the broker: lies before the CRC
//!  8 i32 batch length            of what follows this field: the whole size - 12
//! 12 i32 partition leader epoch  patched in place by the broker: lies before the CRC
//! 16 i8  magic                   2
//! 17 u32 CRC-32C                 of everything from byte 21 on
//! 21 i16 attributes              bits 0..2 compression: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
//!                                bit 3 timestamps are append times; 4 transactional, 5 control: refused
//! 23 i32 last offset delta       record count - 1; what compaction wrote may take more offsets than it has records
//! 27 i64 base timestamp          of the first record, ms
//! 35 i64 max timestamp           ms
//! 43 i64 producer id             -1: none
//! 51 i16 producer epoch          -1: none
//! 53 i32 base sequence           -1: none
//! 57 i32 record count
//! 61     records, compressed as a whole if the attributes say so
//! ```
//!
//! One record, with zigzag varints:
//!
//! ```text
//! varint  length of what follows
//! i8      attributes, unused
//! varlong timestamp delta to the base timestamp
//! varint  offset delta: the index of the record; what compaction wrote leaves some out
//! varint  key length (-1: null)   | key
//! varint  value length (-1: null) | value
//! varint  header count, then for each header
//!         varint name length | name | varint value length (-1: null) | value
//! ```

mod build;
mod compress;
mod error;
mod records;
mod sparse;
mod varint;

use crate::{Offset, ProducerId, Sequence, crc32c};

pub use build::BatchBuilder;
pub use compress::{Compression, CompressionParseError};
pub use error::{BatchError, RecordFault};
pub use records::{Record, Records, RecordsIter};
pub use sparse::{empty_batch, extend_batch};

/// Size of the header of a batch.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The largest batch, as encoded and as built before compression.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most records in one batch.
pub const BATCH_RECORDS_MAX: u32 = 1 << 20;
/// What the records of one batch may unpack to unless a caller sets another limit.
pub const DECOMPRESSED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The leader epoch of a batch that no broker has stamped yet; -1 in Kafka.
pub const LEADER_EPOCH_NONE: u32 = u32::MAX;

/// The smallest record: its length, attributes, two deltas, two null lengths and no headers, a byte each.
const RECORD_BYTES_MIN: usize = 7;
/// Where the batch length starts to count.
const LENGTH_END: usize = 12;
/// Where the checksum starts to count.
const CHECKED_FROM: usize = 21;

const ATTRIBUTE_COMPRESSION: u16 = 0b111;
const ATTRIBUTE_APPEND_TIME: u16 = 1 << 3;

const _: () = assert!(BATCH_BYTES_MAX <= DECOMPRESSED_BYTES_MAX, "what is built can be decoded");
const _: () = assert!(DECOMPRESSED_BYTES_MAX <= i32::MAX as usize, "positions fit in 32 bits");

/// Bounds that a batch must keep to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Whole encoded size.
    pub batch_bytes_max: usize,
    /// Size of the records after decompression; also checked for records that are not compressed.
    pub decompressed_bytes_max: usize,
    /// Number of records; a decoded batch takes 4 bytes of memory for each.
    pub records_max: u32,
    /// Compaction may have written it: it may take more offsets than it has records. Never so for what a producer sends.
    pub sparse: bool,
}

impl BatchLimits {
    /// For batches out of a log.
    #[must_use]
    pub fn stored() -> BatchLimits {
        BatchLimits { sparse: true, ..BatchLimits::default() }
    }

    /// For batches in which records have ids: some of them may be taken out, which is no more work than building one.
    #[must_use]
    pub fn identified() -> BatchLimits {
        BatchLimits { decompressed_bytes_max: BATCH_BYTES_MAX, ..BatchLimits::default() }
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchLimits {
            batch_bytes_max: BATCH_BYTES_MAX,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            records_max: BATCH_RECORDS_MAX,
            sparse: false,
        }
    }
}

/// Batches that a producer session may have in flight to one partition, and of which the broker remembers the sequence
/// numbers: a retry of any of them is answered with the offset of the first time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 16;

/// Who produced a batch and where it stands in that producer's stream to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer session; at most `i64::MAX`.
    pub producer: ProducerId,
    /// At most `i16::MAX`.
    pub epoch: u16,
    /// Of the first record; at most `i32::MAX`.
    pub sequence: Sequence,
}

/// What the 61 bytes before the records say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first offset that it takes, that of the first record unless compaction took it out.
    /// `base_offset + offset_count` is at most [`Offset::MAX`].
    pub base_offset: Offset,
    /// Whole size of the batch, header included.
    pub batch_bytes: u32,
    /// Epoch that the broker patched in, [`LEADER_EPOCH_NONE`] before.
    pub leader_epoch: u32,
    /// The stored CRC-32C.
    pub checksum: u32,
    /// How the records are stored.
    pub compression: Compression,
    /// Every record's timestamp is `max_timestamp_ms`, set by a broker.
    pub append_time: bool,
    /// At least 1, unless compaction took out all of them.
    pub record_count: u32,
    /// Offsets that it takes: as many as records, or more where compaction took some out. At least 1.
    pub offset_count: u32,
    /// Timestamp of the first record, or of the one that was.
    pub base_timestamp_ms: i64,
    /// The largest timestamp, as the producer says; not compared with the records.
    pub max_timestamp_ms: i64,
    /// Absent for a producer without a session.
    pub producer: Option<ProducerStamp>,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may hold less or more than the whole batch: one as a producer
    /// sends it.
    ///
    /// Every field is in range afterwards; the checksum is not compared, see [`BatchHeader::validate`].
    ///
    /// # Errors
    /// [`BatchError`], naming the field that is out of range.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        BatchHeader::read(bytes, false)
    }

    /// The same out of a log, where compaction may have written it.
    ///
    /// # Errors
    /// As for [`BatchHeader::parse`].
    pub fn parse_stored(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        BatchHeader::read(bytes, true)
    }

    fn read(bytes: &[u8], sparse: bool) -> Result<BatchHeader, BatchError> {
        let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated { needed: BATCH_HEADER_BYTES, have: bytes.len() });
        };
        let magic = bytes[16] as i8;
        if magic != 2 {
            return Err(BatchError::Magic { found: magic });
        }
        let length = i32::from_be_bytes(array(bytes, 8));
        let batch_bytes = u32::try_from(length).map_or(0, |length| length + LENGTH_END as u32);
        if (batch_bytes as usize) < BATCH_HEADER_BYTES + RECORD_BYTES_MIN {
            return Err(BatchError::Length { length });
        }
        let attributes = u16::from_be_bytes(array(bytes, 21));
        if attributes & !(ATTRIBUTE_COMPRESSION | ATTRIBUTE_APPEND_TIME) != 0 {
            return Err(BatchError::UnsupportedAttributes { attributes });
        }
        let (record_count, offset_count) = counts(bytes, sparse)?;
        let base = i64::from_be_bytes(array(bytes, 0));
        if base < 0 || base.checked_add(i64::from(offset_count)).is_none() {
            return Err(BatchError::BaseOffset { base, records: offset_count });
        }
        Ok(BatchHeader {
            base_offset: Offset(base as u64),
            batch_bytes,
            leader_epoch: u32::from_be_bytes(array(bytes, 12)),
            checksum: u32::from_be_bytes(array(bytes, 17)),
            compression: Compression::from_code(attributes & ATTRIBUTE_COMPRESSION)?,
            append_time: attributes & ATTRIBUTE_APPEND_TIME != 0,
            record_count,
            offset_count,
            base_timestamp_ms: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp_ms: i64::from_be_bytes(array(bytes, 35)),
            producer: producer_stamp(bytes)?,
        })
    }

    /// Reads the header of `batch` and checks all that can be checked without unpacking the records: that
    /// `batch` is exactly one batch, within `limits`, and that its CRC-32C holds.
    ///
    /// # Errors
    /// [`BatchError`], saying what is wrong.
    pub fn validate(batch: &[u8], limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
        let header = BatchHeader::read(batch, limits.sparse)?;
        let batch_bytes = header.batch_bytes as usize;
        if batch_bytes > limits.batch_bytes_max {
            return Err(BatchError::TooLarge { bytes: batch_bytes, max: limits.batch_bytes_max });
        }
        if batch.len() < batch_bytes {
            return Err(BatchError::Truncated { needed: batch_bytes, have: batch.len() });
        }
        if batch.len() > batch_bytes {
            return Err(BatchError::TrailingBytes {
                position: batch_bytes,
                bytes: batch.len() - batch_bytes,
            });
        }
        if header.record_count > limits.records_max {
            return Err(BatchError::TooManyRecords { records: header.record_count, max: limits.records_max });
        }
        if header.compression == Compression::None {
            header.check_count_fits(batch_bytes - BATCH_HEADER_BYTES)?;
        }
        let computed = crc32c(&batch[CHECKED_FROM..]);
        if computed != header.checksum {
            return Err(BatchError::Checksum { stored: header.checksum, computed });
        }
        Ok(header)
    }

    /// The offset after the last one that it takes.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.offset_count))
    }

    /// Compaction took records out.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.offset_count != self.record_count
    }

    /// Writes all that this says before the records that stand in `batch`, with length and checksum as they are then.
    fn write(&self, batch: &mut [u8]) {
        let (producer_id, epoch, sequence) = match self.producer {
            None => (-1, -1, -1),
            Some(stamp) => (
                i64::try_from(stamp.producer.0).expect("a producer id is at most i64::MAX"),
                i16::try_from(stamp.epoch).expect("a producer epoch is at most i16::MAX"),
                i32::try_from(stamp.sequence.0).expect("a sequence is at most i32::MAX"),
            ),
        };
        let append_time = if self.append_time { ATTRIBUTE_APPEND_TIME } else { 0 };
        let length = (batch.len() - LENGTH_END) as u32; // at most BATCH_BYTES_MAX
        batch[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        batch[16] = 2;
        batch[21..23].copy_from_slice(&(self.compression.code() | append_time).to_be_bytes());
        batch[23..27].copy_from_slice(&(self.offset_count - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
        batch[51..53].copy_from_slice(&epoch.to_be_bytes());
        batch[53..57].copy_from_slice(&sequence.to_be_bytes());
        batch[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        let checksum = crc32c(&batch[CHECKED_FROM..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Refuses a count of records that `body_bytes` of unpacked records cannot hold, before a table of that
    /// many entries is allocated.
    fn check_count_fits(&self, body_bytes: usize) -> Result<(), BatchError> {
        if self.record_count as usize > body_bytes / RECORD_BYTES_MIN {
            return Err(BatchError::CountBeyondBytes { records: self.record_count, bytes: body_bytes });
        }
        Ok(())
    }
}

/// Stamps offset and epoch into an encoded batch. Both lie before the CRC, which therefore still holds.
///
/// # Panics
/// If `batch` is shorter than a batch header or `base` is above [`Offset::MAX`].
pub fn patch_base(batch: &mut [u8], base: Offset, leader_epoch: u32) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch of {} bytes has no header", batch.len());
    assert!(base <= Offset::MAX, "offset {base} cannot be stored");
    batch[0..8].copy_from_slice(&base.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// The same batch without the stamp of its producer, which other rules than those of its session have taken it in by.
///
/// # Errors
/// [`BatchError`], if it is none.
pub fn without_producer(batch: &[u8]) -> Result<Vec<u8>, BatchError> {
    let header = BatchHeader::parse_stored(batch)?;
    let mut bytes = batch.to_vec();
    if header.producer.is_some() {
        BatchHeader { producer: None, ..header }.write(&mut bytes);
    }
    Ok(bytes)
}

/// The bytes from `at` on; the callers' positions are constants within the header.
fn array<const N: usize>(bytes: &[u8; BATCH_HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fields lie within the header")
}

/// How many records there are, and how many offsets they take.
fn counts(bytes: &[u8; BATCH_HEADER_BYTES], sparse: bool) -> Result<(u32, u32), BatchError> {
    let last_offset_delta = i32::from_be_bytes(array(bytes, 23));
    let records = i32::from_be_bytes(array(bytes, 57));
    let dense = records >= 1 && last_offset_delta == records - 1;
    // i32::MAX itself would be one offset more than 31 bits can count.
    let fewer = sparse && records >= 0 && last_offset_delta >= records && last_offset_delta < i32::MAX;
    if !dense && !fewer {
        return Err(BatchError::Counts { records, last_offset_delta });
    }
    Ok((records as u32, last_offset_delta as u32 + 1))
}

fn producer_stamp(bytes: &[u8; BATCH_HEADER_BYTES]) -> Result<Option<ProducerStamp>, BatchError> {
    let producer = i64::from_be_bytes(array(bytes, 43));
    let epoch = i16::from_be_bytes(array(bytes, 51));
    let sequence = i32::from_be_bytes(array(bytes, 53));
    match (u64::try_from(producer), u16::try_from(epoch), u32::try_from(sequence)) {
        (Ok(producer), Ok(epoch), Ok(sequence)) => {
            let stamp = ProducerStamp { producer: ProducerId(producer), epoch, sequence: Sequence(sequence) };
            Ok(Some(stamp))
        }
        _ if (producer, epoch, sequence) == (-1, -1, -1) => Ok(None),
        _ => Err(BatchError::Producer { producer, epoch, sequence }),
    }
}
