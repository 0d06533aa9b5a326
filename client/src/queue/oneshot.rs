//! Leasing and settling without a subscription: for tools, and for whoever settles from another process.

use std::sync::Arc;
use std::time::Duration;

use dure_proto::wire::{self, ErrorCode, SettleAction, SettleItem, envelope::Body};
use dure_proto::{LeaseToken, Offset, PartitionId, Receipt};

use super::command::{item, whole_ms};
use super::job::cut;
use super::received::ReceivedJob;
use crate::client::{Client, Retries, unexpected};
use crate::error::{Error, Result, Retry};

/// Items per request: with a reason of 1 KiB each they stay below what a request may have.
const ITEMS_MAX: usize = 700;

/// What to do with a leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is done and never comes back.
    Ack,
    /// It is done, and so is everything before it in its partition, whoever holds it.
    AckUpTo,
    /// Back into the queue after this delay, or after the group's backoff.
    Release {
        /// `None`: the group's backoff.
        delay: Option<Duration>,
        /// Kept with the dead letter if that was its last attempt, up to 1 KiB of it.
        reason: String,
    },
    /// Straight to the dead letters.
    Reject {
        /// Kept with the dead letter, up to 1 KiB of it.
        reason: String,
    },
    /// The lease runs this long from now.
    Extend {
        /// How long; `None`: as long as the group's leases do.
        lease: Option<Duration>,
    },
}

/// It was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// It had been settled before; nothing changed.
    pub already_settled: bool,
}

impl Client {
    /// Leases up to `count` messages of a queue group and starts their attempts. Returns as soon as there is
    /// one, or none after `wait`. The group is created with the defaults if there is none. `lease` is the
    /// group's unless given.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the answer was lost: what was leased comes back when its lease runs out.
    pub async fn receive(
        &self,
        topic: &str,
        group: &str,
        count: u32,
        wait: Duration,
        lease: Option<Duration>,
    ) -> Result<Vec<ReceivedJob>> {
        let body = Body::Receive(wire::Receive {
            topic: topic.to_owned(),
            group: group.to_owned(),
            count,
            wait_ms: whole_ms(wait),
            lease_ms: lease.map(whole_ms),
        });
        let reply = self.call_by(self.deadline() + wait, body, Retries::Once).await?;
        let jobs = match reply.body {
            Body::Jobs(wire::Jobs { jobs, .. }) => jobs,
            other => return Err(unexpected("Receive", &other)),
        };
        let (topic, mut bytes) = (Arc::<str>::from(topic), reply.attachment);
        jobs.iter().map(|job| ReceivedJob::unpack(&topic, job, &mut bytes)).collect()
    }

    /// Settles leased messages by their receipts, each on its own: some may fail and the others stand.
    ///
    /// # Errors
    /// If nothing is known about any of them: the connection or the group.
    pub async fn settle(
        &self,
        topic: &str,
        group: &str,
        items: Vec<(Receipt, Action)>,
    ) -> Result<Vec<Result<Settled>>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for items in items.chunks(ITEMS_MAX) {
            let once = |(_, action): &(Receipt, Action)| {
                matches!(action, Action::Release { .. } | Action::Reject { .. })
            };
            let retries = if items.iter().any(once) { Retries::Once } else { Retries::Repeatable };
            let body = Body::Settle(wire::Settle {
                topic: topic.to_owned(),
                group: group.to_owned(),
                items: items.iter().map(|(receipt, action)| action.item(receipt)).collect(),
            });
            let results = match self.call(body, retries).await?.body {
                Body::SettleReply(reply) => reply.results,
                other => return Err(unexpected("Settle", &other)),
            };
            if results.len() != items.len() {
                return Err(Error::protocol("the broker left out a result"));
            }
            outcomes.extend(results.into_iter().map(outcome));
        }
        Ok(outcomes)
    }

    /// Acknowledges every message of a partition up to and including `offset`: leased by whomever, waiting or never
    /// delivered. Dead letters stay. Durable when this returns; asking again does no harm.
    ///
    /// # Errors
    /// [`Error::Broker`] with `INVALID_REQUEST` if there is no such offset yet.
    pub async fn ack_up_to(&self, topic: &str, group: &str, partition: u32, offset: u64) -> Result<Settled> {
        let (partition, offset) = (PartitionId(partition), Offset(offset));
        let nobody = Receipt { partition, offset, token: LeaseToken::NONE };
        let mut outcomes = self.settle(topic, group, vec![(nobody, Action::AckUpTo)]).await?;
        outcomes.pop().unwrap_or_else(|| Err(Error::protocol("the broker left out a result")))
    }
}

fn outcome(result: wire::SettleResult) -> Result<Settled> {
    match result.error() {
        ErrorCode::ErrorUnspecified => Ok(Settled { already_settled: result.already_settled }),
        code => {
            let passing = matches!(code, ErrorCode::Busy | ErrorCode::ShuttingDown);
            let retry = if passing { Retry::Later } else { Retry::Never };
            Err(Error::Broker { code, message: result.message, retry })
        }
    }
}

impl Action {
    fn item(&self, receipt: &Receipt) -> SettleItem {
        match self {
            Action::Ack => item(receipt, SettleAction::SettleAck),
            Action::AckUpTo => item(receipt, SettleAction::SettleAckUpTo),
            Action::Release { delay, reason } => SettleItem {
                delay_ms: delay.map(whole_ms),
                reason: cut(reason.clone()),
                ..item(receipt, SettleAction::SettleRelease)
            },
            Action::Reject { reason } => {
                SettleItem { reason: cut(reason.clone()), ..item(receipt, SettleAction::SettleReject) }
            }
            Action::Extend { lease } => {
                SettleItem { lease_ms: lease.map(whole_ms), ..item(receipt, SettleAction::SettleExtend) }
            }
        }
    }
}
