//! Requests that a shard has not answered. The shard's thread owns the table, so that the engine carries a number and
//! no connection needs a table of its own.

use dure_engine::{ConnectionId, RequestError, Response, SubscriptionId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Delivery, Outbox};

/// A request on its way: where its answer goes, and the room that it takes until then.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) to: AnswerTo,
    /// Of all requests of the broker; given back when the answer is made, so that a client which does not read its
    /// answers holds up itself alone.
    global: Option<OwnedSemaphorePermit>,
    /// Of the connection; travels with the answer and is given back once that is written.
    pub(crate) connection: Option<OwnedSemaphorePermit>,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum AnswerTo {
    /// To the client, under its own number.
    Client { correlation: u64 },
    /// To the client, by way of the task that reads the leased messages' bytes.
    Receive { correlation: u64, topic: String, group: String },
    /// To the client, and only if it fails.
    WorkQueue { correlation: u64, subscription: SubscriptionId },
    /// To the client; forgotten with the connection if the shard has not taken it up.
    Join { correlation: u64 },
    /// To a task of the connection; forgotten with it.
    Task(oneshot::Sender<Result<Response, RequestError>>),
    /// To a task of the broker.
    Local(oneshot::Sender<Result<Response, RequestError>>),
    /// Nobody asked for one.
    Nobody,
}

impl Pending {
    pub(crate) fn new(
        to: AnswerTo,
        connection: OwnedSemaphorePermit,
        global: OwnedSemaphorePermit,
    ) -> Pending {
        Pending { to, global: Some(global), connection: Some(connection) }
    }

    /// Whose room on the connection is kept by whoever waits for the answer.
    pub(crate) fn metered_globally(to: AnswerTo, global: OwnedSemaphorePermit) -> Pending {
        Pending { to, global: Some(global), connection: None }
    }

    /// Of the broker's own requests, of which there are few.
    pub(crate) fn unmetered(to: AnswerTo) -> Pending {
        Pending { to, global: None, connection: None }
    }

    /// The engine forgets these without an answer when their connection closes.
    pub(crate) fn goes_with_connection(&self) -> bool {
        self.is_open_ended() || matches!(self.to, AnswerTo::Join { .. } | AnswerTo::Task(_))
    }

    /// What may stay open for as long as the client likes takes no room from the others meanwhile.
    pub(crate) fn is_open_ended(&self) -> bool {
        matches!(self.to, AnswerTo::Receive { .. } | AnswerTo::WorkQueue { .. })
    }

    /// Gives back the room among all requests.
    pub(crate) fn release_global(&mut self) {
        self.global = None;
    }

    /// Answers by way of the connection that the request came from: the shard's thread has ended.
    pub(crate) fn refuse(self, outbox: &Outbox, error: RequestError) {
        match self.to {
            AnswerTo::WorkQueue { correlation: 0, subscription } => {
                outbox.deliver(Delivery::Ended { subscription, error });
            }
            AnswerTo::Client { correlation }
            | AnswerTo::Join { correlation }
            | AnswerTo::Receive { correlation, .. }
            | AnswerTo::WorkQueue { correlation, .. } => {
                outbox.answer(correlation, Err(error), self.connection)
            }
            AnswerTo::Task(answer) | AnswerTo::Local(answer) => _ = answer.send(Err(error)),
            AnswerTo::Nobody => {}
        }
    }
}

/// Entries by number. A number holds the slot in its lower half and how often the slot was used in its upper half, so
/// that it is never 0 and an answer that comes twice meets nothing.
#[derive(Debug, Default)]
pub(super) struct PendingTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    uses: u32,
    entry: Option<(ConnectionId, Pending)>,
}

impl PendingTable {
    pub(super) fn insert(&mut self, connection: ConnectionId, pending: Pending) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, entry: None });
            u32::try_from(self.slots.len() - 1).expect("permits bound the number of requests")
        });
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.checked_add(1).unwrap_or(1);
        slot.entry = Some((connection, pending));
        u64::from(slot.uses) << 32 | u64::from(index)
    }

    pub(super) fn take(&mut self, key: u64) -> Option<(ConnectionId, Pending)> {
        let index = key as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.uses) != key >> 32 {
            return None;
        }
        let entry = slot.entry.take()?;
        self.free.push(index);
        Some(entry)
    }

    pub(super) fn get(&self, key: u64) -> Option<&Pending> {
        let slot = self.slots.get(key as u32 as usize)?;
        let (_, pending) = slot.entry.as_ref().filter(|_| u64::from(slot.uses) == key >> 32)?;
        Some(pending)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (ConnectionId, Pending)> + '_ {
        self.slots.iter_mut().filter_map(|slot| slot.entry.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_twice_meets_nothing() {
        let mut table = PendingTable::default();
        let first = table.insert(ConnectionId(1), Pending::unmetered(AnswerTo::Nobody));
        let second = table.insert(ConnectionId(2), Pending::unmetered(AnswerTo::Nobody));
        assert!(first != 0 && first != second);
        assert_eq!(table.take(first).unwrap().0, ConnectionId(1));
        assert!(table.take(first).is_none());
        let third = table.insert(ConnectionId(3), Pending::unmetered(AnswerTo::Nobody));
        assert_eq!(third as u32, first as u32, "the slot is used again");
        assert!(table.take(first).is_none() && table.get(first).is_none());
        assert_eq!(table.take(third).unwrap().0, ConnectionId(3));
        assert_eq!(table.drain().count(), 1);
    }
}
