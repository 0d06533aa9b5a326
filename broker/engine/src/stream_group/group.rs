//! The group and what its members can do.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};

use super::error::MemberError;
use super::member::{Caller, Claim, Member, MemberId, Revoking};
use super::subscription::KnownTopic;
use crate::request::ConnectionId;
use crate::time::Now;

/// Bound of one commit.
pub const COMMIT_ITEMS_MAX: usize = 10_000;
/// A session outlives the loss of two heartbeats.
pub(crate) const HEARTBEATS_PER_SESSION: u64 = 3;

/// One stream group.
#[derive(Clone, Debug)]
pub struct StreamGroup {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    /// Of the last change of anybody's assignment. No member's is newer.
    pub(crate) generation: Generation,
    /// Counts generated names within the epoch.
    pub(crate) names: u64,
    /// No claim to any name is higher. The epoch is its upper half, so that one from before a restart is lower.
    pub(crate) claim_last: Claim,
    pub(crate) topics: BTreeMap<TopicId, KnownTopic>,
    /// Topics that a pattern means and that are not read, since they would be too much for one member.
    pub(crate) left_out: BTreeSet<TopicId>,
    /// Exactly the partitions of `topics`.
    pub(crate) slots: BTreeMap<TopicPartition, Slot>,
    /// At most [`MEMBERS_MAX`](super::MEMBERS_MAX).
    pub(crate) members: BTreeMap<MemberId, Member>,
    /// Whose assignment is to go out; a subset of `members`.
    pub(crate) outbox: BTreeSet<MemberId>,
    /// No deadline of any member is earlier; it may be too early, which costs an idle call.
    pub(crate) wake_ms: u64,
    /// Where the group goes on reading. Durable; changed by [`StreamGroup::apply`] and by the deletion of a
    /// topic alone.
    pub(crate) committed: BTreeMap<TopicPartition, Offset>,
}

/// One partition's place in the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// Who should own it. `Some` exactly if a member that is not fenced subscribes to its topic.
    pub(crate) target: Option<MemberId>,
    /// Who may be reading it: at most one by construction, and the partition is in its `holdings`.
    pub(crate) holder: Option<MemberId>,
}

/// What a member should own from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAssignment {
    /// Where it goes.
    pub connection: ConnectionId,
    /// Whose it is.
    pub member: MemberId,
    /// To be named in heartbeats and commits from now on.
    pub generation: Generation,
    /// In order. What the member owns and does not find here it has to give up.
    pub partitions: Vec<TopicPartition>,
}

impl StreamGroup {
    /// A group without members and offsets.
    #[must_use]
    pub fn new(group: GroupId) -> Self {
        StreamGroup {
            group,
            epoch: Epoch(0),
            generation: Generation(0),
            names: 0,
            claim_last: Claim(0),
            topics: BTreeMap::new(),
            left_out: BTreeSet::new(),
            slots: BTreeMap::new(),
            members: BTreeMap::new(),
            outbox: BTreeSet::new(),
            wake_ms: u64::MAX,
            committed: BTreeMap::new(),
        }
    }

    /// Generations and names are of this epoch from now on. To be called once before the first join.
    pub fn open(&mut self, epoch: Epoch) {
        assert!(self.members.is_empty(), "the epoch rises before members join");
        assert!(epoch > self.epoch, "an epoch is opened once");
        let upper = u32::try_from(epoch.0).expect("a broker does not start four thousand million times");
        self.epoch = epoch;
        self.generation = Generation(u64::from(upper) << 32);
        self.claim_last = Claim(u64::from(upper) << 32);
    }

    /// The topics that there are; those that members subscribe to have to be among them, and those that
    /// [`StreamGroup::wants`]. Assignments of a topic that is missing are dropped at once; its committed offsets
    /// stay until [`StreamGroup::apply_topic_deleted`].
    pub fn handle_topics(&mut self, now: Now, topics: impl IntoIterator<Item = (TopicId, KnownTopic)>) {
        let topics: BTreeMap<TopicId, KnownTopic> = topics.into_iter().collect();
        if topics == self.topics {
            return;
        }
        self.topics = topics;
        self.resolve();
        let gone: Vec<TopicPartition> = self
            .slots
            .keys()
            .filter(|p| self.topics.get(&p.topic).is_none_or(|topic| p.partition.0 >= topic.partitions))
            .copied()
            .collect();
        let mut changed = BTreeSet::new();
        for partition in gone {
            let slot = self.slots.remove(&partition).expect("it was listed");
            if let Some(holder) = slot.holder {
                let member = self.members.get_mut(&holder).expect("a holder is a member");
                member.holdings.remove(&partition);
                changed.insert(holder);
            }
        }
        for (topic, known) in &self.topics {
            for partition in (0..known.partitions).map(PartitionId) {
                self.slots.entry(TopicPartition { topic: *topic, partition }).or_default();
            }
        }
        self.rebalance(now, changed);
    }

