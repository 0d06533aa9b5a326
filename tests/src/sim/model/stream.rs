//! Stream groups as their members know them.

use dure_engine::ConnectionId;
use dure_proto::wire;

/// A member that was told its name.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) group: String,
    pub(crate) connection: ConnectionId,
    pub(crate) name: String,
    /// Of one whose name outlives it, 0 for others: of two under one name the lower claim is refused.
    pub(crate) claim: u64,
    pub(crate) assignment: Option<wire::Assignment>,
}

/// The committed offset of one partition: no lower than what was acknowledged, no higher than what was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Committed {
    pub(crate) acked: u64,
    pub(crate) asked_max: u64,
    /// A seek is under way, or its answer was lost: it may be anywhere.
    pub(crate) seeking: bool,
}

impl Committed {
    pub(crate) fn seek(&mut self) {
        *self = Committed { acked: 0, asked_max: u64::MAX, seeking: true };
    }

    /// What it is now is the least that it can be from now on.
    pub(crate) fn observe(&mut self, found: u64) {
        self.acked = found;
        self.asked_max = self.asked_max.max(found);
        self.seeking = false;
    }

    pub(crate) fn restart(&mut self) {
        if self.seeking {
            self.acked = 0;
        }
    }
}
