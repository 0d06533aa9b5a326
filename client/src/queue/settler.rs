//! The task that sends what settles jobs: whatever was asked for while the last request was being written goes
//! into the next one.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use bytes::Bytes;
use dure_proto::Receipt;
use dure_proto::wire::{self, ErrorCode, envelope::Body};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::Core;
use super::command::{Command, Purpose};
use super::oneshot::Settled;
use super::receipt_hasher::ReceiptHasher;
use crate::backoff::Backoff;
use crate::client::unexpected;
use crate::connection::Submitted;
use crate::error::{Error, Result, Retry};

/// Requests that are not answered yet. More of them would make each smaller, fewer would make one wait.
const REQUESTS_IN_FLIGHT_MAX: usize = 4;
/// The protocol's limit of items, well within its limit of bytes unless many carry a reason.
const ITEMS_MAX: usize = 10_000;
const ITEM_BYTES: usize = 64;
const REQUEST_BYTES_MAX: usize = 768 << 10;

/// Runs until every sender is gone and all that was asked for is answered.
pub(super) async fn run(core: Arc<Core>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let mut taken = Vec::new();
    let mut open = true;
    let mut in_flight = FuturesUnordered::new();
    while open || !in_flight.is_empty() {
        tokio::select! {
            count = inbox.recv_many(&mut taken, ITEMS_MAX), if open && in_flight.len() < REQUESTS_IN_FLIGHT_MAX => {
                open = count > 0;
                while let Some(batch) = next_batch(&core, &mut taken) {
                    if batch.iter().all(|command| command.purpose == Purpose::Start) {
                        say_started(&core, &batch).await;
                        continue;
                    }
                    // Queued here, so that requests are written in the order in which they were asked for.
                    let deadline = core.client.deadline();
                    let submitted = submit(&core, &batch, deadline).await;
                    in_flight.push(settle(Arc::clone(&core), batch, submitted, deadline));
                }
            }
            Some(()) = in_flight.next() => {}
        }
    }
}

/// As many commands as fit into one request; renewals of what is being settled are left out.
fn next_batch(core: &Core, taken: &mut Vec<Command>) -> Option<Vec<Command>> {
    taken.retain(|command| command.purpose != Purpose::Renew || core.held.may_renew(&command.receipt));
    let mut bytes = 0;
    let fitting = taken.iter().take_while(|command| {
        bytes += ITEM_BYTES + command.item.reason.len();
        bytes <= REQUEST_BYTES_MAX
    });
    let count = fitting.count();
    let rest = taken.split_off(count);
    let mut batch = std::mem::replace(taken, rest);
    leave_out_starts_of_acked(&mut batch);
    (!batch.is_empty()).then_some(batch)
}

/// Whether a message that is acknowledged was started makes no difference to anybody: where both are asked for in one
/// request, which arrives as a whole or not at all, half of its items would say nothing.
fn leave_out_starts_of_acked(batch: &mut Vec<Command>) {
    let is_ack = |command: &&Command| command.item.action() == wire::SettleAction::SettleAck;
    let acked: HashSet<Receipt, BuildHasherDefault<ReceiptHasher>> =
        batch.iter().filter(is_ack).map(|command| command.receipt).collect();
    if !acked.is_empty() {
        batch.retain(|command| command.purpose != Purpose::Start || !acked.contains(&command.receipt));
    }
}

fn request(core: &Core, batch: &[Command]) -> Body {
    Body::Settle(wire::Settle {
        topic: core.topic.to_string(),
        group: core.group.to_string(),
        items: batch.iter().map(|command| command.item.clone()).collect(),
    })
}

/// One way. If there is no connection, the worker says it again once there is.
async fn say_started(core: &Core, batch: &[Command]) {
    if let Ok(connection) = core.client.work_connection_by(Instant::now()).await {
        connection.send(request(core, batch));
    }
}

async fn submit(core: &Core, batch: &[Command], deadline: Instant) -> Result<Submitted> {
    let connection = core.client.work_connection_by(deadline).await?;
    let submitted = timeout_at(deadline, connection.submit(request(core, batch), Bytes::new())).await;
    submitted.unwrap_or_else(|_| Err(Error::timeout("waiting for room on the connection")))
}

