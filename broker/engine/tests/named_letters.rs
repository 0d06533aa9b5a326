//! Dead letters that are copied to a topic of the user's: each once, whenever the process dies, and nothing waits for it.

mod common;

use std::sync::Arc;

use common::Driver;
use dure_engine::{
    DEAD_ATTEMPTS_HEADER, DEAD_GROUP_HEADER, DEAD_OFFSET_HEADER, DEAD_PARTITION_HEADER, DEAD_REASON_HEADER,
    DEAD_TIME_HEADER, DEAD_TOPIC_HEADER, Now, Request, RequestError, Response, SettleAction, ShardConfig,
    SimDisk, Survival, default_queue_settings, default_topic_config,
};
use dure_proto::{BatchBuilder, Compression, Offset, Record, TopicPartition, wire};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };

/// Small pieces, so that an opening is cheap.
fn open_small(disk: &SimDisk) -> Driver {
    let config = ShardConfig {
        journal_piece_bytes: 96 << 10,
        commit_bytes_soft: 4 << 10,
        commit_bytes_max: 80 << 10,
        ..common::config()
    };
    Driver::open_with(Arc::new(disk.clone()), START, config)
}

fn create_group(driver: &mut Driver, to: &str, topics: &[&str]) -> Result<Response, RequestError> {
    let queue = wire::QueueSettings { dead_letter_topic: to.into(), ..default_queue_settings() };
    driver.ask(Request::CreateGroup(wire::CreateGroup {
        name: "resize".into(),
        kind: wire::GroupKind::Queue as i32,
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        queue: Some(queue),
    }))
}

fn reject_all(driver: &mut Driver, topic: &str) {
    for lease in driver.receive(topic, "resize", 100) {
        let reason = format!("bad {}", lease.offset);
        driver.settle_one(topic, "resize", &lease, SettleAction::Reject { reason }).expect("rejected");
    }
}

fn records(driver: &Driver, partition: TopicPartition) -> Vec<Record> {
    let mut found = Vec::new();
    let mut offset = driver.views[&partition].log_start;
    while let Some((base, records)) = driver.read_batch(partition, offset) {
        found.extend(records.iter());
        offset = base.plus(records.len() as u64);
    }
    found
}

fn header(record: &Record, name: &str) -> String {
    let values: Vec<_> = record.headers.iter().filter(|(found, _)| found == name).collect();
    let [(_, Some(value))] = values[..] else { panic!("{name} in {:?}", record.headers) };
    String::from_utf8(value.to_vec()).expect("text")
}

