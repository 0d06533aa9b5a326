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

/// A shard with a message in each of two topics, closed cleanly twice, so that there are two checkpoints.
fn closed() -> (SimDisk, DiskRef) {
    let (sim, disk) = simulated();
    for round in 0..2 {
        let mut driver = Driver::open(disk.clone(), START);
        for topic in ["photos", "other"] {
            if round == 0 {
                driver.topic(topic, 1);
            }
            let partition = driver.partition(topic);
            driver.produce(partition, &["a"]).expect("produced");
        }
        driver.shard.begin_shutdown(START);
        driver.settle();
        drop(driver);
        sim.crash_process();
    }
    (sim, disk)
}

fn open(disk: &DiskRef) -> Result<(Shard, RecoveryReport), OpenError> {
    Shard::open(disk.clone(), dure_proto::ShardId(0), config(), START)
}

fn files(sim: &SimDisk, ending: &str) -> Vec<String> {
    sim.snapshot_paths().into_iter().filter(|path| path.ends_with(ending)).collect()
}

fn refuse_to_read(sim: &SimDisk, under: &str) {
    let faults =
        SimFaults { only_under: under.into(), fail_read: FaultRule::From(1), ..SimFaults::default() };
    sim.set_faults(faults);
}

#[test]
fn a_checkpoint_that_the_disk_refuses_to_read_is_replayed_around() {
    let (sim, disk) = closed();
    let newest = files(&sim, ".checkpoint").pop().expect("a checkpoint");
    refuse_to_read(&sim, &newest);
    let driver = Driver::open(disk, START);
    assert!(
        matches!(&driver.report.findings[..], [Finding::CheckpointDamaged { path, .. }] if *path == newest)
    );
    assert_eq!(driver.read_all(driver.partition("photos"), Offset(0)), ["a", "a"]);
}

#[test]
fn without_a_checkpoint_the_journal_has_to_reach_back_to_the_beginning() {
    let (sim, _) = closed();
    let whole = sim.fork();
    refuse_to_read(&whole, "shard-0000/checkpoint");
    let driver = Driver::open(Arc::new(whole), START);
    assert_eq!(driver.report.findings.len(), 2, "{:?}", driver.report.findings);
    assert_eq!(driver.read_all(driver.partition("photos"), Offset(0)), ["a", "a"]);

    let pieces = files(&sim, ".piece");
    for (kept, first) in [(pieces.len() - 1, false), (0, true)] {
        let copy = sim.fork();
        let disk: DiskRef = Arc::new(copy.clone());
        pieces.iter().rev().skip(kept).for_each(|piece| disk.remove(piece).expect("removed"));
        refuse_to_read(&copy, "shard-0000/checkpoint");
        match open(&disk).map(drop) {
            Err(OpenError::NoCheckpoint { first: found, .. }) => assert_eq!(found.is_none(), first),
            other => panic!("{other:?}"),
        }
        copy.set_faults(SimFaults::default());
        open(&disk).map(drop).expect("nothing was changed by that");
    }
}

#[test]
fn a_log_whose_directory_cannot_be_listed_does_not_keep_the_others_from_being_served() {
    let (sim, disk) = closed();
    let bad =
        files(&sim, ".log").first().expect("a segment").rsplit_once('/').expect("a directory").0.to_owned();
    let faults = SimFaults { only_under: bad.clone(), fail_list: FaultRule::From(1), ..SimFaults::default() };
    sim.set_faults(faults.clone());
    let mut driver = Driver::open(disk, START);
    let named = match &driver.report.findings[..] {
        [Finding::LogUnlisted { partition, .. }] => *partition,
        other => panic!("{other:?}"),
    };
    let [photos, other] = ["photos", "other"].map(|topic| driver.partition(topic));
    assert_eq!(named, photos);
    for partition in [photos, other] {
        assert_eq!(driver.produce(partition, &["b"]), Ok(Offset(2)));
        assert_eq!(driver.read_all(partition, Offset(0)), ["a", "a", "b"]);
    }
    // Should its files be no better than their directory, whoever reads it is told so, and only they are.
    sim.set_faults(SimFaults { fail_read: FaultRule::From(1), ..faults });
    let read = driver.views[&photos].read(&mut Cursor::at(Offset(0)), 1, Wait::MayWait);
    assert!(matches!(read, Err(ReadError::Disk { partition, .. }) if partition == photos), "{read:?}");
    assert_eq!(driver.read_all(other, Offset(0)), ["a", "a", "b"]);
}

