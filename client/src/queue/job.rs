//! A job in the hands of its handler.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::{SettleAction, SettleItem};
use dure_proto::{Receipt, wire};
use tokio::sync::oneshot;

use super::Handle;
use super::command::{Command, item, whole_ms};
use super::received::ReceivedJob;
use crate::error::{Error, Result};
use crate::message::Header;

/// The protocol's limit; what is longer is cut.
const REASON_BYTES_MAX: usize = 1024;

/// A leased message. Its lease is renewed in the background for as long as it is held, on a thread of its own: a handler
/// may take its time, and may block its thread.
///
/// Dropping it puts it back into the queue at once; the attempt counts.
#[derive(Debug)]
pub struct Job {
    received: ReceivedJob,
    handle: Arc<Handle>,
    settled: bool,
}

impl Job {
    pub(super) fn new(received: ReceivedJob, handle: Arc<Handle>) -> Job {
        Job { received, handle, settled: false }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.received.topic
    }

    /// The partition within it.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.received.partition
    }

    /// The message's offset in the partition.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.received.offset
    }

    /// When the broker appended it, in milliseconds since the epoch.
    #[must_use]
    pub fn timestamp_ms(&self) -> u64 {
        self.received.timestamp_ms
    }

    /// The key, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.received.key.as_deref()
    }

    /// The body; empty for a tombstone, see [`value_bytes`](Self::value_bytes).
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.received.value.as_deref().unwrap_or_default()
    }

    /// The body without copying it; `None` for a tombstone.
    #[must_use]
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.received.value.clone()
    }

    /// The headers in the order given.
    #[must_use]
    pub fn headers(&self) -> &[Header] {
        &self.received.headers
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.received.attempt
    }

    /// What settles it, from any process.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.received.receipt
    }

    /// All of it as data.
    #[must_use]
    pub fn message(&self) -> &ReceivedJob {
        &self.received
    }

    /// False once the broker has said that the lease is lost: another worker has, or will have, the message.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.handle.core.held.contains(&self.received.receipt)
    }

    /// Done: the message never comes back. Durable when this returns.
    ///
    /// # Errors
    /// [`Error::Broker`] with `STALE_LEASE` if the message was leased anew since; [`Error::OutcomeUnknown`] or
    /// [`Error::Disconnected`] if the broker could not be asked in time: the message may come back.
    pub async fn ack(self) -> Result<()> {
        let item = item(&self.received.receipt, SettleAction::SettleAck);
        self.settle(item).await
    }

    /// Done, and so is everything before it in its partition: what this worker holds, what others hold, and what nobody
    /// was given yet. Durable when this returns.
    ///
    /// # Errors
    /// As [`ack`](Self::ack); nothing is acknowledged then.
    pub async fn ack_up_to(self) -> Result<()> {
        let (partition, offset) = (self.received.receipt.partition, self.received.receipt.offset);
        let (item, handle) =
            (item(&self.received.receipt, SettleAction::SettleAckUpTo), Arc::clone(&self.handle));
        self.settle(item).await?;
        handle.core.held.forget_up_to(partition, offset);
        Ok(())
    }

    /// Back into the queue, to be tried again after the group's backoff.
    ///
    /// # Errors
    /// As [`ack`](Self::ack), and `ALREADY_SETTLED`.
    pub async fn release(self) -> Result<()> {
        let item = item(&self.received.receipt, SettleAction::SettleRelease);
        self.settle(item).await
    }

    /// Back into the queue, to be tried again after `delay`.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn release_after(self, delay: Duration) -> Result<()> {
        let item = item(&self.received.receipt, SettleAction::SettleRelease);
        self.settle(SettleItem { delay_ms: Some(whole_ms(delay)), ..item }).await
    }

    /// Back into the queue after `delay`, or the group's backoff without one, and why. If that was the last attempt, the
    /// reason is kept with the dead letter, up to 1 KiB of it.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn release_because(self, reason: impl Into<String>, delay: Option<Duration>) -> Result<()> {
        let item = item(&self.received.receipt, SettleAction::SettleRelease);
        self.settle(SettleItem { delay_ms: delay.map(whole_ms), reason: cut(reason.into()), ..item }).await
    }

    /// Straight to the dead letters: trying again cannot help. The reason is kept, up to 1 KiB of it.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn reject(self, reason: impl Into<String>) -> Result<()> {
        let item = item(&self.received.receipt, SettleAction::SettleReject);
        self.settle(SettleItem { reason: cut(reason.into()), ..item }).await
    }

    /// Makes the lease run `lease` from now on, and be renewed to that. Not needed to keep the job.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn extend(&self, lease: Duration) -> Result<()> {
        let (waiter, outcome) = oneshot::channel();
        let _ = self.handle.commands.send(Command::extend(self.received.receipt, lease, waiter));
        outcome.await.unwrap_or_else(|_| Err(abandoned())).map(drop)
    }

    async fn settle(mut self, item: wire::SettleItem) -> Result<()> {
        let (waiter, outcome) = oneshot::channel();
        self.hand_in(item, Some(waiter));
        outcome.await.unwrap_or_else(|_| Err(abandoned())).map(drop)
    }

    fn hand_in(&mut self, item: wire::SettleItem, waiter: Option<super::command::Waiter>) {
        self.settled = true;
        let receipt = self.received.receipt;
        self.handle.core.held.settling(&receipt);
        let _ = self.handle.commands.send(Command::settle(receipt, item, waiter));
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.settled {
            let item = item(&self.received.receipt, SettleAction::SettleRelease);
            self.hand_in(SettleItem { delay_ms: Some(0), ..item }, None);
        }
    }
}

/// The settler is gone: the runtime is shutting down.
fn abandoned() -> Error {
    Error::unknown("the task that settles was stopped")
}

pub(super) fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}
