//! A disk that refuses to write one log, as stories: that one takes nothing more, loses nothing and comes back by itself,
//! and nobody else notices. And records that cannot be read when their message is to die.

mod common;

use std::sync::Arc;

use common::Driver;
use dure_engine::*;
use dure_proto::{Offset, PartitionId, ShardId, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const PIECE_BYTES: u64 = 128 << 10;

fn config() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: PIECE_BYTES,
        checkpoint_bytes: 2 * PIECE_BYTES,
        commit_bytes_soft: 16 << 10,
        commit_bytes_max: 80 << 10,
        ..common::config()
    }
}

fn open(sim: &SimDisk) -> Driver {
    Driver::open_with(Arc::new(sim.clone()), START, config())
}

fn dir_of(partition: TopicPartition) -> String {
    format!("shard-0000/log/{}/{}", partition.topic, partition.partition)
}

/// From now on every write below the log's directory is EIO.
fn refuse_writes(sim: &SimDisk, partition: TopicPartition) {
    let only_under = dir_of(partition);
    sim.set_faults(SimFaults { only_under, fail_write: FaultRule::From(1), ..SimFaults::default() });
}

fn mend(sim: &SimDisk) {
    sim.set_faults(SimFaults::default());
}

fn is_refused(answer: &Result<Offset, RequestError>) -> bool {
    let refused = matches!(answer, Err(RequestError::Unwritable { topic, .. }) if topic == "photos");
    refused && answer.as_ref().is_err_and(|error| error.retry() == wire::Retry::Later)
}

fn journal_pieces(sim: &SimDisk) -> usize {
    sim.snapshot_paths().iter().filter(|path| path.contains("/journal/")).count()
}

