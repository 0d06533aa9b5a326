//! What the tasks of one connection share: who waits for which answer, and where pushes go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{FRAME_HEADER_BYTES, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Reply;
use crate::error::{Error, Result};

/// Assignments that came before their member was known here; a broker that sends more loses the oldest.
const UNCLAIMED_MAX: usize = 64;
/// A newer assignment replaces an older one, so that few can be waiting.
const ASSIGNMENTS_MAX: usize = 64;

/// Something that came without being asked for.
#[derive(Debug)]
pub(crate) enum Push {
    /// Whole entries of a log, or a range of it that is lost.
    Records { header: wire::Records, entries: Bytes },
    /// Leased messages.
    Jobs { jobs: Vec<wire::Job>, bytes: Bytes },
    /// Bytes of a backup from a position on.
    BackupPart { position: u64, bytes: Bytes },
    /// The backup is complete; nothing follows.
    BackupEnd(wire::BackupEnd),
    /// Nothing follows.
    Ended(Error),
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Result<Reply>>,
    /// Set before the first byte is written: from then on the broker may carry it out.
    written: bool,
    /// Its share of the bytes in flight, given back with the answer.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct State {
    /// Why the connection died. Once set, nothing is added to the tables below.
    closed: Option<String>,
    correlation_next: u64,
    pending: HashMap<u64, Pending>,
    subscription_next: u64,
    subscriptions: HashMap<u64, mpsc::Sender<Push>>,
    members: HashMap<String, mpsc::Sender<wire::Assignment>>,
    unclaimed: Vec<wire::Assignment>,
}

/// Limits the broker named in its greeting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) frame_bytes_max: usize,
    pub(super) inflight_bytes_max: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    frame_bytes_max: usize,
    /// For requests with an attachment.
    bulk: Budget,
    /// For the others, so that a heartbeat or an ack never waits behind a megabyte of produce requests.
    control: Budget,
    pub(super) closed: CancellationToken,
}

#[derive(Debug)]
struct Budget {
    bytes_max: u32,
    semaphore: Arc<Semaphore>,
}

impl Budget {
    fn new(bytes_max: usize) -> Budget {
        let bytes_max = bytes_max.clamp(1, u32::MAX as usize >> 4) as u32;
        Budget { bytes_max, semaphore: Arc::new(Semaphore::new(bytes_max as usize)) }
    }

