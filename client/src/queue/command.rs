//! What is asked of the settler.

use std::time::Duration;

use dure_proto::Receipt;
use dure_proto::wire::{SettleAction, SettleItem};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::oneshot::Settled;
use crate::error::Result;

/// Who wants to know what became of it.
pub(super) type Waiter = oneshot::Sender<Result<Settled>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The handler has the job. Nobody waits; lost with the connection, it is said again.
    Start,
    /// Keeps a held job leased. Nobody waits; pointless once the job is being settled.
    Renew,
    /// The consumer wants the lease to run longer.
    Extend,
    /// Acknowledged, released or rejected: the job is not held afterwards.
    Settle,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) purpose: Purpose,
    pub(super) receipt: Receipt,
    pub(super) item: SettleItem,
    pub(super) waiter: Option<Waiter>,
    /// An attempt was written and not answered.
    pub(super) doubt: bool,
    /// Set where the lease is to run from then on, or later.
    pub(super) asked: Option<Instant>,
}

impl Command {
    fn new(purpose: Purpose, receipt: Receipt, item: SettleItem, waiter: Option<Waiter>) -> Command {
        let asked = matches!(purpose, Purpose::Renew | Purpose::Extend).then(Instant::now);
        Command { purpose, receipt, item, waiter, doubt: false, asked }
    }

    pub(super) fn start(receipt: Receipt) -> Command {
        Command::new(Purpose::Start, receipt, item(&receipt, SettleAction::SettleStart), None)
    }

    /// Back into the queue at once.
    pub(super) fn give_back(receipt: Receipt) -> Command {
        let item = SettleItem { delay_ms: Some(0), ..item(&receipt, SettleAction::SettleRelease) };
        Command::new(Purpose::Settle, receipt, item, None)
    }

    pub(super) fn renew(receipt: Receipt, lease: Duration) -> Command {
        let item = extension(&receipt, lease);
        Command::new(Purpose::Renew, receipt, item, None)
    }

    pub(super) fn extend(receipt: Receipt, lease: Duration, waiter: Waiter) -> Command {
        Command::new(Purpose::Extend, receipt, extension(&receipt, lease), Some(waiter))
    }

    pub(super) fn settle(receipt: Receipt, item: SettleItem, waiter: Option<Waiter>) -> Command {
        Command::new(Purpose::Settle, receipt, item, waiter)
    }

    pub(super) fn answer(self, outcome: Result<Settled>) {
        // Whoever asked may have gone away.
        let _ = self.waiter.map(|waiter| waiter.send(outcome));
    }
}

/// The item of a receipt, without what only some actions need.
pub(super) fn item(receipt: &Receipt, action: SettleAction) -> SettleItem {
    SettleItem {
        action: action.into(),
        partition: receipt.partition.0,
        offset: receipt.offset.0,
        epoch: receipt.token.epoch.0,
        counter: receipt.token.counter,
        delay_ms: None,
        lease_ms: None,
        reason: String::new(),
    }
}

fn extension(receipt: &Receipt, lease: Duration) -> SettleItem {
    SettleItem { lease_ms: Some(whole_ms(lease)), ..item(receipt, SettleAction::SettleExtend) }
}

/// Milliseconds, rounded up, so that a short time never becomes none.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