fn described(driver: &mut Driver, name: &str) -> wire::PartitionDescription {
    match driver.ask(Request::DescribeTopics(wire::DescribeTopics { names: vec![name.into()] })) {
        Ok(Response::Topics(mut topics)) => topics.remove(0).partitions.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_cannot_be_written_refuses_producers_and_everything_else_goes_on() {
    let sim = SimDisk::new(0);
    let mut driver = open(&sim);
    let (photos, maps) = (driver.topic("photos", 1), driver.topic("maps", 1));
    driver.produce(photos, &["a"]).expect("produced");
    refuse_writes(&sim, photos);
    assert_eq!(driver.produce(photos, &["b"]), Ok(Offset(1)), "the journal has it");
    assert!(is_refused(&driver.produce(photos, &["c"])));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b"]);
    let Unwritable { partition, topic, from, what } = driver.unwritable[0].clone();
    assert_eq!((partition, &*topic, from), (photos, "photos", Offset(1)));
    assert!(what.contains("write") && described(&mut driver, "photos").unwritable == what, "{what}");
    let lease = driver.receive("photos", "resize", 10)[1];
    driver.settle_one("photos", "resize", &lease, SettleAction::Ack).expect("acknowledged");

    // Far more than the journal keeps: checkpoints are made, and let go of it.
    let value = "x".repeat(2_000);
    for number in 0..2_000 {
        assert_eq!(driver.produce(maps, &[&value]), Ok(Offset(number)));
        driver.advance(5);
    }
    assert!(journal_pieces(&sim) < 10, "{} pieces", journal_pieces(&sim));
    assert!(is_refused(&driver.produce(photos, &["c"])), "it was tried again, to no avail");
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b"]);

    mend(&sim);
    driver.advance(1_500);
    assert_eq!(driver.unwritable, []);
    assert_eq!(described(&mut driver, "photos").unwritable, "");
    assert_eq!(driver.produce(photos, &["c"]), Ok(Offset(2)));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c"]);
    driver.shard.begin_shutdown(driver.now);
    driver.settle();
    let verified = verify(&sim, ShardId(0), 7).expect("verified");
    assert_eq!((verified.records, verified.findings), (2_003, vec![]));
}

#[test]
fn what_is_in_no_segment_outlives_kills_power_cuts_and_shutdowns_by_the_checkpoint() {
    for (checkpointed, shut_down) in [(false, false), (true, false), (true, true)] {
        let sim = SimDisk::new(0);
        let mut driver = open(&sim);
        let (photos, maps) = (driver.topic("photos", 1), driver.topic("maps", 1));
        driver.produce(photos, &["a", "b"]).expect("produced");
        refuse_writes(&sim, photos);
        driver.produce(photos, &["c", "d"]).expect("produced");
        let checkpoints =
            |sim: &SimDisk| sim.snapshot_paths().into_iter().rfind(|p| p.ends_with(".checkpoint"));
        let before = checkpoints(&sim);
        while checkpointed && checkpoints(&sim) == before {
            driver.produce(maps, &[&"x".repeat(2_000)]).expect("produced");
        }
        if shut_down {
            driver.shard.begin_shutdown(driver.now);
            driver.settle();
            assert!(driver.shard.is_drained());
        }
        drop(driver);
        for cut in [false, true] {
            let sim = sim.fork();
            if cut {
                sim.crash_with(|_| Survival::Lost);
            } else {
                sim.crash_process();
            }
            // Once with a disk that still refuses, once with one that is mended.
            refuse_writes(&sim, photos);
            let mut driver = open(&sim);
            assert_eq!(driver.report.findings, []);
            assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c", "d"]);
            assert_eq!(driver.unwritable.len(), 1);
            assert!(is_refused(&driver.produce(photos, &["e"])));
            drop(driver);
            sim.crash_process();
            mend(&sim);
            let verified = verify(&sim, ShardId(0), 7).expect("verified");
            assert!(verified.is_ok(), "{:?}", verified.findings);
            let mut driver = open(&sim);
            assert_eq!((driver.report.findings.len(), driver.unwritable.len()), (0, 0));
            assert_eq!(driver.produce(photos, &["e"]), Ok(Offset(4)));
            assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c", "d", "e"]);
            drop(driver);
            sim.crash_with(|_| Survival::Lost);
            let driver = open(&sim);
            assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b", "c", "d", "e"]);
        }
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_that_partition_s_alone() {
    let sim = SimDisk::new(0);
    let mut driver = open(&sim);
    let photos = driver.topic("photos", 2);
    let second = TopicPartition { partition: PartitionId(1), ..photos };
    let only_under = dir_of(photos);
    sim.set_faults(SimFaults { only_under, fail_entry: FaultRule::From(1), ..SimFaults::default() });
    assert_eq!(driver.produce(photos, &["a"]), Ok(Offset(0)));
    assert!(is_refused(&driver.produce(photos, &["b"])));
    assert_eq!(driver.produce(second, &["a"]), Ok(Offset(0)));
    assert_eq!(driver.produce(second, &["b"]), Ok(Offset(1)));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a"]);
    mend(&sim);
    driver.advance(1_500);
    assert_eq!(driver.produce(photos, &["b"]), Ok(Offset(1)));
    assert_eq!(driver.read_all(photos, Offset(0)), ["a", "b"]);
}

#[test]
fn a_purged_or_deleted_log_is_not_unwritable_any_more() {
    for delete in [false, true] {
        let sim = SimDisk::new(0);
        let mut driver = open(&sim);
        let photos = driver.topic("photos", 1);
        refuse_writes(&sim, photos);
        driver.produce(photos, &["a"]).expect("produced");
        let request = match delete {
            true => Request::DeleteTopic(wire::DeleteTopic { name: "photos".into() }),
            false => Request::PurgeTopic(wire::PurgeTopic { name: "photos".into() }),
        };
        driver.ask(request).expect("done");
        driver.advance(1_500);
        assert_eq!(driver.unwritable, []);
    }
}

#[test]
fn dead_letters_wait_for_a_dead_letter_log_that_cannot_be_written() {
    let sim = SimDisk::new(0);
    let mut driver = open(&sim);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a", "b"]).expect("produced");
    let leases = driver.receive("photos", "resize", 2);
    let letters = driver.topics.iter().find(|topic| topic.dead_letters_of.is_some()).expect("made").id;
    refuse_writes(&sim, TopicPartition { topic: letters, ..photos });
    let reject = SettleAction::Reject { reason: "not a photo".into() };
    driver.settle_one("photos", "resize", &leases[0], reject.clone()).expect("the journal has it");
    let refused = driver.settle_one("photos", "resize", &leases[1], reject);
    assert!(matches!(refused, Err(RequestError::Unwritable { .. })), "{refused:?}");
    driver.advance(3_000);
    let row = &driver.group("resize").partitions[0];
    assert_eq!((row.dead, row.leased), (1, 1), "it goes on dying");
    mend(&sim);
    driver.advance(1_500);
    driver.advance(6_000);
    assert_eq!(driver.group("resize").partitions[0].dead, 2);
}

fn dead_letters(driver: &mut Driver) -> Vec<DeadLetterRef> {
    let list = wire::ListDeadLetters {
        topic: "photos".into(),
        group: "resize".into(),
        count_max: 10,
        ..wire::ListDeadLetters::default()
    };
    match driver.ask(Request::ListDeadLetters(list)).expect("listed") {
        Response::DeadLetters { letters, .. } => letters,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_that_cannot_be_read_now_is_no_empty_dead_letter() {
    let sim = SimDisk::new(0);
    let mut driver = open(&sim);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    let lease = driver.receive("photos", "resize", 1)[0];
    let only_under = dir_of(photos);
    sim.set_faults(SimFaults { only_under, fail_read: FaultRule::From(1), ..SimFaults::default() });
    let reject = SettleAction::Reject { reason: "not a photo".into() };
    let refused = driver.settle_one("photos", "resize", &lease, reject);
    assert!(matches!(refused, Err(RequestError::Busy(_))), "{refused:?}");
    driver.advance(20_000);
    assert_eq!(driver.group("resize").partitions[0].dead, 0);
    mend(&sim);
    driver.advance(6_000);
    let letter = dead_letters(&mut driver).remove(0);
    assert_eq!(letter.reason, "not a photo");
    assert_eq!(driver.read_all(letter.kept_in, letter.letter), ["a"]);
}

#[test]
fn the_dead_letter_of_a_damaged_record_says_so() {
    let sim = SimDisk::new(0);
    let mut driver = open(&sim);
    let photos = driver.topic("photos", 1);
    driver.produce(photos, &["a"]).expect("produced");
    let lease = driver.receive("photos", "resize", 1)[0];
    sim.flip_bit(&format!("{}/{:020}.log", dir_of(photos), 0), 130, 0).expect("flipped");
    let reject = SettleAction::Reject { reason: "not a photo".into() };
    driver.settle_one("photos", "resize", &lease, reject).expect("buried");
    let letter = dead_letters(&mut driver).remove(0);
    assert!(letter.reason.starts_with("not a photo; its record is damaged: "), "{}", letter.reason);
}
