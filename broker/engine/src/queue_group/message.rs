//! What is known of one message that is not plainly settled and not plainly untouched.

use dure_proto::{KeyHash, LeaseToken, Offset, Priority};

use super::window::Standing;

/// A message that was granted, tried before or redriven, and is not settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Deliveries that were started.
    pub(crate) attempts: u32,
    /// The last grant. It works until there is another one.
    pub(crate) token: Option<LeaseToken>,
    /// The last grant's attempt is among `attempts`.
    pub(crate) started: bool,
    /// Set if it was redriven: its bytes lie in the dead-letter log, at this offset. Settled in the source.
    pub(crate) letter: Option<Offset>,
    /// Set from its first grant on, where the group keeps the order of keys and it has one.
    pub(crate) key: Option<KeyHash>,
    /// How urgent it is, where the group goes by that and its record was looked at. Volatile.
    pub(crate) priority: Priority,
    /// Why it was given back the last time, if that was out of attempts.
    pub(crate) why: Option<Box<str>>,
    pub(crate) phase: Phase,
    /// It came back, and that is not durable yet: see `held`. Otherwise 0. Volatile.
    pub(crate) held: u64,
    /// Set while it is on its way to the dead letters. Volatile, and never set for a lease that runs unless
    /// its holder rejected it.
    pub(crate) dying: Option<Box<Doom>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Ready,
    Waiting {
        due_mono_ms: u64,
        due_wall_ms: u64,
    },
    Leased {
        deadline_mono_ms: u64,
        lease_ms: u64,
    },
}

/// Why a message dies, and how far that got.
#[derive(Clone, Debug)]
pub(crate) struct Doom {
    pub(crate) reason: String,
    /// Rejected, as against out of attempts: nothing but an ack calls it back.
    pub(crate) rejected: bool,
    /// Its bytes are being fetched.
    pub(crate) taken: bool,
}

/// The one index that holds a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    /// Ready but for the commit in which it came back.
    Held,
    Waiting {
        due_mono_ms: u64,
    },
    Leased {
        deadline_mono_ms: u64,
    },
    Dying {
        taken: bool,
    },
}

impl Message {
    pub(crate) fn place(&self) -> Place {
        match (&self.dying, self.phase) {
            (Some(doom), _) => Place::Dying { taken: doom.taken },
            (None, Phase::Ready) if self.held > 0 => Place::Held,
            (None, Phase::Ready) => Place::Ready,
            (None, Phase::Waiting { due_mono_ms, .. }) => Place::Waiting { due_mono_ms },
            (None, Phase::Leased { deadline_mono_ms, .. }) => Place::Leased { deadline_mono_ms },
        }
    }

    /// Where it stands in the line of its key.
    pub(crate) fn standing(&self) -> Standing {
        match self.place() {
            Place::Ready => Standing::Ready,
            Place::Held | Place::Waiting { .. } => Standing::Waiting,
            Place::Leased { .. } => Standing::Leased,
            Place::Dying { .. } => Standing::Dying,
        }
    }

    pub(crate) fn is_leased(&self) -> bool {
        matches!(self.phase, Phase::Leased { .. })
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.dying.as_ref().is_some_and(|doom| doom.rejected)
    }

    /// Nothing is known of it that a fresh message would not have.
    pub(crate) fn is_like_fresh(&self) -> bool {
        self.attempts == 0 && self.token.is_none() && self.letter.is_none() && self.phase == Phase::Ready
    }
}

/// A message in the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where its record lies in the dead-letter log.
    pub letter: Offset,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it died; at most [`REASON_BYTES_MAX`](super::REASON_BYTES_MAX) bytes.
    pub reason: String,
    /// The number of its key, where the group keeps the order of keys and it has one.
    pub key: Option<KeyHash>,
    /// When it died.
    pub dead_wall_ms: u64,
}

/// What has become of an offset, for tests and descriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Not in the log yet.
    Absent,
    /// To be granted.
    Ready,
    /// Waiting after a release or for backoff.
    Delayed,
    /// Out with a worker.
    Leased,
    /// On its way to the dead letters.
    Dying,
    /// In the dead letters.
    Dead,
    /// Done with, or removed by retention.
    Settled,
}
