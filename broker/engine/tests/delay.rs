//! Messages that wait for their time, each promise about them as a short story.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Driver, batch, config};
use dure_engine::*;
use dure_proto::{
    BatchBuilder, Compression, Offset, ProducerStamp, Sequence, TopicPartition, split_entries, wire,
};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const HOUR_MS: u64 = 3_600_000;

fn simulated() -> (SimDisk, DiskRef) {
    let disk = SimDisk::new(0);
    (disk.clone(), Arc::new(disk))
}

/// With small pieces, of which recoveries read and fill many.
fn small() -> ShardConfig {
    let journal_piece_bytes = 128 << 10;
    ShardConfig { journal_piece_bytes, commit_bytes_soft: 8 << 10, commit_bytes_max: 80 << 10, ..config() }
}

fn open(disk: DiskRef, now: Now) -> Driver {
    Driver::open_with(disk, now, small())
}

fn later(driver: &mut Driver, partition: TopicPartition, value: &str, delay_ms: u64) {
    let due_ms = driver.now.wall_ms + delay_ms;
    let answer = driver.produce_later(partition, batch(&[value]), Due::After(delay_ms));
    assert!(matches!(answer, Ok(Response::Scheduled { due_ms: at, .. }) if at == due_ms), "{answer:?}");
}

fn shut_down(mut driver: Driver) {
    let now = driver.now;
    driver.shard.begin_shutdown(now);
    driver.settle();
    assert!(driver.shard.is_drained());
}

/// When the entry at an offset was appended.
fn append_ms(driver: &Driver, partition: TopicPartition, offset: u64) -> u64 {
    let outcome = driver.views[&partition].read(&mut Cursor::at(Offset(offset)), 1, Wait::MayWait);
    let Ok(ReadOutcome::Entries(entries)) = outcome else { panic!("{outcome:?}") };
    split_entries(entries).next().expect("an entry").expect("whole").0.append_time_ms
}

fn stamped(
    driver: &mut Driver,
    value: &str,
    sequence: u32,
    producer: Option<ProducerStamp>,
) -> (Bytes, ProducerStamp) {
    let stamp = producer.unwrap_or_else(|| match driver.ask(Request::InitProducer) {
        Ok(Response::Producer { producer, .. }) => {
            ProducerStamp { producer, epoch: 0, sequence: Sequence(0) }
        }
        other => panic!("{other:?}"),
    });
    let stamp = ProducerStamp { sequence: Sequence(sequence), ..stamp };
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(value.as_bytes()), &[], 0).expect("fits");
    (builder.build(Some(stamp)), stamp)
}

#[test]
fn a_message_enters_when_it_is_due_and_gets_its_offset_then() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    later(&mut driver, jobs, "in a minute", 60_000);
    later(&mut driver, jobs, "in a second", 1_000);
    assert_eq!(driver.produce(jobs, &["now"]), Ok(Offset(0)));
    assert_eq!((driver.scheduled("jobs"), driver.read_all(jobs, Offset(0))), (2, vec!["now".to_owned()]));
    driver.advance(999);
    assert_eq!(driver.views[&jobs].high_watermark, Offset(1));
    assert_eq!(driver.shard.poll_timeout(), Some(1_000), "it is woken when the next one is due");
    driver.advance(1);
    assert_eq!(driver.read_all(jobs, Offset(1)), ["in a second"]);
    assert_eq!(append_ms(&driver, jobs, 1), START.wall_ms + 1_000);
    driver.advance(58_999);
    assert_eq!(driver.scheduled("jobs"), 1);
    driver.advance(1);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["now", "in a second", "in a minute"]);
    assert_eq!(driver.scheduled("jobs"), 0);
}

