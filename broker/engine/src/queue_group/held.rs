//! What came back is granted again only once its coming back is durable. The grant before is durable by then, too: so a
//! crash takes at most the last grant of a message, and repeats at most one of its attempt numbers. First deliveries wait
//! for nothing.

use std::collections::BTreeSet;

use dure_proto::Offset;
use dure_proto::journal::{QueueEvent, queue_event::Event};

use super::table::LeaseTable;

/// What is held back. Of this run of the broker only: what a replay tells is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Of `messages`: all that have a number, with it.
    pub(crate) messages: BTreeSet<(u64, Offset)>,
    /// How many of them could be granted but for it.
    pub(crate) ready_count: u64,
    last: u64,
    durable: u64,
    /// Not even what has no number is granted before this is durable: the cursor was moved.
    all: u64,
}

impl Held {
    pub(crate) fn is_all(&self) -> bool {
        self.all > self.durable
    }
}

impl LeaseTable {
    /// Holds back what these events, just decided, put back into the queue. Returns a number to be given to
    /// [`LeaseTable::release_held`] when they are durable, if they did so.
    pub fn hold_back(&mut self, events: &[QueueEvent]) -> Option<u64> {
        let number = self.held.last + 1;
        for event in events {
            let offset = match &event.event {
                Some(Event::Returned(returned)) => Offset(returned.offset),
                Some(Event::Redriven(redriven)) => Offset(redriven.offset),
                Some(Event::CursorMoved(_)) => {
                    (self.held.last, self.held.all) = (number, number);
                    continue;
                }
                _ => continue,
            };
            if self.messages.contains_key(&offset) {
                self.held.last = number;
                self.edit(offset, |message| message.held = number);
            }
        }
        (self.held.last == number).then_some(number)
    }

    /// Everything that was held back up to this number is durable.
    pub fn release_held(&mut self, upto: u64) {
        self.held.durable = self.held.durable.max(upto);
        while let Some((_, offset)) =
            self.held.messages.first().copied().filter(|(number, _)| *number <= upto)
        {
            self.edit(offset, |message| message.held = 0);
        }
    }
}
