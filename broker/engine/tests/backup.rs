//! Backups of a running shard, and what is made of them.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Driver, config};
use dure_engine::*;
use dure_proto::{LeaseToken, Offset, ShardId, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const EPOCHS: u64 = RESTORED_EPOCHS_MIN + 5;

fn simulated() -> (SimDisk, DiskRef) {
    let disk = SimDisk::new(0);
    (disk.clone(), Arc::new(disk))
}

fn begin(driver: &mut Driver) -> BackupPlan {
    match driver.ask(Request::BeginBackup) {
        Ok(Response::Backup(plan)) => plan,
        other => panic!("{other:?}"),
    }
}

/// The files of a plan as they are now.
fn read(disk: &DiskRef, plan: &BackupPlan) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for BackupFile { path, bytes } in &plan.segments {
        let mut content = vec![0; *bytes as usize];
        let file = disk.open(path, OpenMode::Read).expect("it stays while the backup runs");
        file.read_exact_at(0, &mut content).expect("it is as long as was said");
        files.insert(path.clone(), content);
    }
    assert!(!plan.is_given_up());
    files
}

fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Create).expect("opened");
    file.write_all_at(0, bytes).and_then(|()| file.sync()).expect("written");
}

/// A disk on which that was restored.
fn restore(plan: &BackupPlan, files: &BTreeMap<String, Vec<u8>>) -> (SimDisk, DiskRef) {
    let (sim, disk) = simulated();
    let checkpoint = restored_checkpoint(ShardId(0), &plan.checkpoint, EPOCHS).expect("it is whole");
    assert_eq!((checkpoint.seq, &checkpoint.segments), (plan.seq, &plan.segments));
    let checkpoint = (checkpoint.path, checkpoint.bytes);
    for (path, bytes) in files.iter().chain([(&checkpoint.0, &checkpoint.1)]) {
        disk.create_dir_all(path.rsplit_once('/').expect("in a directory").0).expect("made");
        write(&*disk, path, bytes);
    }
    disk.create_dir_all("shard-0000/journal").expect("made");
    (sim, disk)
}

/// A topic whose every message of 10 KB begins a segment.
fn topic_of_small_segments(driver: &mut Driver, name: &str) -> TopicPartition {
    let config = wire::TopicConfig { segment_bytes: 16 << 10, ..default_topic_config() };
    let create = wire::CreateTopic { name: name.into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    driver.partition(name)
}

fn large(name: &str) -> String {
    format!("{name}{}", "x".repeat(10_000))
}

fn purge(driver: &mut Driver, name: &str) {
    driver.ask(Request::PurgeTopic(wire::PurgeTopic { name: name.into() })).expect("purged");
}

fn segments_on(sim: &SimDisk) -> usize {
    sim.snapshot_paths().iter().filter(|path| path.ends_with(".log")).count()
}

#[test]
fn a_backup_is_one_point_in_time_whatever_happens_while_it_is_read() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = topic_of_small_segments(&mut driver, "photos");
    for n in 0..6 {
        driver.produce(photos, &[&large(&n.to_string())]).expect("produced");
    }
    let leases = driver.receive("photos", "resize", 3);
    driver.settle_one("photos", "resize", &leases[0], SettleAction::Ack).expect("acked");
    let reject = SettleAction::Reject { reason: "bad".into() };
    driver.settle_one("photos", "resize", &leases[1], reject).expect("rejected");
    let before = driver.read_all(photos, Offset(0));

    let plan = begin(&mut driver);
    // All of it moves on: more messages, more acks, and then everything is deleted.
    driver.produce(photos, &[&large("later")]).expect("produced");
    driver.settle_one("photos", "resize", &leases[2], SettleAction::Ack).expect("acked");
    purge(&mut driver, "photos");
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "photos".into() })).expect("deleted");
    let files = read(&disk, &plan);

    let (_, copy) = restore(&plan, &files);
    let mut restored = Driver::open(copy.clone(), START);
    assert_eq!(restored.report.findings, []);
    assert_eq!(restored.read_all(photos, Offset(0)), before);
    let group = restored.group("resize");
    let row = &group.partitions[0];
    assert_eq!((row.ready, row.leased, row.delayed, row.dead), (3, 1, 0, 1), "{group:?}");
    assert_eq!(restored.produce(photos, &["next"]), Ok(Offset(6)), "what came later was never there");
    // The lease that was out goes on with its token, and the ack that came too late for the backup is asked for again.
    restored.settle_one("photos", "resize", &leases[2], SettleAction::Ack).expect("the lease goes on");
    assert!(verify(&*copy, ShardId(0), config().salt).expect("readable").is_ok());
}

