//! The small stories that are cut off at every boundary.

use dure_engine::{Due, Request, SettleAction, default_queue_settings, default_topic_config};
use dure_proto::{PartitionId, TopicPartition, wire};

use super::Checked;
use super::model::{GroupShape, RecordShape, TopicShape};
use super::workload::Op;
use super::world::World;

/// One story, told to a shard that has just begun.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) tell: fn(&mut World) -> Checked,
}

pub(crate) const STORIES: [Story; 4] = [
    Story { name: "produce, roll, checkpoint", tell: World::tell_of_producing },
    Story { name: "lease, ack, dead letter, redrive", tell: World::tell_of_a_queue },
    Story { name: "create, delete, retention, purge", tell: World::tell_of_topics },
    Story { name: "delay, enter, roll", tell: World::tell_of_delays },
];

const TOPIC: &str = "crops";
const OTHER: &str = "maps";
const GROUP: &str = "workers";
/// Three fill a segment and roll a piece of the journal.
const LARGE_BYTES: usize = 3_000;
const SMALL_BYTES: usize = 300;
/// Long enough for the empty commit that follows when nothing else does.
const IDLE_MS: u64 = 30;

impl World {
    /// Segments and journal pieces roll, and checkpoints are made.
    fn tell_of_producing(&mut self) -> Checked {
        self.tell_create(TOPIC, topic_config())?;
        for _ in 0..5 {
            self.tell_produce(TOPIC, LARGE_BYTES)?;
        }
        self.tell_idle(IDLE_MS)
    }

    /// Messages are taken; one is acknowledged, one rejected and redriven, and one comes back by itself.
    fn tell_of_a_queue(&mut self) -> Checked {
        self.tell_create(TOPIC, topic_config())?;
        self.tell_create_group()?;
        for _ in 0..2 {
            self.tell_produce(TOPIC, SMALL_BYTES)?;
        }
        self.tell_receive(3)?;
        for action in [SettleAction::Ack, SettleAction::Reject { reason: "bad".into() }] {
            self.tell_settle(&action)?;
        }
        self.tell_idle(500)?;
        let partitions = self.topic_partitions(TOPIC);
        if let Some(group) = self.model.groups.get_mut(GROUP).filter(|_| !self.disk.is_off()) {
            group.moving = true;
            self.letters_move(GROUP, &partitions);
            let redrive = wire::Redrive { topic: TOPIC.into(), group: GROUP.into(), count_max: 0 };
            self.tell(Request::Redrive(redrive), Op::Letters { name: GROUP.into(), partitions })?;
        }
        self.tell_receive(2)?;
        self.tell_settle(&SettleAction::Ack)?;
        self.tell_idle(IDLE_MS)
    }

    /// Topics come and go, segments grow too old, and a topic is emptied.
    fn tell_of_topics(&mut self) -> Checked {
        let short = wire::TopicConfig { retention_ms: Some(500), ..topic_config() };
        self.tell_create(TOPIC, short)?;
        self.tell_create(OTHER, topic_config())?;
        for name in [TOPIC, OTHER, OTHER] {
            self.tell_produce(name, LARGE_BYTES / 2)?;
        }
        self.tell_delete(OTHER)?;
        self.tell_idle(1_000)?;
        self.tell_produce(TOPIC, SMALL_BYTES)?;
        self.tell_create(OTHER, topic_config())?;
        self.tell_produce(OTHER, SMALL_BYTES)?;
        if let Some(topic) = self.model.topics.get_mut(OTHER).filter(|_| !self.disk.is_off()) {
            topic.purging = true;
            let purge = wire::PurgeTopic { name: OTHER.into() };
            self.tell(Request::PurgeTopic(purge), Op::PurgeTopic { name: OTHER.into() })?;
        }
        self.tell_idle(IDLE_MS)
    }

    /// Messages wait and enter, one by one and together, while segments and pieces roll.
    fn tell_of_delays(&mut self) -> Checked {
        self.tell_create(TOPIC, topic_config())?;
        for (delay_ms, bytes) in
            [(20, LARGE_BYTES), (10, SMALL_BYTES), (20, LARGE_BYTES), (90_000, SMALL_BYTES)]
        {
            self.tell_produce_later(TOPIC, bytes, delay_ms)?;
        }
        self.tell_produce(TOPIC, LARGE_BYTES)?;
        self.tell_idle(10)?;
        self.tell_idle(IDLE_MS)?;
        self.tell_produce(TOPIC, LARGE_BYTES)?;
        self.tell_idle(90_000)?;
        self.tell_idle(IDLE_MS)
    }

