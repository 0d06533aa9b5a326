//! What was done to the broker and what it answered: the one thing that the [checker](super::check) believes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dure_client::Error;

/// Microseconds since the history began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) u64);

/// What the client learnt of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was carried out.
    Ok,
    /// It was not.
    Fail,
    /// Nobody told.
    Unknown,
}

impl Outcome {
    /// What an answer of the client library means.
    pub(crate) fn of<T>(answer: &Result<T, Error>) -> Outcome {
        match answer {
            Ok(_) => Outcome::Ok,
            Err(error) if error.is_outcome_unknown() => Outcome::Unknown,
            Err(_) => Outcome::Fail,
        }
    }
}

/// Names a message: nobody sends two of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    /// A producer, from its making to its closing.
    pub(crate) producer: u32,
    /// Counted by the producer, in the order in which it enqueued.
    pub(crate) sequence: u64,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The topic.
    pub(crate) topic: &'static str,
    /// The partition within it.
    pub(crate) partition: u32,
    /// The offset within that.
    pub(crate) offset: u64,
}

/// What came out of the broker at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The message of that name, byte for byte.
    Intact(Id),
    /// It has that name, and other bytes than were sent.
    Altered(Id),
    /// Nothing that a producer of this load makes.
    Foreign,
}

/// Epoch and counter of a lease: those granted later are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u64, pub(crate) u64);

/// What a worker does with a message in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// Done.
    Ack,
    /// Back to the queue.
    Release,
    /// To the dead letters.
    Reject,
    /// Let go without a word: the client gives it back, or its lease runs out.
    Drop,
}

/// One operation with its answer, or one thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A message was sent.
    Produce { id: Id, topic: &'static str, place: Option<Place>, outcome: Outcome },
    /// A message was refused with an error that says that trying again cannot help.
    RefusedForGood { id: Id, error: String },
    /// A reader began, as a member of the group of streams or alone.
    Subscribe { reader: u32, in_group: bool },
    /// A reader was given a message.
    Read { reader: u32, in_group: bool, place: Place, found: Found },
    /// A reader was told that messages are damaged.
    Damaged { topic: String, partition: u32, from: u64, to: u64 },
    /// A member committed that everything below the place is handled.
    Commit { reader: u32, place: Place, outcome: Outcome },
    /// The broker was asked what the group has committed.
    Committed { place: Place },
    /// A worker was given a message. `leased_for_us`: the lease runs at least that long from the event's begin.
    Deliver {
        worker: u32,
        place: Place,
        token: Token,
        attempt: u32,
        found: Found,
        leased_for_us: Option<u64>,
    },
    /// A worker settled a message.
    Settled { worker: u32, place: Place, token: Token, settle: Settle, outcome: Outcome, already: bool },
    /// A worker vanished with everything in its hands.
    WorkerDied { worker: u32 },
    /// A receive without an answer: so many attempts may have been started that nobody saw.
    ReceiveLost { worker: u32, count_max: u32 },
    /// The fault, from before its beginning until the broker serves again.
    Fault { what: String },
    /// Everything that a partition holds, read when nobody produced.
    Log { topic: &'static str, partition: u32, start: u64, end: u64, records: Vec<(u64, Found)> },
    /// A dead letter of the group of workers.
    Letter { place: Place, found: Found, attempts: u32, rejected: bool },
    /// What is left of the queue when nothing more is delivered, as the broker counts it. All letters follow a
    /// former one.
    Drained { lag: u64, dead: u64 },
}

/// Something that happened between two moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Not later than the broker could know of it.
    pub(crate) begun: At,
    /// Not earlier than it was known here.
    pub(crate) ended: At,
    /// What it was.
    pub(crate) what: What,
}

/// A growing list of events that many write to. Clones are one and the same.
#[derive(Clone, Debug)]
pub(crate) struct History {
    origin: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

/// An event that is in the history and not over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open(usize);

impl Settle {
    /// After it the message never comes back.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Settle::Ack | Settle::Reject)
    }
}

impl Default for History {
    fn default() -> History {
        History { origin: Instant::now(), events: Arc::default() }
    }
}

impl History {
    /// The present moment.
    #[must_use]
    pub(crate) fn now(&self) -> At {
        At(self.origin.elapsed().as_micros() as u64)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins. It stands in the history as `what` says even if nobody lives to see the end of it.
    #[must_use]
    pub(crate) fn begin(&self, what: What) -> Open {
        let mut events = self.lock();
        events.push(Event { begun: self.now(), ended: At(u64::MAX), what });
        Open(events.len() - 1)
    }

    /// What began is over; `change` says what came of it.
    pub(crate) fn end(&self, open: Open, change: impl FnOnce(&mut What)) {
        let mut events = self.lock();
        let event = &mut events[open.0];
        event.ended = self.now();
        change(&mut event.what);
    }

    /// Something was seen just now.
    pub(crate) fn saw(&self, what: What) {
        self.since(self.now(), what);
    }

    /// Something went on since `begun` and is over.
    pub(crate) fn since(&self, begun: At, what: What) {
        let mut events = self.lock();
        events.push(Event { begun, ended: self.now(), what });
    }

    /// A copy of everything up to now.
    #[must_use]
    pub(crate) fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |at: At| at.0 as f64 / 1000.0;
        write!(f, "{:10.3}", ms(self.begun))?;
        match self.ended {
            At(u64::MAX) => write!(f, " …           ")?,
            ended => write!(f, " … {:<10.3}", ms(ended))?,
        }
        match &self.what {
            What::Log { topic, partition, start, end, records } => {
                write!(f, " the log {topic}/{partition}: {start} to {end}, {} records", records.len())
            }
            what => write!(f, " {what:?}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of producer {}", self.sequence, self.producer)
    }
}