#[test]
fn nothing_that_the_original_gives_out_is_given_out_by_what_was_restored() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a", "b", "c", "d"]).expect("produced");
    let plan = begin(&mut driver);
    let files = read(&disk, &plan);
    let (_, copy) = restore(&plan, &files);

    // Both are started again and again, and both lease the same messages.
    let given_out = |sim: Option<&SimDisk>, disk: &DiskRef| -> Vec<(LeaseToken, u64)> {
        let open = |_| {
            let _ = sim.map(SimDisk::crash_process);
            let mut driver = Driver::open(disk.clone(), START);
            let lease = driver.receive("photos", "resize", 1)[0];
            match driver.ask(Request::InitProducer).expect("answered") {
                Response::Producer { producer, .. } => (lease.token, producer.0),
                other => panic!("{other:?}"),
            }
        };
        (0..3).map(open).collect()
    };
    drop(driver);
    let (original, restored) = (given_out(Some(&sim), &disk), given_out(None, &copy));
    for (token, producer) in &restored {
        assert!(token.epoch.0 > plan.epoch.0 + RESTORED_EPOCHS_MIN, "{token:?}");
        assert!(original.iter().all(|(other, _)| other.epoch != token.epoch));
        assert!(original.iter().all(|(_, other)| other != producer));
    }
}

#[test]
fn what_was_kept_for_a_backup_goes_when_its_owner_goes() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    let photos = topic_of_small_segments(&mut driver, "photos");
    for ended_by in ["request", "close"] {
        for _ in 0..4 {
            driver.produce(photos, &[&large("a"), &large("b")]).expect("produced");
        }
        let plan = begin(&mut driver);
        let busy = driver.ask(Request::BeginBackup);
        assert!(matches!(busy, Err(RequestError::Busy(_))), "{busy:?}");
        purge(&mut driver, "photos");
        assert_eq!(segments_on(&sim), 4, "kept");
        let ended = match ended_by {
            "request" => Input::Request {
                reply_to: ReplyTo { connection: ConnectionId(1), correlation: 0 },
                request: Request::EndBackup,
            },
            _ => Input::ConnectionClosed(ConnectionId(1)),
        };
        driver.shard.handle(driver.now, ended);
        driver.settle();
        assert!(plan.is_given_up());
        assert_eq!(segments_on(&sim), 0, "ended by {ended_by}");
    }
}

#[test]
fn a_backup_that_takes_too_long_is_given_up() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    let photos = topic_of_small_segments(&mut driver, "photos");
    driver.produce(photos, &[&large("a")]).expect("produced");
    let plan = begin(&mut driver);
    purge(&mut driver, "photos");
    driver.advance(config().backup_ms_max - 2_000);
    assert!(!plan.is_given_up());
    assert_eq!(segments_on(&sim), 1);
    driver.advance(2_000);
    assert!(plan.is_given_up());
    assert_eq!(segments_on(&sim), 0);
    begin(&mut driver);
}

#[test]
fn what_a_crash_left_of_a_removal_that_waited_is_swept_at_the_next_start() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let (photos, gone) = (topic_of_small_segments(&mut driver, "photos"), driver.topic("gone", 1));
    for n in 0..5 {
        driver.produce(photos, &[&large(&n.to_string())]).expect("produced");
    }
    driver.produce(gone, &["a"]).expect("produced");
    // The first backup keeps the files, and a checkpoint behind the deletion no longer tells of them.
    begin(&mut driver);
    purge(&mut driver, "photos");
    driver.produce(photos, &[&large("kept")]).expect("produced");
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "gone".into() })).expect("deleted");
    driver.shard.handle(driver.now, Input::ConnectionClosed(ConnectionId(9)));
    let left = sim.fork();
    driver.shard.begin_shutdown(START);
    driver.settle();
    assert_eq!(segments_on(&sim), 1, "an orderly end removes what waited");

    // As if the checkpoint of the shutdown had come and the removal not.
    for path in sim.snapshot_paths() {
        let bytes = sim.read_past_cache(&path).expect("readable");
        write(&left, &path, &bytes);
    }
    assert_eq!(segments_on(&left), 7);
    let kept = sim.snapshot_paths();
    for left in [left.fork(), shortened(&left, &kept)] {
        let driver = Driver::open(Arc::new(left.clone()), START);
        assert_eq!(driver.report.findings, []);
        assert_eq!(segments_on(&left), 1);
        assert_eq!(driver.read_all(photos, Offset(5)), [large("kept")]);
    }
}

