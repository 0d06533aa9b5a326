//! Requests of stream groups' members. What a group is, its machine knows; here it meets connections and commits.

use std::collections::BTreeSet;

use dure_proto::journal::event;
use dure_proto::{Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition, wire};

use super::Shard;
use super::state::GroupKind;
use crate::catalogue::{TopicInfo, check_name};
use crate::effect::Effect;
use crate::request::{ConnectionId, ReplyTo, RequestError, Response};
use crate::stream_group::{Caller, Claim, Identity, Join, KnownTopic, StreamGroup};
use crate::time::Now;
use crate::topic_pattern::TopicPattern;

impl Shard {
    pub(super) fn join_group(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        join: &wire::JoinGroup,
        client: String,
    ) -> Result<(), RequestError> {
        if !join.name.is_empty() {
            check_name("member", &join.name)?;
        }
        let (topics, patterns) = self.subscription(join)?;
        let group = match self.state.group_by_name(&join.group) {
            Some(_) => self.stream_group_id(&join.group)?,
            None => self.new_group(now, &join.group, wire::GroupKind::Stream, None)?,
        };
        self.tell_topics(now, group, &topics, &patterns);
        let join_as = Join {
            identity: identity(join),
            connection: reply_to.connection,
            client: &client,
            topics: &topics,
            patterns: &patterns,
            session_ms: join.session_ms,
        };
        let joined = self.stream(group).handle_join(now, &join_as);
        let joined = joined.map_err(|error| error.to_request_error(&join.group))?;
        let reply = wire::JoinGroupReply {
            member: joined.member.as_str().to_owned(),
            heartbeat_ms: joined.heartbeat_ms,
            claim: joined.claim.map_or(0, |claim| claim.0),
        };
        // Before its first assignment, which does not wait for a commit. A group that was made by this and is lost with a
        // crash is made again by the next join.
        self.reply(reply_to, Ok(Response::Joined(reply)));
        Ok(())
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        heartbeat: &wire::Heartbeat,
    ) -> Result<(), RequestError> {
        let group = self.stream_group_id(&heartbeat.group)?;
        // A topic that was deleted meanwhile is nobody's any more.
        let owned: Vec<TopicPartition> =
            heartbeat.owned.iter().filter_map(|name| self.named(&name.topic, name.partition)).collect();
        let caller = caller(reply_to, &heartbeat.member, heartbeat.claim);
        self.stream(group)
            .handle_heartbeat(now, &caller, Generation(heartbeat.generation), &owned)
            .map_err(|error| error.to_request_error(&heartbeat.group))?;
        self.reply(reply_to, Ok(Response::Done));
        Ok(())
    }

