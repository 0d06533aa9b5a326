//! Short stories of what the simulator does not do: damage, short reads, producers that leave something out.

use std::ops::Range;
use std::sync::Arc;

use dure_engine::{
    ConnectionId, Cursor, DiskRef, Effect, FailedSync, FaultRule, Finding, Input, LeaseGrant, Letter, Now,
    OpenMode, ReadOutcome, ReplyTo, Request, RequestError, Response, Settle, SettleAction, SettleItem, Shard,
    ShardConfig, SimDisk, SimFaults, Survival, Wait,
};
use dure_proto::{
    BATCHES_IN_FLIGHT_MAX, BatchBuilder, Compression, Offset, ProducerId, ProducerStamp, Receipt, Sequence,
    ShardId, TopicPartition, wire,
};

/// Drives a shard as the engine's own tests do.
#[path = "../../../../broker/engine/tests/common/mod.rs"]
mod common;
use common::Driver;

pub(crate) const STORIES: [(&str, fn()); 13] = [
    ("a flipped bit in a segment", a_flipped_bit_in_a_segment_is_named_and_hides_nothing),
    ("a flipped bit in the journal", a_flipped_bit_in_the_journal_is_named_and_hides_nothing),
    ("a foreign index", a_foreign_index_is_invisible),
    ("short reads", short_reads_are_invisible),
    ("a gap in a producer's sequence", a_gap_in_a_sequence_is_refused),
    ("all batches in flight sent again", all_batches_in_flight_sent_again_keep_their_offsets),
    ("a deleted topic's number", a_deleted_topics_number_is_never_used_again),
    ("a lease just before a power cut", a_token_given_out_just_before_a_power_cut_is_never_given_out_again),
    ("a write cut in two", a_write_that_fails_half_way_is_answered_with_an_error),
    ("the page cache after a failed sync", what_a_failed_sync_left_in_the_page_cache_is_not_believed),
    ("a death cut in two", a_power_cut_finds_a_dead_letter_whole_or_not_at_all),
    ("an id, whenever the power fails", an_id_is_known_wherever_its_message_is),
    ("a copied letter, whenever the power fails", each_letter_is_copied_once_whenever_the_power_fails),
];

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const TOPIC: &str = "photos";
const GROUP: &str = "resize";
/// Where the journal's pieces lie.
const JOURNAL: &str = "shard-0000/journal";

fn small_config() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: 96 << 10,
        commit_bytes_soft: 4 << 10,
        commit_bytes_max: 80 << 10,
        ..common::config()
    }
}

fn open(disk: &SimDisk) -> Driver {
    Driver::open_with(Arc::new(disk.clone()), START, small_config())
}

/// What a reader gets of a log: values, and the ranges that are named lost.
fn read(driver: &Driver, partition: TopicPartition, from: Offset) -> (Vec<String>, Vec<Range<Offset>>) {
    let (mut values, mut lost) = (Vec::new(), Vec::new());
    let mut cursor = Cursor::at(from);
    loop {
        match driver.views[&partition].read(&mut cursor, 1, Wait::MayWait).expect("the disk reads") {
            ReadOutcome::Entries(entries) => {
                for entry in dure_proto::split_entries(entries) {
                    let (header, batch) = entry.expect("an entry that was checked");
                    let records = dure_proto::Records::decode(&batch, &dure_proto::BatchLimits::stored())
                        .expect("records");
                    let all = (0..records.len()).filter(|i| header.base_offset.plus(*i as u64) >= from);
                    values.extend(
                        all.map(|i| {
                            String::from_utf8_lossy(&records.value(i).expect("a value")).into_owned()
                        }),
                    );
                }
            }
            ReadOutcome::Lost(range) => lost.push(range),
            ReadOutcome::AtEnd => return (values, lost),
            ReadOutcome::WouldWait => unreachable!("it may wait"),
        }
    }
}

/// Flips a bit of this text in the one file of that kind that holds it.
fn flip(disk: &SimDisk, extension: &str, text: &str) {
    let files = disk.snapshot();
    let mut found = files.iter().filter(|(path, _)| path.ends_with(extension)).filter_map(|(path, bytes)| {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, at))
    });
    let (path, at) = found.next().expect("it was written");
    disk.flip_bit(path, at as u64, 2).expect("flipped");
}

fn a_flipped_bit_in_a_segment_is_named_and_hides_nothing() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    for value in ["first", "second", "third"] {
        driver.produce(photos, &[value]).expect("produced");
    }
    flip(&disk, ".log", "second");
    let (values, lost) = read(&driver, photos, Offset(0));
    assert_eq!((values, lost), (vec!["first".into(), "third".into()], vec![Offset(1)..Offset(2)]));
}

