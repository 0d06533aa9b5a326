//! Messages with ids: of those with one id the first is there, whoever sends it again and however the broker ends.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::Driver;
use dure_engine::{
    ConnectionId, Due, Effect, Input, Now, Produce, ReplyTo, Request, RequestError, Response, ShardConfig,
    SimDisk, Survival, default_topic_config,
};
use dure_proto::{
    BatchBuilder, Compression, IdHash, KeySeed, Offset, PartitionId, ProducerId, ProducerStamp, Sequence,
    TopicPartition, wire,
};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const WINDOW_MS: u64 = 120_000;

/// Records whose values are their ids; `""` has none.
fn identified(partition: TopicPartition, ids: &[&str], stamp: Option<ProducerStamp>) -> Produce {
    let mut builder = BatchBuilder::new(Compression::None);
    for id in ids {
        let header = [(dure_proto::MESSAGE_ID_HEADER.as_bytes(), Some(id.as_bytes()))];
        let headers = if id.is_empty() { &[][..] } else { &header[..] };
        builder.push(None, Some(id.as_bytes()), headers, 0).expect("fits");
    }
    let hash = |id: &&str| (!id.is_empty()).then(|| IdHash::of(id.as_bytes(), KeySeed(7)));
    Produce { ids: ids.iter().map(hash).collect(), ..common::produce(partition, builder.build(stamp)) }
}

/// The base offset, and of each run of duplicates: index, count, partition, offset.
type Answer = (u64, Vec<(u32, u32, u32, Option<u64>)>);

fn runs(duplicates: Vec<wire::Duplicates>) -> Vec<(u32, u32, u32, Option<u64>)> {
    duplicates.into_iter().map(|run| (run.index, run.count, run.partition, run.offset)).collect()
}

fn send(driver: &mut Driver, produce: Produce) -> Answer {
    match driver.ask(Request::Produce(produce)).expect("taken") {
        Response::Produced { base_offset, duplicates, .. } => (base_offset.0, runs(duplicates)),
        other => panic!("{other:?}"),
    }
}

fn open(disk: &SimDisk, now: Now) -> Driver {
    Driver::open(Arc::new(disk.clone()), now)
}

fn power_cut(disk: &SimDisk) {
    let _ = disk.crash_with(|_| Survival::Lost);
}

fn session(driver: &mut Driver) -> ProducerId {
    match driver.ask(Request::InitProducer).expect("a session") {
        Response::Producer { producer, .. } => producer,
        other => panic!("{other:?}"),
    }
}

fn stamp(producer: ProducerId, sequence: u32) -> Option<ProducerStamp> {
    Some(ProducerStamp { producer, epoch: 0, sequence: Sequence(sequence) })
}

#[test]
fn the_id_decides_and_neither_partition_nor_restart_does() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 2);
    let other = TopicPartition { partition: PartitionId(1), ..orders };
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (0, vec![]));
    assert_eq!(send(&mut driver, identified(other, &["a"], None)).1, [(0, 1, 0, Some(0))]);
    assert_eq!(send(&mut driver, identified(other, &["b", "", "c"], None)), (0, vec![]));

    let now = Now { mono_ms: 90_000, ..START };
    for crash_loses_power in [false, true] {
        drop(driver);
        if crash_loses_power {
            power_cut(&disk)
        } else {
            disk.crash_process()
        };
        driver = open(&disk, now);
        let again = send(&mut driver, identified(orders, &["c", "a", "b"], None));
        assert_eq!(again.1, [(0, 1, 1, Some(2)), (1, 1, 0, Some(0)), (2, 1, 1, Some(0))]);
    }
    assert_eq!(driver.read_all(orders, Offset(0)), ["a"]);
    assert_eq!(driver.read_all(other, Offset(0)), ["b", "", "c"]);
}

#[test]
fn an_id_ends_with_its_window_of_running_and_with_no_jump_of_the_clock() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    send(&mut driver, identified(orders, &["a"], None));
    driver.now.wall_ms += 365 * 24 * 3_600_000;
    driver.advance(WINDOW_MS - 1);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)).1, [(0, 1, 0, Some(0))]);
    driver.advance(1);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (1, vec![]));

    // A broker that is down lets no time pass, whatever the wall clock says.
    drop(driver);
    disk.crash_process();
    let later = Now { mono_ms: 5, wall_ms: START.wall_ms + 3 * 365 * 24 * 3_600_000 };
    let mut driver = open(&disk, later);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)).1, [(0, 1, 0, Some(1))]);
    driver.advance(WINDOW_MS);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (2, vec![]));
}

