//! The task that keeps the subscription: takes in what is pushed, gives credit back, subscribes anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Core;
use super::command::{Command, whole_ms};
use super::held::Credit;
use super::received::ReceivedJob;
use crate::backoff::Backoff;
use crate::connection::{Connection, Push, Subscription};
use crate::error::{Error, Result};
use crate::patience::{Patience, Unseen};

/// Pushes on top of one per job that may be under way.
const PUSHES_WITHOUT_JOBS: usize = 1024;

/// A subscription that held this long was a sound one.
const SOUND: Duration = Duration::from_secs(10);
/// So many items fit into a request by far.
const RECLAIMED_PER_REQUEST_MAX: usize = 5_000;

/// What waits for the consumer.
#[derive(Debug)]
pub(super) enum Ready {
    Job(Box<ReceivedJob>),
    Failed { error: Error, _unseen: Unseen },
}

pub(super) struct Worker {
    pub(super) core: Arc<Core>,
    pub(super) lease: Option<Duration>,
    /// Bounded by the credit.
    pub(super) out: mpsc::UnboundedSender<Ready>,
    pub(super) commands: mpsc::WeakUnboundedSender<Command>,
}

type First = Option<oneshot::Sender<Result<()>>>;

impl Worker {
    /// Runs until it is stopped or there is no point in trying. `subscribed` hears how it went at first.
    pub(super) async fn run(self, subscribed: oneshot::Sender<Result<()>>, stop: CancellationToken) {
        let mut first = Some(subscribed);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work(&mut first) => {}
        }
        self.core.held.forget_unstarted();
    }

    async fn work(&self, first: &mut First) {
        let mut backoff = Backoff::later();
        let mut patience = Patience::new(self.core.client.inner.request_timeout);
        loop {
            let started = Instant::now();
            let Err(error) = self.subscription(first).await else {
                patience.works();
                continue;
            };
            if let Some(first) = first.take() {
                let _ = first.send(Err(error));
                return;
            }
            if started.elapsed() > SOUND {
                backoff.reset();
                patience.works();
            }
            let last = !error.is_retriable() && !matches!(error, Error::Protocol { .. });
            if let Some(unseen) = patience.tell(&error, last) {
                let _ = self.out.send(Ready::Failed { error, _unseen: unseen });
            }
            if last {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// One subscription. `Ok`: its connection was lost.
    async fn subscription(&self, first: &mut First) -> Result<()> {
        let core = &self.core;
        let connection = core.client.work_connection_by(core.client.deadline()).await?;
        let pushes_max = core.held.messages_max() as usize + PUSHES_WITHOUT_JOBS;
        let Ok(mut subscription) = connection.subscribe(pushes_max) else { return Ok(()) };
        self.reclaim(&connection);
        let credit = core.held.credit_for_a_new_subscription();
        let body = Body::WorkQueue(wire::WorkQueue {
            subscription: subscription.id,
            topic: core.topic.to_string(),
            group: core.group.to_string(),
            credit_messages: credit.messages,
            credit_bytes: credit.bytes,
            limit_bytes: Some(core.held.bytes_max()),
            lease_ms: self.lease.map(whole_ms),
        });
        let Ok(submitted) = connection.submit(body, Bytes::new()).await else { return Ok(()) };
        let _ = first.take().map(|first| first.send(Ok(())));
        self.renew();
        // It is answered only if it fails.
        let mut answer = std::pin::pin!(submitted.reply());
        let mut answered = false;
        loop {
            tokio::select! {
                reply = &mut answer, if !answered => match reply {
                    Ok(_) => answered = true,
                    Err(error) if error.code().is_some() => return Err(error),
                    Err(_) => return Ok(()),
                },
                push = subscription.pushes.recv() => match push {
                    Some(push) => self.take_in(push)?,
                    None => return Ok(()),
                },
                () = core.held.freed() => give_back(&subscription, core.held.take_credit()),
            }
        }
    }

    /// With a lost connection the broker takes back what it does not know to be started. So what was handed out
    /// is said to be started once more, before a new subscription could be given it, and what was not goes back,
    /// in case that this is another broker, which has not seen the connection end.
    fn reclaim(&self, connection: &Connection) {
        let started = self.core.held.started().into_iter().map(|receipt| Command::start(receipt).item);
        let back =
            self.core.held.forget_unstarted().into_iter().map(|receipt| Command::give_back(receipt).item);
        let items: Vec<_> = back.chain(started).collect();
        for items in items.chunks(RECLAIMED_PER_REQUEST_MAX) {
            let (topic, group) = (self.core.topic.to_string(), self.core.group.to_string());
            connection.send(Body::Settle(wire::Settle { topic, group, items: items.to_vec() }));
        }
    }

    /// Shows which leases were lost meanwhile.
    fn renew(&self) {
        let Some(commands) = self.commands.upgrade() else { return };
        for (receipt, lease) in self.core.held.all() {
            let _ = commands.send(Command::renew(receipt, lease));
        }
    }

    fn take_in(&self, push: Push) -> Result<()> {
        match push {
            Push::Jobs { jobs, mut bytes } => {
                let unpack = |job: wire::Job| {
                    let before = bytes.len();
                    let received = ReceivedJob::unpack(&self.core.topic, &job, &mut bytes)?;
                    Ok((Box::new(received), (before - bytes.len()) as u64))
                };
                let received = jobs.into_iter().map(unpack).collect::<Result<Vec<_>>>()?;
                let leases = received.iter().map(|(job, bytes)| (job.receipt, job.lease, *bytes));
                self.core.held.insert(leases, Instant::now());
                for (job, _) in received {
                    let _ = self.out.send(Ready::Job(job));
                }
                Ok(())
            }
            Push::Ended(error) => Err(error),
            _ => Err(Error::protocol("something else came where jobs belong")),
        }
    }
}

fn give_back(subscription: &Subscription, credit: Credit) {
    let Credit { messages, bytes } = credit;
    if messages > 0 {
        let credit = wire::Credit { subscription: subscription.id, bytes, messages };
        subscription.connection.send(Body::Credit(credit));
    }
}