fn a_flipped_bit_in_the_journal_is_named_and_hides_nothing() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    for value in ["first", "second", "third"] {
        driver.produce(photos, &[value]).expect("produced");
    }
    drop(driver);
    disk.crash_process();
    flip(&disk, ".piece", "second");
    let driver = open(&disk);
    let named = driver.report.findings.iter().any(|finding| matches!(finding, Finding::JournalLost { .. }));
    assert!(named, "a damaged commit is not reported: {:?}", driver.report.findings);
    let (values, lost) = read(&driver, photos, Offset(0));
    assert_eq!((values, lost), (vec!["first".into(), "third".into()], vec![Offset(1)..Offset(2)]));
}

fn a_foreign_index_is_invisible() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let index_of = |bytes: usize, driver: &mut Driver, name: &str| {
        let partition = driver.topic(name, 1);
        for i in 0..12 {
            let value = format!("{name}-{i}-{}", "x".repeat(bytes));
            assert_eq!(driver.produce(partition, &[&value]), Ok(Offset(i)));
        }
        let path = format!("/log/{}/0/", partition.topic);
        let paths = disk.snapshot_paths();
        let path = paths.iter().find(|p| p.contains(&path) && p.ends_with(".index")).expect("an index");
        (partition, path.clone())
    };
    let (photos, index) = index_of(1_500, &mut driver, TOPIC);
    let (_, foreign) = index_of(2_700, &mut driver, "films");
    let bytes = disk.snapshot()[&foreign].clone();
    let disk: DiskRef = Arc::new(disk);
    let file = disk.open(&index, OpenMode::ReadWrite).expect("there");
    file.set_len(0).and_then(|()| file.write_all_at(0, &bytes)).expect("written");
    for i in 0..12 {
        let (values, lost) = read(&driver, photos, Offset(i));
        assert!(lost.is_empty(), "{lost:?} is lost behind a foreign index");
        assert_eq!(values.len() as u64, 12 - i, "from offset {i} on");
        assert!(values[0].starts_with(&format!("{TOPIC}-{i}-")), "offset {i} holds {}", &values[0][..12]);
    }
}

fn short_reads_are_invisible() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    for value in ["first", "second", "third"] {
        driver.produce(photos, &[value]).expect("produced");
    }
    disk.set_faults(SimFaults { short_read: FaultRule::PerMillion(500_000), ..SimFaults::default() });
    for _ in 0..20 {
        let (values, lost) = read(&driver, photos, Offset(0));
        assert_eq!((values.join(" "), lost), ("first second third".into(), Vec::new()));
    }
}

fn produce_in_session(
    driver: &mut Driver,
    partition: TopicPartition,
    producer: ProducerId,
    sequence: u32,
) -> Result<Response, RequestError> {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(b"a"), &[], 0).expect("fits");
    let batch = builder.build(Some(ProducerStamp { producer, epoch: 0, sequence: Sequence(sequence) }));
    driver.ask(Request::Produce(common::produce(partition, batch)))
}

fn a_gap_in_a_sequence_is_refused() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    let Ok(Response::Producer { producer, .. }) = driver.ask(Request::InitProducer) else {
        panic!("no session");
    };
    let first = produce_in_session(&mut driver, photos, producer, 0);
    assert!(matches!(first, Ok(Response::Produced { .. })), "{first:?}");
    for sequence in [2, 7] {
        let gap = produce_in_session(&mut driver, photos, producer, sequence);
        assert!(matches!(gap, Err(RequestError::OutOfOrderSequence { expected: 1, .. })), "{gap:?}");
    }
}

fn all_batches_in_flight_sent_again_keep_their_offsets() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    let Ok(Response::Producer { producer, .. }) = driver.ask(Request::InitProducer) else {
        panic!("no session");
    };
    for _ in 0..2 {
        for sequence in 0..BATCHES_IN_FLIGHT_MAX as u32 {
            let answer = produce_in_session(&mut driver, photos, producer, sequence);
            let at = |answer: &_| matches!(answer, Ok(Response::Produced { base_offset, .. }) if base_offset.0 == u64::from(sequence));
            assert!(at(&answer), "batch {sequence} is answered with {answer:?}");
        }
    }
}

fn a_deleted_topics_number_is_never_used_again() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let gone = driver.topic(TOPIC, 1).topic;
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: TOPIC.into() })).expect("deleted");
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    disk.crash_process();
    let again = open(&disk).topic(TOPIC, 1).topic;
    assert_ne!(again, gone, "the number of a deleted topic is given out again");
}

