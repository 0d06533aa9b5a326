//! A shard on a real disk and on a simulated one, as stories.

mod common;

use std::sync::Arc;

use common::Driver;
use dure_engine::*;
use dure_proto::Offset;

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

fn real() -> (tempfile::TempDir, DiskRef) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(RealDisk::open(dir.path()).expect("a disk"));
    (dir, disk)
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 2);
    assert_eq!(driver.produce(photos, &["a", "b"]), Ok(Offset(0)));
    assert_eq!(driver.produce(photos, &["c"]), Ok(Offset(2)));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c"]);
    drop(driver);

    let mut driver = Driver::open(disk.clone(), START);
    assert_eq!(driver.report.findings, []);
    assert_eq!(driver.report.epoch, dure_proto::Epoch(2));
    assert_eq!(driver.read_all(photos, Offset(1)), ["b", "c"]);
    assert_eq!(driver.produce(photos, &["d"]), Ok(Offset(3)));
    drop(driver);

    let driver = Driver::open(disk, START);
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c", "d"]);
}

#[test]
fn a_worker_takes_acks_rejects_and_releases() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a", "b", "c", "d"]).expect("produced");
    let leases = driver.receive("photos", "resize", 3);
    assert_eq!(leases.iter().map(|lease| lease.offset.0).collect::<Vec<_>>(), [0, 1, 2]);
    let settled = driver.settle_one("photos", "resize", &leases[0], SettleAction::Ack);
    assert_eq!(settled, Ok(Settled { already: false }));
    let again = driver.settle_one("photos", "resize", &leases[0], SettleAction::Ack);
    assert_eq!(again, Ok(Settled { already: true }));
    let reject = SettleAction::Reject { reason: "not a photo".into() };
    assert_eq!(driver.settle_one("photos", "resize", &leases[1], reject), Ok(Settled { already: false }));
    let release = SettleAction::Release { delay_ms: Some(1_000), reason: String::new() };
    driver.settle_one("photos", "resize", &leases[2], release).expect("released");
    let row = &driver.group("resize").partitions[0];
    assert_eq!((row.ready, row.leased, row.delayed, row.dead, row.committed), (1, 0, 1, 1, Some(2)));

    drop(driver);
    let mut driver = Driver::open(disk, START);
    assert_eq!(driver.report.findings, []);
    let row = &driver.group("resize").partitions[0];
    assert_eq!((row.ready, row.leased, row.delayed, row.dead, row.committed), (1, 0, 1, 1, Some(2)));
    driver.advance(1_001);
    let leases = driver.receive("photos", "resize", 10);
    assert_eq!(
        leases.iter().map(|lease| (lease.offset.0, lease.attempt)).collect::<Vec<_>>(),
        [(2, 2), (3, 1)]
    );

    // The dead letter goes back to this group alone, read from where it is kept.
    let redrive = dure_proto::wire::Redrive { topic: "photos".into(), group: "resize".into(), count_max: 0 };
    assert!(matches!(driver.ask(Request::Redrive(redrive)), Ok(Response::Count(1))));
    let leases = driver.receive("photos", "resize", 10);
    assert_eq!((leases[0].offset, leases[0].attempt), (Offset(1), 1));
    assert_ne!(leases[0].bytes_at.0, photos);
    let (at, offset) = leases[0].bytes_at;
    assert_eq!(driver.read_all(at, offset), ["b"]);
}

#[test]
fn a_receipt_that_a_crash_took_before_its_commit_is_stale() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a", "b"]).expect("produced");
    let kept = driver.receive("photos", "resize", 1).remove(0);
    drop(driver);

    let mut driver = Driver::open(disk, START);
    let mut ask = |offset, epoch, counter| {
        let token = dure_proto::LeaseToken { epoch: dure_proto::Epoch(epoch), counter };
        let lease = LeaseGrant { offset: Offset(offset), token, ..kept };
        driver.settle_one("photos", "resize", &lease, SettleAction::Ack)
    };
    for offset in [0, 1] {
        assert!(matches!(ask(offset, 1, 9), Err(RequestError::StaleLease(_))), "it may have been given out");
    }
    for (epoch, counter) in [(0, 0), (0, 9), (1, 0), (2, 9), (9, 9)] {
        assert!(matches!(ask(1, epoch, counter), Err(RequestError::UnknownReceipt(_))), "{epoch} {counter}");
    }
    assert_eq!(ask(0, 1, kept.token.counter), Ok(Settled { already: false }), "what was kept goes on");
}

#[test]
fn a_reject_whose_message_is_settled_before_its_bytes_are_read_is_answered() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk, START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a", "b"]).expect("produced");
    let leases = driver.receive("photos", "resize", 2);
    let reject = SettleAction::Reject { reason: "bad".into() };
    for (lease, action) in leases.into_iter().zip([SettleAction::Ack, SettleAction::AckUpTo]) {
        let LeaseGrant { offset, token, .. } = lease;
        let receipt = dure_proto::Receipt { partition: photos.partition, offset, token };
        let items = [reject.clone(), action].map(|action| SettleItem { receipt, action });
        let settle =
            Settle { topic: "photos".into(), group: "resize".into(), items: items.into_iter().collect() };
        let Ok(Response::Settled(results)) = driver.ask(Request::Settle(settle)) else { panic!("refused") };
        assert!(matches!(results[0], Err(RequestError::AlreadySettled(_))), "{results:?}");
        assert!(results[1].is_ok(), "{results:?}");
    }
}

