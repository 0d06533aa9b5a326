//! All machines of a shard, and the one place where an event becomes true: when it was just decided and when it is
//! replayed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use dure_proto::journal::{
    Checkpoint, CompactionSnapshot, DelaySettled, DelaySnapshot, Event, GroupCreated, GroupSnapshot,
    GroupTopicAdded, ProducedBatch, QueueEvents, TopicAltered, TopicCreated, event,
};
use dure_proto::{
    EntryHeader, GroupId, Offset, PartitionId, ProducerId, ProducerStamp, Sequence, TopicId, TopicPartition,
    wire,
};
use roaring::RoaringTreemap;

use super::commit_path::Step;
use super::queue_topic::QueueTopic;
use crate::catalogue::{Catalogue, check_created, check_event, dedup_window_ms};
use crate::compaction::Progress;
use crate::dedup::Dedup;
use crate::log::{Judge, LogLayout, Placement, SegmentMeta};
use crate::mutant::{self, Mutant};
use crate::producers::Producers;
use crate::queue_group::{LeaseSettings, LeaseTable};
use crate::retention::SeenAhead;
use crate::settled_set::SettledSet;
use crate::stream_group::StreamGroup;
use crate::time::Now;

/// Time marks kept per log, for the age of a backlog; thinned out by half when there are more.
const TIME_MARKS_MAX: usize = 1024;

/// What is decided about one log.
pub(crate) struct LogState {
    pub(crate) layout: LogLayout,
    pub(crate) producers: Producers,
    /// Append times at some offsets, ascending. Exact for recent ones, sparser for older.
    time_marks: VecDeque<(Offset, u64)>,
    pub(crate) seen_ahead: SeenAhead,
    /// Of a topic that is compacted.
    pub(crate) compaction: Progress,
    /// Of a delay log: what is done with, since it has entered the log that it was sent to.
    pub(crate) delay_settled: Option<SettledSet>,
}

impl LogState {
    fn new(layout: LogLayout, producers: Producers) -> LogState {
        let time_marks = layout.segments().map(|segment| (segment.base, segment.first_ms)).collect();
        LogState {
            layout,
            producers,
            time_marks,
            seen_ahead: SeenAhead::default(),
            compaction: Progress::default(),
            delay_settled: None,
        }
    }

    /// Messages that wait in a delay log.
    fn waiting(&self) -> u64 {
        let settled = self.delay_settled.as_ref();
        settled.map_or(0, |settled| self.layout.log_end().since(settled.floor()) - settled.above_count())
    }

    fn mark(&mut self, offset: Offset, append_time_ms: u64) {
        if self.time_marks.len() >= TIME_MARKS_MAX {
            let log_start = self.layout.log_start();
            let mut keep = false;
            self.time_marks.retain(|(offset, _)| {
                keep = !keep;
                keep && *offset >= log_start
            });
        }
        self.time_marks.push_back((offset, append_time_ms));
    }

    /// By what retention judges this log at a time.
    pub(crate) fn judge<'a>(&'a self, at_ms: u64, config: &'a wire::TopicConfig) -> Judge<'a> {
        Judge { at_ms, config, seen: &self.seen_ahead }
    }

    /// When the record at an offset was appended, or an earlier one near it.
    pub(crate) fn append_time_near(&self, offset: Offset) -> Option<u64> {
        let i = self.time_marks.partition_point(|(marked, _)| *marked <= offset);
        self.time_marks.get(i.saturating_sub(1)).map(|(_, time)| *time)
    }
}

/// A group and what is known of its kind.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: String,
    pub(crate) kind: GroupKind,
}

pub(crate) enum GroupKind {
    Queue(QueueGroup),
    Stream(Box<StreamGroup>),
}

/// A queue group: a lease table for each partition of each of its topics.
pub(crate) struct QueueGroup {
    pub(crate) settings: wire::QueueSettings,
    pub(crate) topics: BTreeMap<TopicId, QueueTopic>,
}