/// A delivery leaves before its commit is durable; the epoch in its token has to be.
fn a_token_given_out_just_before_a_power_cut_is_never_given_out_again() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    driver.produce(photos, &["a"]).expect("produced");
    driver.shard.begin_shutdown(START);
    driver.settle();
    drop(driver);
    let mut given = Vec::new();
    for correlation in 1..4 {
        disk.crash_with(|_| Survival::Lost);
        let config = small_config();
        let (mut shard, _) =
            Shard::open(Arc::new(disk.clone()), ShardId(0), config, START).expect("it opens");
        let (topic, group) = (TOPIC.to_owned(), GROUP.to_owned());
        let receive = wire::Receive { topic, group, count: 1, wait_ms: 0, lease_ms: None };
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation };
        shard.handle(START, Input::Request { reply_to, request: Request::Receive(receive) });
        shard.turn(START);
        let tokens = shard.take_effects().into_iter().filter_map(|effect| match effect {
            Effect::Deliver(deliver) => Some(deliver.leases[0].token),
            _ => None,
        });
        let token = tokens.last().expect("a delivery");
        assert!(!given.contains(&token), "{token:?} was given out twice");
        given.push(token);
    }
}

/// Whichever write of the journal fails half way: whoever was answered finds the message again.
fn a_write_that_fails_half_way_is_answered_with_an_error() {
    for nth in 1..6 {
        let disk = SimDisk::new(nth);
        let mut driver = open(&disk);
        driver.may_stop = true;
        let photos = driver.topic(TOPIC, 1);
        let fail_write = FaultRule::Nth(nth);
        disk.set_faults(SimFaults { only_under: JOURNAL.into(), fail_write, ..SimFaults::default() });
        let mut answered = Vec::new();
        for value in ["first", "second", "third"] {
            let value = format!("{value}-{}", "x".repeat(3_000));
            let produce = Request::Produce(common::produce(photos, common::batch(&[&value])));
            if let Some(Ok(_)) = driver.try_ask(produce) {
                answered.push(value);
            }
        }
        drop(driver);
        disk.set_faults(SimFaults::default());
        disk.crash_with(|_| Survival::Lost);
        let (values, _) = read(&open(&disk), photos, Offset(0));
        let lost: Vec<&String> = answered.iter().filter(|value| !values.contains(value)).collect();
        assert!(lost.is_empty(), "write {nth} failed, and {} answered messages are lost", lost.len());
    }
}

/// A sync fails and leaves its pages clean: the cache has what the device never got. A start that goes on from there, and
/// is cut off by a power cut, leaves a hole in the journal.
fn what_a_failed_sync_left_in_the_page_cache_is_not_believed() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    driver.may_stop = true;
    let photos = driver.topic(TOPIC, 1);
    driver.produce(photos, &["first"]).expect("produced");
    let failed_sync = FailedSync::LosesAll;
    disk.set_faults(SimFaults { fail_sync: FaultRule::Nth(1), failed_sync, ..SimFaults::default() });
    driver.try_ask(Request::Produce(common::produce(photos, common::batch(&["second"]))));
    assert!(driver.stopped.is_some(), "a failed sync stops the shard");
    drop(driver);
    disk.set_faults(SimFaults::default());
    disk.crash_process();
    drop(Shard::open(Arc::new(disk.clone()), ShardId(0), small_config(), START).expect("it opens"));
    disk.crash_with(|_| Survival::Lost);
    let driver = open(&disk);
    let damage: Vec<_> = driver.report.findings.iter().filter(|finding| finding.is_damage()).collect();
    assert!(damage.is_empty(), "a start went on from what the disk never had: {damage:?}");
    assert_eq!(read(&driver, photos, Offset(0)).0, ["first"]);
}

/// Rejects a message whose record is then appended to the dead letters: after each thing that the disk does for that,
/// the power is cut.
fn a_power_cut_finds_a_dead_letter_whole_or_not_at_all() {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    let photos = driver.topic(TOPIC, 1);
    driver.produce(photos, &["a"]).expect("produced");
    let lease = driver.receive(TOPIC, GROUP, 1)[0];
    let (group, source, offset) = reject(&mut driver, &lease);
    let batch = Ok(common::batch(&["a"]));
    driver.shard.handle(START, Input::Letter(Letter { group, source, offset, batch }));
    driver.shard.turn(START);
    for effect in driver.shard.take_effects() {
        let Effect::Job(job) = effect else { continue };
        let job_was = format!("{job:?}");
        drop(job.run(&disk));
        let copy = disk.fork();
        copy.crash_with(|_| Survival::Lost);
        let mut after = open(&copy);
        let list = wire::ListDeadLetters {
            topic: TOPIC.into(),
            group: GROUP.into(),
            count_max: 10,
            ..wire::ListDeadLetters::default()
        };
        let Ok(Response::DeadLetters { letters, .. }) = after.ask(Request::ListDeadLetters(list)) else {
            panic!("no list");
        };
        let log = after.topics.iter().find(|topic| topic.dead_letters_of.is_some()).expect("a log for them");
        let kept_in = TopicPartition { topic: log.id, ..photos };
        let appended = after.views[&kept_in].high_watermark.0;
        assert_eq!(
            appended,
            letters.len() as u64,
            "records of dead letters and dead letters after {job_was}"
        );
    }
}