#[test]
fn of_a_batch_that_is_known_in_part_the_rest_is_there_and_a_retry_is_answered_alike() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    let producer = session(&mut driver);
    send(&mut driver, identified(orders, &["a", "b"], None));
    let batch = identified(orders, &["x", "a", "", "b", "y", "x"], stamp(producer, 0));
    let expected = (2, vec![(1, 1, 0, Some(0)), (3, 1, 0, Some(1)), (5, 1, 0, Some(2))]);
    assert_eq!(send(&mut driver, batch.clone()), expected);
    assert_eq!(send(&mut driver, batch.clone()), expected);
    // The session goes on, also behind a batch of which nothing is new.
    let all_known = identified(orders, &["y", "a"], stamp(producer, 6));
    assert_eq!(send(&mut driver, all_known.clone()), (5, vec![(0, 1, 0, Some(4)), (1, 1, 0, Some(0))]));
    let next = identified(orders, &["z"], stamp(producer, 8));
    assert_eq!(send(&mut driver, next.clone()), (5, vec![]));
    let gap = driver.ask(Request::Produce(identified(orders, &["w"], stamp(producer, 10))));
    assert!(matches!(gap, Err(RequestError::OutOfOrderSequence { expected: 9, .. })), "{gap:?}");

    drop(driver);
    power_cut(&disk);
    let mut driver = open(&disk, START);
    // Whatever became of the ids since.
    driver.advance(2 * WINDOW_MS);
    assert_eq!(send(&mut driver, batch), expected);
    assert_eq!(send(&mut driver, all_known).0, 5);
    assert_eq!(send(&mut driver, next), (5, vec![]));
    assert_eq!(driver.read_all(orders, Offset(0)), ["a", "b", "x", "", "y", "z"]);
}

#[test]
fn a_duplicate_of_what_is_in_flight_is_answered_no_sooner() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    let reply_to = |correlation| ReplyTo { connection: ConnectionId(9), correlation };
    let (mut jobs, mut answers) = (Vec::new(), 0);
    for correlation in 1..=2 {
        let request = Request::Produce(identified(orders, &["a"], None));
        driver.shard.handle(START, Input::Request { reply_to: reply_to(correlation), request });
        driver.shard.turn(START);
        for effect in driver.shard.take_effects() {
            match effect {
                Effect::Job(job) => jobs.push(job),
                Effect::Reply { .. } => answers += 1,
                _ => {}
            }
        }
    }
    assert_eq!(answers, 0, "answered before the first is on disk");
    for job in jobs {
        let done = job.run(&*driver.disk);
        driver.shard.handle(START, Input::JobDone(done));
    }
    driver.settle();
    let answers = driver.replies.iter().filter(|(to, result)| to.connection.0 == 9 && result.is_ok());
    assert_eq!(answers.count(), 2);
}

#[test]
fn a_message_that_waits_has_its_id_from_when_it_was_taken() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    let producer = session(&mut driver);
    let later = |driver: &mut Driver, produce| match driver
        .ask(Request::ProduceLater { produce, due: Due::After(30_000) })
        .expect("taken")
    {
        Response::Scheduled { duplicates, .. } => runs(duplicates),
        other => panic!("{other:?}"),
    };
    let batch = identified(orders, &["a", "b"], stamp(producer, 0));
    assert_eq!(later(&mut driver, batch), []);
    let mixed = identified(orders, &["b", "c"], stamp(producer, 2));
    assert_eq!(later(&mut driver, mixed.clone()), [(0, 1, 0, None)]);
    assert_eq!(later(&mut driver, identified(orders, &["a"], stamp(producer, 4))), [(0, 1, 0, None)]);
    assert_eq!(send(&mut driver, identified(orders, &["c"], None)).1, [(0, 1, 0, None)]);
    assert_eq!(later(&mut driver, mixed.clone()), [(0, 1, 0, None)]);
    drop(driver);
    disk.crash_process();
    let mut driver = open(&disk, START);
    assert_eq!(driver.scheduled("orders"), 3);
    driver.advance(30_000);
    assert_eq!(driver.read_all(orders, Offset(0)), ["a", "b", "c"]);
    assert_eq!(later(&mut driver, mixed), [(0, 1, 0, None)]);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)).1, [(0, 1, 0, None)]);
    driver.advance(WINDOW_MS - 30_000);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (3, vec![]));
}

