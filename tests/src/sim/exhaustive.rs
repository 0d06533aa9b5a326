//! Small stories, each cut off at every boundary between two changes of the disk, with every subset of what was
//! unsynced there; and where the process was killed, with a power cut at every boundary of the recovery that followed.

use std::fmt;

use dure_engine::{PastCache, Shard, SimDisk, SimFaults, Survival};
use dure_proto::ShardId;
use fastrand::Rng;

use super::knobs::Knobs;
use super::stories::{STORIES, Story};
use super::world::World;
use super::{Checked, Violation};

/// So few unsynced things are lost and kept in every combination; of more, some combinations.
const UNSYNCED_EXHAUSTIVE_MAX: usize = 12;
/// In a quick round.
const UNSYNCED_QUICK_MAX: usize = 5;
const SUBSETS_OF_MORE: u64 = 256;
const SUBSETS_OF_MORE_QUICK: u64 = 12;
/// Of a power cut in the middle of a recovery.
const SUBSETS_IN_RECOVERY: u64 = 3;

/// What [`exhaustive`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exhaustive {
    /// What each story came to.
    pub stories: Vec<StoryDone>,
    /// The promise that was broken first.
    pub failure: Option<String>,
}

/// What one story came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoryDone {
    /// Its name.
    pub name: &'static str,
    /// Boundaries at which it was cut off.
    pub boundaries: u64,
    /// Those of them at which every subset of the unsynced was kept once.
    pub enumerated: u64,
    /// Crashes and recoveries, each checked.
    pub crashes: u64,
    /// Those of them in which the recovery itself was cut off before.
    pub in_recovery: u64,
}

impl fmt::Display for StoryDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoryDone { name, boundaries, enumerated, crashes, in_recovery } = self;
        write!(
            f,
            "{name}: {boundaries} boundaries, of which {enumerated} with every subset of what was unsynced and {} \
             with some; {crashes} crashes, {in_recovery} of them behind a recovery that was cut off",
            boundaries - enumerated
        )
    }
}

/// How far to go.
struct Rounds {
    unsynced_max: usize,
    subsets_of_more: u64,
    recoveries_too: bool,
}

/// Tells each story as often as it has boundaries. `thorough`: with every subset of up to twelve unsynced things, and
/// with the recoveries cut off as well.
#[must_use]
pub fn exhaustive(thorough: bool) -> Exhaustive {
    let rounds = match thorough {
        true => Rounds {
            unsynced_max: UNSYNCED_EXHAUSTIVE_MAX,
            subsets_of_more: SUBSETS_OF_MORE,
            recoveries_too: true,
        },
        false => Rounds {
            unsynced_max: UNSYNCED_QUICK_MAX,
            subsets_of_more: SUBSETS_OF_MORE_QUICK,
            recoveries_too: false,
        },
    };
    let mut all = Exhaustive::default();
    for story in &STORIES {
        let mut done = StoryDone { name: story.name, ..StoryDone::default() };
        for boundary in 0.. {
            match cut_at(story, boundary, &rounds, &mut done) {
                Ok(true) => done.boundaries += 1,
                Ok(false) => break,
                Err(Violation(what)) => {
                    all.failure = Some(format!("{}, at boundary {boundary}: {what}", story.name));
                    break;
                }
            }
        }
        all.stories.push(done);
        if all.failure.is_some() {
            break;
        }
    }
    all
}

/// False if the story has no such boundary.
fn cut_at(story: &Story, boundary: u64, rounds: &Rounds, done: &mut StoryDone) -> Result<bool, Violation> {
    let mut told = World::new(0, Knobs::of_a_story());
    told.recover("the first start")?;
    told.settle_down()?;
    told.disk.power_off_after(boundary);
    (story.tell)(&mut told)?;
    if !told.disk.is_off() {
        return Ok(false);
    }
    let mut rng = Rng::with_seed(boundary);
    let matters = what_matters(&told.disk);
    done.enumerated += u64::from(matters.len() <= rounds.unsynced_max);
    for subset in subsets(&matters, rounds, &mut rng) {
        let after = told.in_another_world(crashed(told.disk.fork(), &subset));
        after.and_recover(PastCache::Durable, &format!("power cut, {subset:?} kept"), done)?;
    }
    for past_cache in [PastCache::Durable, PastCache::AfterWriteBack] {
        let killed = told.disk.fork();
        killed.crash_process();
        let after = told.in_another_world(killed.fork());
        after.and_recover(past_cache, &format!("kill, {past_cache:?}"), done)?;
        if rounds.recoveries_too {
            told.cut_recoveries(&killed, past_cache, &mut rng, done)?;
        }
    }
    Ok(true)
}

/// The unsynced things that make a difference, by their places in the order in which a crash asks.
fn what_matters(disk: &SimDisk) -> Vec<usize> {
    let unsynced = disk.unsynced();
    (0..unsynced.len()).filter(|i| !unsynced[*i].is_idle).collect()
}

/// Which of the unsynced things are kept: each combination, or some of them with all and none among them.
fn subsets(matters: &[usize], rounds: &Rounds, rng: &mut Rng) -> Vec<Vec<usize>> {
    let chosen =
        |mask: u64| (0..matters.len()).filter(|i| mask >> (i % 64) & 1 == 1).map(|i| matters[i]).collect();
    if matters.len() <= rounds.unsynced_max {
        return (0..1_u64 << matters.len()).map(chosen).collect();
    }
    some_subsets(matters, rounds.subsets_of_more, rng)
}

fn some_subsets(matters: &[usize], some: u64, rng: &mut Rng) -> Vec<Vec<usize>> {
    let random = |_| matters.iter().copied().filter(|_| rng.bool()).collect();
    let mut subsets: Vec<Vec<usize>> = (0..some).map(random).collect();
    subsets.extend([Vec::new(), matters.to_vec()]);
    subsets
}

fn crashed(disk: SimDisk, kept: &[usize]) -> SimDisk {
    let mut nth = 0;
    disk.crash_with(|_| {
        nth += 1;
        if kept.contains(&(nth - 1)) { Survival::Kept } else { Survival::Lost }
    });
    disk
}

impl World {
    /// What was told so far, on another disk.
    fn in_another_world(&self, disk: SimDisk) -> World {
        let mut world = World::new(1, Knobs::of_a_story());
        world.disk = disk;
        world.model = self.model.clone();
        world.now = self.now;
        world.epoch = self.epoch;
        world
    }

    fn and_recover(mut self, past_cache: PastCache, how: &str, done: &mut StoryDone) -> Checked {
        done.crashes += 1;
        let outcome = self.recover_with(past_cache).and_then(|()| self.settle_down());
        let outcome = outcome.and_then(|()| self.check_recovered());
        outcome.map_err(|Violation(what)| Violation(format!("{how}: {what}")))
    }

    /// The recovery after a kill, cut off by the power at each of its own boundaries.
    fn cut_recoveries(
        &self,
        killed: &SimDisk,
        past_cache: PastCache,
        rng: &mut Rng,
        done: &mut StoryDone,
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
            for subset in some_subsets(&what_matters(&disk), SUBSETS_IN_RECOVERY, rng) {
                let after = self.in_another_world(crashed(disk.fork(), &subset));
                let how = format!("kill, then a power cut at {inner} of the recovery with {past_cache:?}");
                done.in_recovery += 1;
                after.and_recover(past_cache, &how, done)?;
            }
        }
        Ok(())
    }
}
