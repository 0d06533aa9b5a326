//! One small story, cut off at every boundary between two changes of the disk, with every subset of what was unsynced
//! there; and where the process was killed, with a power cut at every boundary of the recovery that followed.

use dure_engine::{PastCache, Request, SettleAction, Shard, SimDisk, SimFaults, Survival};
use dure_proto::{PartitionId, ShardId, TopicPartition, wire};
use fastrand::Rng;

use super::knobs::Knobs;
use super::model::{GroupShape, TopicShape};
use super::workload::Op;
use super::world::World;
use super::{Checked, Violation};

/// So few unsynced things are lost and kept in every combination; of more, some combinations.
const UNSYNCED_EXHAUSTIVE_MAX: usize = 6;
const SUBSETS_OF_MORE: u64 = 12;
/// Of a power cut in the middle of a recovery.
const SUBSETS_IN_RECOVERY: u64 = 3;

const TOPIC: &str = "crops";
const SCRATCH: &str = "maps";
const GROUP: &str = "workers";

/// What [`exhaustive`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exhaustive {
    /// Boundaries at which the story was cut off.
    pub boundaries: u64,
    /// Crashes and recoveries, each checked.
    pub crashes: u64,
    /// The promise that was broken first.
    pub failure: Option<String>,
}

/// Tells the story as often as it has boundaries. `recoveries_too`: cuts recoveries off as well.
#[must_use]
pub fn exhaustive(recoveries_too: bool) -> Exhaustive {
    let mut done = Exhaustive::default();
    for boundary in 0.. {
        match cut_at(boundary, recoveries_too, &mut done) {
            Ok(true) => done.boundaries += 1,
            Ok(false) => break,
            Err(Violation(what)) => {
                done.failure = Some(format!("at boundary {boundary}: {what}"));
                break;
            }
        }
    }
    done
}

/// False if the story has no such boundary.
fn cut_at(boundary: u64, recoveries_too: bool, done: &mut Exhaustive) -> Result<bool, Violation> {
    let mut told = World::new(0, Knobs::of_a_story());
    told.recover("the first start")?;
    told.settle_down()?;
    told.disk.power_off_after(boundary);
    told.tell_story()?;
    if !told.disk.is_off() {
        return Ok(false);
    }
    let mut rng = Rng::with_seed(boundary);
    for subset in subsets(&told.disk, SUBSETS_OF_MORE, &mut rng) {
        let after = told.in_another_world(crashed(told.disk.fork(), &subset));
        after.and_recover(PastCache::Durable, boundary, &format!("power cut, {subset:?} kept"), done)?;
    }
    for past_cache in [PastCache::Durable, PastCache::AfterWriteBack] {
        let killed = told.disk.fork();
        killed.crash_process();
        let after = told.in_another_world(killed.fork());
        after.and_recover(past_cache, boundary, &format!("kill, {past_cache:?}"), done)?;
        if recoveries_too {
            told.cut_recoveries(&killed, past_cache, boundary, &mut rng, done)?;
        }
    }
    Ok(true)
}

/// Which of the unsynced things are kept: each combination, or some of them with all and none among them.
fn subsets(disk: &SimDisk, some: u64, rng: &mut Rng) -> Vec<Vec<bool>> {
    let count = disk.unsynced().len();
    if count <= UNSYNCED_EXHAUSTIVE_MAX && some >= SUBSETS_OF_MORE {
        return (0..1_u32 << count).map(|mask| (0..count).map(|i| mask & 1 << i != 0).collect()).collect();
    }
    let mut random = |_| (0..count).map(|_| rng.bool()).collect();
    let mut subsets: Vec<Vec<bool>> = (0..some).map(&mut random).collect();
    subsets.extend([vec![false; count], vec![true; count]]);
    subsets
}

fn crashed(disk: SimDisk, kept: &[bool]) -> SimDisk {
    let mut kept = kept.iter();
    disk.crash_with(|_| if *kept.next().expect("one for each") { Survival::Kept } else { Survival::Lost });
    disk
}

