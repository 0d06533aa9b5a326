//! Requests about groups of either kind.

use dure_proto::journal::{GroupCreated, GroupDeleted, GroupTopicAdded, TopicDeleted, event};
use dure_proto::{GroupId, Offset, TopicPartition, wire};

use super::state::{Group, GroupKind, QueueGroup, default_queue_settings};
use super::{QueueKey, Shard};
use crate::catalogue::{TopicInfo, check_name};
use crate::queue_group::{HOTTEST_KEYS_MAX, LEASE_MS_MAX, RELEASE_DELAY_MS_MAX};
use crate::request::{ReplyTo, RequestError, Response, SeekTo};
use crate::stream_group::{StreamGroup, StreamGroupState};
use crate::time::Now;

const GROUPS_MAX: usize = 10_000;
const WORK_HINT: &str = "use it with `dure receive` or `dure work`";
const STREAM_HINT: &str = "use it with `dure consume --group`";

impl Shard {
    pub(super) fn create_group(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        create: &wire::CreateGroup,
    ) -> Result<(), RequestError> {
        let topics = create
            .topics
            .iter()
            .map(|name| self.state.catalogue.find(name).cloned())
            .collect::<Result<Vec<_>, _>>()?;
        let settings = check_queue_settings(create.queue.as_ref())?;
        if create.kind() == wire::GroupKind::Queue {
            topics.iter().try_for_each(|topic| check_workable(topic, &create.name))?;
        }
        if create.kind() == wire::GroupKind::Queue && !settings.dead_letter_topic.is_empty() {
            self.state.catalogue.find(&settings.dead_letter_topic)?;
            topics.iter().try_for_each(|topic| check_letters_leave(topic, &create.name, &settings))?;
        }
        let group = self.new_group(now, &create.name, create.kind(), Some(settings))?;
        if create.kind() == wire::GroupKind::Queue {
            for topic in topics {
                self.add_queue_topic(now, group, &topic);
            }
        }
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    pub(super) fn new_group(
        &mut self,
        now: Now,
        name: &str,
        kind: wire::GroupKind,
        queue: Option<wire::QueueSettings>,
    ) -> Result<GroupId, RequestError> {
        check_name("group", name)?;
        if self.state.group_by_name(name).is_some() {
            return Err(RequestError::GroupExists(name.to_owned()));
        }
        if self.state.groups.len() >= GROUPS_MAX {
            return Err(RequestError::Busy(format!("there are {GROUPS_MAX} groups, which is the most")));
        }
        let group = self.state.next_group();
        let queue = (kind == wire::GroupKind::Queue).then(|| queue.unwrap_or_else(default_queue_settings));
        let created = GroupCreated { group: group.0, name: name.to_owned(), kind: kind as i32, queue };
        self.commit_event(now, event::Event::GroupCreated(created));
        // Of a group that is recovered the opening of the shard does it.
        if let Some(Group { kind: GroupKind::Stream(stream), .. }) = self.state.groups.get_mut(&group) {
            stream.open(self.commit_path.epoch());
        }
        Ok(group)
    }

    /// A queue group's side of a topic. Group and side are made with the defaults where there are none.
    pub(super) fn queue_for(&mut self, now: Now, group: &str, topic: &str) -> Result<QueueKey, RequestError> {
        let topic = self.state.catalogue.find(topic)?.clone();
        check_workable(&topic, group)?;
        let group = match self.state.group_by_name(group) {
            Some(_) => self.queue_group_id(group)?,
            None => self.new_group(now, group, wire::GroupKind::Queue, None)?,
        };
        if self.state.queue_topic(group, topic.id).is_none() {
            if let Group { name, kind: GroupKind::Queue(queue), .. } = &self.state.groups[&group] {
                check_letters_leave(&topic, name, &queue.settings)?;
            }
            self.add_queue_topic(now, group, &topic);
        }
        Ok((group, topic.id))
    }

    fn add_queue_topic(&mut self, now: Now, group: GroupId, topic: &TopicInfo) {
        let GroupKind::Queue(queue) = &self.state.groups[&group].kind else { return };
        if queue.topics.contains_key(&topic.id) {
            return;
        }
        let latest = queue.settings.start_latest;
        let start = topic.all_partitions().map(|partition| {
            let layout = &self.state.logs[&partition].layout;
            if latest { layout.log_end().0 } else { layout.log_start().0 }
        });
        let added =
            GroupTopicAdded { group: group.0, topic: topic.id.0, start: start.collect(), first_partition: 0 };
        self.commit_event(now, event::Event::GroupTopicAdded(added));
        let letters = self.state.catalogue.decide_dead_letter_log(now, group, topic);
        self.commit_event(now, event::Event::TopicCreated(letters));
        for partition in topic.all_partitions() {
            let high_watermark = self.writers.get(&partition).map(|writer| writer.high_watermark());
            if let (Some(high_watermark), Some(table)) = (high_watermark, self.state.table(group, partition))
            {
                table.handle_high_watermark(high_watermark);
            }
        }
        self.queues.touch([(group, topic.id)]);
    }

    pub(super) fn queue_group_id(&self, name: &str) -> Result<GroupId, RequestError> {
        let group = self.group_named(name)?;
        match &group.kind {
            GroupKind::Queue(_) => Ok(group.id),
            GroupKind::Stream(_) => {
                Err(RequestError::WrongGroupKind { group: name.to_owned(), is: "stream", hint: STREAM_HINT })
            }
        }
    }

    pub(super) fn stream_group_id(&self, name: &str) -> Result<GroupId, RequestError> {
        let group = self.group_named(name)?;
        match &group.kind {
            GroupKind::Stream(_) => Ok(group.id),
            GroupKind::Queue(_) => {
                Err(RequestError::WrongGroupKind { group: name.to_owned(), is: "queue", hint: WORK_HINT })
            }
        }
    }

    fn group_named(&self, name: &str) -> Result<&Group, RequestError> {
        self.state.group_by_name(name).ok_or_else(|| RequestError::UnknownGroup(name.to_owned()))
    }

    pub(super) fn delete_group(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        name: &str,
    ) -> Result<(), RequestError> {
        let group = self.group_named(name)?;
        let id = group.id;
        let busy = match &group.kind {
            GroupKind::Queue(queue) => {
                queue.topics.values().any(|topic| topic.dispatcher.takers().next().is_some())
            }
            GroupKind::Stream(stream) => stream.state() != StreamGroupState::Empty,
        };
        if busy {
            return Err(RequestError::GroupNotEmpty(name.to_owned()));
        }
        let table = self.state.catalogue.table().clone();
        let letters = table.iter().filter(|info| info.dead_letters_of.is_some_and(|(of, _)| of == id));
        for log in letters {
            self.commit_event(now, event::Event::TopicDeleted(TopicDeleted { topic: log.id.0 }));
        }
        self.commit_event(now, event::Event::GroupDeleted(GroupDeleted { group: id.0 }));
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    pub(super) fn seek_group(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        group: &str,
        topic: &str,
        to: &SeekTo,
    ) -> Result<(), RequestError> {
        let topic = self.state.catalogue.find(topic)?.clone();
        let id = self.group_named(group)?.id;
        for partition in topic.all_partitions() {
            self.commit_path.make_room();
            let layout = &self.state.logs[&partition].layout;
            let high_watermark = self.writers.get(&partition).map_or(Offset::ZERO, |w| w.high_watermark());
            let offset = match to {
                SeekTo::Earliest => layout.log_start(),
                SeekTo::Latest => high_watermark,
                SeekTo::Offset(offset) => *offset,
                SeekTo::PerPartition(offsets) => {
                    offsets.get(partition.partition.0 as usize).copied().unwrap_or(high_watermark)
                }
            };
            let offset = offset.clamp(layout.log_start(), high_watermark.max(layout.log_start()));
            self.seek_partition(now, id, group, partition, offset)?;
        }
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    fn seek_partition(
        &mut self,
        now: Now,
        group: GroupId,
        name: &str,
        partition: TopicPartition,
        offset: Offset,
    ) -> Result<(), RequestError> {
        match &mut self.state.groups.get_mut(&group).expect("it was just found").kind {
            GroupKind::Queue(queue) => {
                let table = queue
                    .topics
                    .get_mut(&partition.topic)
                    .and_then(|topic| topic.table_mut(partition.partition));
                let Some(table) = table else {
                    return Err(RequestError::Invalid(format!("group `{name}` does not work this topic")));
                };
                let mut events = Vec::new();
                table.seek(offset, now, &mut events);
                self.commit_queue_events(group, partition, events);
                Ok(())
            }
            GroupKind::Stream(stream) => {
                let committed =
                    stream.seek(partition, offset).map_err(|error| error.to_request_error(name))?;
                self.commit_event(now, event::Event::OffsetsCommitted(committed));
                Ok(())
            }
        }
    }

    pub(super) fn describe_groups(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        name: Option<&str>,
    ) -> Result<(), RequestError> {
        let groups: Vec<&Group> = match name {
            Some(name) => vec![self.group_named(name)?],
            None => self.state.groups.values().collect(),
        };
        let mut descriptions: Vec<_> =
            groups.into_iter().map(|group| self.describe_group(now, group)).collect();
        if let (Some(name), [only]) = (name, &mut descriptions[..]) {
            only.hottest_keys = self.hottest_keys(self.group_named(name)?);
        }
        // A committed offset that a power cut could still take back is shown to nobody.
        self.reply_durably(reply_to, Response::Groups(descriptions));
        Ok(())
    }

    fn describe_group(&self, now: Now, group: &Group) -> wire::GroupDescription {
        match &group.kind {
            GroupKind::Queue(queue) => wire::GroupDescription {
                name: group.name.clone(),
                kind: wire::GroupKind::Queue as i32,
                state: if self.queue_is_worked(queue) { "stable" } else { "empty" }.to_owned(),
                members: Vec::new(),
                partitions: self.describe_queue(now, group.id, queue),
                queue: Some(queue.settings.clone()),
                hottest_keys: Vec::new(),
                topics_left_out: 0,
            },
            GroupKind::Stream(stream) => wire::GroupDescription {
                name: group.name.clone(),
                kind: wire::GroupKind::Stream as i32,
                state: stream.state().to_string(),
                members: self.describe_members(stream),
                partitions: self.describe_stream(now, stream),
                queue: None,
                hottest_keys: Vec::new(),
                topics_left_out: stream.left_out() as u32, // of 100,000 topics
            },
        }
    }

    /// Without the keys themselves, which whoever can read the messages fills in.
    fn hottest_keys(&self, group: &Group) -> Vec<wire::HotKey> {
        let GroupKind::Queue(queue) = &group.kind else { return Vec::new() };
        let mut rows = Vec::new();
        for (id, side) in &queue.topics {
            let Some(topic) = self.state.catalogue.table().by_id(*id) else { continue };
            for (partition, table) in topic.all_partitions().zip(side.tables()) {
                rows.extend(table.hottest_keys().into_iter().map(|hot| wire::HotKey {
                    topic: topic.name.clone(),
                    partition: partition.partition.0,
                    offset: hot.offset.0,
                    key: Vec::new(),
                    waiting: hot.waiting,
                    out: hot.out,
                }));
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.waiting));
        rows.truncate(HOTTEST_KEYS_MAX);
        rows
    }

    fn queue_is_worked(&self, queue: &QueueGroup) -> bool {
        queue.topics.values().any(|topic| topic.dispatcher.takers().next().is_some())
    }

    fn describe_queue(&self, now: Now, group: GroupId, queue: &QueueGroup) -> Vec<wire::GroupPartition> {
        let named = !queue.settings.dead_letter_topic.is_empty();
        let mut rows = Vec::new();
        for (id, side) in &queue.topics {
            let Some(topic) = self.state.catalogue.table().by_id(*id) else { continue };
            for (partition, table) in topic.all_partitions().zip(side.tables()) {
                let counts = table.counts();
                let holds = queue.settings.hold.then(|| self.held_by(now, topic, partition, table.floor()));
                let held = holds.unwrap_or_default();
                let (arrival_per_s, service_per_s) = table.rates_per_s(now);
                let copies_wait = self.copies.why(group, partition);
                rows.push(wire::GroupPartition {
                    topic: topic.name.clone(),
                    partition: partition.partition.0,
                    committed: Some(table.floor().0),
                    high_watermark: table.high_watermark().0,
                    lag: counts.lag(),
                    ready: counts.ready,
                    leased: counts.leased,
                    delayed: counts.delayed,
                    dead: counts.dead,
                    oldest_age_ms: self.age_ms(now, partition, table.oldest_unsettled()),
                    arrived: table.arrived(),
                    serviced: table.serviced(),
                    expired: table.expired(),
                    full: table.why_full().unwrap_or_default(),
                    arrival_per_s,
                    service_per_s,
                    bytes: self.backlog_bytes(partition, table),
                    held_bytes: held.bytes,
                    held_since_ms: held.since_ms,
                    uncopied: if named { table.uncopied_count() } else { 0 },
                    copies_wait: copies_wait.unwrap_or_default().to_owned(),
                });
            }
        }
        rows
    }

    fn describe_stream(&self, now: Now, stream: &StreamGroup) -> Vec<wire::GroupPartition> {
        let row = |partition: TopicPartition| {
            let topic = self.state.catalogue.table().by_id(partition.topic)?;
            let writer = self.writers.get(&partition)?;
            let view = writer.view();
            let committed = stream.committed(partition);
            let next = committed.unwrap_or(view.log_start).max(view.log_start);
            let lag = view.high_watermark.since(next);
            Some(wire::GroupPartition {
                topic: topic.name.clone(),
                partition: partition.partition.0,
                committed: committed.map(|offset| offset.0),
                high_watermark: view.high_watermark.0,
                lag,
                oldest_age_ms: self.age_ms(now, partition, (lag > 0).then_some(next)),
                bytes: self.bytes_between(partition, next, view.high_watermark),
                ..wire::GroupPartition::default()
            })
        };
        self.stream_partitions(stream).into_iter().filter_map(row).collect()
    }

    /// What the messages take in the source log that are not settled, about: those that are settled between them are
    /// taken to be of the same size.
    fn backlog_bytes(&self, partition: TopicPartition, table: &crate::LeaseTable) -> u64 {
        let (floor, end) = (table.floor(), table.high_watermark());
        let bytes = u128::from(self.bytes_between(partition, floor, end));
        let all = u128::from(end.since(floor).max(1));
        (bytes * u128::from(table.unsettled_in_log()) / all) as u64
    }

    fn bytes_between(&self, partition: TopicPartition, from: Offset, to: Offset) -> u64 {
        self.state.logs.get(&partition).map_or(0, |log| log.layout.bytes_between(from, to))
    }

    /// How long the record at an offset has been there; 0 for none.
    fn age_ms(&self, now: Now, partition: TopicPartition, offset: Option<Offset>) -> u64 {
        let append_time = offset.and_then(|offset| self.state.logs.get(&partition)?.append_time_near(offset));
        append_time.map_or(0, |time| now.wall_ms.saturating_sub(time))
    }
}

/// A queue's message is a piece of work, and compaction would take it away undone.
fn check_workable(topic: &TopicInfo, group: &str) -> Result<(), RequestError> {
    match topic.config.cleanup() {
        wire::Cleanup::Compact => {
            Err(RequestError::CompactedTopic { topic: topic.name.clone(), group: group.to_owned() })
        }
        wire::Cleanup::Delete | wire::Cleanup::DeleteWhenSettled => Ok(()),
    }
}

/// What dies would be work of the same group again, for ever.
fn check_letters_leave(
    topic: &TopicInfo,
    group: &str,
    settings: &wire::QueueSettings,
) -> Result<(), RequestError> {
    if topic.name != settings.dead_letter_topic {
        return Ok(());
    }
    Err(RequestError::Invalid(format!(
        "group `{group}` copies its dead letters to topic `{}`, and cannot work that topic itself: they would come back to \
         it for ever; use another group, or another dead-letter topic",
        topic.name
    )))
}

/// The whole settings, or what is wrong with them.
fn check_queue_settings(settings: Option<&wire::QueueSettings>) -> Result<wire::QueueSettings, RequestError> {
    let default = default_queue_settings();
    let Some(settings) = settings else { return Ok(default) };
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let complete = wire::QueueSettings {
        lease_ms: or(settings.lease_ms, default.lease_ms),
        attempts_max: or(settings.attempts_max.into(), default.attempts_max.into()) as u32,
        backoff_first_ms: or(settings.backoff_first_ms, default.backoff_first_ms),
        backoff_max_ms: or(settings.backoff_max_ms, default.backoff_max_ms.max(settings.backoff_first_ms)),
        ..settings.clone()
    };
    let fail = |what: String| Err(RequestError::Invalid(what));
    if complete.lease_ms > LEASE_MS_MAX {
        return fail(format!(
            "lease of {} ms is out of bounds: at most {LEASE_MS_MAX} ms",
            complete.lease_ms
        ));
    }
    if complete.backoff_first_ms > complete.backoff_max_ms || complete.backoff_max_ms > RELEASE_DELAY_MS_MAX {
        return fail(format!(
            "backoff {}..{} ms is out of bounds: the first at most the last, and that at most {RELEASE_DELAY_MS_MAX} ms",
            complete.backoff_first_ms, complete.backoff_max_ms
        ));
    }
    if wire::Ordering::try_from(complete.ordering).is_err() {
        return fail("this ordering is not known to this version: use none or key".into());
    }
    if wire::Expired::try_from(complete.expired).is_err() {
        return fail(
            "what expired messages become is not known to this version: use drop or dead-letter".into(),
        );
    }
    if !complete.dead_letter_topic.is_empty() {
        check_name("topic", &complete.dead_letter_topic)?;
    }
    Ok(complete)
}
