//! What can be wrong with a record batch.

use super::Compression;

/// Why bytes are not an acceptable record batch. Sending the same bytes again cannot help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or the batch takes.
    #[error("batch is cut off: {needed} bytes needed, {have} there")]
    Truncated {
        /// Bytes that the header or the whole batch takes.
        needed: usize,
        /// Bytes given.
        have: usize,
    },
    /// Bytes behind the end of the batch or of its last record.
    #[error("{bytes} bytes too many from position {position} on")]
    TrailingBytes {
        /// Where the excess starts: in the batch, or in its unpacked records.
        position: usize,
        /// How many bytes there are.
        bytes: usize,
    },
    /// Not format v2; also what zeros and noise are told.
    #[error("batch format (magic) {found} is not supported, only 2 is")]
    Magic {
        /// The magic byte found.
        found: i8,
    },
    /// The batch length is negative or too small for a header and one record.
    #[error("batch length {length} is impossible")]
    Length {
        /// The field as stored.
        length: i32,
    },
    /// Larger than the limit.
    #[error("batch of {bytes} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Size of the batch, or what it would become with one more record.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// More records than the limit.
    #[error("{records} records in a batch are more than the limit of {max}")]
    TooManyRecords {
        /// Records that the batch says it has.
        records: u32,
        /// The limit.
        max: u32,
    },
    /// The CRC-32C does not hold.
    #[error("batch checksum is {computed:#010x} but {stored:#010x} is stored")]
    Checksum {
        /// As stored in the batch.
        stored: u32,
        /// Of the bytes as they are.
        computed: u32,
    },
    /// A codec that Kafka knows and DureMQ does not.
    #[error("compression {name} is not supported: use none, lz4 or zstd")]
    UnsupportedCompression {
        /// `gzip` or `snappy`.
        name: &'static str,
    },
    /// A codec that nobody knows.
    #[error("compression code {code} is unknown")]
    UnknownCompression {
        /// Bits 0..2 of the attributes.
        code: u16,
    },
    /// Transactional, control or unknown bits.
    #[error("batch attributes {attributes:#06x} are not supported")]
    UnsupportedAttributes {
        /// The field as stored.
        attributes: u16,
    },
    /// The record count is below 1 or disagrees with the last offset delta.
    #[error("record count {records} and last offset delta {last_offset_delta} disagree")]
    Counts {
        /// Record count as stored.
        records: i32,
        /// Last offset delta as stored; should be one less.
        last_offset_delta: i32,
    },
    /// More records than their bytes can hold.
    #[error("{records} records cannot lie in {bytes} bytes")]
    CountBeyondBytes {
        /// Record count as stored.
        records: u32,
        /// Size of the unpacked records.
        bytes: usize,
    },
    /// The base offset is negative, or the offsets run beyond the largest.
    #[error("base offset {base} is impossible for {records} records")]
    BaseOffset {
        /// Base offset as stored.
        base: i64,
        /// Records in the batch.
        records: u32,
    },
    /// Producer id, epoch and sequence must all be given or all be -1.
    #[error("producer id {producer}, epoch {epoch}, sequence {sequence}: some are missing")]
    Producer {
        /// Producer id as stored.
        producer: i64,
        /// Producer epoch as stored.
        epoch: i16,
        /// Base sequence as stored.
        sequence: i32,
    },
    /// The records unpack to more than the limit; given up there.
    #[error("records unpack to more than the limit of {max} bytes")]
    DecompressedTooLarge {
        /// The limit.
        max: usize,
    },
    /// The compressed records are damaged.
    #[error("cannot decompress {compression} records: {reason}")]
    Decompress {
        /// The codec.
        compression: Compression,
        /// What the codec says.
        reason: String,
    },
    /// A record is damaged.
    #[error("record {index} at position {position} of the records: {fault}")]
    Record {
        /// Index of the record in the batch.
        index: u32,
        /// Where it starts in the unpacked records.
        position: usize,
        /// What is wrong with it.
        fault: RecordFault,
    },
}

/// What is wrong with one record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A field runs beyond the end of the record, or the record beyond the end of the records.
    #[error("cut off")]
    Truncated,
    /// A varint is longer than its type.
    #[error("a varint is too long")]
    Varint,
    /// A length or count is negative and may not be.
    #[error("length {0} is impossible")]
    Length(i32),
    /// The offset delta is not the index of the record.
    #[error("offset delta is {0}")]
    OffsetDelta(i32),
    /// The fields end before the record does.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
}