#[test]
fn a_queue_group_gets_it_then_and_counts_it_in_nothing_before() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    driver.produce(jobs, &["now"]).expect("produced");
    let lease = driver.receive("jobs", "workers", 10).remove(0);
    driver.settle_one("jobs", "workers", &lease, SettleAction::Ack).expect("acknowledged");
    later(&mut driver, jobs, "later", 5_000);
    let row = driver.group("workers").partitions.remove(0);
    assert_eq!((row.lag, row.ready, row.delayed), (0, 0, 0));
    assert_eq!(driver.receive("jobs", "workers", 10), []);
    driver.advance(5_000);
    let leases = driver.receive("jobs", "workers", 10);
    assert_eq!(leases.iter().map(|lease| lease.offset.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn batches_due_at_once_enter_in_the_order_of_arrival() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    let due = Due::At(START.wall_ms + 2 * HOUR_MS);
    let sent = [("first", 0), ("second", 0), ("third", 3 * HOUR_MS / 2), ("fourth", HOUR_MS / 2 - 1_000)];
    for (value, after_ms) in sent {
        driver.advance(after_ms);
        driver.produce_later(jobs, batch(&[value]), due).expect("taken");
    }
    driver.advance(1_000);
    assert_eq!(driver.topics.iter().filter(|topic| topic.is_hidden()).count(), 3, "out of three delay logs");
    assert_eq!(driver.read_all(jobs, Offset(0)), ["first", "second", "third", "fourth"]);
}

#[test]
fn what_is_due_already_is_appended_at_once_and_a_year_is_the_most() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    for due in [Due::After(0), Due::At(START.wall_ms), Due::At(0)] {
        assert!(matches!(driver.produce_later(jobs, batch(&["a"]), due), Ok(Response::Produced { .. })));
    }
    let error = driver.produce_later(jobs, batch(&["a"]), Due::After(DELAY_MS_MAX + 1));
    assert!(matches!(error, Err(RequestError::DelayTooLong { .. })), "{error:?}");
    assert!(driver.produce_later(jobs, batch(&["a"]), Due::After(DELAY_MS_MAX)).is_ok());
    assert!(driver.topics.iter().all(|topic| topic.is_hidden() || topic.name == "jobs"));
}

#[test]
fn no_more_than_so_many_wait_and_one_more_is_told_to_come_again() {
    let (_, disk) = simulated();
    let mut driver = Driver::open_with(disk, START, ShardConfig { scheduled_max: 2, ..small() });
    let jobs = driver.topic("jobs", 1);
    driver.produce_later(jobs, batch(&["a", "b"]), Due::After(1_000)).expect("taken");
    let error = driver.produce_later(jobs, batch(&["c"]), Due::After(1_000));
    assert!(matches!(&error, Err(RequestError::Busy(_))), "{error:?}");
    driver.advance(1_000);
    driver.produce_later(jobs, batch(&["c"]), Due::After(1_000)).expect("there is room again");
}

