//! What the simulator found in recoveries, each as a short story.

mod common;

use std::sync::Arc;

use common::{Driver, config};
use dure_engine::*;
use dure_proto::{Offset, ShardId, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

fn simulated() -> (SimDisk, DiskRef) {
    let disk = SimDisk::new(0);
    (disk.clone(), Arc::new(disk))
}

#[test]
fn a_piece_left_half_made_by_a_kill_does_not_keep_the_shard_from_starting() {
    // The first piece is created, allocated, and filled with zeroes in 16 writes.
    for changes in 0..30 {
        let (sim, disk) = simulated();
        sim.power_off_after(changes);
        let opened = Shard::open(disk.clone(), ShardId(0), config(), START);
        drop(opened);
        sim.crash_process();
        let mut driver = Driver::open(disk, START);
        let photos = driver.topic("photos", 1);
        assert_eq!(driver.produce(photos, &["a"]), Ok(Offset(0)), "after {changes} changes");
    }
}

#[test]
fn a_checkpoint_damaged_after_a_restart_is_replayed_around() {
    let (sim, disk) = simulated();
    for round in 0..3 {
        let mut driver = Driver::open(disk.clone(), START);
        if round == 0 {
            driver.topic("photos", 1);
        }
        let photos = driver.partition("photos");
        driver.produce(photos, &["a"]).expect("produced");
        driver.shard.begin_shutdown(START);
        driver.settle();
        drop(driver);
        sim.crash_process();
        // The restart has nothing to replay: its first commit must not go into the piece that it would need.
        drop(Driver::open(disk.clone(), START));
        sim.crash_process();

        let copy = sim.fork();
        let newest = copy.snapshot_paths().into_iter().rfind(|path| path.ends_with(".checkpoint"));
        copy.flip_bit(&newest.expect("a checkpoint"), 40, 0).expect("flipped");
        let driver = Driver::open(Arc::new(copy), START);
        assert!(matches!(&driver.report.findings[..], [Finding::CheckpointDamaged { .. }]));
        let photos = driver.partition("photos");
        assert_eq!(driver.read_all(photos, Offset(0)).len(), round + 1);
    }
}

#[test]
fn a_topic_deleted_by_a_commit_that_a_power_cut_takes_keeps_its_segments() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);

    // The deletion is written and not synced when the process is killed.
    let mut driver = Driver::open(disk.clone(), START);
    sim.power_off_after(1);
    let delete = wire::DeleteTopic { name: "photos".into() };
    let reply_to = ReplyTo { connection: ConnectionId(1), correlation: 1_000 };
    let request = Request::DeleteTopic(delete);
    driver.shard.handle(driver.now, Input::Request { reply_to, request });
    driver.shard.turn(driver.now);
    for effect in driver.shard.take_effects() {
        if let Effect::Job(job) = effect {
            drop(job.run(&*disk));
        }
    }
    drop(driver);
    sim.crash_process();

    // The next recovery reads it, and the power is cut at each point of that: what was removed stays removed, and
    // nothing else that was not synced survives.
    for changes in 0..40 {
        let copy = sim.fork();
        copy.set_faults(SimFaults { past_cache: PastCache::AfterWriteBack, ..SimFaults::default() });
        copy.power_off_after(changes);
        drop(Shard::open(Arc::new(copy.clone()), ShardId(0), config(), START));
        copy.crash_with(|unsynced| match unsynced.part {
            UnsyncedPart::Entry => Survival::Kept,
            _ => Survival::Lost,
        });
        let driver = Driver::open(Arc::new(copy), START);
        assert!(!driver.report.findings.iter().any(Finding::is_damage), "{:?}", driver.report.findings);
        if driver.topics.by_name("photos").is_some() {
            assert_eq!(driver.read_all(photos, Offset(0)), ["a"], "after {changes} changes");
        }
    }
}