fn reject(driver: &mut Driver, lease: &LeaseGrant) -> (dure_proto::GroupId, TopicPartition, Offset) {
    let receipt = Receipt { partition: lease.partition.partition, offset: lease.offset, token: lease.token };
    let items = vec![SettleItem { receipt, action: SettleAction::Reject { reason: "bad".into() } }];
    let request = Request::Settle(Settle { topic: TOPIC.into(), group: GROUP.into(), items });
    let reply_to = ReplyTo { connection: ConnectionId(1), correlation: 1_000 };
    driver.shard.handle(START, Input::Request { reply_to, request });
    driver.shard.turn(START);
    let wanted = driver.shard.take_effects().into_iter().find_map(|effect| match effect {
        Effect::FetchLetter { group, source, offset, .. } => Some((group, source, offset)),
        _ => None,
    });
    wanted.expect("the record is wanted")
}

/// Cut off after so many changes to the disk, and once not at all but shut down; says whether it came to its end.
fn told_until(changes: u64, tell: impl FnOnce(&mut Driver, &SimDisk)) -> (SimDisk, bool) {
    let disk = SimDisk::new(0);
    let mut driver = open(&disk);
    driver.may_stop = true;
    tell(&mut driver, &disk);
    let survived = !disk.is_off();
    if survived {
        driver.shard.begin_shutdown(driver.now);
        driver.settle();
    }
    drop(driver);
    let _ = disk.crash_with(|_| if changes.is_multiple_of(2) { Survival::Lost } else { Survival::Kept });
    (disk, survived)
}

fn an_id_is_known_wherever_its_message_is() {
    let send = |driver: &mut Driver, partition| {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(None, Some(b"order"), &[], 0).expect("fits");
        let ids = vec![Some(dure_proto::IdHash(7))];
        let produce = dure_engine::Produce { ids, ..common::produce(partition, builder.build(None)) };
        driver.try_ask(Request::Produce(produce))
    };
    for changes in 0.. {
        let (disk, survived) = told_until(changes, |driver, disk| {
            let orders = driver.topic(TOPIC, 1);
            disk.power_off_after(changes);
            send(driver, orders);
        });
        let later = Now { wall_ms: START.wall_ms + 3_600_000, ..START };
        let mut driver = Driver::open_with(Arc::new(disk), later, small_config());
        let orders = driver.partition(TOPIC);
        assert!(matches!(send(&mut driver, orders), Some(Ok(_))));
        let (values, _) = read(&driver, orders, Offset(0));
        assert_eq!(values, ["order"], "cut off after {changes} changes");
        if survived {
            return;
        }
    }
}

fn each_letter_is_copied_once_whenever_the_power_fails() {
    let letters_and_copies = |driver: &mut Driver| {
        let dead = driver.group(GROUP).partitions[0].dead as usize;
        let graves = driver.partition("graves");
        (dead, read(driver, graves, Offset(0)).0.len())
    };
    for changes in 0.. {
        let (disk, survived) = told_until(changes, |driver, disk| {
            let photos = driver.topic(TOPIC, 1);
            driver.topic("graves", 1);
            let queue = wire::QueueSettings {
                dead_letter_topic: "graves".into(),
                ..dure_engine::default_queue_settings()
            };
            let create = wire::CreateGroup {
                name: GROUP.into(),
                kind: wire::GroupKind::Queue as i32,
                topics: vec![TOPIC.into()],
                queue: Some(queue),
            };
            driver.ask(Request::CreateGroup(create)).expect("created");
            driver.produce(photos, &["a", "b"]).expect("produced");
            let leases = driver.receive(TOPIC, GROUP, 2);
            disk.power_off_after(changes);
            for lease in leases {
                let receipt =
                    Receipt { partition: photos.partition, offset: lease.offset, token: lease.token };
                let item = SettleItem { receipt, action: SettleAction::Reject { reason: "bad".into() } };
                let settle = Settle { topic: TOPIC.into(), group: GROUP.into(), items: vec![item] };
                driver.try_ask(Request::Settle(settle));
            }
        });
        let mut driver = open(&disk);
        driver.advance(1_000);
        let (dead, copies) = letters_and_copies(&mut driver);
        assert_eq!(dead, copies, "cut off after {changes} changes");
        if survived {
            return;
        }
    }
}