#[test]
fn a_clean_restart_forgets_none_and_repeats_none() {
    let (_, disk) = simulated();
    let mut driver = open(disk.clone(), START);
    let jobs = driver.topic("jobs", 2);
    let other = TopicPartition { partition: dure_proto::PartitionId(1), ..jobs };
    for i in 0..40 {
        later(&mut driver, if i % 2 == 0 { jobs } else { other }, &format!("{i}"), 100 + (i * 37) % 1_000);
    }
    driver.advance(500);
    let entered = driver.read_all(jobs, Offset(0)).len() + driver.read_all(other, Offset(0)).len();
    assert!((10..30).contains(&entered), "{entered}");
    let now = driver.now;
    shut_down(driver);
    let mut driver = open(disk, now);
    assert_eq!((driver.report.commits, driver.scheduled("jobs")), (0, 40 - entered as u64));
    driver.advance(1_000);
    let mut values = driver.read_all(jobs, Offset(0));
    values.extend(driver.read_all(other, Offset(0)));
    values.sort_by_key(|value| value.parse::<u64>().expect("a number"));
    assert_eq!(values, (0..40).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(driver.scheduled("jobs"), 0);
}

#[test]
fn a_crash_between_due_and_entered_neither_loses_nor_repeats() {
    for power_cut in [false, true] {
        for changes in 0..14 {
            let (sim, disk) = simulated();
            let mut driver = open(disk.clone(), START);
            let jobs = driver.topic("jobs", 1);
            for i in 0..20 {
                later(&mut driver, jobs, &format!("{i}"), 100 + i % 3);
            }
            sim.power_off_after(changes);
            driver.may_stop = true;
            driver.advance(150);
            drop(driver);
            if power_cut {
                sim.crash(&mut fastrand::Rng::with_seed(changes));
            } else {
                sim.crash_process();
            }
            let mut driver = open(disk, Now { mono_ms: 0, wall_ms: START.wall_ms + 10_000 });
            driver.settle();
            let mut values: Vec<u32> = driver
                .read_all(jobs, Offset(0))
                .iter()
                .map(|value| value.parse().expect("a number"))
                .collect();
            values.sort_unstable();
            assert_eq!(values, (0..20).collect::<Vec<_>>(), "{power_cut} {changes}");
            assert_eq!(driver.scheduled("jobs"), 0);
        }
    }
}

#[test]
fn a_retry_is_known_while_it_waits_and_after_it_has_entered() {
    let (_, disk) = simulated();
    let mut driver = open(disk.clone(), START);
    let jobs = driver.topic("jobs", 1);
    let (first, stamp) = stamped(&mut driver, "first", 0, None);
    let due = Due::At(START.wall_ms + 1_000);
    let (second, _) = stamped(&mut driver, "second", 1, Some(stamp));
    let is_scheduled = |answer: &_| matches!(answer, Ok(Response::Scheduled { .. }));
    assert!(is_scheduled(&driver.produce_later(jobs, first.clone(), due)));
    let produce = Produce {
        partition: jobs,
        batch: second,
        keyed: false,
        all_keyed: false,
        record_bytes_max: 9,
        expiring: false,
        ids: Vec::new(),
    };
    let answer = driver.ask(Request::Produce(produce.clone()));
    assert!(matches!(answer, Ok(Response::Produced { base_offset: Offset(0), .. })), "{answer:?}");
    assert!(is_scheduled(&driver.produce_later(jobs, first.clone(), due)));
    // Out of the journal, then out of the checkpoint.
    for _ in 0..2 {
        let now = driver.now;
        drop(driver);
        driver = open(disk.clone(), now);
        assert!(is_scheduled(&driver.produce_later(jobs, first.clone(), due)));
        assert_eq!(driver.scheduled("jobs"), 1);
        let now = driver.now;
        shut_down(driver);
        driver = open(disk.clone(), now);
    }
    driver.advance(1_000);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["second", "first"]);
    assert!(is_scheduled(
        &driver.ask(Request::ProduceLater { produce: Produce { batch: first, ..produce.clone() }, due })
    ));
    let answer = driver.ask(Request::Produce(produce));
    assert!(matches!(answer, Ok(Response::Produced { base_offset: Offset(0), .. })), "{answer:?}");
    assert_eq!(driver.read_all(jobs, Offset(0)).len(), 2);
    // And the session goes on where it was.
    let (third, _) = stamped(&mut driver, "third", 2, Some(stamp));
    assert!(is_scheduled(&driver.produce_later(jobs, third, Due::After(10))));
}

#[test]
fn a_purge_and_a_deletion_take_what_waits_along() {
    let (_, disk) = simulated();
    let mut driver = open(disk.clone(), START);
    let jobs = driver.topic("jobs", 1);
    later(&mut driver, jobs, "purged", 1_000);
    driver.ask(Request::PurgeTopic(wire::PurgeTopic { name: "jobs".into() })).expect("purged");
    assert_eq!(driver.scheduled("jobs"), 0);
    later(&mut driver, jobs, "kept", 1_000);
    let now = driver.now;
    drop(driver);
    let mut driver = open(disk.clone(), now);
    driver.advance(1_000);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["kept"]);
    later(&mut driver, jobs, "deleted", 1_000);
    later(&mut driver, jobs, "deleted", 2 * HOUR_MS);
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "jobs".into() })).expect("deleted");
    assert_eq!(driver.topics.iter().count(), 0);
    driver.advance(3 * HOUR_MS);
    let jobs = driver.topic("jobs", 1);
    driver.advance(3 * HOUR_MS);
    assert_eq!((driver.read_all(jobs, Offset(0)).len(), driver.scheduled("jobs")), (0, 0));
}

#[test]
fn more_partitions_have_more_delay_logs() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    later(&mut driver, jobs, "a", 1_000);
    let alter = wire::AlterTopic { name: "jobs".into(), partitions: Some(3), config: None, force: false };
    driver.ask(Request::AlterTopic(alter)).expect("altered");
    let third = TopicPartition { partition: dure_proto::PartitionId(2), ..jobs };
    later(&mut driver, third, "b", 1_000);
    driver.advance(1_000);
    assert_eq!(driver.read_all(third, Offset(0)), ["b"]);
}

