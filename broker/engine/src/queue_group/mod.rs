//! Queue groups as plain state machines: who holds which message, what is settled, what has to wait, what is
//! dead, and who gets the next one. No clock, no randomness and no I/O: all three come in as arguments.
//!
//! One [`LeaseTable`] per group and partition. Its methods decide and return journal events; only
//! [`LeaseTable::apply`] changes what is durable, and replay calls the same. One [`Dispatcher`] per group and
//! topic shares the messages among subscriptions and receives.
//!
//! A table of a group that keeps the order of keys or goes by priority, or of a topic whose messages expire, has a
//! [`window::Window`] beside it: it grants only messages whose records were looked at, and of each key one at a time.

mod apply;
mod check;
mod dispatcher;
mod expiry;
mod grant;
mod held;
mod hot;
mod letters;
mod message;
mod offset_runs;
mod rates;
mod ready;
mod record_table;
mod settings;
mod settle;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod timeout;
mod turns;
mod window;

pub use apply::NotApplied;
pub use dispatcher::{Dispatch, Dispatcher, DispatcherFull, Sent, TAKERS_MAX, Taker};
pub use expiry::EXPIRED_REASON;
pub use grant::{Grant, LeaseTerms, TokenSource};
pub use hot::{HOTTEST_KEYS_MAX, HotKey};
pub use letters::Dying;
pub use message::{DeadLetter, MessageState};
pub use ready::ReadyMessages;
pub use record_table::{RECORD_TABLE_MAX, RecordFacts, RecordTable};
pub use settings::{
    DEAD_LETTERS_MAX, Jitter, LEASE_MS_MAX, LeaseSettings, REASON_BYTES_MAX, RELEASE_DELAY_MS_MAX,
    TABLE_MESSAGES_MAX, TIMEOUTS_PER_TURN_MAX,
};
pub use settle::{SettleError, Settlement};
pub use snapshot::RestoreError;
pub use table::{Counts, LeaseTable};
pub use turns::PRIORITY_ROUND;
pub use window::{PRIORITY_LOOK_AHEAD, WINDOW_BYTES_MAX};
