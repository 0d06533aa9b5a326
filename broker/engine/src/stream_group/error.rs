//! Why a stream group refuses, one enum per operation.

use dure_proto::{Offset, TopicPartition};

use super::group::COMMIT_ITEMS_MAX;
use super::join::{MEMBER_NAME_BYTES_MAX, SESSION_MS_MAX, SESSION_MS_MIN};
use super::member::{Claim, MemberId};
use super::subscription::{PATTERNS_MAX, TOPICS_PER_MEMBER_MAX};
use crate::request::RequestError;

/// Why a join was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The group is at its bound. It may help to try again later.
    #[error("the group has {members_max} members, which is its bound")]
    GroupFull {
        /// The bound.
        members_max: usize,
    },
    /// Nothing to subscribe to.
    #[error("a member names at least one topic")]
    NoTopics,
    /// Too many topics.
    #[error(
        "{topics} topics and patterns are more than the {TOPICS_PER_MEMBER_MAX} that a member may subscribe to"
    )]
    TooManyTopics {
        /// How many were named.
        topics: usize,
    },
    /// Each of them is looked at for each topic.
    #[error("{patterns} different patterns are more than the {PATTERNS_MAX} of a group")]
    TooManyPatterns {
        /// How many there would be.
        patterns: usize,
    },
    /// The session time is out of bounds.
    #[error("a session of {session_ms} ms is not within {SESSION_MS_MIN} to {SESSION_MS_MAX} ms")]
    SessionOutOfRange {
        /// What was asked for.
        session_ms: u64,
    },
    /// The member's or the client's name is too long.
    #[error("a name of {bytes} bytes is longer than the {MEMBER_NAME_BYTES_MAX} that fit")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A member with a name of its own and one without would have the same.
    #[error("the name `{name}` belongs to a member of the other kind: choose another")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Nobody was ever given this claim.
    #[error("claim {} was never given out: join without one", claim.0)]
    UnknownClaim {
        /// What came.
        claim: Claim,
    },
    /// Another process came under the same name since.
    #[error("another process joined as `{member}` since")]
    Replaced {
        /// The name.
        member: MemberId,
    },
}

impl JoinError {
    /// As it goes to the client.
    #[must_use]
    pub fn to_request_error(&self, group: &str) -> RequestError {
        match self {
            JoinError::GroupFull { .. } => RequestError::Busy(format!("group `{group}`: {self}")),
            JoinError::Replaced { member } => replaced(group, member),
            _ => RequestError::Invalid(format!("cannot join group `{group}`: {self}")),
        }
    }
}

/// Why a member was refused. It has to stop reading, drop what it thinks it owns, and join again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Its session ran out, it left, or the broker was restarted.
    #[error("unknown member `{member}`")]
    UnknownMember {
        /// The name given.
        member: String,
    },
    /// It did not give up in time what it had to, another connection joined in its name, or the generation
    /// was never given out to it.
    #[error("member `{member}` is fenced")]
    FencedGeneration {
        /// The member.
        member: MemberId,
    },
    /// Another process joined under the same name since. It is to end, and not to join again.
    #[error("member `{member}` was replaced by another process of that name")]
    Replaced {
        /// The member.
        member: MemberId,
    },
}

impl MemberError {
    /// As it goes to the client.
    #[must_use]
    pub fn to_request_error(&self, group: &str) -> RequestError {
        match self {
            MemberError::UnknownMember { member } => {
                RequestError::UnknownMember { group: group.to_owned(), member: member.clone() }
            }
            MemberError::FencedGeneration { member } => {
                RequestError::FencedGeneration { group: group.to_owned(), member: member.to_string() }
            }
            MemberError::Replaced { member } => replaced(group, member),
        }
    }
}

fn replaced(group: &str, member: &MemberId) -> RequestError {
    RequestError::MemberReplaced { group: group.to_owned(), member: member.to_string() }
}

/// Why a commit was refused; none of its offsets counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The member as such is refused.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The member does not own the partition, or did not yet at that generation. The others of the same
    /// commit may be sent again without it.
    #[error("member `{member}` does not own {partition} at that generation")]
    FencedGeneration {
        /// The member.
        member: MemberId,
        /// The first such partition.
        partition: TopicPartition,
    },
    /// Too many offsets at once.
    #[error("{items} offsets are more than the {COMMIT_ITEMS_MAX} of one commit")]
    TooManyItems {
        /// How many there were.
        items: usize,
    },
    /// No log gets there.
    #[error("offset {offset} of {partition} is beyond any log")]
    OffsetTooLarge {
        /// Of this partition.
        partition: TopicPartition,
        /// What was given.
        offset: Offset,
    },
}

impl CommitError {
    /// As it goes to the client.
    #[must_use]
    pub fn to_request_error(&self, group: &str) -> RequestError {
        match self {
            CommitError::Member(error) => error.to_request_error(group),
            CommitError::FencedGeneration { member, .. } => {
                RequestError::FencedGeneration { group: group.to_owned(), member: member.to_string() }
            }
            _ => RequestError::Invalid(format!("cannot commit for group `{group}`: {self}")),
        }
    }
}

/// Why a seek was refused; nothing moves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeekError {
    /// The cursor moves under nobody's feet.
    #[error("the group has {members} members")]
    GroupNotEmpty {
        /// How many.
        members: usize,
    },
    /// No log gets there.
    #[error("offset {offset} is beyond any log")]
    OffsetTooLarge {
        /// What was given.
        offset: Offset,
    },
}

impl SeekError {
    /// As it goes to the client.
    #[must_use]
    pub fn to_request_error(&self, group: &str) -> RequestError {
        match self {
            SeekError::GroupNotEmpty { .. } => RequestError::GroupNotEmpty(group.to_owned()),
            SeekError::OffsetTooLarge { .. } => {
                RequestError::Invalid(format!("cannot seek group `{group}`: {self}"))
            }
        }
    }
}

/// An event or snapshot that this group cannot have written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetNotApplied {
    /// It belongs to another group.
    #[error("a committed offset of group {found} was given to group {group}")]
    OtherGroup {
        /// The group.
        group: u32,
        /// The event's.
        found: u32,
    },
    /// No log gets there.
    #[error("committed offset {offset} of {partition} is beyond any log")]
    OffsetTooLarge {
        /// Of this partition.
        partition: TopicPartition,
        /// What it says.
        offset: Offset,
    },
}