impl World {
    /// The story: a topic, three batches, two messages taken, one acknowledged and one rejected, another topic made
    /// and deleted, and what is settled purged.
    fn tell_story(&mut self) -> Checked {
        let config = dure_engine::default_topic_config();
        for name in [TOPIC, SCRATCH] {
            let topic = self.model.topics.entry(name.into()).or_default();
            topic.configs = vec![config];
            topic.shape.pending = Some(Some(TopicShape { partitions: 1, config }));
            let create = wire::CreateTopic { name: name.into(), partitions: 1, config: Some(config) };
            self.tell(Request::CreateTopic(create), Op::Topic { name: name.into() })?;
        }
        let queue = wire::QueueSettings { attempts_max: 2, ..dure_engine::default_queue_settings() };
        let group = self.model.groups.entry(GROUP.into()).or_default();
        group.shape.pending = Some(Some(GroupShape { queue: Some(queue.clone()) }));
        let kind = wire::GroupKind::Queue as i32;
        let create = wire::CreateGroup { name: GROUP.into(), kind, topics: Vec::new(), queue: Some(queue) };
        self.tell(Request::CreateGroup(create), Op::Group { name: GROUP.into() })?;
        for name in [TOPIC, SCRATCH, TOPIC, TOPIC] {
            if let Some(topic) = self.topics.by_name(name).map(|topic| topic.id)
                && !self.disk.is_off()
            {
                let partition = TopicPartition { topic, partition: PartitionId(0) };
                let batch = self.model.new_batch(&mut self.rng, partition, 600, None, 2);
                self.send_batch(batch);
                self.settle_down()?;
            }
        }
        let op = || Op::Receive { group: GROUP.into(), topic: TOPIC.into() };
        let receive =
            wire::Receive { topic: TOPIC.into(), group: GROUP.into(), count: 2, wait_ms: 0, lease_ms: None };
        self.tell(Request::Receive(receive), op())?;
        for action in [SettleAction::Ack, SettleAction::Reject { reason: "bad".into() }] {
            if !self.held.is_empty() && !self.disk.is_off() {
                let held = self.held.remove(0);
                self.send_settle(&held, std::slice::from_ref(&held), |_| action.clone());
                self.settle_down()?;
            }
        }
        self.tell_end()
    }

    fn tell_end(&mut self) -> Checked {
        if let Some(topic) = self.model.topics.get_mut(SCRATCH).filter(|_| !self.disk.is_off()) {
            topic.shape.pending = Some(None);
            let delete = wire::DeleteTopic { name: SCRATCH.into() };
            self.tell(Request::DeleteTopic(delete), Op::DeleteTopic { name: SCRATCH.into() })?;
        }
        if let Some(topic) = self.model.topics.get_mut(TOPIC).filter(|_| !self.disk.is_off()) {
            topic.purging = true;
            let purge = wire::PurgeTopic { name: TOPIC.into() };
            self.tell(Request::PurgeTopic(purge), Op::PurgeTopic { name: TOPIC.into() })?;
        }
        self.advance(30);
        self.settle_down()
    }

    fn tell(&mut self, request: Request, op: Op) -> Checked {
        if self.disk.is_off() {
            return Ok(());
        }
        self.send(request, op);
        self.settle_down()
    }

    /// What was told so far, on another disk.
    fn in_another_world(&self, disk: SimDisk) -> World {
        let mut world = World::new(1, Knobs::of_a_story());
        world.disk = disk;
        world.model = self.model.clone();
        world.now = self.now;
        world.epoch = self.epoch;
        world
    }

    fn and_recover(
        mut self,
        past_cache: PastCache,
        boundary: u64,
        how: &str,
        done: &mut Exhaustive,
    ) -> Checked {
        done.crashes += 1;
        let outcome = self.recover_with(past_cache).and_then(|()| self.settle_down());
        let outcome = outcome.and_then(|()| self.check_recovered());
        outcome.map_err(|Violation(what)| Violation(format!("{how}, boundary {boundary}: {what}")))
    }

    /// The recovery after a kill, cut off by the power at each of its own boundaries.
    fn cut_recoveries(
        &self,
        killed: &SimDisk,
        past_cache: PastCache,
        boundary: u64,
        rng: &mut Rng,
        done: &mut Exhaustive,
    ) -> Checked {
        for inner in 0.. {
            let disk = killed.fork();
            disk.set_faults(SimFaults { past_cache, ..SimFaults::default() });
            disk.power_off_after(inner);
            let config = self.knobs.shard.clone();
            let opened = Shard::open(std::sync::Arc::new(disk.clone()), ShardId(0), config, self.now);
            if opened.is_ok() && !disk.is_off() {
                return Ok(());
            }
            drop(opened);
            for subset in subsets(&disk, SUBSETS_IN_RECOVERY, rng) {
                let after = self.in_another_world(crashed(disk.fork(), &subset));
                let how = format!("kill, then a power cut at {inner} of the recovery with {past_cache:?}");
                after.and_recover(past_cache, boundary, &how, done)?;
            }
        }
        Ok(())
    }
}