fn listed(driver: &mut Driver, topic: &str) -> usize {
    let list = wire::ListDeadLetters {
        topic: topic.into(),
        group: "resize".into(),
        count_max: 1_000,
        ..Default::default()
    };
    match driver.ask(Request::ListDeadLetters(list)).expect("listed") {
        Response::DeadLetters { letters, .. } => letters.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_keeps_everything_and_says_how_it_died() {
    let mut driver = Driver::open(Arc::new(SimDisk::new(0)), START);
    let (photos, graves) = (driver.topic("photos", 1), driver.topic("graves", 1));
    create_group(&mut driver, "graves", &["photos"]).expect("created");
    let mut builder = BatchBuilder::new(Compression::None);
    let headers: [(&[u8], Option<&[u8]>); 4] = [
        (b"trace", Some(b"47")),
        (b"trace", None),
        (b"dure-ttl-ms", Some(b"90000000")),
        (b"dure-dead-reason", None),
    ];
    builder.push(Some(b"k"), Some(b"v"), &headers, 77).expect("fits");
    driver.ask(Request::Produce(common::produce(photos, builder.build(None)))).expect("produced");
    reject_all(&mut driver, "photos");

    let [copy] = &records(&driver, graves)[..] else { panic!("one copy") };
    assert_eq!((copy.key.as_deref(), copy.value.as_deref()), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(copy.timestamp_ms, 77);
    let own: Vec<_> = copy.headers.iter().take(2).map(|(n, v)| (&n[..], v.as_deref())).collect();
    assert_eq!(own, [(&b"trace"[..], Some(&b"47"[..])), (b"trace", None)]);
    let said = [
        (DEAD_REASON_HEADER, "bad 0"),
        (DEAD_ATTEMPTS_HEADER, "1"),
        (DEAD_GROUP_HEADER, "resize"),
        (DEAD_TOPIC_HEADER, "photos"),
        (DEAD_PARTITION_HEADER, "0"),
        (DEAD_OFFSET_HEADER, "0"),
        (DEAD_TIME_HEADER, "1700000000000"),
    ];
    said.iter().for_each(|(name, value)| assert_eq!(header(copy, name), *value, "{name}"));
    assert_eq!(copy.headers.len(), 2 + said.len(), "{:?}", copy.headers);
    // It is a dead letter as without a name, too.
    assert_eq!(listed(&mut driver, "photos"), 1);
    let redrive = wire::Redrive { topic: "photos".into(), group: "resize".into(), count_max: 0 };
    driver.ask(Request::Redrive(redrive)).expect("redriven");
    reject_all(&mut driver, "photos");
    assert_eq!(records(&driver, graves).len(), 2, "each death is one copy");
}

#[test]
fn a_group_cannot_bury_in_what_it_works() {
    let mut driver = Driver::open(Arc::new(SimDisk::new(0)), START);
    driver.topic("photos", 1);
    driver.topic("graves", 1);
    assert!(matches!(create_group(&mut driver, "nowhere", &["photos"]), Err(RequestError::UnknownTopic(_))));
    let own = create_group(&mut driver, "graves", &["photos", "graves"]);
    assert!(matches!(&own, Err(RequestError::Invalid(what)) if what.contains("come back")), "{own:?}");
    create_group(&mut driver, "graves", &["photos"]).expect("created");
    let work = wire::WorkQueue { topic: "graves".into(), group: "resize".into(), ..Default::default() };
    let refused = driver.ask(Request::WorkQueue(work));
    assert!(
        matches!(&refused, Err(RequestError::Invalid(what)) if what.contains("come back")),
        "{refused:?}"
    );
}

#[test]
fn where_the_topic_takes_none_they_wait_and_nothing_else_does() {
    let disk = SimDisk::new(0);
    let mut driver = Driver::open(Arc::new(disk.clone()), START);
    let photos = driver.topic("photos", 1);
    driver.topic("graves", 1);
    create_group(&mut driver, "graves", &["photos"]).expect("created");
    driver.ask(Request::DeleteTopic(wire::DeleteTopic { name: "graves".into() })).expect("deleted");
    driver.produce(photos, &["a", "b"]).expect("produced");
    reject_all(&mut driver, "photos");
    let row = driver.group("resize").partitions.remove(0);
    assert_eq!((row.dead, row.uncopied, row.lag), (2, 2, 0), "{row:?}");
    assert!(row.copies_wait.contains("unknown topic `graves`"), "{row:?}");
    driver.produce(photos, &["c"]).expect("others go on");
    assert_eq!(driver.receive("photos", "resize", 1).len(), 1);

    // One that is larger than the topic takes, then one that fits.
    let config = wire::TopicConfig { message_bytes_max: 10, ..default_topic_config() };
    let create = wire::CreateTopic { name: "graves".into(), partitions: 1, config: Some(config) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    let graves = driver.partition("graves");
    driver.advance(1_000);
    let row = driver.group("resize").partitions.remove(0);
    assert!(row.uncopied == 2 && row.copies_wait.contains("--max-message"), "{row:?}");
    drop(driver);
    disk.crash_process();
    let mut driver = Driver::open(Arc::new(disk.clone()), START);
    let alter = wire::AlterTopic {
        name: "graves".into(),
        config: Some(default_topic_config()),
        ..Default::default()
    };
    driver.ask(Request::AlterTopic(alter)).expect("altered");
    driver.advance(1_000);
    let row = driver.group("resize").partitions.remove(0);
    assert_eq!((row.uncopied, &*row.copies_wait), (0, ""), "{row:?}");
    assert_eq!(driver.read_all(graves, Offset(0)), ["a", "b"]);
}

#[test]
fn whenever_the_power_fails_each_letter_is_copied_once() {
    let mut changes = 0;
    loop {
        let disk = SimDisk::new(0);
        let mut driver = open_small(&disk);
        driver.may_stop = true;
        let photos = driver.topic("photos", 1);
        driver.topic("graves", 2);
        create_group(&mut driver, "graves", &["photos"]).expect("created");
        driver.produce(photos, &["a", "b", "c"]).expect("produced");
        let leases = driver.receive("photos", "resize", 3);
        disk.power_off_after(changes);
        for lease in leases {
            let receipt =
                dure_proto::Receipt { partition: photos.partition, offset: lease.offset, token: lease.token };
            let item =
                dure_engine::SettleItem { receipt, action: SettleAction::Reject { reason: "bad".into() } };
            let (topic, group) = ("photos".into(), "resize".into());
            driver.try_ask(Request::Settle(dure_engine::Settle { topic, group, items: vec![item] }));
        }
        let survived = !disk.is_off();
        drop(driver);
        let _ = disk.crash_with(|_| if changes % 2 == 0 { Survival::Lost } else { Survival::Kept });
        let mut driver = open_small(&disk);
        driver.advance(1_000);
        let letters = listed(&mut driver, "photos");
        let graves = driver.partition("graves");
        let copies: Vec<_> = (0..2)
            .flat_map(|p| {
                records(&driver, TopicPartition { partition: dure_proto::PartitionId(p), ..graves })
            })
            .collect();
        let mut offsets: Vec<_> = copies.iter().map(|copy| header(copy, DEAD_OFFSET_HEADER)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!((copies.len(), offsets.len()), (letters, letters), "after {changes} changes");
        if survived {
            assert_eq!(letters, 3);
            return;
        }
        changes += 1;
    }
}