/// As if a power cut had brought back names whose space was being given back.
fn shortened(sim: &SimDisk, kept: &[String]) -> SimDisk {
    let sim = sim.fork();
    for path in sim.snapshot_paths() {
        if path.ends_with(".log") && !kept.contains(&path) {
            let file = sim.open(&path, OpenMode::ReadWrite).expect("it is there");
            file.set_len(100).and_then(|()| file.sync()).expect("cut");
        }
    }
    sim
}

#[test]
fn a_checkpoint_that_is_not_whole_is_not_restored() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    driver.topic("photos", 1);
    let plan = begin(&mut driver);
    assert!(restored_checkpoint(ShardId(0), &plan.checkpoint, EPOCHS).is_ok());
    for byte in 0..plan.checkpoint.len() {
        let mut flipped = plan.checkpoint.to_vec();
        flipped[byte] ^= 1;
        assert!(restored_checkpoint(ShardId(0), &flipped, EPOCHS).is_err(), "byte {byte}");
    }
    // After so many restores on top of each other that producer ids would begin again.
    let mut checkpoint = plan.checkpoint.to_vec();
    let refused = (0..40_000).find_map(|_| {
        match restored_checkpoint(ShardId(0), &checkpoint, RESTORED_EPOCHS_MAX - 1) {
            Ok(restored) => {
                checkpoint = restored.bytes;
                None
            }
            Err(why) => Some(why),
        }
    });
    assert!(refused.expect("an end").contains("too often"));
}

#[test]
fn a_backup_beside_a_disk_that_fills_up_is_given_up_and_its_files_make_room() {
    const DISK_BYTES: u64 = 8 << 20;
    let (sim, disk) = simulated();
    sim.set_faults(SimFaults { capacity_bytes: Some(DISK_BYTES), ..SimFaults::default() });
    let config = ShardConfig {
        journal_piece_bytes: 128 << 10,
        checkpoint_bytes: 512 << 10,
        commit_bytes_soft: 16 << 10,
        commit_bytes_max: 80 << 10,
        reserve_bytes: 768 << 10,
        ..config()
    };
    let mut driver = Driver::open_with(disk, START, config);
    let (photos, maps) = (topic_of_small_segments(&mut driver, "photos"), driver.topic("maps", 1));
    for n in 0..100 {
        driver.produce(photos, &[&large(&n.to_string())]).expect("produced");
    }
    let plan = begin(&mut driver);
    purge(&mut driver, "photos");
    driver.advance(2_000);
    assert!(segments_on(&sim) >= 100 && !plan.is_given_up(), "kept as long as there is room");
    let full = (0..2_000).map(|_| driver.produce(maps, &[&large("m")])).find(Result::is_err);
    assert!(matches!(full, Some(Err(RequestError::DiskFull { .. }))), "{full:?}");
    driver.advance(2_000);
    driver.advance(2_000);
    assert!(plan.is_given_up());
    assert_eq!(segments_on(&sim), 1, "nothing is left but the one that is in use");
    assert_eq!((sim.injected().space_errors, &driver.shortage), (0, &None));
    driver.produce(maps, &["resumed"]).expect("there is room again");
    begin(&mut driver);
}

#[test]
fn a_log_that_the_disk_refuses_to_write_is_whole_in_a_backup() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = topic_of_small_segments(&mut driver, "photos");
    driver.produce(photos, &["a", "b"]).expect("produced");
    let only_under = format!("shard-0000/log/{}", photos.topic);
    sim.set_faults(SimFaults { only_under, fail_write: FaultRule::From(1), ..SimFaults::default() });
    driver.produce(photos, &[&large("c")]).expect("the journal has it");
    assert_eq!(driver.unwritable.len(), 1);
    let plan = begin(&mut driver);
    let files = read(&disk, &plan);
    let (_, copy) = restore(&plan, &files);
    assert!(verify(&*copy, ShardId(0), config().salt).expect("readable").is_ok());
    let mut restored = Driver::open(copy.clone(), START);
    assert_eq!((restored.report.findings.len(), restored.unwritable.len()), (0, 0));
    assert_eq!(restored.read_all(photos, Offset(0)), ["a".to_owned(), "b".to_owned(), large("c")]);
    assert_eq!(restored.produce(photos, &["d"]), Ok(Offset(3)));
}