pub(crate) struct State {
    pub(crate) catalogue: Catalogue,
    pub(crate) logs: BTreeMap<TopicPartition, LogState>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    group_names: HashMap<String, GroupId>,
    group_next: u32,
    /// Which queue groups work a topic.
    queue_groups_of: BTreeMap<TopicId, BTreeSet<GroupId>>,
    /// Ids of messages that were accepted lately.
    pub(crate) dedup: Dedup,
}

impl State {
    pub(crate) fn new() -> State {
        State {
            catalogue: Catalogue::new(),
            logs: BTreeMap::new(),
            groups: BTreeMap::new(),
            group_names: HashMap::new(),
            group_next: 1,
            queue_groups_of: BTreeMap::new(),
            dedup: Dedup::default(),
        }
    }

    pub(crate) fn restore(checkpoint: &Checkpoint, now: Now) -> Result<State, String> {
        let mut state = State::new();
        state.catalogue = Catalogue::restore(&checkpoint.topics, checkpoint.topic_next)?;
        state.group_next = checkpoint.group_next.max(1);
        state.dedup = Dedup::restore(checkpoint.id_clock_ms, &checkpoint.message_ids)?;
        for log in &checkpoint.logs {
            let partition =
                TopicPartition { topic: TopicId(log.topic), partition: PartitionId(log.partition) };
            let mut restored = LogState::new(LogLayout::restore(log)?, Producers::restore(&log.producers));
            restored.compaction = log.compaction.as_ref().map(Progress::restore).unwrap_or_default();
            if state.catalogue.delayed_of(partition.topic).is_some() {
                let settled =
                    log.delay.as_ref().map(|delay| restore_delay(delay, log.log_end)).transpose()?;
                restored.delay_settled = Some(settled.unwrap_or_else(|| SettledSet::new(Offset::ZERO)));
            }
            state.logs.insert(partition, restored);
        }
        for group in &checkpoint.groups {
            state.restore_group(group, now)?;
        }
        let topics: Vec<TopicId> = state.queue_groups_of.keys().copied().collect();
        topics.into_iter().for_each(|topic| state.look_inside(topic));
        Ok(state)
    }