    fn tell_create(&mut self, name: &str, config: wire::TopicConfig) -> Checked {
        if self.disk.is_off() {
            return Ok(());
        }
        let topic = self.model.topics.entry(name.into()).or_default();
        topic.configs = vec![config];
        topic.shape.pending = Some(Some(TopicShape { partitions: 1, config }));
        let create = wire::CreateTopic { name: name.into(), partitions: 1, config: Some(config) };
        self.tell(Request::CreateTopic(create), Op::Topic { name: name.into() })
    }

    fn tell_delete(&mut self, name: &str) -> Checked {
        let Some(topic) = self.model.topics.get_mut(name).filter(|_| !self.disk.is_off()) else {
            return Ok(());
        };
        topic.shape.pending = Some(None);
        let delete = wire::DeleteTopic { name: name.into() };
        self.tell(Request::DeleteTopic(delete), Op::DeleteTopic { name: name.into() })
    }

    fn tell_produce(&mut self, name: &str, value_bytes_max: usize) -> Checked {
        self.tell_produce_with(name, value_bytes_max, None)
    }

    fn tell_produce_later(&mut self, name: &str, value_bytes_max: usize, delay_ms: u64) -> Checked {
        self.tell_produce_with(name, value_bytes_max, Some(Due::After(delay_ms)))
    }

    fn tell_produce_with(&mut self, name: &str, value_bytes_max: usize, due: Option<Due>) -> Checked {
        if let Some(topic) = self.topics.by_name(name).map(|topic| topic.id)
            && !self.disk.is_off()
        {
            let partition = TopicPartition { topic, partition: PartitionId(0) };
            let shape = RecordShape { value_bytes_max, keyed: false, ttl_percent: 0 };
            let batch = self.model.new_batch(&mut self.rng, partition, shape, None, &[None; 2]);
            due.into_iter().for_each(|due| self.delay(batch, due));
            self.send_batch(batch);
            self.settle_down()?;
        }
        Ok(())
    }

    fn tell_create_group(&mut self) -> Checked {
        if self.disk.is_off() {
            return Ok(());
        }
        let queue = wire::QueueSettings {
            attempts_max: 2,
            lease_ms: 400,
            backoff_first_ms: 10,
            ..default_queue_settings()
        };
        let group = self.model.groups.entry(GROUP.into()).or_default();
        group.shape.pending = Some(Some(GroupShape { queue: Some(queue.clone()) }));
        let kind = wire::GroupKind::Queue as i32;
        let create = wire::CreateGroup { name: GROUP.into(), kind, topics: Vec::new(), queue: Some(queue) };
        self.tell(Request::CreateGroup(create), Op::Group { name: GROUP.into() })
    }

    fn tell_receive(&mut self, count: u32) -> Checked {
        let (topic, group) = (TOPIC.to_owned(), GROUP.to_owned());
        let op = Op::Receive { group: group.clone(), topic: topic.clone() };
        self.tell(Request::Receive(wire::Receive { topic, group, count, wait_ms: 0, lease_ms: None }), op)
    }

    fn tell_settle(&mut self, action: &SettleAction) -> Checked {
        if self.held.is_empty() || self.disk.is_off() {
            return Ok(());
        }
        let held = self.held.remove(0);
        self.send_settle(&held, std::slice::from_ref(&held), |_| action.clone());
        self.settle_down()
    }

    fn tell_idle(&mut self, ms: u64) -> Checked {
        if self.disk.is_off() {
            return Ok(());
        }
        self.advance(ms);
        self.settle_down()
    }

    fn tell(&mut self, request: Request, op: Op) -> Checked {
        if self.disk.is_off() {
            return Ok(());
        }
        self.send(request, op);
        self.settle_down()
    }

    fn topic_partitions(&self, name: &str) -> Vec<TopicPartition> {
        self.topics.by_name(name).into_iter().flat_map(|topic| topic.all_partitions()).collect()
    }
}

fn topic_config() -> wire::TopicConfig {
    wire::TopicConfig { segment_bytes: 16 << 10, ..default_topic_config() }
}
