//! Filters by header: what of a log's entries a reader wants, and what stands in the place of the rest.
//!
//! The entries that go out follow each other without a gap, as those of a log do: a batch of which some records match keeps
//! its offsets with fewer records, as compaction leaves it, and batches of which none does become one without records. So
//! a reader's position passes what was filtered out, and needs to know no more than a reader of a compacted topic.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use dure_engine::RequestError;
use dure_proto::wire::HeaderFilter;
use dure_proto::{
    BATCH_BYTES_MAX, BatchHeader, BatchLimits, ENTRY_HEADER_BYTES, EntryHeader, Offset, Record, Records,
    TopicPartition, empty_batch, split_entries,
};
use tokio::task::spawn_blocking;

use super::cache::CachedBatch;
use super::{DECODE_INLINE_BYTES_MAX, RecordReader};

/// Filters of one reader.
const FILTERS_MAX: usize = 16;
/// Name and value of one filter.
const FILTER_BYTES_MAX: usize = 4 << 10;
/// Offsets that one batch without records takes, unless a batch of the log took more.
const PASSED_OFFSETS_MAX: u64 = 1 << 30;
/// Chunks that are unpacked on threads of their own at the same time, whoever reads them. One batch of each is in memory.
pub(super) const UNPACKED_AT_ONCE: usize = 4;

/// What a record must have to be sent: every one of these headers.
#[derive(Debug)]
pub(crate) struct HeaderFilters(Vec<HeaderFilter>);

impl HeaderFilters {
    /// `None` if there are none.
    ///
    /// # Errors
    /// If they are more, or larger, than a record is compared with.
    pub(crate) fn new(filters: &[HeaderFilter]) -> Result<Option<Arc<HeaderFilters>>, RequestError> {
        if filters.len() > FILTERS_MAX {
            let text = format!("{} filters are more than the {FILTERS_MAX} of one reader", filters.len());
            return Err(RequestError::Invalid(text));
        }
        for filter in filters {
            let bytes = filter.name.len() + filter.value.len();
            if filter.name.is_empty() || bytes > FILTER_BYTES_MAX {
                let text =
                    format!("a filter has a name, and {FILTER_BYTES_MAX} bytes at most: one has {bytes}");
                return Err(RequestError::Invalid(text));
            }
        }
        Ok((!filters.is_empty()).then(|| Arc::new(HeaderFilters(filters.to_vec()))))
    }

    fn match_record(&self, record: &Record) -> bool {
        let has = |filter: &HeaderFilter| {
            record.headers.iter().any(|(name, value)| {
                name == filter.name.as_bytes() && value.as_deref() == Some(&*filter.value)
            })
        };
        self.0.iter().all(has)
    }
}

/// Offsets one after the other of which no record is sent, with what an entry in their place says beside them.
#[derive(Clone, Copy, Debug)]
struct Passed {
    from: Offset,
    to: Offset,
    append_time_ms: u64,
    epoch: u32,
}

impl Passed {
    fn entry(self) -> Bytes {
        let offsets = self.to.since(self.from) as u32; // of one batch, or fewer than PASSED_OFFSETS_MAX
        entry(&empty_batch(self.from, offsets, self.epoch), self.append_time_ms, self.epoch)
    }
}

/// What a reader's chunks of entries become, one after the other.
#[derive(Debug)]
pub(crate) struct Sieve {
    filters: Arc<HeaderFilters>,
    partition: TopicPartition,
    /// Filtered out, and the reader does not know it yet.
    passed: Option<Passed>,
    passed_bytes: usize,
    ready: Vec<Bytes>,
}

impl Sieve {
    pub(crate) fn new(filters: Arc<HeaderFilters>, partition: TopicPartition) -> Sieve {
        Sieve { filters, partition, passed: None, passed_bytes: 0, ready: Vec::new() }
    }

