//! Decodes the records of a batch: all are checked first, then any can be taken without touching the others.

use std::ops::Range;

use bytes::Bytes;

use super::varint::Cursor;
use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchLimits, Compression, RecordFault, compress};
use crate::Offset;

/// One record. The fields are slices of the batch, or of what it was unpacked to, and keep that alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record's offset is the batch's base offset plus this. It is the index in the batch, unless compaction took
    /// out records before it.
    pub offset_delta: u32,
    /// As the producer set it, or the append time if the batch says so.
    pub timestamp_ms: i64,
    /// `None` is null.
    pub key: Option<Bytes>,
    /// `None` is null.
    pub value: Option<Bytes>,
    /// Names and values, in the producer's order; names may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The records of one batch, unpacked and checked.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    body: Bytes,
    /// Where each record starts in `body`. Every one of them has been read to its end once.
    positions: Vec<u32>,
    record_bytes_max: u32,
    keyed: bool,
}

impl Records {
    /// Checks `batch` as [`BatchHeader::validate`] does, unpacks it and checks every record.
    ///
    /// Records that are not compressed are sliced from `batch`, not copied.
    ///
    /// # Errors
    /// [`BatchError`], saying what is wrong and with which record.
    pub fn decode(batch: &Bytes, limits: &BatchLimits) -> Result<Records, BatchError> {
        let header = BatchHeader::validate(batch, limits)?;
        // Positions are kept in 32 bits.
        let bytes_max = limits.decompressed_bytes_max.min(i32::MAX as usize);
        let body = batch.slice(BATCH_HEADER_BYTES..);
        let body = match header.compression {
            Compression::None if body.len() > bytes_max => {
                return Err(BatchError::DecompressedTooLarge { max: bytes_max });
            }
            Compression::None => body,
            compression => {
                let mut body = compress::decompress(compression, &body, bytes_max)?;
                // A cache counts what the records take, see `memory_bytes`.
                body.shrink_to_fit();
                Bytes::from(body)
            }
        };
        header.check_count_fits(body.len())?;

        let mut positions = Vec::with_capacity(header.record_count as usize);
        let mut record_bytes_max = 0;
        let mut keyed = false;
        let mut at = 0;
        let mut next_delta = 0;
        for index in 0..header.record_count {
            let fault = |fault| BatchError::Record { index, position: at, fault };
            let layout = Layout::read(&body, at).map_err(fault)?;
            let payload_bytes = layout.check(&body, next_delta..header.offset_count).map_err(fault)?;
            next_delta = layout.offset_delta as u32 + 1;
            positions.push(at as u32);
            keyed |= layout.key.is_some();
            record_bytes_max = record_bytes_max.max(payload_bytes as u32);
            at = layout.end;
        }
        if at != body.len() {
            return Err(BatchError::TrailingBytes { position: at, bytes: body.len() - at });
        }
        Ok(Records { header, body, positions, record_bytes_max, keyed })
    }

    /// The header of the batch.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether compaction took out all of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Offset of the record at `index`, or where it would be beyond the last.
    #[must_use]
    pub fn offset(&self, index: usize) -> Offset {
        let delta = match self.header.is_sparse() {
            true => self.layout(index).map_or(self.header.offset_count, |layout| layout.offset_delta as u32),
            false => index as u32,
        };
        self.header.base_offset.plus(delta.into())
    }

    /// The record at `index` as it is encoded, its length before it.
    pub(super) fn raw(&self, index: usize) -> &[u8] {
        let from = self.positions[index] as usize;
        let to = self.positions.get(index + 1).map_or(self.body.len(), |next| *next as usize);
        &self.body[from..to]
    }

