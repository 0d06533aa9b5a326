//! How a shard reaches a connection. Nothing here is bounded, and all of it holds little: an answer holds the permit of
//! its request, a delivery was covered by the client's credit, a push waits for room before it is queued.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use bytes::Bytes;
use dure_engine::{LeaseGrant, RequestError, Response, SubscriptionId};
use dure_proto::wire;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The ways to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    /// To its writer.
    pub(crate) answers: mpsc::UnboundedSender<Outgoing>,
    /// To its socket.
    pub(crate) line: Arc<dyn Line>,
    /// To the task that reads the bytes of leased messages.
    pub(crate) deliveries: mpsc::UnboundedSender<Delivery>,
}

/// A socket that whoever has something to say writes to at once: waking a task for each answer costs more than writing it.
pub(crate) trait Line: fmt::Debug + Send + Sync {
    /// Takes all of `said`, in order. What cannot be written without waiting is left to the connection's writer.
    fn say(&self, said: &mut Vec<Outgoing>);
}

/// What a connection's writer sends.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A shard's answer, encoded by the writer.
    Answer {
        correlation: u64,
        result: Result<Response, RequestError>,
        /// Room on the connection, given back once it is written.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// A frame that is ready but for its encoding.
    Frame(OutgoingFrame),
}

/// A frame to be written.
#[derive(Debug)]
pub(crate) struct OutgoingFrame {
    pub(crate) envelope: wire::Envelope,
    /// In order; not copied unless small.
    pub(crate) attachment: Vec<Bytes>,
    /// Room on the connection, given back once it is written.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// What happens to a queue subscription or a receive, in order.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The client asked for it; said before the shard hears of it.
    Subscribed { subscription: SubscriptionId, topic: String, group: String, credit: Arc<ByteCredit> },
    /// Messages were leased.
    Leased { target: DeliveryTarget, leases: Vec<LeaseGrant> },
    /// Nothing follows.
    Ended { subscription: SubscriptionId, error: RequestError },
}

/// What a queue subscription may be sent yet: its connection hears of more, its deliveries take it.
#[derive(Debug)]
pub(crate) struct ByteCredit {
    left: AtomicI64,
    /// What is left when the client holds nothing.
    limit: i64,
}

impl ByteCredit {
    pub(crate) fn new(left: u64, limit: u64) -> ByteCredit {
        let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        ByteCredit { left: AtomicI64::new(signed(left.min(limit))), limit: signed(limit) }
    }

    pub(crate) fn add(&self, bytes: u64) {
        let sum = |left: i64| Some(left.saturating_add_unsigned(bytes).min(self.limit));
        let _ = self.left.fetch_update(Relaxed, Relaxed, sum);
    }

    /// Takes a message off, if it fits. One that is larger than everything fits when nothing is held.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let rest = |left: i64| (bytes <= left || left >= self.limit).then(|| left.saturating_sub(bytes));
        self.left.fetch_update(Relaxed, Relaxed, rest).is_ok()
    }
}

/// Whom leased messages are for.
#[derive(Debug)]
pub(crate) enum DeliveryTarget {
    /// A subscription.
    Subscription(SubscriptionId),
    /// The answer to a receive.
    Receive { correlation: u64, topic: String, group: String, permit: Option<OwnedSemaphorePermit> },
}

impl Outbox {
    /// An answer; a connection that is gone needs none, and correlation 0 asked for none.
    pub(crate) fn answer(
        &self,
        correlation: u64,
        result: Result<Response, RequestError>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if correlation != 0 {
            let _ = self.answers.send(Outgoing::Answer { correlation, result, permit });
        }
    }

    pub(crate) fn frame(&self, frame: OutgoingFrame) {
        let _ = self.answers.send(Outgoing::Frame(frame));
    }

    pub(crate) fn deliver(&self, delivery: Delivery) {
        let _ = self.deliveries.send(delivery);
    }
}

impl OutgoingFrame {
    /// A push: no correlation, no attachment, and small enough to need no room.
    pub(crate) fn push(body: wire::envelope::Body) -> OutgoingFrame {
        OutgoingFrame::answer(0, body, None)
    }

    pub(crate) fn answer(
        correlation: u64,
        body: wire::envelope::Body,
        permit: Option<OwnedSemaphorePermit>,
    ) -> OutgoingFrame {
        let envelope = wire::Envelope { correlation, body: Some(body) };
        OutgoingFrame { envelope, attachment: Vec::new(), permit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_larger_than_all_credit_comes_alone() {
        let credit = ByteCredit::new(100, 100);
        assert!(credit.take(60) && !credit.take(41) && credit.take(40) && !credit.take(1));
        credit.add(60);
        assert!(!credit.take(1_000), "something is held");
        credit.add(40);
        assert!(credit.take(1_000), "nothing is held");
        assert!(!credit.take(0));
        credit.add(1_000);
        assert!(credit.take(100) && !credit.take(1));
        let resumed = ByteCredit::new(30, 100);
        assert!(!resumed.take(31) && resumed.take(30), "what was held before is held still");
        resumed.add(u64::MAX);
        assert!(resumed.take(usize::MAX));
    }
}