#[test]
fn what_a_missing_segment_held_is_named_lost_and_what_follows_is_served() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let config = wire::TopicConfig { segment_bytes: 16 << 10, ..default_topic_config() };
    let create = wire::CreateTopic { name: "photos".into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    let photos = driver.partition("photos");
    let large = "x".repeat(9_000);
    for _ in 0..3 {
        driver.produce(photos, &[&large]).expect("produced");
    }
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    sim.crash_process();
    let first = sim.snapshot_paths().into_iter().find(|path| path.ends_with(".log")).expect("a segment");
    disk.remove(&first).expect("removed");

    let mut driver = Driver::open(disk, START);
    assert!(matches!(&driver.report.findings[..], [Finding::SegmentShort { bytes: 0, .. }]));
    let mut cursor = Cursor::at(Offset(0));
    let lost = driver.views[&photos].read(&mut cursor, 1, Wait::MayWait).expect("read");
    assert_eq!(lost, ReadOutcome::Lost(Offset(0)..Offset(1)));
    assert_eq!(driver.read_all(photos, Offset(1)), [&*large, &*large]);
    assert_eq!(driver.produce(photos, &["a"]), Ok(Offset(3)));
}

#[test]
fn the_image_of_an_entry_inside_a_damaged_message_is_not_delivered() {
    let (sim, disk) = simulated();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    // An entry as it could stand further on in the same log: header, batch.
    let mut image = common::batch(&["forged"]).to_vec();
    let header = dure_proto::BatchHeader::parse(&image).expect("a batch");
    let header = dure_proto::EntryHeader::for_batch(&header, Offset(2), START.wall_ms, 1);
    dure_proto::patch_base(&mut image, Offset(2), 1);
    let image = [&header.encode()[..], &image].concat();
    let mut builder = dure_proto::BatchBuilder::new(dure_proto::Compression::None);
    builder.push(None, Some(&image), &[], 0).expect("fits");
    let produce = Produce {
        partition: photos,
        batch: builder.build(None),
        keyed: false,
        all_keyed: false,
        record_bytes_max: 1_000,
        expiring: false,
        ids: Vec::new(),
    };
    driver.produce(photos, &["first"]).expect("produced");
    driver.ask(Request::Produce(produce)).expect("produced");
    for value in ["c", "d", "e"] {
        driver.produce(photos, &[value]).expect("produced");
    }
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    sim.crash_process();
    let segment = sim.snapshot_paths().into_iter().find(|path| path.ends_with(".log")).expect("a segment");
    let stored = &sim.snapshot()[&segment];
    let around = stored.windows(image.len()).position(|bytes| *bytes == image).expect("the image");
    let header =
        stored[..around].windows(4).rposition(|bytes| bytes == b"DuEn").expect("the entry around it");
    // In the header of the entry around it, and in its batch.
    for position in [header + 20, header + 60] {
        let copy = sim.fork();
        copy.flip_bit(&segment, position as u64, 0).expect("flipped");
        let driver = Driver::open(Arc::new(copy), START);
        let mut cursor = Cursor::at(Offset(1));
        let lost = driver.views[&photos].read(&mut cursor, 1, Wait::MayWait).expect("read");
        assert_eq!(lost, ReadOutcome::Lost(Offset(1)..Offset(2)), "byte {position}");
        assert_eq!(driver.read_all(photos, Offset(2)), ["c", "d", "e"], "byte {position}");
    }
}

#[test]
fn the_first_member_of_a_new_stream_group_joins() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    driver.topic("photos", 1);
    let join =
        wire::JoinGroup { group: "readers".into(), topics: vec!["photos".into()], ..Default::default() };
    let joined = driver.ask(Request::JoinGroup { join, client: "test".into() });
    assert!(matches!(joined, Ok(Response::Joined(_))), "{joined:?}");
}

/// Takes one message and rejects it, without carrying out what the shard wants for it.
fn reject_one(driver: &mut Driver, correlation: u64) -> Vec<Effect> {
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    let lease = driver.receive("photos", "resize", 1)[0];
    let receipt = dure_proto::Receipt {
        partition: lease.partition.partition,
        offset: lease.offset,
        token: lease.token,
    };
    let items = vec![SettleItem { receipt, action: SettleAction::Reject { reason: "bad".into() } }];
    let request = Request::Settle(Settle { topic: "photos".into(), group: "resize".into(), items });
    let reply_to = ReplyTo { connection: ConnectionId(1), correlation };
    driver.shard.handle(driver.now, Input::Request { reply_to, request });
    driver.shard.turn(driver.now);
    driver.shard.take_effects()
}