    /// The entries that are to be sent by now, in parts.
    pub(crate) fn take_ready(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.ready)
    }

    /// How many bytes were filtered out since the reader last heard of any.
    pub(crate) fn passed_bytes(&self) -> usize {
        self.passed_bytes
    }

    /// What was filtered out so far is to be known to the reader.
    pub(crate) fn tell_passed(&mut self) {
        self.passed_bytes = 0;
        self.ready.extend(self.passed.take().map(Passed::entry));
    }

    fn keep(&mut self, entry: Bytes) {
        self.tell_passed();
        self.ready.push(entry);
    }

    fn pass(&mut self, header: &EntryHeader) {
        let joined = self.passed.filter(|passed| {
            passed.to == header.base_offset && header.end_offset().since(passed.from) < PASSED_OFFSETS_MAX
        });
        if joined.is_none() {
            self.tell_passed();
        }
        let from = joined.map_or(header.base_offset, |passed| passed.from);
        let EntryHeader { append_time_ms, epoch, .. } = *header;
        self.passed = Some(Passed { from, to: header.end_offset(), append_time_ms, epoch });
        self.passed_bytes += header.entry_bytes();
    }

    /// One entry: all of it, some of it, or nothing.
    fn sift(&mut self, reader: &RecordReader, header: &EntryHeader, batch: Bytes, whole: Bytes, last: bool) {
        let Ok(decoded) = reader.decoded(self.partition, header, batch, last) else {
            // The reader finds out what it is.
            return self.keep(whole);
        };
        let records = &decoded.records;
        let wanted: Vec<bool> = records.iter().map(|record| self.filters.match_record(&record)).collect();
        if !wanted.contains(&true) {
            return self.pass(header);
        }
        if !wanted.contains(&false) {
            return self.keep(whole);
        }
        let less = records.retain(|index| wanted[index]);
        // Packed worse than it was, what is left might not fit; the client drops what does not match.
        let fits = less.len() <= BATCH_BYTES_MAX;
        self.keep(if fits { entry(&less, header.append_time_ms, header.epoch) } else { whole });
    }
}

fn entry(batch: &[u8], append_time_ms: u64, epoch: u32) -> Bytes {
    let header = BatchHeader::parse_stored(batch).expect("just made");
    let header = EntryHeader::for_batch(&header, header.base_offset, append_time_ms, epoch);
    let mut entry = BytesMut::with_capacity(ENTRY_HEADER_BYTES + batch.len());
    entry.put_slice(&header.encode());
    entry.put_slice(batch);
    entry.freeze()
}

impl RecordReader {
    /// Puts a chunk of entries through a sieve, off the thread if it is large. `at_end`: nothing is behind it yet; what
    /// is unpacked there stays for others, a look through old messages leaves the cache to those who work at the end.
    pub(crate) async fn sieve(self: &Arc<Self>, mut sieve: Sieve, entries: Bytes, at_end: bool) -> Sieve {
        if entries.len() <= DECODE_INLINE_BYTES_MAX {
            self.sift_all(&mut sieve, entries, at_end);
            return sieve;
        }
        let _one = self.unpacking.acquire().await.expect("never closed");
        let reader = Arc::clone(self);
        let sifted = spawn_blocking(move || {
            reader.sift_all(&mut sieve, entries, at_end);
            sieve
        });
        sifted.await.expect("unpacking does not panic")
    }

    fn sift_all(&self, sieve: &mut Sieve, entries: Bytes, at_end: bool) {
        let mut rest = entries.clone();
        for split in split_entries(entries) {
            let Ok((header, batch)) = split else {
                // Reading has verified it; if it is wrong all the same, the client says so.
                return sieve.keep(rest);
            };
            let whole = rest.split_to(header.entry_bytes());
            sieve.sift(self, &header, batch, whole, at_end);
        }
    }

    /// A batch as it lies in the log now, from the cache if it is there.
    fn decoded(
        &self,
        partition: TopicPartition,
        header: &EntryHeader,
        batch: Bytes,
        keep: bool,
    ) -> Result<Arc<CachedBatch>, dure_proto::BatchError> {
        let cached = self.cache.get(partition, header.base_offset);
        // Compaction may have put another in its place since.
        let same = |cached: &Arc<CachedBatch>| {
            cached.base == header.base_offset && cached.records.header().checksum == header.batch_checksum
        };
        if let Some(cached) = cached.filter(same) {
            return Ok(cached);
        }
        let records = Records::decode(&batch, &BatchLimits::stored())?;
        let EntryHeader { base_offset, append_time_ms, .. } = *header;
        let decoded = Arc::new(CachedBatch { base: base_offset, append_time_ms, records });
        if keep {
            self.cache.insert(partition, Arc::clone(&decoded));
        }
        Ok(decoded)
    }
}