/// Sees a batch through: answers what is final, asks again for the rest until the deadline.
async fn settle(
    core: Arc<Core>,
    mut batch: Vec<Command>,
    mut submitted: Result<Submitted>,
    deadline: Instant,
) {
    let mut backoff = Backoff::later();
    loop {
        let outcome = match submitted {
            Ok(submitted) => match timeout_at(deadline, submitted.reply()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::unknown("no answer within the request timeout")),
            },
            Err(error) => Err(error),
        };
        let outcome = outcome.and_then(|reply| match reply.body {
            Body::SettleReply(reply) => Ok(reply),
            other => Err(unexpected("Settle", &other)),
        });
        let mut last = Error::timeout("settling");
        match outcome {
            Ok(reply) => {
                core.held.remove(over(&batch, &reply.results));
                let mut results = reply.results.into_iter();
                batch = batch
                    .into_iter()
                    .filter_map(|command| match results.next() {
                        Some(result) => take_in(&core, command, result),
                        None => {
                            give_up(&core, command, &Error::protocol("the broker left out a result"));
                            None
                        }
                    })
                    .collect();
            }
            Err(error) if error.is_worth_asking_again() => {
                for command in &mut batch {
                    command.doubt |= error.is_outcome_unknown();
                }
                last = error;
            }
            Err(error) => return batch.into_iter().for_each(|command| give_up(&core, command, &error)),
        }
        // A release that came through meanwhile must not be undone by what was asked for before it.
        batch.retain(|command| {
            !matches!(command.purpose, Purpose::Renew | Purpose::Start)
                || core.held.may_renew(&command.receipt)
        });
        if batch.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            return batch.into_iter().for_each(|command| give_up(&core, command, &last));
        }
        if !matches!(last, Error::Disconnected { .. } | Error::OutcomeUnknown { .. }) {
            sleep(backoff.next_delay()).await;
        }
        submitted = submit(&core, &batch, deadline).await;
    }
}

/// What is held no more, whatever came of it.
fn over<'a>(batch: &'a [Command], results: &'a [wire::SettleResult]) -> impl Iterator<Item = &'a Receipt> {
    let over = batch
        .iter()
        .zip(results)
        .filter(|(command, result)| command.purpose == Purpose::Settle && !is_put_off(result.error()));
    over.map(|(command, _)| &command.receipt)
}

/// The same can be asked again.
fn is_put_off(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Busy | ErrorCode::ShuttingDown)
}

/// Passes one item's result on. Returns the command if it is to be sent again.
fn take_in(core: &Core, command: Command, result: wire::SettleResult) -> Option<Command> {
    let code = result.error();
    if is_put_off(code) {
        return Some(command);
    }
    let receipt = command.receipt;
    let not_ours =
        matches!(code, ErrorCode::StaleLease | ErrorCode::AlreadySettled | ErrorCode::UnknownReceipt);
    let done = code == ErrorCode::ErrorUnspecified;
    match command.purpose {
        Purpose::Renew | Purpose::Extend if done => {
            let lease = std::time::Duration::from_millis(command.item.lease_ms.unwrap_or_default());
            command.asked.into_iter().for_each(|asked| core.held.extended(&receipt, lease, asked));
        }
        Purpose::Renew | Purpose::Extend if not_ours => {
            tracing::debug!(%receipt, code = code.as_str_name(), "a lease is lost");
            core.held.remove([&receipt]);
        }
        _ => {}
    }
    let outcome = if done {
        Ok(Settled { already_settled: result.already_settled })
    } else if command.doubt && not_ours && command.purpose == Purpose::Settle {
        // Either the attempt before was carried out, or somebody else has the message.
        Err(Error::unknown(format!("the first answer was lost, then: {}", result.message)))
    } else {
        Err(Error::Broker { code, message: result.message, retry: Retry::Never })
    };
    command.answer(outcome);
    None
}

fn give_up(core: &Core, command: Command, error: &Error) {
    if command.purpose == Purpose::Settle {
        core.held.remove([&command.receipt]);
    }
    let error = if command.doubt { Error::unknown(error.to_string()) } else { error.clone() };
    command.answer(Err(error));
}
