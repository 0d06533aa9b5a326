//! What is deleted and what is held, as stories: by time, by size, under clocks that jump.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::Driver;
use dure_engine::*;
use dure_proto::wire::{Cleanup, TopicConfig};
use dure_proto::{BatchBuilder, Compression, Offset, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const DAY_MS: u64 = 24 * 3_600_000;
/// A batch of one record of this size fills most of the smallest segment.
const RECORD_BYTES: usize = 12 << 10;

fn topic(driver: &mut Driver, config: TopicConfig) -> TopicPartition {
    let config = TopicConfig { segment_bytes: 16 << 10, ..config };
    let create = wire::CreateTopic { name: "t".into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    driver.partition("t")
}

fn simulated() -> DiskRef {
    Arc::new(SimDisk::new(1))
}

fn kept_for(retention_ms: u64) -> TopicConfig {
    TopicConfig { retention_ms: Some(retention_ms), ..default_topic_config() }
}

/// One segment each, with whatever time the producer says.
fn produce(driver: &mut Driver, partition: TopicPartition, segments: usize, timestamp_ms: i64) {
    for _ in 0..segments {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(None, Some(&[7; RECORD_BYTES]), &[], timestamp_ms).expect("fits");
        let (batch, record_bytes_max): (Bytes, u32) = (builder.build(None), RECORD_BYTES as u32);
        let produce = Produce {
            partition,
            batch,
            keyed: false,
            all_keyed: false,
            record_bytes_max,
            expiring: false,
            ids: Vec::new(),
        };
        driver.ask(Request::Produce(produce)).expect("produced");
    }
}

/// So many passes of housekeeping, a second apart.
fn pass(driver: &mut Driver, seconds: u64) {
    (0..seconds).for_each(|_| driver.advance(1_000));
}

fn start(driver: &Driver, partition: TopicPartition) -> u64 {
    driver.views[&partition].log_start.0
}

fn described(driver: &mut Driver) -> wire::PartitionDescription {
    let describe = wire::DescribeTopics { names: vec!["t".into()] };
    match driver.ask(Request::DescribeTopics(describe)).expect("described") {
        Response::Topics(mut topics) => topics.remove(0).partitions.remove(0),
        other => panic!("{other:?}"),
    }
}

fn group(driver: &mut Driver, name: &str, hold: bool) {
    let create = wire::CreateGroup {
        name: name.into(),
        kind: wire::GroupKind::Queue as i32,
        topics: vec!["t".into()],
        queue: Some(wire::QueueSettings { hold, ..default_queue_settings() }),
    };
    driver.ask(Request::CreateGroup(create)).expect("created");
}

fn work_off(driver: &mut Driver, name: &str, count: u32) {
    for lease in driver.receive("t", name, count) {
        driver.settle_one("t", name, &lease, SettleAction::Ack).expect("acknowledged");
    }
}

#[test]
fn what_nobody_writes_to_any_more_expires_too() {
    let mut driver = Driver::open(simulated(), START);
    let t = topic(&mut driver, kept_for(10_000));
    produce(&mut driver, t, 1, 0);
    pass(&mut driver, 9);
    assert_eq!(start(&driver, t), 0);
    pass(&mut driver, 3);
    assert_eq!((start(&driver, t), driver.views[&t].bytes), (1, 0), "the only segment, which never rolled");
    produce(&mut driver, t, 1, 0);
    assert_eq!(driver.read_batch(t, Offset(1)).expect("there").0, Offset(1));
}

#[test]
fn a_producers_timestamp_neither_deletes_nor_keeps() {
    for timestamp_ms in [0, i64::MAX, i64::MIN, START.wall_ms as i64 + 3650 * DAY_MS as i64] {
        let mut driver = Driver::open(simulated(), START);
        let t = topic(&mut driver, kept_for(10_000));
        produce(&mut driver, t, 2, timestamp_ms);
        pass(&mut driver, 9);
        assert_eq!(start(&driver, t), 0, "{timestamp_ms}");
        pass(&mut driver, 3);
        assert_eq!(start(&driver, t), 2, "{timestamp_ms}");
    }
}

#[test]
fn a_clock_that_jumps_ahead_does_not_delete_everything() {
    let disk = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let t = topic(&mut driver, kept_for(7 * DAY_MS));
    produce(&mut driver, t, 20, 0);
    driver.now.wall_ms += 3650 * DAY_MS;
    pass(&mut driver, 3_600);
    assert_eq!(start(&driver, t), 0, "an hour after the jump");
    // The broker is started again, and the clock is still wrong.
    driver.shard.begin_shutdown(driver.now);
    driver.settle();
    let mut driver = Driver::open(disk, Now { mono_ms: 0, ..driver.now });
    pass(&mut driver, 1_800);
    assert_eq!(start(&driver, t), 0, "after a restart");
    driver.now.wall_ms -= 3650 * DAY_MS;
    pass(&mut driver, 3_600);
    assert_eq!(start(&driver, t), 0, "right again");
    // It really is that late, and stays so: one pass after the other.
    driver.now.wall_ms += 8 * DAY_MS;
    let mut removed_max = 0;
    for _ in 0..4 * 3_600 {
        let before = start(&driver, t);
        driver.advance(1_000);
        removed_max = removed_max.max(start(&driver, t) - before);
    }
    assert_eq!((start(&driver, t), removed_max), (20, 8));
}

#[test]
fn what_was_written_under_a_wrong_clock_goes_when_it_is_old_enough() {
    for wrong in [START.wall_ms + 3650 * DAY_MS, 0] {
        let mut driver = Driver::open(simulated(), START);
        let t = topic(&mut driver, kept_for(DAY_MS));
        produce(&mut driver, t, 1, 0);
        let right = driver.now.wall_ms;
        driver.now.wall_ms = wrong;
        produce(&mut driver, t, 2, 0);
        pass(&mut driver, 60);
        driver.now.wall_ms = right + 60_000;
        produce(&mut driver, t, 1, 0);
        pass(&mut driver, 3_600);
        assert_eq!(start(&driver, t), 0, "not yet: {wrong}");
        for _ in 0..24 {
            driver.advance(3_600_000);
        }
        assert_eq!(start(&driver, t), 4, "a day later: {wrong}");
    }
}

#[test]
fn what_was_written_long_after_the_last_checkpoint_was_deleted_soon_after_a_restart() {
    const HOUR_MS: u64 = 3_600_000;
    let disk = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let t = topic(&mut driver, kept_for(HOUR_MS));
    for _ in 0..10 {
        driver.advance(HOUR_MS / 2);
        produce(&mut driver, t, 1, 0);
    }
    let after = Now { mono_ms: 0, wall_ms: driver.now.wall_ms + 1_000 };
    drop(driver);
    // Retention's clock goes on from the checkpoint, and runs fast until it has caught up.
    let mut driver = Driver::open(disk, after);
    pass(&mut driver, 1_200);
    assert!(start(&driver, t) <= 9, "the last one is 20 minutes old and kept for an hour");
    pass(&mut driver, 3_600);
    assert_eq!(start(&driver, t), 10);
}

#[test]
fn what_a_queue_group_holds_is_shown_and_since_when() {
    let mut driver = Driver::open(simulated(), START);
    let t = topic(&mut driver, kept_for(10_000));
    group(&mut driver, "holds", true);
    group(&mut driver, "careless", false);
    produce(&mut driver, t, 3, 0);
    let segment = driver.views[&t].bytes / 3;
    let shown = |driver: &mut Driver, name: &str| {
        let row = driver.group(name).partitions.remove(0);
        (row.held_bytes / segment, row.held_since_ms.map(|ms| ms - START.wall_ms))
    };
    pass(&mut driver, 9);
    assert_eq!(shown(&mut driver, "holds"), (0, None), "nothing is due yet");
    pass(&mut driver, 6);
    assert_eq!(start(&driver, t), 0);
    assert_eq!(shown(&mut driver, "holds"), (3, Some(10_000)));
    assert_eq!(shown(&mut driver, "careless"), (0, None));
    let topic = described(&mut driver);
    assert_eq!((topic.held_bytes / segment, topic.held_by), (3, vec!["holds".to_owned()]));
    assert_eq!(topic.held_since_ms, Some(START.wall_ms + 10_000));
    work_off(&mut driver, "holds", 2);
    pass(&mut driver, 2);
    assert_eq!((start(&driver, t), shown(&mut driver, "holds")), (2, (1, Some(10_000))));
    work_off(&mut driver, "holds", 1);
    pass(&mut driver, 2);
    assert_eq!((start(&driver, t), shown(&mut driver, "holds")), (3, (0, None)));
    assert_eq!(described(&mut driver).held_by, Vec::<String>::new());
}

#[test]
fn a_work_queue_keeps_by_retention_alone_until_it_has_a_group() {
    let config = TopicConfig { cleanup: Cleanup::DeleteWhenSettled as i32, ..kept_for(60_000) };
    let mut driver = Driver::open(simulated(), START);
    let t = topic(&mut driver, config);
    produce(&mut driver, t, 3, 0);
    pass(&mut driver, 30);
    assert_eq!(start(&driver, t), 0, "no group, and not old");
    group(&mut driver, "one", true);
    group(&mut driver, "two", false);
    work_off(&mut driver, "one", 3);
    pass(&mut driver, 2);
    assert_eq!(start(&driver, t), 0, "the other one has not, though it does not hold");
    work_off(&mut driver, "two", 2);
    pass(&mut driver, 2);
    assert_eq!(start(&driver, t), 2);
    produce(&mut driver, t, 1, 0);
    pass(&mut driver, 90);
    assert_eq!(
        start(&driver, t),
        3,
        "old, settled by one, and the other does not hold; the last is held by one"
    );
}

#[test]
fn what_retention_removes_is_no_backlog_any_more() {
    let mut driver = Driver::open(simulated(), START);
    let t = topic(&mut driver, kept_for(30_000));
    group(&mut driver, "g", false);
    produce(&mut driver, t, 4, 0);
    work_off(&mut driver, "g", 1);
    let row = driver.group("g").partitions.remove(0);
    let segment = driver.views[&t].bytes / 4;
    assert_eq!((row.lag, row.bytes), (3, 3 * segment));
    assert_eq!((row.arrival_per_s, row.service_per_s), (0.8, 0.2), "over the first five seconds");
    pass(&mut driver, 20);
    produce(&mut driver, t, 1, 0);
    pass(&mut driver, 15);
    let row = driver.group("g").partitions.remove(0);
    assert_eq!((start(&driver, t), row.lag, row.ready, row.bytes), (4, 1, 1, segment));
    assert!((0.13..0.15).contains(&row.arrival_per_s), "five in 35 seconds: {}", row.arrival_per_s);
    pass(&mut driver, 100);
    let row = driver.group("g").partitions.remove(0);
    assert_eq!((row.lag, row.bytes, row.oldest_age_ms), (0, 0, 0));
    assert_eq!((row.arrival_per_s, row.service_per_s), (0.0, 0.0));
}

/// Cutting a file up takes longer than letting it go: who holds it open sees which it was.
#[test]
fn the_space_of_few_segments_is_given_back_gently_and_that_of_many_at_once() {
    const MIB: u64 = 1 << 20;
    for (segments, gently) in [(3, true), (12, false)] {
        let disk = simulated();
        let mut driver = Driver::open(disk.clone(), START);
        let config = TopicConfig { segment_bytes: 2 * MIB, ..default_topic_config() };
        let create = wire::CreateTopic { name: "t".into(), partitions: 1, config: Some(config) };
        driver.ask(Request::CreateTopic(create)).expect("created");
        let t = driver.partition("t");
        let value = "v".repeat(9 * MIB as usize / 10);
        (0..2 * segments).for_each(|_| _ = driver.produce(t, &[&value]).expect("produced"));
        let dir = format!("shard-0000/log/{}/{}", t.topic, t.partition);
        let logs = disk.list(&dir).expect("a directory").into_iter().filter(|e| e.name.ends_with(".log"));
        let held: Vec<FileRef> = logs
            .map(|e| disk.open(&format!("{dir}/{}", e.name), OpenMode::Read).expect("it is there"))
            .collect();
        assert_eq!(held.len(), segments);
        driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "t".into() })).expect("deleted");
        driver.settle();
        assert!(disk.list(&dir).is_err(), "it is gone");
        let cut = held.iter().filter(|file| file.len().expect("a length") <= MIB).count();
        assert_eq!(cut, if gently { segments } else { 0 }, "of {segments}");
    }
}
