//! Judges a history: what was promised about messages, groups and leases, whatever happened to the broker meanwhile.

mod facts;
mod queues;
mod streams;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::{Event, Id, Place, What};
use facts::Facts;

/// Events printed around a violation.
const AROUND_MAX: usize = 60;

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What was acknowledged or shown is not there.
    Lost,
    /// There is something that nobody sent, or that was refused.
    Phantom,
    /// A message has other bytes than were sent.
    Altered,
    /// A message is there twice, though nobody sent it twice.
    Duplicated,
    /// Two messages were seen at one offset.
    TwoValues,
    /// Offsets are missing in a log.
    Gap,
    /// A producer's messages stand in a partition in another order than they were sent.
    Order,
    /// Records are said to be damaged.
    Damaged,
    /// A committed offset moved back.
    CommitWentBack,
    /// A committed offset is ahead of what was committed.
    CommitAhead,
    /// Messages were passed over in reading.
    Skipped,
    /// A message of the queue is neither acknowledged, nor dead, nor left.
    JobLost,
    /// A message was delivered after it had been settled for good.
    CameBack,
    /// Two leases of one message were live.
    TwoLeases,
    /// A lease token was given out twice.
    TokenTwice,
    /// Attempts did not rise by one.
    Attempts,
    /// A dead letter that should not be one, or the other way round.
    DeadLetter,
    /// The broker's figures do not add up.
    Accounting,
    /// What the fault itself is about: an exit code, a health, a limit.
    Conduct,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which one.
    pub(crate) kind: Kind,
    /// What was seen.
    pub(crate) text: String,
    /// The place that it is about.
    pub(crate) place: Option<Place>,
    /// The message that it is about.
    pub(crate) id: Option<Id>,
}

impl Violation {
    /// A fault that was not met as promised.
    pub(crate) fn conduct(text: impl Into<String>) -> Violation {
        Violation { kind: Kind::Conduct, text: text.into(), place: None, id: None }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        self.place.map_or(Ok(()), |place| write!(f, " at {place}"))?;
        self.id.map_or(Ok(()), |id| write!(f, ", {id}"))?;
        write!(f, ": {}", self.text)
    }
}

/// What the history is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The topic that the group of workers works through.
    pub(crate) jobs: &'static str,
    /// After so many attempts a message of it is dead.
    pub(crate) attempts_max: u32,
}

/// Every promise that this history shows to be broken.
#[must_use]
pub(crate) fn check(events: &[Event], rules: &Rules) -> Vec<Violation> {
    let mut found = Vec::new();
    let facts = Facts::gather(events, &mut found);
    streams::check(events, &facts, &mut found);
    queues::check(events, &facts, rules, &mut found);
    found
}

/// The events that tell of the same message as this violation, and the faults, in the order of time.
#[must_use]
pub(crate) fn around<'e>(events: &'e [Event], violation: &Violation) -> Vec<&'e Event> {
    let Violation { place, id, .. } = violation;
    let held = |event: &Event| match event.what {
        What::Deliver { worker, place: at, .. } if Some(at) == *place => Some(worker),
        _ => None,
    };
    let workers: Vec<u32> = events.iter().filter_map(held).collect();
    let about = |event: &&Event| match &event.what {
        What::Fault { .. } | What::Drained { .. } | What::Damaged { .. } => true,
        What::Log { topic, partition, .. } => {
            place.is_some_and(|place| (place.topic, place.partition) == (*topic, *partition))
        }
        What::WorkerDied { worker } => workers.contains(worker),
        What::Produce { id: sent, place: at, .. } => Some(*sent) == *id || (at.is_some() && at == place),
        What::Read { place: at, .. }
        | What::Deliver { place: at, .. }
        | What::Settled { place: at, .. }
        | What::Commit { place: at, .. }
        | What::Committed { place: at }
        | What::Letter { place: at, .. } => Some(*at) == *place,
        What::ReceiveLost { count_max, .. } => *count_max > 0,
        What::RefusedForGood { id: refused, .. } => Some(*refused) == *id,
        What::Subscribe { .. } => false,
    };
    let mut around: Vec<&Event> = events.iter().filter(about).collect();
    around.sort_by_key(|event| event.begun);
    let surplus = around.len().saturating_sub(AROUND_MAX);
    around.split_off(surplus)
}
