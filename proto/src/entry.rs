//! The entry: a record batch as it stands in journal and segment, behind a header of the broker's own that
//! guards what the batch's CRC leaves out. 40 bytes, little endian, then the batch:
//!
//! ```text
//!  0 u32 magic              "DuEn"
//!  4 u32 CRC-32 (IEEE)      of bytes 8..40
//!  8 u32 batch bytes        size of the batch that follows
//! 12 u32 record count          offsets that the batch takes: as many, or more where compaction took records out
//! 16 u64 base offset        as in the batch
//! 24 u64 append time        ms since 1970, the broker's clock
//! 32 u32 epoch              low 32 bits of the shard's epoch; the batch's leader epoch
//! 36 u32 batch checksum     the batch's own CRC-32C
//! ```

use bytes::Bytes;

use crate::Offset;
use crate::batch::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchLimits};

/// Size of the header before each batch.
pub const ENTRY_HEADER_BYTES: usize = 40;
/// The largest entry.
pub const ENTRY_BYTES_MAX: usize = ENTRY_HEADER_BYTES + BATCH_BYTES_MAX;

/// What every entry starts with.
pub const ENTRY_MAGIC: [u8; 4] = *b"DuEn";

/// What the 40 bytes before a batch say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Size of the batch, without this header; at most [`BATCH_BYTES_MAX`].
    pub batch_bytes: u32,
    /// Offsets that the batch takes, at least 1: as many as records, or more where compaction took some out.
    pub record_count: u32,
    /// Offset of the first record; the end offset is at most [`Offset::MAX`].
    pub base_offset: Offset,
    /// When the broker appended the batch, milliseconds since 1970.
    pub append_time_ms: u64,
    /// Low 32 bits of the epoch of the shard that appended it.
    pub epoch: u32,
    /// The batch's own CRC-32C.
    pub batch_checksum: u32,
}

impl EntryHeader {
    /// The header for a batch that goes to `base_offset`. `batch` may be the header from before
    /// [`patch_base`](crate::patch_base) is called with the same offset and epoch.
    #[must_use]
    pub fn for_batch(
        batch: &BatchHeader,
        base_offset: Offset,
        append_time_ms: u64,
        epoch: u32,
    ) -> EntryHeader {
        EntryHeader {
            batch_bytes: batch.batch_bytes,
            record_count: batch.offset_count,
            base_offset,
            append_time_ms,
            epoch,
            batch_checksum: batch.checksum,
        }
    }

    /// The bytes on disk.
    ///
    /// # Panics
    /// If a field is beyond what it documents: such an entry could not be read back.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        if let Some((field, value)) = self.impossible() {
            panic!("an entry cannot have {field} {value}");
        }
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&ENTRY_MAGIC);
        bytes[8..12].copy_from_slice(&self.batch_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base_offset.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.append_time_ms.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.batch_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    /// [`EntryError`], never [`EntryError::Batch`] or [`EntryError::Disagrees`].
    pub fn parse(bytes: &[u8]) -> Result<EntryHeader, EntryError> {
        let Some(bytes) = bytes.first_chunk::<ENTRY_HEADER_BYTES>() else {
            return Err(EntryError::Truncated { needed: ENTRY_HEADER_BYTES, have: bytes.len() });
        };
        let magic = array(bytes, 0);
        if magic != ENTRY_MAGIC {
            return Err(EntryError::Magic { found: u32::from_le_bytes(magic) });
        }
        let stored = u32::from_le_bytes(array(bytes, 4));
        let computed = crc32fast::hash(&bytes[8..]);
        if stored != computed {
            return Err(EntryError::Checksum { stored, computed });
        }
        let header = EntryHeader {
            batch_bytes: u32::from_le_bytes(array(bytes, 8)),
            record_count: u32::from_le_bytes(array(bytes, 12)),
            base_offset: Offset(u64::from_le_bytes(array(bytes, 16))),
            append_time_ms: u64::from_le_bytes(array(bytes, 24)),
            epoch: u32::from_le_bytes(array(bytes, 32)),
            batch_checksum: u32::from_le_bytes(array(bytes, 36)),
        };
        match header.impossible() {
            Some((field, value)) => Err(EntryError::Impossible { field, value }),
            None => Ok(header),
        }
    }

    /// The offset after the last one that it takes.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.record_count))
    }

    /// Size of header and batch together.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + self.batch_bytes as usize
    }

    /// Checks that `batch` is the one that this header was written for, by what both say. The bytes of the
    /// records are not looked at; see [`verify_entry`].
    ///
    /// # Errors
    /// [`EntryError::Disagrees`], naming the first field that differs.
    pub fn agrees_with(&self, batch: &BatchHeader) -> Result<(), EntryError> {
        for (field, entry, batch) in [
            ("base offset", self.base_offset.0, batch.base_offset.0),
            ("batch bytes", self.batch_bytes.into(), batch.batch_bytes.into()),
            ("record count", self.record_count.into(), batch.offset_count.into()),
            ("epoch", self.epoch.into(), batch.leader_epoch.into()),
            ("batch checksum", self.batch_checksum.into(), batch.checksum.into()),
        ] {
            if entry != batch {
                return Err(EntryError::Disagrees { field, entry, batch });
            }
        }
        Ok(())
    }

    /// The field that no entry can have with that value, checked when written and again when read.
    fn impossible(&self) -> Option<(&'static str, u64)> {
        let batch_bytes = self.batch_bytes as usize;
        let end = self.base_offset.0.checked_add(u64::from(self.record_count));
        if batch_bytes <= BATCH_HEADER_BYTES || batch_bytes > BATCH_BYTES_MAX {
            Some(("batch bytes", self.batch_bytes.into()))
        } else if self.record_count == 0 {
            Some(("record count", 0))
        } else if end.is_none_or(|end| end > Offset::MAX.0) {
            Some(("base offset", self.base_offset.0))
        } else {
            None
        }
    }
}

