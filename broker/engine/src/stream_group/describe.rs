//! What `group describe` shows of a stream group.

use std::fmt;

use dure_proto::{Generation, Offset, TopicId, TopicPartition};

use super::group::StreamGroup;
use super::member::MemberId;

/// How settled a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamGroupState {
    /// No members.
    Empty,
    /// Every partition that can be owned is, by whom it should be, and every member has confirmed it.
    Stable,
    /// On the way there.
    Rebalancing,
}

impl fmt::Display for StreamGroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StreamGroupState::Empty => "empty",
            StreamGroupState::Stable => "stable",
            StreamGroupState::Rebalancing => "rebalancing",
        })
    }
}

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamGroupDescription {
    /// How settled it is.
    pub state: StreamGroupState,
    /// Of the last change of an assignment.
    pub generation: Generation,
    /// In the order of their names.
    pub members: Vec<MemberDescription>,
    /// In order; where nothing was committed there is no entry.
    pub committed: Vec<(TopicPartition, Offset)>,
}

/// One member of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its name.
    pub id: MemberId,
    /// Its client's name.
    pub client: String,
    /// Its name outlives its process.
    pub named: bool,
    /// What it may be reading, in order: with what it is giving up. No two members have one in common.
    pub partitions: Vec<TopicPartition>,
}

impl StreamGroup {
    /// What it is like now.
    #[must_use]
    pub fn describe(&self) -> StreamGroupDescription {
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            id: id.clone(),
            client: member.client.clone(),
            named: member.claim.is_some(),
            partitions: member.holdings.keys().copied().collect(),
        });
        StreamGroupDescription {
            state: self.state(),
            generation: self.generation,
            members: members.collect(),
            committed: self.committed.iter().map(|(partition, offset)| (*partition, *offset)).collect(),
        }
    }

    /// Topics that a pattern means and that are not read, since they would be too much for one member.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// The topics that it reads, is to read or has committed offsets of, each once or more.
    pub fn topics(&self) -> impl Iterator<Item = TopicId> {
        let named = self.members.values().flat_map(|member| member.subscription.named());
        let committed = self.committed.keys().map(|partition| partition.topic);
        self.topics.keys().copied().chain(committed).chain(named)
    }

    /// How settled it is.
    #[must_use]
    pub fn state(&self) -> StreamGroupState {
        if self.members.is_empty() {
            StreamGroupState::Empty
        } else if self.members.values().all(|member| !member.fenced && member.confirmed == member.generation)
            && self.slots.values().all(|slot| slot.holder == slot.target)
        {
            StreamGroupState::Stable
        } else {
            StreamGroupState::Rebalancing
        }
    }
}
