//! Leased messages as they come: a list of lengths, and the bytes in one piece.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, Receipt, wire};

use crate::error::{Error, Result};
use crate::message::Header;

/// A leased message. Serializes as in `dure receive -o json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedJob {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition within it.
    pub partition: u32,
    /// The message's offset in the partition.
    pub offset: u64,
    /// When the broker appended it, in milliseconds since the epoch.
    pub timestamp_ms: u64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The body; absent in a tombstone.
    pub value: Option<Bytes>,
    /// The headers in the order given.
    pub headers: Vec<Header>,
    /// What settles it.
    pub receipt: Receipt,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How long the lease runs.
    pub lease: Duration,
    /// When the lease runs out by the broker's clock, in milliseconds since the epoch.
    pub lease_deadline_ms: u64,
}

/// Key, value and headers.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

/// Takes from `bytes` what one job's lengths say.
pub(crate) fn unpack(job: &wire::Job, bytes: &mut Bytes) -> Result<Parts> {
    let mut take = |length: Option<u32>| -> Result<Option<Bytes>> {
        let Some(length) = length else { return Ok(None) };
        let length = length as usize;
        if length > bytes.len() {
            let have = bytes.len();
            return Err(Error::protocol(format!("a job of {length} bytes came with only {have} left")));
        }
        Ok(Some(bytes.split_to(length)))
    };
    let key = take(job.key_bytes)?;
    let value = take(job.value_bytes)?;
    let mut headers = Vec::with_capacity(job.headers.len());
    for header in &job.headers {
        let name = take(Some(header.name_bytes))?.unwrap_or_default();
        headers.push((name, take(header.value_bytes)?));
    }
    Ok(Parts { key, value, headers })
}

impl ReceivedJob {
    pub(super) fn unpack(topic: &Arc<str>, job: &wire::Job, bytes: &mut Bytes) -> Result<ReceivedJob> {
        let Parts { key, value, headers } = unpack(job, bytes)?;
        let token = LeaseToken { epoch: Epoch(job.epoch), counter: job.counter };
        Ok(ReceivedJob {
            topic: Arc::clone(topic),
            partition: job.partition,
            offset: job.offset,
            timestamp_ms: job.append_time_ms,
            key,
            value,
            headers,
            receipt: Receipt { partition: PartitionId(job.partition), offset: Offset(job.offset), token },
            attempt: job.attempt,
            lease: Duration::from_millis(job.lease_ms),
            lease_deadline_ms: job.lease_deadline_ms,
        })
    }
}
