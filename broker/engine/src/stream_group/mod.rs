//! A stream group as a plain state machine: who its members are, which partitions each of them owns, and how
//! far the group has read. No clock, no randomness and no I/O: time and connections come in as arguments.
//!
//! The broker assigns, in the spirit of KIP-848. Every partition has a *target*, the member that should own
//! it, and a *holder*, the member that may be reading it. A join or a leave changes targets; a partition is
//! granted to its target only when it has no holder any more: the old one said so with a heartbeat, left, or
//! its time ran out. So a rebalance has no barrier, and what does not move never pauses.
//!
//! A member may bring a name that outlives its process. Whoever joins under it gets the place as it is, at once and
//! without a rebalance, and a higher claim to the name: what the process before still says is refused, with an error
//! that tells it to end. The group does not wait for that process, which may go on reading until it hears so, for a
//! session at most; its commits count no more. Such a member does not leave when its process ends: it goes when its
//! session does. Claims carry the epoch as generations do, so that of two processes the later one wins also after the
//! broker was restarted and knows neither.
//!
//! # What keeps two members from reading one partition
//! The group trusts nothing but these, which a client must keep:
//! - Frames of one connection are handled in order, and what [`StreamGroup::take_assignments`] returns after a
//!   `handle_*` is sent before the answer to anything handled later. So a client whose heartbeat was answered
//!   has seen every revocation that was decided before.
//! - An answered heartbeat entitles a client to what it owns for its session time, counted from when it
//!   *sent* the heartbeat. When that is over it stops reading and joins again.
//! - A revocation ends that for its partitions: heartbeats answered later do not prolong them. The group
//!   waits a whole session time from the revocation before it takes them by force.
//! - Between a join and its answer a client passes over assignments and answers to heartbeats: they are meant
//!   for whoever it was before. After it left, it passes over everything.
//!
//! Members, targets and generations are volatile: after a restart of the broker everybody joins again, and the
//! epoch in a generation's upper half makes the old ones older. A member that has not noticed the restart can
//! go on reading beside the new owner until its session ends, but not commit. Committed offsets are durable:
//! `handle_*` decides, [`StreamGroup::apply`] changes, and replay calls the same.

mod assign;
mod check;
mod describe;
mod error;
mod group;
mod join;
mod member;
mod offsets;
mod reconcile;
mod subscription;
#[cfg(test)]
mod tests;
mod timeout;

pub use describe::{MemberDescription, StreamGroupDescription, StreamGroupState};
pub use error::{CommitError, JoinError, MemberError, OffsetNotApplied, SeekError};
pub use group::{COMMIT_ITEMS_MAX, MemberAssignment, StreamGroup};
pub use join::{
    Identity, Join, Joined, MEMBER_NAME_BYTES_MAX, MEMBERS_MAX, SESSION_MS_DEFAULT, SESSION_MS_MAX,
    SESSION_MS_MIN,
};
pub use member::{Caller, Claim, MemberId};
pub use subscription::{ASSIGNMENT_BYTES_MAX, KnownTopic, PATTERNS_MAX, TOPICS_PER_MEMBER_MAX};
