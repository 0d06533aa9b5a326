//! Compaction by key: of each key the newest message stays, and the offsets stay as they are.
//!
//! A log is gone through in passes. A [`Pass`] first reads what was appended since the last one and notes the newest
//! offset of each key ([`KeyMap`]), as many keys as there is room for; then it goes through all sealed segments below
//! that, from the oldest on, and writes those anew from which something goes ([`rewrite`]). Each new segment is synced
//! before an event of the journal puts it in the place of the old ones, so that there is never a mixture; and since that
//! happens from the oldest on, a tombstone is never gone before what it deletes.
//!
//! The active segment is never touched. Memory is bounded by the keys of one pass and a batch; what is read at a time, by
//! [`STEP_BYTES`].

mod keys;
mod pass;
mod progress;
mod rewrite;

pub(crate) use keys::KeyMap;
pub(crate) use pass::{Pass, PassEnd, PassError, Stepped, Task};
pub(crate) use progress::Progress;

/// Read in one step; a step is a job of its own, so that others get their turn and the rate can be held down.
const STEP_BYTES: u64 = 4 << 20;
/// Read at once, unless a single entry is larger.
const READ_BYTES: usize = 256 << 10;
