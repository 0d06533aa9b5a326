//! What a start costs, and what does not keep a shard from starting.

mod common;

use std::sync::Arc;

use common::{Driver, config};
use dure_engine::*;
use dure_proto::{Offset, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

fn simulated() -> (SimDisk, DiskRef) {
    let disk = SimDisk::new(0);
    (disk.clone(), Arc::new(disk))
}

/// What opening costs with so many segments in a checkpoint and always the same load behind it.
fn cost_of_opening(segments: usize) -> IoCounts {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let topic_config = wire::TopicConfig { segment_bytes: 16 << 10, ..default_topic_config() };
    let create = wire::CreateTopic { name: "photos".into(), partitions: 1, config: Some(topic_config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    let photos = driver.partition("photos");
    let large = "x".repeat(9_000);
    for _ in 0..segments {
        driver.produce(photos, &[&large]).expect("produced");
    }
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    sim.crash_process();
    // A second checkpoint, behind which the pieces of before are free.
    let mut driver = Driver::open(disk.clone(), START);
    driver.produce(photos, &["a"]).expect("produced");
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    sim.crash_process();
    let mut driver = Driver::open(disk.clone(), START);
    for _ in 0..20 {
        driver.produce(photos, &["b"]).expect("produced");
    }
    drop(driver);
    sim.crash_process();

    let before = sim.io_counts();
    let (shard, report) = Shard::open(disk, dure_proto::ShardId(0), config(), START).expect("opened");
    let after = sim.io_counts();
    assert!(report.findings.is_empty() && report.commits >= 20, "{report:?}");
    drop(shard);
    IoCounts {
        lookups: after.lookups - before.lookups,
        reads: after.reads - before.reads,
        read_bytes: after.read_bytes - before.read_bytes,
        writes: after.writes - before.writes,
        written_bytes: after.written_bytes - before.written_bytes,
        syncs: after.syncs - before.syncs,
        dir_syncs: after.dir_syncs - before.dir_syncs,
        entry_changes: after.entry_changes - before.entry_changes,
    }
}

#[test]
fn what_a_start_costs_does_not_grow_with_what_is_stored() {
    let (little, much) = (cost_of_opening(20), cost_of_opening(600));
    // The checkpoints name each segment, in some 30 bytes, and that is all.
    let names = 2 * 580 * 40;
    assert!(much.read_bytes <= little.read_bytes + names, "{much:?} instead of {little:?}");
    assert_eq!(IoCounts { read_bytes: 0, ..much }, IoCounts { read_bytes: 0, ..little });
}

#[test]
fn the_tail_of_a_segment_is_served_before_it_is_written_again() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    for value in ["a", "b", "c"] {
        driver.produce(photos, &[value]).expect("produced");
    }
    drop(driver);
    // Nothing of the segment survives.
    sim.crash_with(|unsynced| match unsynced.path.contains("/log/") {
        true => Survival::Lost,
        false => Survival::Kept,
    });
    let (mut shard, report) =
        Shard::open(disk.clone(), dure_proto::ShardId(0), config(), START).expect("opened");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(!sim.snapshot_paths().iter().any(|path| path.ends_with(".log")), "none is written yet");
    let views = shard.take_effects().into_iter().filter_map(|effect| match effect {
        Effect::Publish(view) if view.partition == photos => Some(view),
        _ => None,
    });
    let view = views.last().expect("it is shown");
    let mut cursor = Cursor::at(Offset(0));
    for _ in 0..3 {
        assert!(matches!(view.read(&mut cursor, 1, Wait::CachedOnly), Ok(ReadOutcome::Entries(_))));
    }
    assert_eq!(shard.poll_timeout(), Some(0), "the tail is written at once");
    shard.turn(START);
    assert!(sim.snapshot_paths().iter().any(|path| path.ends_with(".log")), "and now it is");
    drop(shard);

    // A life that never came to it loses nothing, and one that did neither.
    sim.crash_process();
    let mut driver = Driver::open(disk, START);
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c"]);
    assert_eq!(driver.produce(photos, &["d"]), Ok(Offset(3)));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c", "d"]);
}

#[test]
fn a_shard_that_idles_makes_a_checkpoint_and_has_nothing_to_replay() {
    let (sim, disk) = simulated();
    let config = ShardConfig { checkpoint_bytes: 1 << 20, ..config() };
    let mut driver = Driver::open_with(disk.clone(), START, config.clone());
    let photos = driver.topic("photos", 1);
    let large = "x".repeat(40_000);
    driver.produce(photos, &[&large]).expect("produced");
    driver.advance(500);
    driver.advance(2_000);
    drop(driver);
    sim.crash_process();
    let driver = Driver::open_with(disk, START, config);
    assert_eq!(driver.report.commits, 0);
    assert_eq!(driver.read_all(photos, Offset(0)), [&*large]);
}