#[test]
fn a_delay_log_is_removed_as_far_as_it_has_entered() {
    let (sim, disk) = simulated();
    let mut driver = open(disk, START);
    let jobs = driver.topic("jobs", 1);
    later(&mut driver, jobs, "near", 1_000);
    later(&mut driver, jobs, "far", 40 * 24 * HOUR_MS);
    let files = |driver: &Driver| {
        let hidden: Vec<_> = driver.topics.iter().filter(|topic| topic.is_hidden()).map(|t| t.id).collect();
        let paths = sim.snapshot_paths();
        let of = |id: &dure_proto::TopicId| format!("/log/{id}/");
        hidden.iter().filter(|id| paths.iter().any(|path| path.contains(&of(id)))).count()
    };
    assert_eq!(files(&driver), 2);
    driver.advance(1_000);
    driver.advance(config().housekeeping_ms);
    assert_eq!(files(&driver), 1, "what waits for a year does not keep what was due in a second");
}

#[test]
fn a_clock_that_is_set_forward_makes_it_due_and_one_that_is_set_back_makes_it_wait() {
    let mut driver = open(simulated().1, START);
    let jobs = driver.topic("jobs", 1);
    for i in 0..2_000 {
        later(&mut driver, jobs, &format!("{i}"), HOUR_MS);
    }
    driver.now.wall_ms -= 10 * HOUR_MS;
    driver.advance(HOUR_MS);
    assert_eq!(driver.scheduled("jobs"), 2_000);
    driver.now.wall_ms += 24 * HOUR_MS;
    driver.advance(0);
    let values = driver.read_all(jobs, Offset(0));
    assert_eq!(values, (0..2_000).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_keeps_it_waiting_until_there_is_room() {
    let (sim, disk) = simulated();
    let mut driver = open(disk, START);
    let jobs = driver.topic("jobs", 1);
    later(&mut driver, jobs, "a", 2 * config().housekeeping_ms + 1);
    sim.set_faults(SimFaults { capacity_bytes: Some(sim.used_bytes() + 1_000), ..SimFaults::default() });
    driver.advance(config().housekeeping_ms);
    driver.advance(config().housekeeping_ms);
    driver.advance(1);
    assert_eq!(driver.scheduled("jobs"), 1);
    sim.set_faults(SimFaults::default());
    driver.advance(config().housekeeping_ms);
    driver.advance(config().housekeeping_ms);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["a"]);
}

#[test]
fn what_is_found_after_a_restart_enters_whatever_the_session_that_sent_it_does_meanwhile() {
    let (_, disk) = simulated();
    let mut driver = open(disk.clone(), START);
    let jobs = driver.topic("jobs", 1);
    let (first, stamp) = stamped(&mut driver, "0", 0, None);
    driver.produce_later(jobs, first, Due::After(1_000)).expect("taken");
    for sequence in 1..4 {
        let (batch, _) = stamped(&mut driver, &format!("{sequence}"), sequence, Some(stamp));
        let produce = Produce {
            partition: jobs,
            batch,
            keyed: false,
            all_keyed: false,
            record_bytes_max: 9,
            expiring: false,
            ids: Vec::new(),
        };
        driver.ask(Request::Produce(produce)).expect("produced");
    }
    driver.advance(1_000);
    // Replayed, the batch that entered is none of the session's any more.
    let now = driver.now;
    drop(driver);
    let mut driver = open(disk, now);
    let (fourth, _) = stamped(&mut driver, "4", 4, Some(stamp));
    driver.produce_later(jobs, fourth, Due::After(1)).expect("it follows on what the session sent last");
    driver.advance(1);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["1", "2", "3", "0", "4"]);
}

#[test]
fn damage_takes_one_message_with_its_name_and_the_others_enter() {
    let (sim, disk) = simulated();
    let mut driver = open(disk.clone(), START);
    let jobs = driver.topic("jobs", 1);
    for i in 0..5 {
        later(&mut driver, jobs, &format!("{i}"), 60_000 - i);
    }
    let now = driver.now;
    shut_down(driver);
    let segment = sim.snapshot_paths().into_iter().find(|path| path.ends_with(".log")).expect("a segment");
    // In the third batch.
    let entry = (sim.snapshot()[&segment].len() - 64) / 5;
    sim.flip_bit(&segment, (64 + 2 * entry + entry / 2) as u64, 0).expect("flipped");
    let mut driver = open(disk, now);
    driver.advance(60_000);
    assert_eq!(driver.read_all(jobs, Offset(0)), ["4", "3", "1", "0"]);
    assert_eq!(driver.scheduled("jobs"), 0);
    let findings: Vec<&Finding> = driver.scrubbed.iter().flat_map(|scrubbed| &scrubbed.findings).collect();
    assert!(matches!(findings[..], [Finding::EntriesLost { .. }]), "{findings:?}");
}