/// Checks that `batch` is exactly the batch that `header` was written for and that neither changed since:
/// base offset, epoch, size, count, stored and actual CRC-32C. Does not unpack the records.
///
/// # Errors
/// [`EntryError::Batch`] or [`EntryError::Disagrees`].
pub fn verify_entry(header: &EntryHeader, batch: &[u8]) -> Result<BatchHeader, EntryError> {
    let batch = BatchHeader::validate(batch, &BatchLimits::stored())?;
    header.agrees_with(&batch)?;
    Ok(batch)
}

/// Splits bytes that hold whole entries, such as the attachment of a `Records` push, into headers and batches
/// without copying.
///
/// An item says that its two headers hold and agree. The batch's checksum is left to
/// [`Records::decode`](crate::Records::decode), or to [`verify_entry`] where nothing is decoded. After an error
/// nothing follows.
#[must_use]
pub fn split_entries(entries: Bytes) -> SplitEntries {
    SplitEntries { rest: entries }
}

/// Entries in order; see [`split_entries`].
#[derive(Clone, Debug)]
pub struct SplitEntries {
    rest: Bytes,
}

impl SplitEntries {
    fn split_next(&mut self) -> Result<(EntryHeader, Bytes), EntryError> {
        let header = EntryHeader::parse(&self.rest)?;
        let entry_bytes = header.entry_bytes();
        if self.rest.len() < entry_bytes {
            return Err(EntryError::Truncated { needed: entry_bytes, have: self.rest.len() });
        }
        let batch = self.rest.split_to(entry_bytes).slice(ENTRY_HEADER_BYTES..);
        header.agrees_with(&BatchHeader::parse_stored(&batch)?)?;
        Ok((header, batch))
    }
}

impl Iterator for SplitEntries {
    type Item = Result<(EntryHeader, Bytes), EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.split_next();
        if item.is_err() {
            self.rest.clear();
        }
        Some(item)
    }
}

impl std::iter::FusedIterator for SplitEntries {}

/// Why bytes are not an entry, or not the entry that they say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Fewer bytes than the header or the entry takes.
    #[error("entry is cut off: {needed} bytes needed, {have} there")]
    Truncated {
        /// Bytes that the header or the whole entry takes.
        needed: usize,
        /// Bytes given.
        have: usize,
    },
    /// No entry starts here; also what zeros and noise are told.
    #[error("no entry: starts with {found:#010x}")]
    Magic {
        /// The first four bytes, little endian.
        found: u32,
    },
    /// The header's CRC-32 does not hold.
    #[error("entry header checksum is {computed:#010x} but {stored:#010x} is stored")]
    Checksum {
        /// As stored in the header.
        stored: u32,
        /// Of the bytes as they are.
        computed: u32,
    },
    /// A field is out of range although the checksum holds.
    #[error("entry has an impossible {field}: {value}")]
    Impossible {
        /// Which field.
        field: &'static str,
        /// As stored.
        value: u64,
    },
    /// The batch itself is bad.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Header and batch are both whole but do not belong together.
    #[error("entry says {field} {entry}, its batch says {batch}")]
    Disagrees {
        /// Which field.
        field: &'static str,
        /// As in the entry header.
        entry: u64,
        /// As in the batch.
        batch: u64,
    },
}

/// The bytes from `at` on; the callers' positions are constants within the header.
fn array<const N: usize>(bytes: &[u8; ENTRY_HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("fields lie within the header")
}
