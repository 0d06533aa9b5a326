//! Single records out of published logs: what queue groups, dead letters and HTTP look at.

mod attachment;
mod cache;
mod filter;
mod table;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_engine::{Cursor, LogView, ReadError, ReadOutcome, Wait};
use dure_proto::{BatchLimits, EntryHeader, Offset, Record, Records, TopicPartition, split_entries};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub(crate) use attachment::{Attachment, record_bytes};
use cache::{BatchCache, CachedBatch};
pub(crate) use filter::{HeaderFilters, Sieve};

use crate::runtime::Shards;

/// What is read at once; whole batches around the record that is wanted, since its neighbours follow.
const READ_BYTES: usize = 64 << 10;
/// Larger batches are unpacked on a thread that may be held up.
const DECODE_INLINE_BYTES_MAX: usize = 32 << 10;
/// A record that was leased is published already or within this commit; this only keeps a fault from hanging others.
const PUBLISH_WAIT: Duration = Duration::from_secs(30);

/// A record and what the broker knows of it.
#[derive(Clone, Debug)]
pub(crate) struct StoredRecord {
    pub(crate) record: Record,
    pub(crate) append_time_ms: u64,
}

impl StoredRecord {
    /// Of a record in a dead-letter log: the time at which its source took it in, which it carries as its own.
    pub(crate) fn of_letter(self) -> StoredRecord {
        StoredRecord { append_time_ms: u64::try_from(self.record.timestamp_ms).unwrap_or_default(), ..self }
    }

    /// As it is kept in a dead-letter log.
    pub(crate) fn into_letter(self) -> Record {
        Record { timestamp_ms: i64::try_from(self.append_time_ms).unwrap_or(i64::MAX), ..self.record }
    }
}

/// Why a record cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// Its log was deleted, or starts behind it by now.
    #[error("message {offset} of {partition} is gone")]
    Gone { partition: TopicPartition, offset: Offset },
    /// Its bytes are damaged.
    #[error("message {offset} of {partition} is damaged on disk and cannot be read")]
    Corrupt { partition: TopicPartition, offset: Offset },
    /// Its batch, which ends at `end`, is whole but cannot be unpacked.
    #[error("message {offset} of {partition} cannot be decoded: {why}")]
    Undecodable { partition: TopicPartition, offset: Offset, end: Offset, why: String },
    /// The disk refused; the same read may succeed later.
    #[error("{why}")]
    Failed { why: String },
}

impl Unreadable {
    /// Whether the record is lost for good.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self, Unreadable::Failed { .. })
    }
}

/// Reads records through a bounded cache of decoded batches.
pub(crate) struct RecordReader {
    shards: Shards,
    cache: BatchCache,
    /// Bounds what readers with filters unpack at the same time.
    unpacking: Semaphore,
}

impl RecordReader {
    pub(crate) fn new(shards: Shards, cache_bytes_max: u64) -> RecordReader {
        RecordReader {
            shards,
            cache: BatchCache::new(usize::try_from(cache_bytes_max).unwrap_or(usize::MAX)),
            unpacking: Semaphore::new(filter::UNPACKED_AT_ONCE),
        }
    }

    /// The record at an offset, waiting until it is published.
    pub(crate) async fn read(
        &self,
        partition: TopicPartition,
        offset: Offset,
    ) -> Result<StoredRecord, Unreadable> {
        let view = self.published(partition, offset).await?;
        let batch = match self.cache.get(partition, offset) {
            Some(batch) => batch,
            None => self.load(view, offset).await?,
        };
        let record = batch.records.at(offset).ok_or(Unreadable::Corrupt { partition, offset })?;
        Ok(StoredRecord { record, append_time_ms: batch.append_time_ms })
    }

