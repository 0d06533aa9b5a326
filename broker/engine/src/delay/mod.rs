//! Messages that wait for their time. A batch with a due time lies in a delay log, a hidden topic beside the one that it
//! was sent to, and enters that one when it is due. What of a delay log is done with is durable (a settled set in the
//! log's state); what waits is an index in memory, which is made again from the logs after a restart.

mod horizon;
mod index;

pub(crate) use horizon::Horizon;
pub use horizon::{DELAY_MS_MAX, Due};
pub(crate) use index::{DelayIndex, Waiting};
