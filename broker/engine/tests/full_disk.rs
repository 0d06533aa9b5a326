//! A disk that is full, as stories: producing is refused in time, everything else goes on, and nothing is lost.

mod common;

use std::sync::Arc;

use common::Driver;
use dure_engine::*;
use dure_proto::{Offset, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const PIECE_BYTES: u64 = 128 << 10;
const RESERVE_BYTES: u64 = 6 * PIECE_BYTES;
/// Of a message.
const VALUE_BYTES: usize = 2000;

fn config() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: PIECE_BYTES,
        checkpoint_bytes: 4 * PIECE_BYTES,
        commit_bytes_soft: 16 << 10,
        commit_bytes_max: 80 << 10,
        reserve_bytes: RESERVE_BYTES,
        ..common::config()
    }
}

fn disk_of(bytes: u64) -> (SimDisk, DiskRef) {
    let disk = SimDisk::new(0);
    set_capacity(&disk, bytes);
    (disk.clone(), Arc::new(disk))
}

fn set_capacity(disk: &SimDisk, bytes: u64) {
    disk.set_faults(SimFaults { capacity_bytes: Some(bytes), ..SimFaults::default() });
}

fn used(disk: &SimDisk) -> u64 {
    disk.snapshot().values().map(|content| content.len() as u64).sum()
}

fn value(number: u64) -> String {
    format!("{number:0>width$}", width = VALUE_BYTES)
}