    /// A request larger than the whole budget waits until it is alone.
    async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = bytes.min(self.bytes_max as usize) as u32;
        let permit = Arc::clone(&self.semaphore).acquire_many_owned(bytes).await;
        permit.expect("the semaphore is never closed")
    }
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Shared {
        let control = (limits.inflight_bytes_max / 4).min(4 << 20);
        Shared {
            state: Mutex::new(State { correlation_next: 1, subscription_next: 1, ..State::default() }),
            frame_bytes_max: limits.frame_bytes_max,
            bulk: Budget::new(limits.inflight_bytes_max - control),
            control: Budget::new(control),
            closed: CancellationToken::new(),
        }
    }

    /// Nothing panics while it holds the lock; if something did, the tables are still whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room among the bytes in flight, or for the end of the connection.
    pub(super) async fn reserve(
        &self,
        envelope: &wire::Envelope,
        attachment_bytes: usize,
    ) -> Result<OwnedSemaphorePermit> {
        use prost::Message as _;
        // A correlation id takes up to 11 bytes more.
        let bytes = FRAME_HEADER_BYTES + envelope.encoded_len() + 11 + attachment_bytes;
        if bytes > self.frame_bytes_max {
            let max = self.frame_bytes_max;
            return Err(Error::invalid(format!("a request of {bytes} bytes is more than the {max} allowed")));
        }
        let budget = if attachment_bytes > 0 { &self.bulk } else { &self.control };
        tokio::select! {
            biased;
            permit = budget.reserve(bytes) => Ok(permit),
            () = self.closed.cancelled() => Err(self.disconnected()),
        }
    }

    pub(super) fn register(
        &self,
        reply: oneshot::Sender<Result<Reply>>,
        permit: OwnedSemaphorePermit,
    ) -> Result<u64> {
        let mut state = self.state();
        state.check_open()?;
        let correlation = state.correlation_next;
        state.correlation_next += 1;
        state.pending.insert(correlation, Pending { reply, written: false, _permit: permit });
        Ok(correlation)
    }

    /// Nobody waits for this answer any more.
    pub(super) fn forget(&self, correlation: u64) {
        self.state().pending.remove(&correlation);
    }

    pub(super) fn mark_written(&self, correlations: impl Iterator<Item = u64>) {
        let mut state = self.state();
        for correlation in correlations {
            if let Some(pending) = state.pending.get_mut(&correlation) {
                pending.written = true;
            }
        }
    }

    pub(super) fn add_subscription(&self, sender: mpsc::Sender<Push>) -> Result<u64> {
        let mut state = self.state();
        state.check_open()?;
        let id = state.subscription_next;
        state.subscription_next += 1;
        state.subscriptions.insert(id, sender);
        Ok(id)
    }

    /// Whether it was there: it is not after the broker ended it or the connection died.
    pub(super) fn remove_subscription(&self, id: u64) -> bool {
        self.state().subscriptions.remove(&id).is_some()
    }

    pub(super) fn add_member(&self, member: &str) -> Result<mpsc::Receiver<wire::Assignment>> {
        let mut state = self.state();
        state.check_open()?;
        let (sender, receiver) = mpsc::channel(ASSIGNMENTS_MAX);
        let (mine, others) =
            std::mem::take(&mut state.unclaimed).into_iter().partition(|a| a.member == member);
        state.unclaimed = others;
        let mine: Vec<_> = mine;
        for assignment in mine {
            let _ = sender.try_send(assignment);
        }
        state.members.insert(member.to_owned(), sender);
        Ok(receiver)
    }

    /// Hands a frame to whom it is for. An error is the end of the connection.
    pub(super) fn dispatch(&self, frame: Frame) -> Result<(), String> {
        let Frame { envelope, attachment } = frame;
        // A body of a kind that this version does not know is an answer, if at all, that nobody can use.
        let body = envelope.body;
        if envelope.correlation != 0 {
            let mut state = self.state();
            if let Some(Body::JoinGroupReply(reply)) = &body {
                state.forget_assignments(&reply.member);
            }
            let pending = state.pending.remove(&envelope.correlation);
            drop(state);
            if let Some(pending) = pending {
                let reply = match body {
                    Some(Body::Error(error)) => Err(Error::from_wire(error)),
                    Some(body) => Ok(Reply { body, attachment }),
                    None => Err(Error::protocol("the answer has no known body")),
                };
                let _ = pending.reply.send(reply);
            }
            return Ok(());
        }
        match body {
            Some(Body::Records(header)) => {
                self.push(header.subscription, Push::Records { header, entries: attachment })
            }
            Some(Body::Jobs(wire::Jobs { subscription, jobs })) => {
                self.push(subscription, Push::Jobs { jobs, bytes: attachment })
            }
            Some(Body::BackupPart(wire::BackupPart { subscription, position })) => {
                self.push(subscription, Push::BackupPart { position, bytes: attachment })
            }
            Some(Body::BackupEnd(end)) => self.push(end.subscription, Push::BackupEnd(end)),
            Some(Body::SubscriptionEnded(ended)) => {
                let sender = self.state().subscriptions.remove(&ended.subscription);
                let error = Error::from_wire(ended.error.unwrap_or_default());
                // If it is full, the end of the channel says as much.
                let _ = sender.map(|sender| sender.try_send(Push::Ended(error)));
                Ok(())
            }
            Some(Body::Assignment(assignment)) => {
                self.state().assign(assignment);
                Ok(())
            }
            Some(Body::Error(error)) => Err(Error::from_wire(error).to_string()),
            _ => Ok(()),
        }
    }

    fn push(&self, subscription: u64, push: Push) -> Result<(), String> {
        let mut state = self.state();
        let Some(sender) = state.subscriptions.get(&subscription) else {
            return Ok(()); // it crossed an Unsubscribe
        };
        match sender.try_send(push) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(format!("the broker sent more on subscription {subscription} than its credit allows"))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                state.subscriptions.remove(&subscription);
                Ok(())
            }
        }
    }

    /// Ends the connection: every request fails with what is known about it, every subscription ends.
    pub(super) fn die(&self, reason: &str) {
        let (pending, subscriptions, members) = {
            let mut state = self.state();
            if state.closed.is_some() {
                return;
            }
            state.closed = Some(reason.to_owned());
            let State { pending, subscriptions, members, .. } = &mut *state;
            (std::mem::take(pending), std::mem::take(subscriptions), std::mem::take(members))
        };
        for (_, pending) in pending {
            let error = if pending.written { Error::unknown(reason) } else { Error::disconnected(reason) };
            let _ = pending.reply.send(Err(error));
        }
        drop((subscriptions, members));
        self.closed.cancel();
    }

    fn disconnected(&self) -> Error {
        self.state().check_open().err().unwrap_or_else(|| Error::disconnected("closing"))
    }
}

impl State {
    fn check_open(&self) -> Result<()> {
        self.closed.as_ref().map_or(Ok(()), |reason| Err(Error::disconnected(reason.clone())))
    }

    /// What came before the answer to a join was meant for the member as it was before.
    fn forget_assignments(&mut self, member: &str) {
        self.members.remove(member);
        self.unclaimed.retain(|assignment| assignment.member != member);
    }

    fn assign(&mut self, assignment: wire::Assignment) {
        match self.members.get(&assignment.member) {
            Some(sender) => {
                // Full: the member is so far behind that its next heartbeat will be fenced anyway.
                if let Err(error) = sender.try_send(assignment) {
                    tracing::debug!(%error, "an assignment was dropped");
                }
            }
            None => {
                if self.unclaimed.len() == UNCLAIMED_MAX {
                    self.unclaimed.remove(0);
                }
                self.unclaimed.push(assignment);
            }
        }
    }
}
