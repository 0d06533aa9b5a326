//! The scrubber on a simulated disk.

mod common;

use std::sync::Arc;

use common::{Driver, config};
use dure_engine::*;
use dure_proto::{Offset, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const BYTES_PER_S: u64 = 1 << 30;

fn scrubbing() -> ShardConfig {
    ShardConfig { scrub_bytes_per_s: BYTES_PER_S, ..config() }
}

/// Twelve messages of 10 KB, each in a segment of its own, on the device.
fn scrubbed_log(sim: &SimDisk) -> (Driver, TopicPartition) {
    let disk: DiskRef = Arc::new(sim.clone());
    let mut driver = Driver::open_with(disk.clone(), START, scrubbing());
    let config = wire::TopicConfig { segment_bytes: 16 << 10, ..default_topic_config() };
    let create = wire::CreateTopic { name: "photos".into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    let photos = driver.partition("photos");
    for n in 0..12 {
        driver.produce(photos, &[&format!("{n}{}", "x".repeat(10_000))]).expect("produced");
    }
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    sim.crash_process();
    (Driver::open_with(disk, START, scrubbing()), photos)
}

fn path(offset: u64) -> String {
    format!("shard-0000/log/1/0/{offset:020}.log")
}

fn pass(driver: &mut Driver) -> (u64, Vec<Finding>) {
    driver.scrubbed.clear();
    for _ in 0..150 {
        driver.advance(10);
        if driver.scrubbed.iter().any(|scrubbed| scrubbed.pass_done) {
            break;
        }
    }
    assert_eq!(driver.scrubbed.iter().filter(|scrubbed| scrubbed.pass_done).count(), 1, "one pass");
    let findings = driver.scrubbed.iter().flat_map(|scrubbed| scrubbed.findings.clone());
    (driver.scrubbed.iter().map(|scrubbed| scrubbed.bytes).sum(), findings.collect())
}

fn described(driver: &mut Driver) -> Vec<(u64, u64)> {
    let describe = wire::DescribeTopics { names: vec!["photos".into()] };
    match driver.ask(Request::DescribeTopics(describe)).expect("described") {
        Response::Topics(topics) => topics[0].partitions[0].lost.iter().map(|r| (r.from, r.to)).collect(),
        other => panic!("{other:?}"),
    }
}

fn lost(finding: &Finding) -> (u64, u64) {
    match finding {
        Finding::EntriesLost { offsets, .. } => (offsets.start.0, offsets.end.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flipped_bit_is_found_named_and_the_rest_is_served() {
    let sim = SimDisk::new(0);
    let (mut driver, photos) = scrubbed_log(&sim);
    let (bytes, findings) = pass(&mut driver);
    assert!(bytes > 11 * 10_000 && findings.is_empty(), "{bytes} {findings:?}");
    assert!(described(&mut driver).is_empty());

    // One in a batch, one in an entry's header, one in the segment that is not sealed.
    sim.flip_bit(&path(3), 5_000, 3).expect("flipped");
    sim.flip_bit(&path(7), 64 + 9, 0).expect("flipped");
    sim.flip_bit(&path(11), 5_000, 3).expect("flipped");
    let (_, findings) = pass(&mut driver);
    assert_eq!(findings.iter().map(lost).collect::<Vec<_>>(), [(3, 4), (7, 8)]);
    assert_eq!(described(&mut driver), [(3, 4), (7, 8)]);
    let damage = driver.scrubbed.iter().filter_map(|scrubbed| scrubbed.damage.clone()).next_back();
    assert_eq!(damage.expect("it changed").len(), 2);

    // It is told once, and remembered.
    let (_, findings) = pass(&mut driver);
    assert_eq!(findings, []);
    assert_eq!(described(&mut driver), [(3, 4), (7, 8)]);
    sim.drop_caches();
    let mut cursor = Cursor::at(Offset(3));
    let view = &driver.views[&photos];
    assert_eq!(
        view.read(&mut cursor, 1, Wait::MayWait).expect("read"),
        ReadOutcome::Lost(Offset(3)..Offset(4))
    );
    assert!(driver.read_batch(photos, Offset(4)).is_some());

    // What is deleted is no damage any more.
    driver.ask(Request::PurgeTopic(wire::PurgeTopic { name: "photos".into() })).expect("purged");
    pass(&mut driver);
    let damage = driver.scrubbed.iter().filter_map(|scrubbed| scrubbed.damage.clone()).next_back();
    assert_eq!(damage.expect("it changed"), []);
    assert!(described(&mut driver).is_empty());
}

#[test]
fn a_segment_that_the_disk_refuses_to_read_is_named_and_the_next_one_is_read() {
    let sim = SimDisk::new(0);
    let (mut driver, _) = scrubbed_log(&sim);
    driver.disk.remove(&path(5)).expect("removed");
    sim.flip_bit(&path(6), 5_000, 3).expect("flipped");
    let (_, findings) = pass(&mut driver);
    assert!(
        matches!(&findings[0], Finding::ReadFailed { offsets, .. } if *offsets == (Offset(5)..Offset(6))),
        "{findings:?}"
    );
    assert_eq!(lost(&findings[1]), (6, 7));
}

#[test]
fn what_is_not_synced_yet_is_scrubbed_from_memory_and_no_damage() {
    let sim = SimDisk::new(0);
    let (mut driver, photos) = scrubbed_log(&sim);
    for n in 0..5 {
        driver.produce(photos, &[&format!("{n}{}", "y".repeat(10_000))]).expect("produced");
    }
    let (bytes, findings) = pass(&mut driver);
    assert!(bytes > 16 * 10_000, "{bytes}");
    assert_eq!(findings, []);
}
