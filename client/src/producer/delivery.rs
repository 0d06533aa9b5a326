//! The future of one message's acknowledgement. Those of one batch share one allocation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::message::Ack;

/// What became of a batch.
#[derive(Clone, Debug)]
pub(super) struct Appended {
    /// `None`: it waits.
    pub(super) base_offset: Option<u64>,
    /// Of one that waits, when it is due.
    pub(super) append_time_ms: u64,
}

pub(super) type Outcome = Shared<oneshot::Receiver<Result<Appended>>>;

/// Resolves to the acknowledgement of one enqueued message. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "the message is sent all the same, but whether it arrived is only known here"]
pub struct Delivery {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// Position within the batch.
    pub(super) index: u32,
    pub(super) outcome: Outcome,
}

impl Future for Delivery {
    type Output = Result<Ack>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.outcome.poll_unpin(context).map(|received| {
            let Appended { base_offset, append_time_ms } = received.unwrap_or_else(|_| Err(abandoned()))?;
            let offset = base_offset.map(|base_offset| base_offset + u64::from(self.index));
            Ok(Ack { topic: Arc::clone(&self.topic), partition: self.partition, offset, append_time_ms })
        })
    }
}

/// The sender ended without an answer: the runtime is shutting down.
pub(super) fn abandoned() -> Error {
    Error::unknown("the producer's task was stopped")
}
