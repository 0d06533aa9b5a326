//! The future of one message's acknowledgement. Those of one batch share one allocation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dure_proto::wire;
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
    /// What of it was not appended, if anything.
    pub(super) duplicates: Option<Arc<Duplicates>>,
}

/// The records of a batch that are duplicates of others.
#[derive(Debug)]
pub(super) struct Duplicates {
    /// Each with the number of duplicates before it; ascending, and none overlaps the next.
    runs: Vec<(u32, wire::Duplicates)>,
}

impl Duplicates {
    /// `None`: there are none.
    pub(super) fn new(runs: Vec<wire::Duplicates>) -> Option<Arc<Duplicates>> {
        let mut before = 0u32;
        let runs = runs.into_iter().map(|run| {
            let numbered = (before, run);
            before = before.saturating_add(run.count);
            numbered
        });
        let runs: Vec<_> = runs.collect();
        (!runs.is_empty()).then(|| Arc::new(Duplicates { runs }))
    }

    /// How many there are before the record at `index`, or where the first message with that record's id is.
    fn at(&self, index: u32) -> Result<u32, (u32, Option<u64>)> {
        let behind = self.runs.partition_point(|(_, run)| run.index <= index);
        let Some((before, run)) = behind.checked_sub(1).map(|at| &self.runs[at]) else { return Ok(0) };
        match index - run.index {
            nth if nth < run.count => Err((run.partition, run.offset.map(|offset| offset + u64::from(nth)))),
            _ => Ok(before.saturating_add(run.count)),
        }
    }
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
            let Appended { base_offset, append_time_ms, duplicates } =
                received.unwrap_or_else(|_| Err(abandoned()))?;
            let topic = Arc::clone(&self.topic);
            let (partition, offset, duplicate) = match duplicates.map_or(Ok(0), |of| of.at(self.index)) {
                Ok(before) => {
                    let nth = u64::from(self.index.saturating_sub(before));
                    (self.partition, base_offset.map(|base_offset| base_offset + nth), false)
                }
                Err((partition, offset)) => (partition, offset, true),
            };
            Ok(Ack { topic, partition, offset, append_time_ms, duplicate })
        })
    }
}

/// The sender ended without an answer: the runtime is shutting down.
pub(super) fn abandoned() -> Error {
    Error::unknown("the producer's task was stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_between_duplicates_have_contiguous_offsets() {
        let run = |index, count, offset| wire::Duplicates { index, count, partition: 3, offset };
        let duplicates = Duplicates::new(vec![run(1, 2, Some(70)), run(4, 1, None)]).expect("some");
        let found: Vec<_> = (0..7).map(|index| duplicates.at(index)).collect();
        let first = |offset| Err((3, offset));
        assert_eq!(found, [Ok(0), first(Some(70)), first(Some(71)), Ok(2), first(None), Ok(3), Ok(3)]);
        assert!(Duplicates::new(Vec::new()).is_none());
    }
}