#[test]
fn keys_are_kept_in_order_and_a_restart_looks_at_the_records_again() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    let queue = dure_proto::wire::QueueSettings {
        ordering: dure_proto::wire::Ordering::Key as i32,
        ..default_queue_settings()
    };
    let create = dure_proto::wire::CreateGroup {
        name: "resize".into(),
        kind: dure_proto::wire::GroupKind::Queue as i32,
        topics: vec!["photos".into()],
        queue: Some(queue),
    };
    driver.ask(Request::CreateGroup(create)).expect("created");
    let mut builder = dure_proto::BatchBuilder::new(dure_proto::Compression::Lz4);
    for key in ["a", "a", "b"] {
        builder.push(Some(key.as_bytes()), Some(b"value"), &[], 0).expect("it fits");
    }
    let produce = Produce {
        partition: photos,
        batch: builder.build(None),
        keyed: true,
        all_keyed: false,
        record_bytes_max: 6,
        expiring: false,
        ids: Vec::new(),
    };
    driver.ask(Request::Produce(produce)).expect("produced");
    let offsets = |leases: &[LeaseGrant]| leases.iter().map(|lease| lease.offset.0).collect::<Vec<_>>();
    let leases = driver.receive("photos", "resize", 9);
    assert_eq!(
        offsets(&leases),
        [0, 2],
        "a receive that does not wait waits until what is there was looked at"
    );
    assert!(driver.receive("photos", "resize", 9).is_empty());
    drop(driver);

    let mut driver = Driver::open(disk, START);
    assert!(driver.receive("photos", "resize", 9).is_empty(), "the key is still taken");
    driver.settle_one("photos", "resize", &leases[0], SettleAction::Ack).expect("acknowledged");
    assert_eq!(offsets(&driver.receive("photos", "resize", 9)), [1]);
}

#[test]
fn a_clean_shutdown_leaves_nothing_to_replay() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk.clone(), START);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    driver.shard.begin_shutdown(START);
    driver.settle();
    assert!(driver.shard.is_drained());
    assert_eq!(driver.produce(photos, &["b"]), Err(RequestError::ShuttingDown));
    drop(driver);
    let driver = Driver::open(disk, START);
    assert_eq!((driver.report.commits, &driver.report.findings[..]), (0, &[][..]));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a"]);
}

#[test]
fn restarts_do_not_pile_up_journal_pieces() {
    let (dir, disk) = real();
    for i in 0..12 {
        let mut driver = Driver::open(disk.clone(), START);
        if i == 0 {
            driver.topic("t", 1);
        }
        let t = driver.partition("t");
        driver.produce(t, &["x"]).expect("produced");
    }
    let pieces = std::fs::read_dir(dir.path().join("shard-0000/journal")).expect("listed").count();
    assert!(pieces <= 9, "{pieces} pieces");
}

#[test]
fn retention_waits_for_a_queue_group_that_has_not_settled() {
    let (_dir, disk) = real();
    let mut driver = Driver::open(disk, START);
    let config = dure_proto::wire::TopicConfig { retention_ms: Some(10_000), ..default_topic_config() };
    let create = dure_proto::wire::CreateTopic { name: "t".into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    let t = driver.partition("t");
    driver.produce(t, &["a", "b"]).expect("produced");
    let leases = driver.receive("t", "g", 2);
    driver.advance(20_000);
    assert_eq!(driver.views[&t].log_start, Offset(0));
    for lease in leases {
        driver.settle_one("t", "g", &lease, SettleAction::Ack).expect("acknowledged");
    }
    driver.advance(2_000);
    assert_eq!(driver.views[&t].log_start, Offset(2));
    assert_eq!(driver.produce(t, &["c"]), Ok(Offset(2)));
    assert_eq!(driver.read_all(t, Offset(2)), ["c"]);
}

/// The second of two commits in flight was written after the first had failed. The shard panicked, and whoever asked it
/// afterwards was never answered.
#[test]
fn a_commit_that_is_written_after_the_one_before_it_failed_comes_to_nothing() {
    let disk = Arc::new(SimDisk::new(1));
    let mut driver = Driver::open(disk.clone(), START);
    let partition = driver.topic("photos", 1);
    let mut jobs = Vec::new();
    let mut answers = Vec::new();
    let ask = |shard: &mut Shard, correlation: u64, jobs: &mut Vec<DiskJob>, answers: &mut Vec<_>| {
        let produce = Produce {
            partition,
            batch: common::batch(&["x"]),
            keyed: false,
            all_keyed: false,
            record_bytes_max: 10,
            expiring: false,
            ids: Vec::new(),
        };
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation };
        shard.handle(START, Input::Request { reply_to, request: Request::Produce(produce) });
        shard.turn(START);
        for effect in shard.take_effects() {
            match effect {
                Effect::Job(job) if job.kind() == JobKind::Commit => jobs.push(job),
                Effect::Reply { to, result } => answers.push((to.correlation, result)),
                _ => {}
            }
        }
    };
    ask(&mut driver.shard, 1001, &mut jobs, &mut answers);
    ask(&mut driver.shard, 1002, &mut jobs, &mut answers);
    assert_eq!((jobs.len(), answers.len()), (2, 0), "both in flight");
    let second = jobs.pop().expect("two").run(&*disk);
    disk.set_faults(SimFaults { fail_sync: FaultRule::Nth(1), ..SimFaults::default() });
    let first = jobs.pop().expect("one").run(&*disk);
    driver.shard.handle(START, Input::JobDone(first));
    driver.shard.handle(START, Input::JobDone(second));
    ask(&mut driver.shard, 1003, &mut jobs, &mut answers);
    answers.sort_by_key(|(correlation, _)| *correlation);
    let refused = |result: &Result<_, _>| matches!(result, Err(RequestError::ShardStopped(_)));
    assert!(answers.len() == 3 && answers.iter().all(|(_, result)| refused(result)), "{answers:?}");
}