/// Produces until the disk is full. Returns how many were taken.
fn fill(driver: &mut Driver, partition: TopicPartition, from: u64) -> u64 {
    for number in from.. {
        match driver.produce(partition, &[&value(number)]) {
            Ok(offset) => assert_eq!(offset, Offset(number)),
            Err(RequestError::DiskFull { .. }) => return number,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!("the disk has an end")
}

fn values(upto: u64) -> Vec<String> {
    (0..upto).map(value).collect()
}

#[test]
fn producing_stops_before_the_reserve_is_touched_and_resumes_by_itself() {
    const DISK_BYTES: u64 = 8 << 20;
    let (sim, disk) = disk_of(DISK_BYTES);
    let mut driver = Driver::open_with(disk, START, config());
    let photos = driver.topic("photos", 1);
    let taken = fill(&mut driver, photos, 0);
    assert!(taken > 1000, "{taken}");
    assert!(used(&sim) <= DISK_BYTES - RESERVE_BYTES + PIECE_BYTES, "{} bytes are used", used(&sim));
    assert_eq!(sim.injected().space_errors, 0, "the disk was never really full");
    assert!(driver.shortage.as_ref().is_some_and(|shortage| shortage.waits.is_empty()));
    assert_eq!(driver.read_all(photos, Offset(0)), values(taken));

    // A purge makes room, and nobody has to do anything else.
    driver.ask(Request::PurgeTopic(wire::PurgeTopic { name: "photos".into() })).expect("purged");
    driver.advance(2_000);
    driver.advance(2_000);
    assert_eq!(driver.shortage, None);
    assert_eq!(driver.produce(photos, &["again"]), Ok(Offset(taken)));
}

#[test]
fn acking_goes_on_for_as_long_as_it_takes_on_a_full_disk() {
    let (sim, disk) = disk_of(8 << 20);
    let mut driver = Driver::open_with(disk.clone(), START, config());
    let photos = driver.topic("photos", 1);
    let taken = fill(&mut driver, photos, 0);
    // Many times the reserve goes through the journal: each message takes two commits of a block each.
    for _ in 0..taken {
        let lease = driver.receive("photos", "resize", 1)[0];
        driver.settle_one("photos", "resize", &lease, SettleAction::Ack).expect("acknowledged");
        driver.advance(1);
    }
    assert_eq!(sim.injected().space_errors, 0, "the reserve was enough");
    let row = &driver.group("resize").partitions[0];
    assert_eq!((row.ready, row.leased, row.committed), (0, 0, Some(taken)));
    drop(driver);
    sim.crash_process();
    let mut driver = Driver::open_with(disk, START, config());
    assert_eq!(driver.group("resize").partitions[0].committed, Some(taken));
}

#[test]
fn dead_letters_leave_the_journal_its_part_of_the_reserve() {
    let (sim, disk) = disk_of(8 << 20);
    let mut driver = Driver::open_with(disk, START, config());
    let photos = driver.topic("photos", 1);
    let taken = fill(&mut driver, photos, 0);
    let mut refused = 0;
    for _ in 0..taken {
        let lease = driver.receive("photos", "resize", 1)[0];
        let reject = SettleAction::Reject { reason: "not a photo".into() };
        match driver.settle_one("photos", "resize", &lease, reject) {
            Ok(_) => {}
            Err(RequestError::DiskFull { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        driver.advance(10);
    }
    assert!(refused > 0);
    assert_eq!(sim.injected().space_errors, 0, "the reserve was enough");
    // Those refused die once there is room.
    set_capacity(&sim, 64 << 20);
    driver.advance(2_000);
    driver.advance(2_000);
    assert_eq!(driver.group("resize").partitions[0].dead, taken);
}

/// Somebody else takes all that is left of the disk, reserve and all.
fn no_room_at_all(sim: &SimDisk) {
    set_capacity(sim, used(sim));
}

#[test]
fn what_finds_no_room_in_its_segment_is_acknowledged_readable_and_kept() {
    let (sim, disk) = disk_of(16 << 20);
    let mut driver = Driver::open_with(disk.clone(), START, config());
    let photos = driver.topic("photos", 1);
    for number in 0..5 {
        driver.produce(photos, &[&value(number)]).expect("produced");
    }
    no_room_at_all(&sim);
    assert_eq!(driver.produce(photos, &[&value(5)]), Ok(Offset(5)), "the journal has it");
    assert!(sim.injected().space_errors > 0);
    assert_eq!(driver.read_all(photos, Offset(0)), values(6));
    assert!(matches!(driver.produce(photos, &["more"]), Err(RequestError::DiskFull { .. })));
    assert_eq!(driver.shortage.as_ref().map(|shortage| &shortage.waits[..]), Some(&["a segment"][..]));
    // It is leased and acknowledged like any other.
    let lease = driver.receive("photos", "resize", 10)[5];
    driver.settle_one("photos", "resize", &lease, SettleAction::Ack).expect("acknowledged");

    // Whatever ends the process: it is there, with and without room.
    for capacity in [used(&sim), 16 << 20] {
        let killed = sim.fork();
        set_capacity(&killed, capacity);
        let restarted = Driver::open_with(Arc::new(killed), START, config());
        assert_eq!(restarted.report.findings, []);
        assert_eq!(restarted.read_all(photos, Offset(0)), values(6), "on {capacity} bytes");
        let cut = sim.fork();
        cut.crash_with(|_| Survival::Lost);
        set_capacity(&cut, 16 << 20);
        let restarted = Driver::open_with(Arc::new(cut), START, config());
        assert_eq!(restarted.read_all(photos, Offset(0)), values(6));
    }

    set_capacity(&sim, 16 << 20);
    driver.advance(1_500);
    driver.advance(1_500);
    assert_eq!(driver.shortage, None);
    assert_eq!(driver.produce(photos, &[&value(6)]), Ok(Offset(6)));
    assert_eq!(driver.read_all(photos, Offset(0)), values(7));
    drop(driver);
    // Now it is in its segment, and not only in the journal.
    let verified = verify(&*disk, dure_proto::ShardId(0), 7).expect("verified");
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
}

#[test]
fn no_checkpoint_lets_go_of_what_is_only_in_the_journal() {
    let (sim, disk) = disk_of(16 << 20);
    let mut driver = Driver::open_with(disk, START, config());
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &[&value(0)]).expect("produced");
    no_room_at_all(&sim);
    driver.produce(photos, &[&value(1)]).expect("produced");
    let checkpoints = |sim: &SimDisk| -> Vec<String> {
        sim.snapshot_paths().into_iter().filter(|path| path.contains("checkpoint")).collect()
    };
    let before = checkpoints(&sim);
    for _ in 0..200 {
        driver.topic(&format!("t{}", driver.now.mono_ms), 1);
        driver.advance(500);
        if driver.shortage.as_ref().is_some_and(|shortage| shortage.waits.len() > 1) {
            break;
        }
    }
    assert_eq!(checkpoints(&sim), before);
    driver.shard.begin_shutdown(driver.now);
    driver.settle();
    assert!(driver.shard.is_drained(), "a shutdown does not wait for room");
    assert_eq!(checkpoints(&sim), before);
    drop(driver);
    sim.crash(&mut fastrand::Rng::with_seed(1));
    set_capacity(&sim, 16 << 20);
    let driver = Driver::open_with(Arc::new(sim), START, config());
    assert_eq!(driver.read_all(photos, Offset(0)), values(2));
}

#[test]
fn a_late_entry_that_is_purged_or_deleted_is_not_written() {
    for delete in [false, true] {
        let (sim, disk) = disk_of(16 << 20);
        let mut driver = Driver::open_with(disk.clone(), START, config());
        let photos = driver.topic("photos", 1);
        driver.produce(photos, &[&value(0)]).expect("produced");
        no_room_at_all(&sim);
        driver.produce(photos, &[&value(1)]).expect("produced");
        let request = match delete {
            true => Request::DeleteTopic(wire::DeleteTopic { name: "photos".into() }),
            false => Request::PurgeTopic(wire::PurgeTopic { name: "photos".into() }),
        };
        driver.ask(request).expect("done");
        driver.advance(2_000);
        driver.advance(2_000);
        set_capacity(&sim, 16 << 20);
        driver.advance(2_000);
        driver.advance(2_000);
        assert_eq!(driver.shortage, None);
        if !delete {
            assert_eq!(driver.produce(photos, &["c"]), Ok(Offset(2)));
            assert_eq!(driver.read_all(photos, Offset(2)), ["c"]);
        }
        drop(driver);
        sim.crash_process();
        let driver = Driver::open_with(disk, START, config());
        assert_eq!(driver.report.findings, []);
    }
}

#[test]
fn a_checkpoint_without_room_leaves_no_file_and_is_made_later() {
    let (sim, disk) = disk_of(16 << 20);
    let mut driver = Driver::open_with(disk, START, config());
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &vec!["a"; 1_000]).expect("produced");
    driver.advance(100);
    no_room_at_all(&sim);
    let newest = |sim: &SimDisk| sim.snapshot_paths().into_iter().rfind(|p| p.ends_with(".checkpoint"));
    let before = newest(&sim);
    // Leases and acks fill the journal without a byte for the segments.
    for _ in 0..1_000 {
        let lease = driver.receive("photos", "resize", 1)[0];
        driver.settle_one("photos", "resize", &lease, SettleAction::Ack).expect("acknowledged");
        if driver.shortage.as_ref().is_some_and(|shortage| shortage.waits.contains(&"a checkpoint")) {
            break;
        }
        driver.advance(50);
    }
    let shortage = driver.shortage.clone().expect("something waits");
    assert!(shortage.waits.contains(&"a checkpoint"), "{shortage:?}");
    assert!(sim.snapshot_paths().iter().all(|path| !path.ends_with(".tmp")));
    assert_eq!(newest(&sim), before);
    set_capacity(&sim, 16 << 20);
    driver.advance(1_500);
    driver.advance(1_500);
    assert_eq!(driver.shortage, None);
    assert_ne!(newest(&sim), before);
}

#[test]
fn a_journal_without_room_for_a_piece_waits_and_goes_on() {
    let (sim, disk) = disk_of(16 << 20);
    let mut driver = Driver::open_with(disk.clone(), START, config());
    let photos = driver.topic("photos", 1);
    no_room_at_all(&sim);
    // More than the piece in use and the spare hold.
    let mut asked = 0;
    let request = |n: u64| {
        let create = wire::CreateTopic { name: format!("t{n}"), partitions: 1, config: None };
        Input::Request {
            reply_to: ReplyTo { connection: ConnectionId(2), correlation: n + 1 },
            request: Request::CreateTopic(create),
        }
    };
    while driver.replies.len() as u64 == asked && asked < 1_000 {
        driver.shard.handle(driver.now, request(asked));
        driver.advance(30);
        asked += 1;
    }
    assert!(asked > 10 && asked < 1_000, "{asked}");
    let waits = driver.shortage.as_ref().map(|shortage| shortage.waits.clone()).unwrap_or_default();
    assert!(waits.contains(&"a journal piece"), "{waits:?}");
    assert!(matches!(driver.produce(photos, &["a"]), Err(RequestError::DiskFull { .. })));
    set_capacity(&sim, 16 << 20);
    driver.advance(1_500);
    driver.advance(1_500);
    assert_eq!(driver.replies.len() as u64, asked, "every one is answered in the end");
    assert_eq!(driver.shortage, None);
    assert_eq!(driver.produce(photos, &["a"]), Ok(Offset(0)));
}

#[test]
fn a_full_disk_at_a_sync_stops_the_shard_as_any_failed_sync_does() {
    let error = |op| DiskError::new(op, "x", std::io::ErrorKind::StorageFull.into());
    assert!(error(DiskOp::Write).waits_for_room() && error(DiskOp::Allocate).waits_for_room());
    assert!(!error(DiskOp::Sync).waits_for_room() && !error(DiskOp::SyncDir).waits_for_room());
    let quota = DiskError::new(DiskOp::Write, "x", std::io::ErrorKind::QuotaExceeded.into());
    assert!(quota.waits_for_room());
}
