//! One TCP connection to a broker: requests are pipelined and matched by correlation id, pushes are handed to
//! their subscriptions. It never reconnects; when it dies, everything that waits on it fails, typed.

mod incoming;
mod open;
mod reader;
mod shared;
mod writer;

use std::sync::Arc;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

pub(crate) use open::Greeting;
pub(crate) use shared::Push;
use shared::Shared;
use writer::Outgoing;

/// The answer to a request that succeeded.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Body,
    pub(crate) attachment: Bytes,
}

/// A request that has its place in the order of the connection. Dropping it, or the future of its reply, gives
/// up the wait for an answer; some requests have none unless they fail.
#[derive(Debug)]
pub(crate) struct Submitted {
    answer: oneshot::Receiver<Result<Reply>>,
    shared: Arc<Shared>,
    correlation: u64,
    answered: bool,
}

impl Submitted {
    pub(crate) async fn reply(mut self) -> Result<Reply> {
        let reply = (&mut self.answer).await;
        self.answered = true;
        reply.unwrap_or_else(|_| Err(Error::unknown("the connection was given up")))
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.forget(self.correlation);
        }
    }
}

/// A live connection, or one that has died and says why. Dropping the last handle writes what is queued and
/// closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Unbounded as a type; bounded by the byte budgets for requests and, for one-way messages, by what they
    /// speak about: credits are coalesced and leases are limited by the prefetch.
    outbox: mpsc::UnboundedSender<Outgoing>,
}

impl Connection {
    pub(crate) fn is_open(&self) -> bool {
        !self.shared.closed.is_cancelled()
    }

    /// Cancelled when the connection has died or is closed.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(&self, body: Body, attachment: Bytes) -> Result<Reply> {
        self.submit(body, attachment).await?.reply().await
    }

    /// Waits for room and queues a request: those submitted one after the other are written in that order.
    pub(crate) async fn submit(&self, body: Body, attachment: Bytes) -> Result<Submitted> {
        let envelope = wire::Envelope { correlation: 0, body: Some(body) };
        let permit = self.shared.reserve(&envelope, attachment.len()).await?;
        let (reply, answer) = oneshot::channel();
        let correlation = self.shared.register(reply, permit)?;
        let envelope = wire::Envelope { correlation, ..envelope };
        // A writer that is gone has failed, or will fail, what is registered.
        let _ = self.outbox.send(Outgoing { envelope, attachment });
        Ok(Submitted { answer, shared: Arc::clone(&self.shared), correlation, answered: false })
    }

    /// Queues a message that is not answered. It is lost if the connection dies.
    pub(crate) fn send(&self, body: Body) {
        let envelope = wire::Envelope { correlation: 0, body: Some(body) };
        let _ = self.outbox.send(Outgoing { envelope, attachment: Bytes::new() });
    }

    /// Opens a place for pushes under a fresh subscription id. `pushes_max` is what the credit allows: a peer
    /// that sends more breaks the protocol and loses the connection.
    pub(crate) fn subscribe(self: &Arc<Self>, pushes_max: usize) -> Result<Subscription> {
        let (sender, pushes) = mpsc::channel(pushes_max);
        let id = self.shared.add_subscription(sender)?;
        Ok(Subscription { id, pushes, connection: Arc::clone(self) })
    }

    /// Opens the place for the assignments of a group's member.
    pub(crate) fn listen_for_assignments(&self, member: &str) -> Result<mpsc::Receiver<wire::Assignment>> {
        self.shared.add_member(member)
    }
}

/// The receiving end of one subscription; dropping it tells the broker.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u64,
    pub(crate) pushes: mpsc::Receiver<Push>,
    pub(crate) connection: Arc<Connection>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.connection.shared.remove_subscription(self.id) {
            self.connection.send(Body::Unsubscribe(wire::Unsubscribe { subscription: self.id }));
        }
    }
}