    pub(super) fn commit_offsets(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        commit: &wire::CommitOffsets,
    ) -> Result<(), RequestError> {
        let group = self.stream_group_id(&commit.group)?;
        let mut offsets = Vec::with_capacity(commit.offsets.len());
        for item in &commit.offsets {
            let topic = self.state.catalogue.find(&item.topic)?;
            let partition = topic.partition(PartitionId(item.partition))?;
            let log_end = self.state.logs[&partition].layout.log_end();
            if Offset(item.offset) > log_end {
                return Err(RequestError::Invalid(format!(
                    "offset {} of topic `{}` partition {} is behind the log's end ({log_end}): nothing was committed",
                    item.offset, item.topic, item.partition
                )));
            }
            offsets.push((partition, Offset(item.offset)));
        }
        let caller = caller(reply_to, &commit.member, commit.claim);
        let committed = self
            .stream(group)
            .handle_commit(&caller, Generation(commit.generation), &offsets)
            .map_err(|error| error.to_request_error(&commit.group))?;
        for event in committed {
            self.commit_event(now, event::Event::OffsetsCommitted(event));
        }
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    pub(super) fn leave_group(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        leave: &wire::LeaveGroup,
    ) -> Result<(), RequestError> {
        let group = self.stream_group_id(&leave.group)?;
        let caller = caller(reply_to, &leave.member, leave.claim);
        self.stream(group)
            .handle_leave(now, &caller)
            .map_err(|error| error.to_request_error(&leave.group))?;
        self.reply(reply_to, Ok(Response::Done));
        Ok(())
    }

    pub(super) fn stream_connection_closed(&mut self, _now: Now, connection: ConnectionId) {
        self.streams_mut().for_each(|stream| stream.handle_connection_closed(connection));
    }

    pub(super) fn stream_timeouts(&mut self, now: Now) {
        self.streams_mut().for_each(|stream| stream.handle_timeout(now));
    }

    pub(super) fn stream_timeout(&self) -> Option<u64> {
        let streams = self.state.groups.values().filter_map(|group| match &group.kind {
            GroupKind::Stream(stream) => stream.poll_timeout(),
            GroupKind::Queue(_) => None,
        });
        streams.min()
    }

    /// Topics were made, were deleted, or have more partitions: their readers share them out anew. What is made is told
    /// once it can be read, which is when it is durable.
    pub(super) fn stream_topics_changed(&mut self, now: Now) {
        let streams = self.state.groups.values().filter(|group| matches!(group.kind, GroupKind::Stream(_)));
        let groups: Vec<GroupId> = streams.map(|group| group.id).collect();
        groups.into_iter().for_each(|group| self.tell_topics(now, group, &[], &[]));
    }

    /// Sends out the assignments that changed.
    pub(super) fn assign_streams(&mut self, now: Now) {
        if std::mem::take(&mut self.topics_to_tell) {
            self.stream_topics_changed(now);
        }
        let table = self.state.catalogue.table().clone();
        for group in self.state.groups.values_mut() {
            let GroupKind::Stream(stream) = &mut group.kind else { continue };
            for assigned in stream.take_assignments() {
                let partitions = assigned.partitions.iter().filter_map(|partition| {
                    Some(wire::AssignedPartition {
                        topic: table.by_id(partition.topic)?.name.clone(),
                        topic_id: partition.topic.0,
                        partition: partition.partition.0,
                        committed: stream.committed(*partition).map(|offset| offset.0),
                    })
                });
                let assignment = wire::Assignment {
                    group: group.name.clone(),
                    member: assigned.member.as_str().to_owned(),
                    generation: assigned.generation.0,
                    partitions: partitions.collect(),
                };
                self.effects.push(Effect::Assign { connection: assigned.connection, assignment });
            }
        }
    }

    pub(super) fn describe_members(&self, stream: &StreamGroup) -> Vec<wire::MemberDescription> {
        let name = |partition: &TopicPartition| {
            let topic = self.state.catalogue.table().by_id(partition.topic)?.name.clone();
            Some(wire::TopicPartitionName { topic, partition: partition.partition.0 })
        };
        let members = stream.describe().members.into_iter();
        members
            .map(|member| wire::MemberDescription {
                id: member.id.as_str().to_owned(),
                client: member.client,
                named: member.named,
                partitions: member.partitions.iter().filter_map(name).collect(),
            })
            .collect()
    }

    /// Every partition of every topic that the group reads or has read.
    pub(super) fn stream_partitions(&self, stream: &StreamGroup) -> Vec<TopicPartition> {
        let topics: BTreeSet<TopicId> = stream.topics().collect();
        let topics = topics.iter().filter_map(|topic| self.state.catalogue.table().by_id(*topic));
        topics.flat_map(|topic| topic.all_partitions()).collect()
    }

    fn stream(&mut self, group: GroupId) -> &mut StreamGroup {
        match &mut self.state.groups.get_mut(&group).expect("it was just looked up").kind {
            GroupKind::Stream(stream) => stream,
            GroupKind::Queue(_) => unreachable!("its kind was just looked up"),
        }
    }

    fn streams_mut(&mut self) -> impl Iterator<Item = &mut StreamGroup> {
        self.state.groups.values_mut().filter_map(|group| match &mut group.kind {
            GroupKind::Stream(stream) => Some(&mut **stream),
            GroupKind::Queue(_) => None,
        })
    }

    /// What a client wants to read: topics that there are, and patterns.
    fn subscription(
        &self,
        join: &wire::JoinGroup,
    ) -> Result<(Vec<TopicId>, Vec<TopicPattern>), RequestError> {
        let (mut topics, mut patterns) = (Vec::new(), Vec::new());
        for name in &join.topics {
            if TopicPattern::is_meant(name) {
                patterns.push(TopicPattern::checked(name)?);
            } else {
                topics.push(self.state.catalogue.find(name)?.id);
            }
        }
        Ok((topics, patterns))
    }

    /// Tells a group of the topics that it reads or has read, of these, and of all that a pattern means: one of these or
    /// of its members.
    fn tell_topics(&mut self, now: Now, group: GroupId, topics: &[TopicId], patterns: &[TopicPattern]) {
        let table = self.state.catalogue.table().clone();
        let stream = self.stream(group);
        let mut known: BTreeSet<TopicId> = stream.topics().chain(topics.iter().copied()).collect();
        if !patterns.is_empty() || stream.has_patterns() {
            let wanted =
                |name: &str| stream.wants(name) || patterns.iter().any(|pattern| pattern.matches(name));
            let meant = table.iter().filter(|topic| !topic.is_hidden() && wanted(&topic.name));
            known.extend(meant.map(|topic| topic.id));
        }
        let infos = known.iter().filter_map(|topic| table.by_id(*topic));
        let readable = infos.map(|topic| {
            let partitions = self.readable_partitions(topic);
            (topic.id, KnownTopic { name: topic.name.clone(), partitions })
        });
        let readable: Vec<_> = readable.filter(|(_, topic)| topic.partitions > 0).collect();
        self.stream(group).handle_topics(now, readable);
    }

    /// How many of a topic's partitions have a log by now, counted from the first.
    fn readable_partitions(&self, topic: &TopicInfo) -> u32 {
        let has_log = |partition: u32| {
            let partition = PartitionId(partition);
            self.writers.contains_key(&TopicPartition { topic: topic.id, partition })
        };
        let all = topic.partitions > 0 && has_log(topic.partitions - 1);
        if all { topic.partitions } else { (0..topic.partitions).take_while(|p| has_log(*p)).count() as u32 }
    }

    fn named(&self, topic: &str, partition: u32) -> Option<TopicPartition> {
        self.state.catalogue.find(topic).ok()?.partition(PartitionId(partition)).ok()
    }
}

fn identity(join: &wire::JoinGroup) -> Identity<'_> {
    match (join.name.as_str(), join.member.as_str()) {
        ("", "") => Identity::New,
        ("", member) => Identity::Member(member),
        (name, _) => Identity::Named { name, claim: claim(join.claim) },
    }
}

fn caller(reply_to: ReplyTo, member: &str, number: u64) -> Caller<'_> {
    Caller { connection: reply_to.connection, member, claim: claim(number) }
}

fn claim(number: u64) -> Option<Claim> {
    (number > 0).then_some(Claim(number))
}