    /// The member that speaks: live, over its own connection, not fenced, not replaced.
    pub(crate) fn speaker(&mut self, caller: &Caller<'_>) -> Result<(MemberId, &mut Member), MemberError> {
        let Some((id, _)) = self.members.get_key_value(caller.member) else {
            return Err(MemberError::UnknownMember { member: caller.member.to_owned() });
        };
        let id = id.clone();
        let member = self.members.get_mut(&id).expect("it was just found");
        if caller.claim < member.claim && caller.claim.is_some() {
            return Err(MemberError::Replaced { member: id });
        }
        if member.fenced || member.claim != caller.claim || member.connection != Some(caller.connection) {
            return Err(MemberError::FencedGeneration { member: id });
        }
        Ok((id, member))
    }

    /// A member is alive and says what it owns. Renews its session; what it was told to give up by
    /// `generation` or before and does not list any more goes to its new owner. What it lists without holding
    /// it (a topic that was deleted meanwhile) is passed over: its next assignment says so.
    ///
    /// # Errors
    /// See [`MemberError`]: it has to join again.
    pub fn handle_heartbeat(
        &mut self,
        now: Now,
        caller: &Caller<'_>,
        generation: Generation,
        owned: &[TopicPartition],
    ) -> Result<(), MemberError> {
        let (id, member) = self.speaker(caller)?;
        // A generation of an epoch before, or none: the client has not got its assignment since it joined.
        if generation > member.pushed {
            return Err(MemberError::FencedGeneration { member: id });
        }
        let deadline_ms = now.mono_ms.saturating_add(member.session_ms);
        member.session_deadline_ms = member.session_deadline_ms.max(deadline_ms);
        if generation > member.confirmed {
            member.confirmed = generation;
            member.behind_deadline_ms = None;
        }
        if member.confirmed < member.generation {
            member.expect_confirmation(now.mono_ms);
        }
        let next_deadline_ms = member.next_deadline_ms();
        let given_up = |revoking: Revoking| revoking.since <= generation;
        let mut freed: Vec<TopicPartition> = member
            .holdings
            .iter()
            .filter(|(_, holding)| holding.revoking.is_some_and(given_up))
            .map(|(partition, _)| *partition)
            .collect();
        self.wake_ms = self.wake_ms.min(next_deadline_ms);
        if !freed.is_empty() {
            let owned: BTreeSet<TopicPartition> = owned.iter().copied().collect();
            freed.retain(|partition| !owned.contains(partition));
            self.release(&id, &freed);
            self.reconcile(now, freed, BTreeSet::new());
        }
        Ok(())
    }

    /// A member goes: it has stopped reading, and what it held is free at once.
    ///
    /// # Errors
    /// See [`MemberError`]; there is nothing to leave then.
    pub fn handle_leave(&mut self, now: Now, caller: &Caller<'_>) -> Result<(), MemberError> {
        let (id, _) = self.speaker(caller)?;
        self.remove(&id);
        self.rebalance(now, BTreeSet::new());
        Ok(())
    }

    /// The connection is gone. Its members keep their places until their sessions run out, so that whoever
    /// comes back in time finds everything as it was.
    pub fn handle_connection_closed(&mut self, connection: ConnectionId) {
        for (id, member) in &mut self.members {
            if member.connection == Some(connection) {
                member.connection = None;
                self.outbox.remove(id);
            }
        }
    }

    /// The assignments that changed since the last call, for members that can be reached.
    pub fn take_assignments(&mut self) -> Vec<MemberAssignment> {
        let mut assignments = Vec::with_capacity(self.outbox.len());
        for id in std::mem::take(&mut self.outbox) {
            let member = self.members.get_mut(&id).expect("the outbox names members");
            let Some(connection) = member.connection else { continue };
            member.pushed = member.generation;
            let partitions = member.assigned().collect();
            assignments.push(MemberAssignment {
                connection,
                generation: member.generation,
                partitions,
                member: id,
            });
        }
        assignments
    }
}