    /// The record at `index`, `None` beyond the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Record> {
        let layout = self.layout(index)?;
        let mut headers = Vec::with_capacity(layout.header_count);
        let mut cursor = layout.headers(&self.body);
        for _ in 0..layout.header_count {
            let name = cursor.field().expect(CHECKED);
            let value = cursor.nullable_field().expect(CHECKED);
            headers.push((self.body.slice(name), value.map(|value| self.body.slice(value))));
        }
        Some(Record {
            offset_delta: layout.offset_delta as u32,
            timestamp_ms: self.timestamp(&layout),
            key: layout.key.map(|key| self.body.slice(key)),
            value: layout.value.map(|value| self.body.slice(value)),
            headers,
        })
    }

    /// The record at an offset, if it is there.
    #[must_use]
    pub fn at(&self, offset: Offset) -> Option<Record> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.offset(middle) < offset { low = middle + 1 } else { high = middle }
        }
        self.get(low).filter(|_| self.offset(low) == offset)
    }

    /// The key of the record at `index`, without reading its headers; `None` if it is null or there is no such
    /// record.
    #[must_use]
    pub fn key(&self, index: usize) -> Option<Bytes> {
        self.layout(index)?.key.map(|key| self.body.slice(key))
    }

    /// The value of the record at `index`, without reading its headers; `None` if it is null or there is no
    /// such record.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<Bytes> {
        self.layout(index)?.value.map(|value| self.body.slice(value))
    }

    /// The timestamp of the record at `index`, `None` beyond the last.
    #[must_use]
    pub fn timestamp_ms(&self, index: usize) -> Option<i64> {
        self.layout(index).map(|layout| self.timestamp(&layout))
    }

    /// All records in order.
    #[must_use]
    pub fn iter(&self) -> RecordsIter<'_> {
        RecordsIter { records: self, indexes: 0..self.len() }
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

    /// What this holds in memory, for a cache that is bounded in bytes. Counts the unpacked records also if
    /// they are a slice of the batch.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Records>() + self.body.len() + self.positions.capacity() * size_of::<u32>()
    }

    fn layout(&self, index: usize) -> Option<Layout> {
        let position = *self.positions.get(index)?;
        Some(Layout::read(&self.body, position as usize).expect(CHECKED))
    }

    fn timestamp(&self, layout: &Layout) -> i64 {
        if self.header.append_time {
            self.header.max_timestamp_ms
        } else {
            self.header.base_timestamp_ms.wrapping_add(layout.timestamp_delta)
        }
    }
}

const CHECKED: &str = "every record was checked when the batch was decoded";

impl<'a> IntoIterator for &'a Records {
    type Item = Record;
    type IntoIter = RecordsIter<'a>;

    fn into_iter(self) -> RecordsIter<'a> {
        self.iter()
    }
}

/// The records of a batch in order; see [`Records::iter`].
#[derive(Clone, Debug)]
pub struct RecordsIter<'a> {
    records: &'a Records,
    indexes: Range<usize>,
}

impl Iterator for RecordsIter<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.records.get(self.indexes.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.indexes.size_hint()
    }
}

impl DoubleEndedIterator for RecordsIter<'_> {
    fn next_back(&mut self) -> Option<Record> {
        self.records.get(self.indexes.next_back()?)
    }
}

impl ExactSizeIterator for RecordsIter<'_> {}

/// Where the parts of a record lie in the unpacked records.
struct Layout {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    header_count: usize,
    headers_at: usize,
    end: usize,
}

impl Layout {
    /// Reads the record that starts at `at`, up to its headers.
    fn read(body: &[u8], at: usize) -> Result<Layout, RecordFault> {
        let record = Cursor { bytes: body, at }.field()?;
        let mut cursor = Cursor { bytes: &body[..record.end], at: record.start };
        cursor.skip(1)?; // attributes: unused in format v2
        Ok(Layout {
            timestamp_delta: cursor.varlong()?,
            offset_delta: cursor.varint()?,
            key: cursor.nullable_field()?,
            value: cursor.nullable_field()?,
            header_count: cursor.length()?,
            headers_at: cursor.at,
            end: record.end,
        })
    }

    /// A cursor over the headers, which ends with the record.
    fn headers<'a>(&self, body: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes: &body[..self.end], at: self.headers_at }
    }

    /// Reads the rest of the record and checks that it ends where it says, and has one of these offsets: the next one
    /// where there are no more records than offsets. Returns the size of key, value and headers.
    fn check(&self, body: &[u8], deltas: Range<u32>) -> Result<usize, RecordFault> {
        if !deltas.contains(&(self.offset_delta as u32)) {
            return Err(RecordFault::OffsetDelta(self.offset_delta));
        }
        let payload_bytes = |field: &Option<Range<usize>>| field.as_ref().map_or(0, Range::len);
        let mut payload = payload_bytes(&self.key) + payload_bytes(&self.value);
        let mut cursor = self.headers(body);
        for _ in 0..self.header_count {
            payload += cursor.field()?.len();
            payload += payload_bytes(&cursor.nullable_field()?);
        }
        match self.end - cursor.at {
            0 => Ok(payload),
            excess => Err(RecordFault::TrailingBytes(excess)),
        }
    }
}
