//! The hot paths: what is done for every record, batch or message. Each can be run round after round, on one thread,
//! without a disk and without a clock, so that a round costs the same each time: `instructions` counts what that is, and
//! the micro benches time it.

mod batch;
mod checksum;
mod driven_shard;
mod frame;
mod lease_table;
mod log;
mod message_ids;
mod null_disk;
mod payload;
mod produce;
mod queue;
mod settled;
mod stream_group;

use std::fmt;

use dure_engine::Now;

/// When everything happens.
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };

/// A hot path.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// What it is called, in small letters and dashes.
    pub name: &'static str,
    /// What one operation is: a record, a batch, a message.
    pub operation: &'static str,
    /// How many of them one round does.
    pub operations: u64,
    /// Payload that one round works on, in bytes; 0 where that says nothing.
    pub bytes: u64,
    /// Gets everything ready that is not to be measured.
    pub prepare: fn() -> Round,
    /// Set if only this function is meant, which cannot be called from outside: its instructions can be counted, but it
    /// cannot be timed by itself.
    pub only: Option<&'static str>,
}

/// Does the operations of one round. Can be called as often as one likes.
pub type Round = Box<dyn FnMut()>;

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them, in the order in which a message meets them.
pub fn all() -> impl Iterator<Item = Path> {
    let rooms: [&[Path]; 10] = [
        checksum::PATHS,
        batch::PATHS,
        frame::PATHS,
        produce::PATHS,
        message_ids::PATHS,
        log::PATHS,
        lease_table::PATHS,
        settled::PATHS,
        queue::PATHS,
        stream_group::PATHS,
    ];
    rooms.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_runs_more_than_once_and_has_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        for path in all() {
            assert!(names.insert(path.name) && path.operations > 0, "{path}");
            let mut round = (path.prepare)();
            round();
            round();
        }
    }
}