#[test]
fn at_the_bound_a_message_is_refused_and_no_id_is_forgotten() {
    let disk = SimDisk::new(0);
    let config = ShardConfig { message_ids_max: 3, ..common::config() };
    let mut driver = Driver::open_with(Arc::new(disk.clone()), START, config);
    let orders = driver.topic("orders", 1);
    send(&mut driver, identified(orders, &["a", "b"], None));
    let refused = driver.ask(Request::Produce(identified(orders, &["c", "d"], None)));
    assert!(matches!(&refused, Err(RequestError::Busy(_))), "{refused:?}");
    assert_eq!(refused.expect_err("refused").retry(), wire::Retry::Later);
    assert_eq!(send(&mut driver, identified(orders, &["a", "b", "c"], None)).1.len(), 1);
    // Messages without ids go on, and with their windows the ids go.
    assert_eq!(send(&mut driver, identified(orders, &["", ""], None)), (3, vec![]));
    driver.advance(WINDOW_MS + WINDOW_MS / 16);
    assert_eq!(send(&mut driver, identified(orders, &["c", "d", "e"], None)), (5, vec![]));
}

#[test]
fn a_purge_forgets_no_id_and_a_topic_made_anew_knows_none() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    send(&mut driver, identified(orders, &["a"], None));
    driver.ask(Request::PurgeTopic(wire::PurgeTopic { name: "orders".into() })).expect("purged");
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)).1, [(0, 1, 0, Some(0))]);
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "orders".into() })).expect("deleted");
    let orders = driver.topic("orders", 1);
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (0, vec![]));
}

#[test]
fn a_window_of_zero_remembers_nothing_and_one_out_of_bounds_is_refused() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    let alter = |driver: &mut Driver, window_ms| {
        let config = wire::TopicConfig { dedup_window_ms: Some(window_ms), ..default_topic_config() };
        let alter = wire::AlterTopic { name: "orders".into(), config: Some(config), ..Default::default() };
        driver.ask(Request::AlterTopic(alter))
    };
    send(&mut driver, identified(orders, &["a"], None));
    alter(&mut driver, 0).expect("altered");
    assert_eq!(send(&mut driver, identified(orders, &["a", "a"], None)), (1, vec![]));
    alter(&mut driver, 1_000).expect("altered");
    assert_eq!(send(&mut driver, identified(orders, &["a"], None)), (3, vec![]));
    for window_ms in [999, 24 * 3_600_000 + 1] {
        assert!(matches!(alter(&mut driver, window_ms), Err(RequestError::Invalid(_))), "{window_ms}");
    }
}

#[test]
fn a_compressed_batch_is_cut_as_well() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk, START);
    let orders = driver.topic("orders", 1);
    send(&mut driver, identified(orders, &["a"], None));
    let mut builder = BatchBuilder::new(Compression::Zstd);
    let value = Bytes::from("v".repeat(10_000));
    let ids = ["b", "a", "c"];
    for id in ids {
        builder.push(Some(id.as_bytes()), Some(&value), &[], 5).expect("fits");
    }
    let hashes = ids.map(|id| Some(IdHash::of(id.as_bytes(), KeySeed(7))));
    let produce = Produce { ids: hashes.to_vec(), ..common::produce(orders, builder.build(None)) };
    assert_eq!(send(&mut driver, produce), (1, vec![(1, 1, 0, Some(0))]));
    let (_, records) = driver.read_batch(orders, Offset(1)).expect("there");
    let keys: Vec<_> = records.iter().map(|record| record.key.expect("a key")).collect();
    assert_eq!(keys, ["b", "c"]);
    assert!(records.header().compression == Compression::Zstd && records.value(1) == Some(value));
}