#[test]
fn a_reject_that_waits_for_its_letter_is_answered_at_shutdown() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    let effects = reject_one(&mut driver, 1_000);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::FetchLetter { .. })));
    driver.shard.begin_shutdown(START);
    driver.settle();
    assert!(driver.shard.is_drained());
    let answer = driver.replies.iter().find(|(to, _)| to.correlation == 1_000).map(|(_, result)| result);
    assert!(
        matches!(answer, Some(Ok(Response::Settled(results))) if results == &[Err(RequestError::ShuttingDown)]),
        "{answer:?}"
    );
}

#[test]
fn a_dead_letter_is_redriven_only_once_it_can_be_read() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    let wanted = reject_one(&mut driver, 1_000);
    let fetch = wanted.iter().find_map(|effect| match effect {
        Effect::FetchLetter { group, source, offset, .. } => Some((*group, *source, *offset)),
        _ => None,
    });
    let (group, source, offset) = fetch.expect("the record is wanted");
    let batch = Ok(common::batch(&["a"]));
    driver.shard.handle(START, Input::Letter(Letter { group, source, offset, batch }));
    // Buried in a commit that is not durable yet.
    let redrive = wire::Redrive { topic: "photos".into(), group: "resize".into(), count_max: 0 };
    assert!(matches!(driver.ask(Request::Redrive(redrive.clone())), Ok(Response::Count(0))));
    assert!(matches!(driver.ask(Request::Redrive(redrive)), Ok(Response::Count(1))));
}

/// What the shard wants at once for this.
fn effects_of(driver: &mut Driver, correlation: u64, request: Request) -> Vec<Effect> {
    let reply_to = ReplyTo { connection: ConnectionId(1), correlation };
    driver.shard.handle(driver.now, Input::Request { reply_to, request });
    driver.shard.turn(driver.now);
    driver.shard.take_effects()
}

fn attempts(effects: &[Effect]) -> Vec<u32> {
    let delivered = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(deliver) => Some(&deliver.leases),
        _ => None,
    });
    delivered.flatten().map(|lease| lease.attempt).collect()
}

#[test]
fn a_crash_repeats_one_attempt_number_of_a_message_and_not_two() {
    let (_, disk) = simulated();
    let mut driver = Driver::open(disk, START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    driver.group_of("photos", "resize");
    let receive =
        wire::Receive { topic: "photos".into(), group: "resize".into(), count: 1, ..Default::default() };
    let granted = effects_of(&mut driver, 1_000, Request::Receive(receive.clone()));
    assert_eq!(attempts(&granted), [1], "a first delivery waits for no commit");
    let lease = granted.iter().find_map(|effect| match effect {
        Effect::Deliver(deliver) => Some(deliver.leases[0]),
        _ => None,
    });
    let lease = lease.expect("it was delivered");
    let receipt =
        dure_proto::Receipt { partition: photos.partition, offset: lease.offset, token: lease.token };
    let items = vec![SettleItem {
        receipt,
        action: SettleAction::Release { delay_ms: Some(0), reason: String::new() },
    }];
    let settle = Settle { topic: "photos".into(), group: "resize".into(), items };
    let released = effects_of(&mut driver, 1_001, Request::Settle(settle));
    let waiting =
        effects_of(&mut driver, 1_002, Request::Receive(wire::Receive { wait_ms: 1_000, ..receive }));
    assert_eq!((attempts(&released), attempts(&waiting)), (vec![], vec![]));
    // The moment the release is durable.
    for effect in granted.into_iter().chain(released).chain(waiting) {
        if let Effect::Job(job) = effect {
            let done = job.run(&*driver.disk);
            driver.shard.handle(driver.now, Input::JobDone(done));
        }
    }
    driver.shard.turn(driver.now);
    assert_eq!(attempts(&driver.shard.take_effects()), [2]);
}
