//! What can go wrong, typed: what it was, where, and whether sending the same again can help.

use dure_proto::wire;

pub use dure_proto::wire::{ErrorCode, Retry};

/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not succeed.
///
/// Three of them say something about what the broker did: [`Error::OutcomeUnknown`] means that it may have
/// been carried out, [`Error::Broker`] says in `retry` what is known, and every other one means that nothing
/// was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker answered with an error.
    #[error("{message} ({})", code.as_str_name())]
    Broker {
        /// What kind of error.
        code: ErrorCode,
        /// What, where, and what to do; for people.
        message: String,
        /// Whether the same request can help when it is sent again.
        retry: Retry,
    },
    /// There was no connection and none could be made in time. Nothing was sent.
    #[error("not connected to the broker: {reason}")]
    Disconnected {
        /// Why the last connection, or the last attempt to make one, failed.
        reason: String,
    },
    /// The request was sent and the answer was lost: it may or may not have been carried out.
    #[error("outcome unknown, the request may have been carried out: {reason}")]
    OutcomeUnknown {
        /// Why there is no answer.
        reason: String,
    },
    /// The deadline passed before the request could be sent, or before one that changes nothing was answered.
    #[error("timed out while {what}")]
    Timeout {
        /// What was waited for.
        what: String,
    },
    /// The arguments cannot work; nothing was sent.
    #[error("{reason}")]
    InvalidArgument {
        /// What is wrong with them.
        reason: String,
    },
    /// These records are damaged on the broker's disk, or were on the way, and are lost. Reading goes on
    /// behind them.
    #[error("{topic}/{partition}: the records from offset {from} up to {to} (exclusive) are damaged")]
    Corrupt {
        /// The topic.
        topic: String,
        /// The partition within it.
        partition: u32,
        /// The first offset that cannot be read.
        from: u64,
        /// The first one behind them.
        to: u64,
    },
    /// The broker said something that this version of the client does not understand.
    #[error("protocol error: {reason}")]
    Protocol {
        /// What was unexpected.
        reason: String,
    },
    /// This producer, stream or client has been closed.
    #[error("closed")]
    Closed,
}

impl Error {
    /// Whether doing the same again can succeed. After [`Error::OutcomeUnknown`] it may do it twice.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Broker { retry, .. } => *retry != Retry::Never,
            Error::Disconnected { .. } | Error::OutcomeUnknown { .. } | Error::Timeout { .. } => true,
            Error::InvalidArgument { .. }
            | Error::Corrupt { .. }
            | Error::Protocol { .. }
            | Error::Closed => false,
        }
    }

    /// The broker's code, if it was the broker that answered.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Broker { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the operation may have been carried out although it failed.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. } | Error::Broker { retry: Retry::Unknown, .. })
    }

    /// Errors that pass by themselves soon, so that this crate waits and tries again until the deadline.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Broker { code: ErrorCode::Busy | ErrorCode::ShuttingDown, retry, .. } => {
                *retry == Retry::Later
            }
            Error::Disconnected { .. } => true,
            _ => false,
        }
    }

    /// Errors behind which asking the same broker again can tell more, where doing it twice does no harm. A shard
    /// that stopped stays stopped until its broker is started again: waiting for that is the caller's choice.
    pub(crate) fn is_worth_asking_again(&self) -> bool {
        let stopped = self.code() == Some(ErrorCode::ShardStopped);
        self.is_passing() || (self.is_outcome_unknown() && !stopped)
    }

    /// The same, of a request that may have been carried out by an earlier attempt.
    pub(crate) fn doubted(self) -> Error {
        match self {
            Error::Broker { code, message, .. } => Error::Broker { code, message, retry: Retry::Unknown },
            unknown @ Error::OutcomeUnknown { .. } => unknown,
            other => Error::unknown(other.to_string()),
        }
    }

    pub(crate) fn from_wire(error: wire::Error) -> Error {
        let code = error.code();
        let retry = error.retry();
        Error::Broker { code, message: error.message, retry }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Error {
        Error::InvalidArgument { reason: reason.into() }
    }

    pub(crate) fn disconnected(reason: impl Into<String>) -> Error {
        Error::Disconnected { reason: reason.into() }
    }

    pub(crate) fn unknown(reason: impl Into<String>) -> Error {
        Error::OutcomeUnknown { reason: reason.into() }
    }

    pub(crate) fn timeout(what: impl Into<String>) -> Error {
        Error::Timeout { what: what.into() }
    }

    pub(crate) fn protocol(reason: impl Into<String>) -> Error {
        Error::Protocol { reason: reason.into() }
    }

    pub(crate) fn unknown_topic(topic: &str) -> Error {
        Error::Broker {
            code: ErrorCode::UnknownTopic,
            message: format!("there is no topic `{topic}`: create it with `dure topic create {topic}`"),
            retry: Retry::Never,
        }
    }
}