    async fn published(&self, partition: TopicPartition, offset: Offset) -> Result<LogView, Unreadable> {
        let gone = Unreadable::Gone { partition, offset };
        let mut views = self.shards.log(partition).ok_or(gone.clone())?;
        // Mostly it is there, and no timer is needed.
        let there = Some(views.borrow()).filter(|view| view.high_watermark > offset).map(|view| view.clone());
        if let Some(view) = there {
            return if offset < view.log_start { Err(gone) } else { Ok(view) };
        }
        let view = match timeout(PUBLISH_WAIT, views.wait_for(|view| view.high_watermark > offset)).await {
            Ok(Ok(view)) => view.clone(),
            Ok(Err(_)) => return Err(gone),
            Err(_) => {
                return Err(Unreadable::Failed { why: format!("{partition} never reached offset {offset}") });
            }
        };
        if offset < view.log_start { Err(gone) } else { Ok(view) }
    }

    /// Reads the batch of a record, and its neighbours while at it, into the cache.
    async fn load(&self, view: LogView, offset: Offset) -> Result<Arc<CachedBatch>, Unreadable> {
        let partition = view.partition;
        let cursor = self.cache.take_cursor(partition, offset).unwrap_or_else(|| Cursor::at(offset));
        let (entries, cursor) = read_entries(view, cursor).await?;
        let mut wanted = None;
        for entry in split_entries(entries) {
            let Ok((header, batch)) = entry else { break };
            let decoded = match decode(header, batch).await {
                Ok(decoded) => Arc::new(decoded),
                Err(why) if header.base_offset <= offset && offset < header.end_offset() => {
                    let end = header.end_offset();
                    return Err(Unreadable::Undecodable { partition, offset, end, why });
                }
                // A neighbour; it is judged when its turn comes.
                Err(_) => continue,
            };
            if decoded.holds(offset) {
                wanted = Some(decoded.clone());
            }
            self.cache.insert(partition, decoded);
        }
        self.cache.put_cursor(partition, cursor);
        wanted.ok_or(Unreadable::Corrupt { partition, offset })
    }
}

/// The entries from the cursor on: from memory if they are there, else on a thread that may wait.
async fn read_entries(view: LogView, cursor: Cursor) -> Result<(Bytes, Cursor), Unreadable> {
    let (partition, offset) = (view.partition, cursor.offset());
    let judge = |outcome: Result<ReadOutcome, ReadError>| match outcome {
        Ok(ReadOutcome::Entries(entries)) => Ok(Some(entries)),
        Ok(ReadOutcome::WouldWait) => Ok(None),
        Ok(ReadOutcome::Lost(_) | ReadOutcome::AtEnd) => Err(Unreadable::Corrupt { partition, offset }),
        Err(ReadError::OutOfRange { .. }) => Err(Unreadable::Gone { partition, offset }),
        Err(error) => Err(Unreadable::Failed { why: error.to_string() }),
    };
    let mut cached = cursor.clone();
    if let Some(entries) = judge(view.read(&mut cached, READ_BYTES, Wait::CachedOnly))? {
        return Ok((entries, cached));
    }
    let mut waiting = cursor;
    let read = spawn_blocking(move || {
        let outcome = view.read(&mut waiting, READ_BYTES, Wait::MayWait);
        (outcome, waiting)
    });
    let (outcome, cursor) = read.await.map_err(|e| Unreadable::Failed { why: e.to_string() })?;
    match judge(outcome)? {
        Some(entries) => Ok((entries, cursor)),
        None => Err(Unreadable::Failed {
            why: format!("reading {partition} at {offset} ended without an outcome"),
        }),
    }
}

async fn decode(header: EntryHeader, batch: Bytes) -> Result<CachedBatch, String> {
    let records = if batch.len() <= DECODE_INLINE_BYTES_MAX {
        Records::decode(&batch, &BatchLimits::stored())
    } else {
        let decode = spawn_blocking(move || Records::decode(&batch, &BatchLimits::stored()));
        decode.await.map_err(|e| e.to_string())?
    };
    let records = records.map_err(|e| e.to_string())?;
    Ok(CachedBatch { base: header.base_offset, append_time_ms: header.append_time_ms, records })
}
