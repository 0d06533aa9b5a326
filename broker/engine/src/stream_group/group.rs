//! The group and what its members can do.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};

use super::error::{JoinError, MemberError};
use super::member::{Member, MemberId, Revoking};
use crate::request::ConnectionId;
use crate::time::Now;

/// Bound of a group.
pub const MEMBERS_MAX: usize = 1_000;
/// Bound of a subscription.
pub const TOPICS_PER_MEMBER_MAX: usize = 256;
/// Bound of a member's and a client's name.
pub const MEMBER_NAME_BYTES_MAX: usize = 249;
/// Bound of one commit.
pub const COMMIT_ITEMS_MAX: usize = 10_000;
/// The shortest session, so that heartbeats cannot be asked for too often.
pub const SESSION_MS_MIN: u64 = 100;
/// The longest session: as long can a partition wait for a crashed member.
pub const SESSION_MS_MAX: u64 = 1_800_000;
/// The session of a member that asks for none: it leaves room for settling within the promised 10 s.
pub const SESSION_MS_DEFAULT: u64 = 6_000;
/// A session outlives the loss of two heartbeats.
const HEARTBEATS_PER_SESSION: u64 = 3;

const _: () = assert!(SESSION_MS_MIN <= SESSION_MS_DEFAULT && SESSION_MS_DEFAULT <= SESSION_MS_MAX);
const _: () = assert!(SESSION_MS_DEFAULT < 10_000);
const _: () = assert!(SESSION_MS_MIN >= 10 * HEARTBEATS_PER_SESSION);

/// One stream group.
#[derive(Debug)]
pub struct StreamGroup {
    pub(crate) group: GroupId,
    pub(crate) epoch: Epoch,
    /// Of the last change of anybody's assignment. No member's is newer.
    pub(crate) generation: Generation,
    /// Counts generated names within the epoch.
    pub(crate) names: u64,
    pub(crate) topics: BTreeMap<TopicId, u32>,
    /// Exactly the partitions of `topics`.
    pub(crate) slots: BTreeMap<TopicPartition, Slot>,
    /// At most [`MEMBERS_MAX`].
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

/// Answer to a join. An assignment follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The member's name, to be used from now on.
    pub member: MemberId,
    /// How often it has to send a heartbeat.
    pub heartbeat_ms: u64,
    /// Without one for this long it is out.
    pub session_ms: u64,
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
            topics: BTreeMap::new(),
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
    }

    /// The topics that there are, with the number of their partitions; those that members subscribe to have
    /// to be among them. Assignments of a topic that is missing are dropped at once; its committed offsets
    /// stay until [`StreamGroup::apply_topic_deleted`].
    pub fn handle_topics(&mut self, now: Now, topics: &[(TopicId, u32)]) {
        let topics: BTreeMap<TopicId, u32> = topics.iter().copied().collect();
        if topics == self.topics {
            return;
        }
        self.topics = topics;
        let gone: Vec<TopicPartition> = self
            .slots
            .keys()
            .filter(|p| self.topics.get(&p.topic).is_none_or(|count| p.partition.0 >= *count))
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
        for (topic, count) in &self.topics {
            for partition in (0..*count).map(PartitionId) {
                self.slots.entry(TopicPartition { topic: *topic, partition }).or_default();
            }
        }
        self.rebalance(now, changed);
    }

    /// A client joins, or comes back under its name: then it keeps what it has, and its other connection is
    /// fenced. A name that is not known (any more) is a new member's.
    ///
    /// # Errors
    /// See [`JoinError`]. A member that could come back keeps its place whatever the error.
    pub fn handle_join(
        &mut self,
        now: Now,
        member: Option<&str>,
        connection: ConnectionId,
        client: &str,
        topics: &[TopicId],
        session_ms: u64,
    ) -> Result<Joined, JoinError> {
        assert!(self.epoch > Epoch(0), "the epoch is opened before members join");
        let session_ms = checked_session(session_ms)?;
        for name in [member.unwrap_or_default(), client] {
            if name.len() > MEMBER_NAME_BYTES_MAX {
                return Err(JoinError::NameTooLong { bytes: name.len() });
            }
        }
        let topics: BTreeSet<TopicId> = topics.iter().copied().collect();
        if topics.is_empty() {
            return Err(JoinError::NoTopics);
        }
        if topics.len() > TOPICS_PER_MEMBER_MAX {
            return Err(JoinError::TooManyTopics { topics: topics.len() });
        }
        let known = member.filter(|name| self.members.contains_key(*name));
        if known.is_none() && self.members.len() >= MEMBERS_MAX {
            return Err(JoinError::GroupFull { members_max: MEMBERS_MAX });
        }
        let id = match member.filter(|name| !name.is_empty()) {
            Some(name) => MemberId::new(name),
            None => self.new_name(),
        };
        let joined =
            Joined { member: id.clone(), heartbeat_ms: session_ms / HEARTBEATS_PER_SESSION, session_ms };
        let deadline_ms = now.mono_ms.saturating_add(session_ms);
        let member = self.members.entry(id.clone()).or_insert_with(|| Member {
            client: String::new(),
            connection: None,
            topics: BTreeSet::new(),
            session_ms,
            session_deadline_ms: 0,
            generation: Generation(0),
            pushed: Generation(0),
            confirmed: Generation(0),
            behind_deadline_ms: None,
            fenced: false,
            holdings: BTreeMap::new(),
        });
        client.clone_into(&mut member.client);
        member.connection = Some(connection);
        member.session_ms = session_ms;
        // The connection before may have been promised more.
        member.session_deadline_ms = member.session_deadline_ms.max(deadline_ms);
        // Whoever is there now has seen nothing yet.
        member.confirmed = Generation(0);
        member.behind_deadline_ms = None;
        let moves = member.topics != topics || member.fenced;
        member.topics = topics;
        member.fenced = false;
        member.expect_confirmation(now.mono_ms);
        self.wake_ms = self.wake_ms.min(deadline_ms);
        self.outbox.insert(id.clone());
        if moves {
            self.rebalance(now, BTreeSet::from([id]));
        }
        Ok(joined)
    }

    fn new_name(&mut self) -> MemberId {
        loop {
            self.names += 1;
            let id = MemberId::new(&format!("member-{}-{}", self.epoch, self.names));
            // A client may have chosen such a name itself.
            if !self.members.contains_key(&id) {
                return id;
            }
        }
    }

    /// The member that speaks: live, over its own connection, not fenced.
    pub(crate) fn speaker(
        &mut self,
        connection: ConnectionId,
        member: &str,
    ) -> Result<(MemberId, &mut Member), MemberError> {
        let Some((id, _)) = self.members.get_key_value(member) else {
            return Err(MemberError::UnknownMember { member: member.to_owned() });
        };
        let id = id.clone();
        let member = self.members.get_mut(&id).expect("it was just found");
        if member.fenced || member.connection != Some(connection) {
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
        connection: ConnectionId,
        member: &str,
        generation: Generation,
        owned: &[TopicPartition],
    ) -> Result<(), MemberError> {
        let (id, member) = self.speaker(connection, member)?;
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
    pub fn handle_leave(
        &mut self,
        now: Now,
        connection: ConnectionId,
        member: &str,
    ) -> Result<(), MemberError> {
        let (id, _) = self.speaker(connection, member)?;
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

fn checked_session(session_ms: u64) -> Result<u64, JoinError> {
    match session_ms {
        0 => Ok(SESSION_MS_DEFAULT),
        SESSION_MS_MIN..=SESSION_MS_MAX => Ok(session_ms),
        _ => Err(JoinError::SessionOutOfRange { session_ms }),
    }
}
