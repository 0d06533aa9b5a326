//! Encodes a batch, record by record, into one growing buffer.

use bytes::Bytes;

use super::varint::{put_varint, varint_bytes};
use super::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_RECORDS_MAX, BatchError, BatchHeader, Compression,
    LEADER_EPOCH_NONE, ProducerStamp, Records, compress,
};
use crate::{Offset, ReusedBuffer};

/// Collects records and encodes them as one batch.
///
/// Pushing costs no allocation but the growth of the one buffer that the batch is sent from.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    /// Room for the header, then the encoded records. Empty until the first record.
    buffer: ReusedBuffer,
    records: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    record_bytes_max: u32,
    keyed: bool,
    all_keyed: bool,
    expiring: bool,
    identified: bool,
}

impl BatchBuilder {
    /// A builder without records. `compression` is used if it makes the batch smaller.
    #[must_use]
    pub fn new(compression: Compression) -> BatchBuilder {
        BatchBuilder::with_room(compression, 0)
    }

    /// A builder without records that does not have to grow below so many bytes.
    #[must_use]
    pub fn with_room(compression: Compression, bytes: usize) -> BatchBuilder {
        BatchBuilder {
            compression,
            buffer: ReusedBuffer::with_room(bytes),
            records: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            record_bytes_max: 0,
            keyed: false,
            all_keyed: true,
            expiring: false,
            identified: false,
        }
    }

    /// Appends a record. `headers` are names and values.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch would grow beyond [`BATCH_BYTES_MAX`] before compression, and
    /// [`BatchError::TooManyRecords`]; nothing is appended then.
    pub fn push(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
        timestamp_ms: i64,
    ) -> Result<(), BatchError> {
        self.append(key, value, headers.iter().copied(), timestamp_ms)
    }

    /// [`BatchBuilder::push`] for headers that own their bytes.
    ///
    /// # Errors
    /// As for [`BatchBuilder::push`].
    pub fn push_owned(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(Bytes, Option<Bytes>)],
        timestamp_ms: i64,
    ) -> Result<(), BatchError> {
        let headers = headers.iter().map(|(name, value)| (name.as_ref(), value.as_deref()));
        self.append(key, value, headers, timestamp_ms)
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Encoded size so far, header included, before compression.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len().max(BATCH_HEADER_BYTES)
    }

    /// Size of the largest record: key, value, header names and header values.
    #[must_use]
    pub fn record_bytes_max(&self) -> u32 {
        self.record_bytes_max
    }

    /// Whether any record has a key.
    #[must_use]
    pub fn keyed(&self) -> bool {
        self.keyed
    }

    /// Whether every record has a key.
    #[must_use]
    pub fn all_keyed(&self) -> bool {
        self.all_keyed
    }

    /// Whether any record has a [time to live](crate::TTL_HEADER).
    #[must_use]
    pub fn expiring(&self) -> bool {
        self.expiring
    }

    /// Whether any record has an [id](crate::MESSAGE_ID_HEADER).
    #[must_use]
    pub fn identified(&self) -> bool {
        self.identified
    }

    /// The encoded batch, with base offset 0 and no leader epoch; a broker patches both.
    ///
    /// # Panics
    /// If there is no record, or a number of `producer` is beyond what it documents.
    #[must_use]
    pub fn build(self, producer: Option<ProducerStamp>) -> Bytes {
        assert!(self.records > 0, "a batch holds at least one record");
        let packed =
            compress::compress(self.compression, &self.buffer[BATCH_HEADER_BYTES..], BATCH_HEADER_BYTES);
        let (compression, mut batch) = match packed {
            Some(mut batch) => {
                // A queue of finished batches should hold what they take, not what they could have taken.
                batch.shrink_to_fit();
                (self.compression, ReusedBuffer::from(batch))
            }
            None => (Compression::None, self.buffer),
        };
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_bytes: batch.len() as u32, // at most BATCH_BYTES_MAX
            leader_epoch: LEADER_EPOCH_NONE,
            checksum: 0,
            compression,
            append_time: false,
            record_count: self.records,
            offset_count: self.records,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer,
        };
        header.write(&mut batch);
        batch.freeze()
    }

    fn append<'a>(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
        timestamp_ms: i64,
    ) -> Result<(), BatchError> {
        // As in Kafka the delta wraps, so that any pair of timestamps reads back as written.
        let base_timestamp_ms = if self.records == 0 { timestamp_ms } else { self.base_timestamp_ms };
        let timestamp_delta = timestamp_ms.wrapping_sub(base_timestamp_ms);
        let offset_delta = i64::from(self.records);
        let header_count = headers.len() as i64;
        let mut payload = payload_bytes(key) + payload_bytes(value);
        let mut length = 1 + varint_bytes(timestamp_delta) + varint_bytes(offset_delta);
        length += field_bytes(key) + field_bytes(value) + varint_bytes(header_count);
        for (name, value) in headers.clone() {
            payload += name.len() + payload_bytes(value);
            length += field_bytes(Some(name)) + field_bytes(value);
        }
        let bytes = self.bytes() + varint_bytes(length as i64) + length;
        if bytes > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { bytes, max: BATCH_BYTES_MAX });
        }
        if self.records == BATCH_RECORDS_MAX {
            return Err(BatchError::TooManyRecords { records: self.records + 1, max: BATCH_RECORDS_MAX });
        }

        let out = &mut self.buffer;
        if out.is_empty() {
            out.resize(BATCH_HEADER_BYTES, 0);
        }
        put_varint(out, length as i64);
        out.push(0);
        put_varint(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_field(out, key);
        put_field(out, value);
        put_varint(out, header_count);
        for (name, value) in headers {
            put_field(out, Some(name));
            put_field(out, value);
            self.expiring |= name == crate::TTL_HEADER.as_bytes();
            self.identified |= name == crate::MESSAGE_ID_HEADER.as_bytes();
        }
        assert_eq!(out.len(), bytes, "a record takes the bytes that it was counted with");

        self.max_timestamp_ms =
            if self.records == 0 { timestamp_ms } else { self.max_timestamp_ms.max(timestamp_ms) };
        self.base_timestamp_ms = base_timestamp_ms;
        self.records += 1;
        self.record_bytes_max = self.record_bytes_max.max(payload as u32); // at most BATCH_BYTES_MAX
        self.keyed |= key.is_some();
        self.all_keyed &= key.is_some();
        Ok(())
    }
}

impl Records {
    /// A batch of those records for which `keep` says yes, by index, with offsets of their own and without the stamp of a
    /// session. `None` if there are none.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if they take more than [`BATCH_BYTES_MAX`] unpacked.
    pub fn part(&self, mut keep: impl FnMut(usize) -> bool) -> Result<Option<Bytes>, BatchError> {
        let mut builder = BatchBuilder::new(self.header().compression);
        for (_, record) in self.iter().enumerate().filter(|(index, _)| keep(*index)) {
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder.push_owned(key, value, &record.headers, record.timestamp_ms)?;
        }
        Ok((!builder.is_empty()).then(|| builder.build(None)))
    }
}

fn payload_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(0, <[u8]>::len)
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |field| varint_bytes(field.len() as i64) + field.len())
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(field) => {
            put_varint(out, field.len() as i64);
            out.extend_from_slice(field);
        }
    }
}