#[test]
fn a_start_without_room_says_how_much_it_needs_and_one_with_an_old_piece_needs_none() {
    let (sim, disk) = simulated();
    sim.set_faults(SimFaults { capacity_bytes: Some(1 << 20), ..SimFaults::default() });
    match open(&disk).map(drop) {
        Err(OpenError::NoRoom { needed_bytes, available_bytes, .. }) => {
            assert_eq!((needed_bytes, available_bytes), (JOURNAL_PIECE_BYTES_MIN, 1 << 20));
        }
        other => panic!("{other:?}"),
    }
    let (sim, disk) = closed();
    let capacity_bytes = Some(sim.used_bytes());
    sim.set_faults(SimFaults { capacity_bytes, ..SimFaults::default() });
    let mut driver = Driver::open_with(disk, START, ShardConfig { reserve_bytes: 1 << 20, ..config() });
    let photos = driver.partition("photos");
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "a"]);
    assert!(matches!(driver.produce(photos, &["b"]), Err(RequestError::DiskFull { .. })));
    let purge = wire::PurgeTopic { name: "photos".into() };
    driver.ask(Request::PurgeTopic(purge)).expect("deleting goes on");
}

#[test]
fn a_lost_commit_that_made_a_topic_takes_nothing_of_it_along() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    driver.advance(30);
    let photos = driver.topic("photos", 1);
    let created = sim.snapshot();
    assert!(!files(&sim, ".checkpoint").is_empty(), "there is a checkpoint of it");
    driver.produce(photos, &["a"]).expect("produced");
    drop(driver);
    sim.crash_process();
    // The commit is the last one that the piece held when the topic was there.
    let piece = files(&sim, ".piece").swap_remove(0);
    let content = &created[&piece];
    let commit = (0..content.len()).step_by(4096).rfind(|at| content[*at..].starts_with(b"DuCm"));
    let damaged = commit.expect("a commit") as u64 - 4096 + 70;
    sim.flip_bit(&piece, damaged, 0).expect("flipped");
    sim.flip_bit(&piece, commit.expect("a commit") as u64 + 70, 0).expect("flipped");
    let driver = Driver::open(disk, START);
    assert_eq!(driver.read_all(photos, Offset(0)), ["a"], "{:?}", driver.report.findings);
}

#[test]
fn many_topics_bring_few_checkpoints() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    driver.topic("first", 1);
    let mut seen: std::collections::BTreeSet<String> = files(&sim, ".checkpoint").into_iter().collect();
    let before = seen.len();
    for n in 0..100 {
        driver.advance(100);
        driver.topic(&format!("topic-{n}"), 1);
        seen.extend(files(&sim, ".checkpoint"));
    }
    assert!((1..=3).contains(&(seen.len() - before)), "{seen:?}");
}

#[test]
fn a_failed_sync_is_not_called_again_for_the_commit_beside_it() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    let mut flights = Vec::new();
    for correlation in [1_000, 1_001] {
        let produce = Produce {
            partition: photos,
            batch: common::batch(&["a"]),
            keyed: false,
            all_keyed: false,
            expiring: false,
            ids: Vec::new(),
            record_bytes_max: 10,
        };
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation };
        driver.shard.handle(START, Input::Request { reply_to, request: Request::Produce(produce) });
        driver.shard.turn(START);
        flights.extend(driver.shard.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Job(job) if job.kind() == JobKind::Commit => Some(job),
            _ => None,
        }));
    }
    assert_eq!(flights.len(), 2);
    sim.set_faults(SimFaults { fail_sync: FaultRule::Nth(1), ..SimFaults::default() });
    let syncs = sim.io_counts().syncs;
    let done: Vec<JobDone> = flights.into_iter().map(|job| job.run(&*disk)).collect();
    assert!(done.iter().all(|done| done.durable_seq().is_none()), "{done:?}");
    assert_eq!(sim.io_counts().syncs, syncs + 1);
}