    fn restore_group(&mut self, snapshot: &GroupSnapshot, now: Now) -> Result<(), String> {
        let created = snapshot.group.as_ref().ok_or("a group without a description")?;
        self.apply_group_created(created)?;
        let group = self.groups.get_mut(&GroupId(created.group)).expect("just created");
        match &mut group.kind {
            GroupKind::Queue(queue) => {
                let settings = LeaseSettings::from(&queue.settings);
                for table in &snapshot.queues {
                    let topic = TopicId(table.topic);
                    let entry = queue.topics.entry(topic).or_insert_with(|| QueueTopic::new(Vec::new()));
                    if entry.tables().len() != table.partition as usize {
                        return Err(format!(
                            "partition {} of group {} is out of place",
                            table.partition, group.name
                        ));
                    }
                    let restored = LeaseTable::restore(table, settings.clone(), now);
                    entry.push(restored.map_err(|error| error.to_string())?);
                    self.queue_groups_of.entry(topic).or_default().insert(group.id);
                }
            }
            GroupKind::Stream(stream) => {
                for committed in &snapshot.committed {
                    stream.apply(committed).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Everything but the numbers of the commit that it is the state after.
    pub(crate) fn snapshot(&self, now: Now) -> Checkpoint {
        let (topics, topic_next) = self.catalogue.snapshot();
        let logs = self.logs.iter().map(|(partition, log)| {
            let mut snapshot = log.layout.snapshot(*partition);
            if !mutant::is(Mutant::ProducersNotKept) {
                snapshot.producers = log.producers.snapshot();
            }
            let compaction = log.compaction.snapshot();
            snapshot.compaction = (compaction != CompactionSnapshot::default()).then_some(compaction);
            snapshot.delay = log.delay_settled.as_ref().map(delay_snapshot);
            snapshot
        });
        Checkpoint {
            topic_next,
            group_next: self.group_next,
            wall_ms: now.wall_ms,
            topics,
            logs: logs.collect(),
            groups: self.groups.values().map(Group::snapshot).collect(),
            message_ids: if mutant::is(Mutant::IdsNotKept) { Vec::new() } else { self.dedup.snapshot() },
            ..Checkpoint::default()
        }
    }

    pub(crate) fn next_group(&self) -> GroupId {
        GroupId(self.group_next)
    }

    pub(crate) fn group_by_name(&self, name: &str) -> Option<&Group> {
        self.groups.get(self.group_names.get(name)?)
    }

    pub(crate) fn queue_topic(&mut self, group: GroupId, topic: TopicId) -> Option<&mut QueueTopic> {
        match &mut self.groups.get_mut(&group)?.kind {
            GroupKind::Queue(queue) => queue.topics.get_mut(&topic),
            GroupKind::Stream(_) => None,
        }
    }

    pub(crate) fn table(&mut self, group: GroupId, partition: TopicPartition) -> Option<&mut LeaseTable> {
        self.queue_topic(group, partition.topic)?.table_mut(partition.partition)
    }

    pub(crate) fn queue_groups_of(&self, topic: TopicId) -> Vec<GroupId> {
        self.queue_groups_of.get(&topic).into_iter().flatten().copied().collect()
    }

    /// Every queue group with each of its topics.
    pub(crate) fn queue_keys(&self) -> Vec<(GroupId, TopicId)> {
        let keys = self.queue_groups_of.iter();
        keys.flat_map(|(topic, groups)| groups.iter().map(|group| (*group, *topic))).collect()
    }

    /// The offset up to which every queue group that satisfies `counts` has settled a partition; `None` if there is
    /// no such group.
    pub(crate) fn settled_upto(
        &self,
        partition: TopicPartition,
        counts: impl Fn(&QueueGroup) -> bool,
    ) -> Option<Offset> {
        self.floors(partition, counts).map(|(_, floor)| floor).min()
    }

    /// How far each queue group that satisfies `counts` has settled a partition, by name.
    pub(crate) fn floors(
        &self,
        partition: TopicPartition,
        counts: impl Fn(&QueueGroup) -> bool,
    ) -> impl Iterator<Item = (&str, Offset)> {
        let groups = self.queue_groups_of.get(&partition.topic).into_iter().flatten();
        groups.filter_map(move |group| {
            let group = self.groups.get(group)?;
            let GroupKind::Queue(queue) = &group.kind else { return None };
            let side = queue.topics.get(&partition.topic).filter(|_| counts(queue))?;
            Some((&*group.name, side.table(partition.partition)?.floor()))
        })
    }

    /// The first dead letter of a partition that a group still needs.
    pub(crate) fn first_letter(&self, group: GroupId, source: TopicPartition) -> Option<Offset> {
        match &self.groups.get(&group)?.kind {
            GroupKind::Queue(queue) => {
                queue.topics.get(&source.topic)?.table(source.partition)?.first_letter()
            }
            GroupKind::Stream(_) => None,
        }
    }

    /// Takes an entry into its log and says where it goes. `None` if there is no such log, or it is there already.
    pub(crate) fn apply_batch(
        &mut self,
        partition: TopicPartition,
        header: &EntryHeader,
        producer: Option<&ProducerStamp>,
    ) -> Option<Placement> {
        let config = self.catalogue.table().by_id(partition.topic)?.config;
        let log = self.logs.get_mut(&partition)?;
        // A session is known to the log that its batches are sent to, see `ProducerSeen`.
        let producer = producer.filter(|_| log.delay_settled.is_none());
        if header.base_offset < log.layout.log_end() {
            return None;
        }
        let placement = log.layout.append(header, &config);
        log.mark(header.base_offset, header.append_time_ms);
        if let Some(stamp) = producer {
            let batch = ProducedBatch {
                sequence: stamp.sequence.0,
                records: header.record_count,
                offset: header.base_offset.0,
                ..ProducedBatch::default()
            };
            log.producers.apply(stamp, batch, header.append_time_ms);
        }
        Some(placement)
    }

    /// Makes an event true. What follows from it outside comes back as steps; what does not fit the state, because
    /// something before it is lost, as an error, with nothing changed.
    pub(crate) fn apply(&mut self, event: &Event, now: Now) -> Result<Vec<Step>, String> {
        let Some(event) = &event.event else { return Err("an event of an unknown kind".into()) };
        match event {
            event::Event::EpochOpened(_) => Ok(Vec::new()),
            event::Event::TopicCreated(created) => {
                check_created(created)?;
                Ok(self.apply_topic_created(created))
            }
            event::Event::TopicAltered(altered) => self.apply_topic_altered(altered),
            event::Event::TopicDeleted(deleted) => self.apply_topic_deleted(TopicId(deleted.topic)),
            event::Event::TopicKeyed(keyed) => {
                self.catalogue.apply_keyed(TopicId(keyed.topic));
                Ok(vec![self.topics_changed()])
            }
            event::Event::TopicExpiring(expiring) => {
                self.apply_topic_expiring(TopicId(expiring.topic));
                Ok(vec![self.topics_changed()])
            }
            event::Event::LogStartMoved(moved) => {
                let partition =
                    TopicPartition { topic: TopicId(moved.topic), partition: PartitionId(moved.partition) };
                self.apply_log_start(partition, Offset(moved.offset))
            }
            event::Event::SegmentSealed(sealed) => {
                self.log_mut(sealed.topic, sealed.partition)?.1.layout.seal();
                Ok(Vec::new())
            }
            event::Event::SegmentsCompacted(compacted) => {
                let (partition, log) = self.log_mut(compacted.topic, compacted.partition)?;
                let by =
                    SegmentMeta::restore(compacted.by.as_ref().ok_or("a segment without a description")?);
                if !log.layout.can_replace(&by) {
                    return Err(format!("segment {} of {partition} replaces no whole segments", by.id()));
                }
                log.layout.replace(by.clone());
                Ok(vec![Step::Replace { partition, by }])
            }
            event::Event::LogCompacted(compacted) => {
                let state = compacted.state.as_ref().ok_or("a compaction without a state")?;
                self.log_mut(compacted.topic, compacted.partition)?.1.compaction = Progress::restore(state);
                Ok(Vec::new())
            }
            event::Event::DelaySettled(settled) => self.apply_delay_settled(settled),
            event::Event::ProducerSeen(seen) => {
                let batch = seen.batch.clone().ok_or("a producer's batch without a description")?;
                let stamp = ProducerStamp {
                    producer: ProducerId(seen.producer),
                    epoch: u16::try_from(seen.epoch).map_err(|_| "a producer's epoch is beyond 16 bits")?,
                    sequence: Sequence(batch.sequence),
                };
                let (_, log) = self.log_mut(seen.topic, seen.partition)?;
                log.producers.apply(&stamp, batch, seen.wall_ms);
                Ok(Vec::new())
            }
            event::Event::MessageIds(ids) => {
                self.log_mut(ids.topic, ids.partition)?;
                self.dedup.apply(ids)?;
                Ok(Vec::new())
            }
            event::Event::MessageIdsExpired(expired) => {
                self.dedup.apply_expired(expired);
                Ok(Vec::new())
            }
            event::Event::GroupCreated(created) => {
                self.apply_group_created(created)?;
                Ok(Vec::new())
            }
            event::Event::GroupTopicAdded(added) => self.apply_group_topic_added(added),
            event::Event::GroupDeleted(deleted) => self.apply_group_deleted(GroupId(deleted.group)),
            event::Event::OffsetsCommitted(committed) => {
                let group = GroupId(committed.group);
                let Some(Group { kind: GroupKind::Stream(stream), .. }) = self.groups.get_mut(&group) else {
                    return Err(format!("offsets committed by group {group}, which is no stream group"));
                };
                stream.apply(committed).map_err(|error| error.to_string())?;
                Ok(Vec::new())
            }
            event::Event::Queue(events) => self.apply_queue(events, now),
        }
    }

    /// As they are with this event, and not as later ones that are not durable yet make them.
    fn topics_changed(&self) -> Step {
        Step::TopicsChanged(self.catalogue.table().clone())
    }

    fn apply_topic_created(&mut self, created: &TopicCreated) -> Vec<Step> {
        self.catalogue.apply_created(created);
        let mut steps = self.open_logs(TopicId(created.topic), 0, created.partitions);
        steps.push(self.topics_changed());
        steps
    }

    fn open_logs(&mut self, topic: TopicId, from: u32, to: u32) -> Vec<Step> {
        let delays = self.catalogue.delayed_of(topic).is_some();
        let partitions =
            (from..to).map(|partition| TopicPartition { topic, partition: PartitionId(partition) });
        partitions
            .map(|partition| {
                let mut log = LogState::new(LogLayout::new(), Producers::default());
                log.delay_settled = delays.then(|| SettledSet::new(Offset::ZERO));
                self.logs.insert(partition, log);
                Step::OpenLog(partition)
            })
            .collect()
    }

    fn apply_topic_altered(&mut self, altered: &TopicAltered) -> Result<Vec<Step>, String> {
        check_event(altered.topic, altered.partitions)?;
        let topic = TopicId(altered.topic);
        let before =
            self.catalogue.table().by_id(topic).ok_or(format!("topic {topic} is unknown"))?.partitions;
        self.catalogue.apply_altered(altered);
        if altered.config.as_ref().is_some_and(|config| dedup_window_ms(config) == 0) {
            self.dedup.forget(topic);
        }
        let mut steps = self.open_logs(topic, before, altered.partitions.max(before));
        for group in self.queue_groups_of(topic) {
            if let Some(Group { kind: GroupKind::Queue(queue), .. }) = self.groups.get_mut(&group) {
                let settings = LeaseSettings::from(&queue.settings);
                let side = queue.topics.entry(topic).or_insert_with(|| QueueTopic::new(Vec::new()));
                for _ in side.tables().len()..altered.partitions.max(before) as usize {
                    side.push(LeaseTable::new(settings.clone(), Offset::ZERO));
                }
            }
        }
        self.look_inside(topic);
        steps.push(self.topics_changed());
        Ok(steps)
    }

    /// Its queue groups look into messages from now on.
    fn apply_topic_expiring(&mut self, topic: TopicId) {
        self.catalogue.apply_expiring(topic);
        self.look_inside(topic);
    }

    /// Tables of topics whose messages expire look at them before they grant them.
    fn look_inside(&mut self, topic: TopicId) {
        if self.catalogue.table().by_id(topic).is_none_or(|topic| !topic.expiring) {
            return;
        }
        for group in self.queue_groups_of(topic) {
            if let Some(queue) = self.queue_topic(group, topic) {
                queue.tables_mut().for_each(|(_, table)| table.look_inside());
            }
        }
    }

    fn apply_topic_deleted(&mut self, topic: TopicId) -> Result<Vec<Step>, String> {
        let info = self.catalogue.apply_deleted(topic).ok_or(format!("topic {topic} is unknown"))?;
        self.logs.retain(|partition, _| partition.topic != topic);
        self.queue_groups_of.remove(&topic);
        self.dedup.forget(topic);
        for group in self.groups.values_mut() {
            match &mut group.kind {
                GroupKind::Queue(queue) => drop(queue.topics.remove(&topic)),
                GroupKind::Stream(stream) => stream.apply_topic_deleted(topic),
            }
        }
        Ok(vec![Step::DropTopic { topic, partitions: info.partitions }, self.topics_changed()])
    }

    fn log_mut(&mut self, topic: u32, partition: u32) -> Result<(TopicPartition, &mut LogState), String> {
        let partition = TopicPartition { topic: TopicId(topic), partition: PartitionId(partition) };
        let log = self.logs.get_mut(&partition).ok_or(format!("log {partition} is unknown"))?;
        Ok((partition, log))
    }

    fn apply_log_start(&mut self, partition: TopicPartition, offset: Offset) -> Result<Vec<Step>, String> {
        let log = self.logs.get_mut(&partition).ok_or(format!("log {partition} is unknown"))?;
        check_offset(offset)?;
        let dropped = log.layout.move_start(offset);
        if let Some(settled) = &mut log.delay_settled {
            settled.insert_range(Offset::ZERO, offset);
        }
        for group in self.queue_groups_of(partition.topic) {
            if let Some(table) = self.table(group, partition) {
                table.handle_log_start(offset);
            }
        }
        Ok(vec![Step::MoveStart { partition, log_start: offset, dropped }])
    }

    fn apply_delay_settled(&mut self, settled: &DelaySettled) -> Result<Vec<Step>, String> {
        let from = Offset(settled.offset);
        let to = Offset(settled.offset.saturating_add(settled.count));
        let (partition, log) = self.log_mut(settled.topic, settled.partition)?;
        if to > log.layout.log_end() {
            return Err(format!("offsets {from} to {to} of {partition} are settled and were never there"));
        }
        let known = log.delay_settled.as_mut().ok_or(format!("{partition} is no delay log"))?;
        known.insert_range(from, to);
        Ok(Vec::new())
    }

    /// Whether this batch of a delay log has not entered the log that it was sent to.
    pub(crate) fn is_waiting(&self, partition: TopicPartition, offset: Offset) -> bool {
        let settled = self.logs.get(&partition).and_then(|log| log.delay_settled.as_ref());
        settled.is_some_and(|settled| !settled.contains(offset))
    }

    /// The first offset from `offset` on that has not entered the log that it was sent to.
    pub(crate) fn next_waiting(&self, partition: TopicPartition, offset: Offset) -> Option<Offset> {
        let log = self.logs.get(&partition)?;
        let next = log.delay_settled.as_ref()?.next_unsettled(offset);
        (next < log.layout.log_end()).then_some(next)
    }

    /// How many messages of a topic wait for their time.
    pub(crate) fn scheduled(&self, topic: TopicId) -> u64 {
        let logs = self.catalogue.delay_logs(topic);
        let logs = logs.filter_map(|log| self.catalogue.table().by_id(log));
        let partitions = logs.flat_map(|log| log.all_partitions());
        partitions.filter_map(|partition| self.logs.get(&partition)).map(LogState::waiting).sum()
    }

    /// And how many of all topics.
    pub(crate) fn scheduled_total(&self) -> u64 {
        self.logs.values().map(LogState::waiting).sum()
    }

    fn apply_group_created(&mut self, created: &GroupCreated) -> Result<(), String> {
        if created.group == u32::MAX {
            return Err(format!("a group cannot have the number {}", created.group));
        }
        let id = GroupId(created.group);
        let kind = match created.kind() {
            wire::GroupKind::Queue => GroupKind::Queue(QueueGroup {
                settings: created.queue.clone().unwrap_or_else(default_queue_settings),
                topics: BTreeMap::new(),
            }),
            wire::GroupKind::Stream => GroupKind::Stream(Box::new(StreamGroup::new(id))),
        };
        self.group_next = self.group_next.max(created.group + 1);
        self.group_names.insert(created.name.clone(), id);
        self.groups.insert(id, Group { id, name: created.name.clone(), kind });
        Ok(())
    }

    fn apply_group_topic_added(&mut self, added: &GroupTopicAdded) -> Result<Vec<Step>, String> {
        let (group, topic) = (GroupId(added.group), TopicId(added.topic));
        let Some(Group { kind: GroupKind::Queue(queue), .. }) = self.groups.get_mut(&group) else {
            return Err(format!("group {group} is no queue group"));
        };
        check_event(added.topic, u32::try_from(added.start.len()).unwrap_or(u32::MAX))?;
        added.start.iter().try_for_each(|start| check_offset(Offset(*start)))?;
        let settings = LeaseSettings::from(&queue.settings);
        let tables =
            added.start.iter().map(|start| LeaseTable::new(settings.clone(), Offset(*start))).collect();
        queue.topics.insert(topic, QueueTopic::new(tables));
        self.queue_groups_of.entry(topic).or_default().insert(group);
        self.look_inside(topic);
        Ok(Vec::new())
    }

    fn apply_group_deleted(&mut self, group: GroupId) -> Result<Vec<Step>, String> {
        let gone = self.groups.remove(&group).ok_or(format!("group {group} is unknown"))?;
        self.group_names.remove(&gone.name);
        for groups in self.queue_groups_of.values_mut() {
            groups.remove(&group);
        }
        Ok(Vec::new())
    }

    fn apply_queue(&mut self, events: &QueueEvents, now: Now) -> Result<Vec<Step>, String> {
        let partition =
            TopicPartition { topic: TopicId(events.topic), partition: PartitionId(events.partition) };
        let group = GroupId(events.group);
        let table = self.table(group, partition).ok_or(format!("group {group} does not work {partition}"))?;
        let mut failed = Vec::new();
        for event in &events.events {
            if let Err(error) = table.apply(event, now) {
                failed.push(format!("{partition} of group {group}: {error}"));
            }
        }
        if failed.is_empty() { Ok(Vec::new()) } else { Err(failed.join("; ")) }
    }
}

/// However an offset came into the journal, what is beyond the largest would run over.
fn check_offset(offset: Offset) -> Result<(), String> {
    if offset > Offset::MAX { Err(format!("offset {offset} is beyond the largest")) } else { Ok(()) }
}

fn delay_snapshot(settled: &SettledSet) -> DelaySnapshot {
    let none = RoaringTreemap::new();
    let above = if mutant::is(Mutant::EnteredNotKept) { &none } else { settled.above() };
    let mut bytes = Vec::with_capacity(above.serialized_size());
    above.serialize_into(&mut bytes).expect("a Vec takes everything");
    DelaySnapshot { floor: settled.floor().0, settled: bytes }
}

fn restore_delay(snapshot: &DelaySnapshot, log_end: u64) -> Result<SettledSet, String> {
    let above = RoaringTreemap::deserialize_from(&*snapshot.settled)
        .map_err(|error| format!("what is settled of a delay log does not decode: {error}"))?;
    let floor = Offset(snapshot.floor);
    if above.max().map_or(floor.0, |max| max.saturating_add(1)).max(floor.0) > log_end {
        return Err(format!("a delay log that ends at {log_end} is settled beyond it"));
    }
    SettledSet::from_parts(floor, above)
        .ok_or(format!("an offset at or below the floor {floor} of a delay log is listed as settled"))
}

impl Group {
    fn snapshot(&self) -> GroupSnapshot {
        let created = |kind: wire::GroupKind, queue| GroupCreated {
            group: self.id.0,
            name: self.name.clone(),
            kind: kind as i32,
            queue,
        };
        match &self.kind {
            GroupKind::Queue(queue) => {
                let tables = queue.topics.iter().flat_map(|(topic, entry)| {
                    entry.tables().iter().enumerate().map(|(partition, table)| {
                        let partition = PartitionId(partition as u32);
                        table.snapshot(TopicPartition { topic: *topic, partition })
                    })
                });
                GroupSnapshot {
                    group: Some(created(wire::GroupKind::Queue, Some(queue.settings.clone()))),
                    queues: tables.collect(),
                    committed: Vec::new(),
                }
            }
            GroupKind::Stream(stream) => GroupSnapshot {
                group: Some(created(wire::GroupKind::Stream, None)),
                queues: Vec::new(),
                committed: stream.snapshot(),
            },
        }
    }
}

/// The settings of a queue group for which nobody says otherwise.
#[must_use]
pub fn default_queue_settings() -> wire::QueueSettings {
    wire::QueueSettings {
        lease_ms: 30_000,
        attempts_max: 5,
        backoff_first_ms: 1_000,
        backoff_max_ms: 300_000,
        ordering: wire::Ordering::None as i32,
        dead_letter_topic: String::new(),
        hold: true,
        start_latest: false,
        expired: wire::Expired::Drop as i32,
    }
}
