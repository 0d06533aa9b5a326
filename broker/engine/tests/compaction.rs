//! Compaction by key: of each key the newest message stays, whatever happens in between.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::Driver;
use dure_engine::*;
use dure_proto::wire::{Cleanup, TopicConfig};
use dure_proto::{
    BatchBuilder, BatchLimits, Compression, Offset, Records, ShardId, TopicPartition, split_entries, wire,
};

const START: Now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
const PASS_MS: u64 = 2_000;
const TOMBSTONES_MS: u64 = 60_000;

fn config() -> TopicConfig {
    TopicConfig {
        segment_bytes: 16 << 10,
        cleanup: Cleanup::Compact as i32,
        compact_after_ms: 1_000,
        tombstone_retention_ms: TOMBSTONES_MS,
        ..default_topic_config()
    }
}

fn topic(driver: &mut Driver) -> TopicPartition {
    let create = wire::CreateTopic { name: "t".into(), partitions: 1, config: Some(config()) };
    driver.ask(Request::CreateTopic(create)).expect("created");
    driver.partition("t")
}

/// A key and what is said of it; `None` deletes it.
type Said = (String, Option<Vec<u8>>);

fn batch(records: &[Said], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for (key, value) in records {
        builder.push(Some(key.as_bytes()), value.as_deref(), &[], 5).expect("fits");
    }
    builder.build(None)
}

fn request(partition: TopicPartition, records: &[Said], compression: Compression) -> Request {
    let batch = batch(records, compression);
    Request::Produce(Produce {
        partition,
        batch,
        keyed: true,
        all_keyed: true,
        record_bytes_max: 4_000,
        expiring: false,
        ids: Vec::new(),
    })
}

fn say(driver: &mut Driver, partition: TopicPartition, records: &[Said]) -> Offset {
    match driver.ask(request(partition, records, Compression::None)).expect("produced") {
        Response::Produced { base_offset, .. } => base_offset,
        other => panic!("{other:?}"),
    }
}

fn said(key: &str, value: &str) -> Said {
    (key.to_owned(), Some(value.as_bytes().to_vec()))
}

fn deleted(key: &str) -> Said {
    (key.to_owned(), None)
}

/// Everything in a log, with its offset; that entries follow each other without a gap is checked on the way.
fn contents(view: &LogView, from: Offset) -> Vec<(u64, Said)> {
    let mut found = Vec::new();
    let mut cursor = Cursor::at(from);
    loop {
        match view.read(&mut cursor, 3_000, Wait::MayWait).expect("read") {
            ReadOutcome::Entries(entries) => {
                for entry in split_entries(entries) {
                    let (_, batch) = entry.expect("valid");
                    let records = Records::decode(&batch, &BatchLimits::stored()).expect("decodes");
                    for i in (0..records.len()).filter(|i| records.offset(*i) >= from) {
                        let key = String::from_utf8(records.key(i).expect("a key").to_vec()).expect("text");
                        let value = records.value(i).map(|value| value.to_vec());
                        found.push((records.offset(i).0, (key, value)));
                    }
                }
            }
            ReadOutcome::AtEnd => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cursor.offset(), view.high_watermark);
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "offsets ascend");
    found
}

fn offsets(driver: &Driver, partition: TopicPartition) -> Vec<u64> {
    contents(&driver.views[&partition], driver.views[&partition].log_start)
        .iter()
        .map(|(at, _)| *at)
        .collect()
}

/// Passes until nothing more is due.
fn compact(driver: &mut Driver) {
    (0..6).for_each(|_| driver.advance(PASS_MS));
}

fn filler() -> String {
    "x".repeat(3_000)
}

#[test]
fn the_newest_message_of_each_key_stays_at_its_offset() {
    let disk: DiskRef = Arc::new(SimDisk::new(1));
    let mut driver = Driver::open(disk.clone(), START);
    let t = topic(&mut driver);
    for round in 0..10 {
        let value = format!("{round}{}", filler());
        say(&mut driver, t, &[said("a", &value), said(&format!("k{round}"), &value), said("b", &value)]);
    }
    let before = contents(&driver.views[&t], Offset(0));
    let old_view = driver.views[&t].clone();
    let bytes = driver.views[&t].bytes;
    compact(&mut driver);
    let wanted = [1, 4, 7, 10, 13, 16, 19, 22, 25, 27, 28, 29];
    assert_eq!(offsets(&driver, t), wanted);
    assert!(driver.views[&t].bytes < bytes / 2, "{} of {bytes} bytes", driver.views[&t].bytes);
    for from in 0..=30 {
        let rest: Vec<u64> = wanted.iter().copied().filter(|offset| *offset >= from).collect();
        let found: Vec<u64> =
            contents(&driver.views[&t], Offset(from)).iter().map(|(offset, _)| *offset).collect();
        assert_eq!(found, rest, "read from {from}");
    }
    assert_eq!(contents(&old_view, Offset(0)), before, "who reads goes on reading what was there");
    assert_eq!(say(&mut driver, t, &[said("a", "last")]), Offset(30));
    let report = verify(&*disk, ShardId(0), 7).expect("verified");
    assert!(report.is_ok(), "{:?}", report.findings);
    let now = driver.now;
    drop(driver);
    let mut driver = Driver::open(disk.clone(), now);
    assert_eq!(driver.report.findings, []);
    assert_eq!(offsets(&driver, t), [&wanted[..], &[30]].concat());
    // What became small becomes one, and the files of what was replaced are gone.
    compact(&mut driver);
    assert_eq!(offsets(&driver, t), [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 29, 30]);
    let files = disk.list(&format!("shard-0000/log/{}/0", t.topic)).expect("listed");
    assert!(files.len() <= 2 * (driver.views[&t].bytes as usize / 8_000 + 2), "{files:?}");
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes_with_its_key() {
    let mut driver = Driver::open(Arc::new(SimDisk::new(1)), START);
    let t = topic(&mut driver);
    say(&mut driver, t, &[said("a", "1"), said("b", "2")]);
    say(&mut driver, t, &[deleted("a"), said("c", "3")]);
    compact(&mut driver);
    assert_eq!(offsets(&driver, t), [1, 2, 3], "what it deletes is gone");
    (0..TOMBSTONES_MS / PASS_MS - 8).for_each(|_| driver.advance(PASS_MS));
    assert_eq!(offsets(&driver, t), [1, 2, 3], "its time is not over");
    (0..12).for_each(|_| driver.advance(PASS_MS));
    assert_eq!(offsets(&driver, t), [1, 3]);
    assert_eq!(driver.views[&t].high_watermark, Offset(4));
    // A key that comes back is a new one.
    say(&mut driver, t, &[said("a", "4")]);
    compact(&mut driver);
    assert_eq!(offsets(&driver, t), [1, 3, 4]);
}

#[test]
fn a_log_of_which_nothing_stays_keeps_its_offsets() {
    let disk: DiskRef = Arc::new(SimDisk::new(1));
    let mut driver = Driver::open(disk.clone(), START);
    let t = topic(&mut driver);
    say(&mut driver, t, &[said("a", "1"), deleted("a")]);
    (0..TOMBSTONES_MS / PASS_MS + 10).for_each(|_| driver.advance(PASS_MS));
    assert_eq!(offsets(&driver, t), Vec::<u64>::new());
    drop(driver);
    let mut driver = Driver::open(disk.clone(), START);
    assert_eq!(driver.report.findings, []);
    assert_eq!((offsets(&driver, t), driver.views[&t].high_watermark), (vec![], Offset(2)));
    assert_eq!(say(&mut driver, t, &[said("b", "2")]), Offset(2));
    assert_eq!(offsets(&driver, t), [2]);
    assert!(verify(&*disk, ShardId(0), 7).expect("verified").is_ok());
}

#[test]
fn what_does_not_fit_a_compacted_topic_is_refused_with_its_name() {
    let mut driver = Driver::open(Arc::new(SimDisk::new(1)), START);
    let t = topic(&mut driver);
    let refused = driver.produce(t, &["no key"]);
    assert_eq!(refused, Err(RequestError::KeyRequired { topic: "t".into() }));
    let create = wire::CreateGroup {
        name: "g".into(),
        kind: wire::GroupKind::Queue as i32,
        topics: vec!["t".into()],
        queue: None,
    };
    let refused = driver.ask(Request::CreateGroup(create)).expect_err("refused");
    assert_eq!(refused, RequestError::CompactedTopic { topic: "t".into(), group: "g".into() });
    assert_eq!(refused.code(), wire::ErrorCode::CompactedTopic);
    let alter = |cleanup: Cleanup| wire::AlterTopic {
        name: "t".into(),
        partitions: None,
        config: Some(TopicConfig { cleanup: cleanup as i32, ..config() }),
        force: false,
    };
    assert!(matches!(driver.ask(Request::AlterTopic(alter(Cleanup::Delete))), Err(RequestError::Invalid(_))));
    driver.ask(Request::AlterTopic(alter(Cleanup::Compact))).expect("everything else may change");
}

#[test]
fn more_keys_than_there_is_room_for_take_several_passes() {
    let disk: DiskRef = Arc::new(SimDisk::new(1));
    let config = ShardConfig { compaction_keys_max: 7, ..common::config() };
    let mut driver = Driver::open_with(disk, START, config);
    let t = topic(&mut driver);
    for round in 0..3 {
        for key in 0..40 {
            say(&mut driver, t, &[said(&format!("k{key}"), &format!("{round}{}", &filler()[..400]))]);
        }
    }
    (0..60).for_each(|_| driver.advance(PASS_MS));
    assert_eq!(offsets(&driver, t), (80..120).collect::<Vec<u64>>());
}

#[test]
fn a_damaged_segment_is_left_as_it_is_and_named() {
    let disk = SimDisk::new(1);
    let mut driver = Driver::open(Arc::new(disk.clone()), START);
    let t = topic(&mut driver);
    for round in 0..8 {
        say(&mut driver, t, &[said("a", &format!("{round}{}", filler()))]);
    }
    let path = format!("shard-0000/log/{}/0/{:020}.log", t.topic, 0);
    disk.flip_bit(&path, 64 + 40 + 3_200, 3).expect("it is there");
    compact(&mut driver);
    let mut cursor = Cursor::at(Offset(0));
    let view = &driver.views[&t];
    let first = view.read(&mut cursor, 1, Wait::MayWait).expect("read");
    assert!(matches!(first, ReadOutcome::Entries(_) | ReadOutcome::Lost(_)), "{first:?}");
    let mut lost = Vec::new();
    while cursor.offset() < view.high_watermark {
        if let ReadOutcome::Lost(range) = view.read(&mut cursor, 1, Wait::MayWait).expect("read") {
            lost.push((range.start.0, range.end.0));
        }
    }
    assert_eq!(lost, [(1, 2)], "neither hidden nor made larger");
}

#[test]
fn a_directory_that_fails_to_sync_in_a_pass_stops_the_shard() {
    let disk = SimDisk::new(1);
    let mut driver = Driver::open(Arc::new(disk.clone()), START);
    let t = topic(&mut driver);
    for round in 0..8 {
        say(&mut driver, t, &[said("a", &format!("{round}{}", filler()))]);
    }
    disk.set_faults(SimFaults { fail_sync_dir: FaultRule::From(1), ..SimFaults::default() });
    driver.may_stop = true;
    compact(&mut driver);
    let why = driver.stopped.expect("names of other logs may be lost with the directory");
    assert!(why.contains("directory"), "{why}");
}

/// An offset, and the value of a key there; none for a tombstone.
type Written = (u64, Option<Vec<u8>>);

/// What anybody may see of a log: keys and their newest values.
#[derive(Clone, Default, Debug)]
struct Model {
    /// By key: every offset and value acknowledged.
    acked: BTreeMap<String, Vec<Written>>,
    /// Sent, and not answered when the power went.
    doubtful: Vec<Said>,
}

impl Model {
    fn check(&self, found: &[(u64, Said)]) {
        let mut newest: BTreeMap<&str, (u64, Option<&[u8]>)> = BTreeMap::new();
        for (offset, (key, value)) in found {
            let acked = self.acked.get(key).and_then(|said| said.iter().find(|(at, _)| at == offset));
            match acked {
                Some((_, wanted)) => assert_eq!(wanted, value, "{key} at {offset}"),
                None => assert!(self.doubtful.contains(&(key.clone(), value.clone())), "{key} at {offset}"),
            }
            newest.insert(key, (*offset, value.as_deref()));
        }
        for (key, said) in &self.acked {
            let (at, wanted) = said.last().expect("said at least once");
            match newest.get(key.as_str()) {
                Some((offset, value)) if offset == at => assert_eq!(*value, wanted.as_deref(), "{key}"),
                Some((offset, value)) => {
                    let later = self.doubtful.iter().any(|(k, v)| k == key && v.as_deref() == *value);
                    assert!(offset > at && later, "{key}: the newest is at {at}, and {offset} is shown");
                }
                // Only a tombstone goes by itself.
                None => assert_eq!(*wanted, None, "{key} is lost"),
            }
        }
    }
}

/// Keyed writes, deletions and passes under a disk that goes off at its n-th operation, every time again, until the
/// whole story fits between two of them.
/// Lets time pass with commits held back: all other jobs run as they come.
fn advance_without_commits(driver: &mut Driver, ms: u64, held: &mut Vec<DiskJob>) {
    driver.now = Now { mono_ms: driver.now.mono_ms + ms, wall_ms: driver.now.wall_ms + ms };
    loop {
        driver.shard.turn(driver.now);
        let effects = driver.shard.take_effects();
        if effects.is_empty() {
            return;
        }
        for effect in effects {
            match effect {
                Effect::Job(job) if job.kind() == JobKind::Commit => held.push(job),
                Effect::Job(job) => {
                    let done = job.run(&*driver.disk);
                    driver.shard.handle(driver.now, Input::JobDone(done));
                }
                Effect::Publish(view) => drop(driver.views.insert(view.partition, view)),
                _ => {}
            }
        }
    }
}

#[test]
fn an_old_value_does_not_come_back_through_a_view_that_shows_it_still() {
    let disk: DiskRef = Arc::new(SimDisk::new(1));
    let mut driver = Driver::open(disk.clone(), START);
    let t = topic(&mut driver);
    say(&mut driver, t, &[said("a", &filler())]);
    say(&mut driver, t, &[deleted("a"), said("b", "1")]);
    // A pass takes the old value; nobody sees that yet, since its commit takes long. Until then the tombstone gets old.
    let mut held = Vec::new();
    for _ in 0..TOMBSTONES_MS / PASS_MS + 5 {
        advance_without_commits(&mut driver, PASS_MS, &mut held);
    }
    assert!(!held.is_empty(), "something was decided");
    assert_eq!(offsets(&driver, t), [0, 1, 2]);
    for job in held {
        let done = job.run(&*disk);
        driver.shard.handle(driver.now, Input::JobDone(done));
    }
    driver.settle();
    for _ in 0..TOMBSTONES_MS / PASS_MS + 5 {
        driver.advance(PASS_MS);
        let all = contents(&driver.views[&t], Offset(0));
        let old = all.iter().find(|(_, (key, value))| key == "a" && value.is_some());
        assert_eq!(old, None, "a was deleted");
    }
    assert_eq!(offsets(&driver, t), [2]);
}

#[test]
fn a_pass_that_fails_is_counted_named_and_tried_again() {
    let sim = SimDisk::new(1);
    let mut driver = Driver::open(Arc::new(sim.clone()), START);
    let t = topic(&mut driver);
    for round in 0..10 {
        say(&mut driver, t, &[said("a", &format!("{round}{}", filler()))]);
    }
    let only_under = "shard-0000/log".to_owned();
    sim.set_faults(SimFaults { only_under, fail_write: FaultRule::From(1), ..SimFaults::default() });
    let described = |driver: &mut Driver| {
        let describe = wire::DescribeTopics { names: vec!["t".into()] };
        match driver.ask(Request::DescribeTopics(describe)).expect("described") {
            Response::Topics(mut topics) => topics.remove(0).partitions.remove(0).compaction_failed,
            other => panic!("{other:?}"),
        }
    };
    compact(&mut driver);
    (0..35).for_each(|_| driver.advance(PASS_MS));
    let failures = &driver.compaction_failures;
    assert_eq!(failures.iter().map(|failed| failed.again).collect::<Vec<_>>(), [false, true]);
    assert_eq!((failures[0].partition, &*failures[0].topic), (t, "t"));
    let what = failures[1].what.clone();
    assert!(what.contains("write") && described(&mut driver) == what, "{what}");
    sim.set_faults(SimFaults::default());
    (0..35).for_each(|_| driver.advance(PASS_MS));
    assert_eq!((driver.compaction_failures.len(), &*described(&mut driver)), (2, ""));
    assert!(offsets(&driver, t).len() < 10);
}

#[test]
fn the_newest_of_each_key_survives_a_crash_at_every_boundary() {
    let mut crashes = 0;
    for seed in 0..3 {
        for at in (seed..).step_by(3) {
            if !story(seed, at) {
                break;
            }
            crashes += 1;
        }
    }
    assert!(crashes > 100, "{crashes} boundaries");
}

/// Small pieces and many checkpoints.
fn small() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: 96 << 10,
        checkpoint_bytes: 24 << 10,
        commit_bytes_soft: 4 << 10,
        commit_bytes_max: 80 << 10,
        ..common::config()
    }
}

/// Returns whether the disk went off before the end.
fn story(seed: u64, off_at: u64) -> bool {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = SimDisk::new(seed);
    let mut driver = Driver::open_with(Arc::new(disk.clone()), START, small());
    driver.may_stop = true;
    let t = topic(&mut driver);
    let mut model = Model::default();
    disk.power_off_after(off_at);
    let went_off = tell(&mut driver, &mut rng, t, &mut model, 60);
    let now = driver.now;
    drop(driver);
    disk.crash(&mut rng);
    // What follows is undisturbed: all that was said is there, and compaction goes on with it.
    let mut driver = Driver::open_with(Arc::new(disk), Now { mono_ms: 0, ..now }, small());
    let damage: Vec<&Finding> = driver.report.findings.iter().filter(|f| f.is_damage()).collect();
    assert!(damage.is_empty(), "seed {seed}, off at {off_at}: {damage:?}");
    model.check(&contents(&driver.views[&t], Offset(0)));
    tell(&mut driver, &mut rng, t, &mut model, 10);
    compact(&mut driver);
    model.check(&contents(&driver.views[&t], Offset(0)));
    went_off
}

fn tell(
    driver: &mut Driver,
    rng: &mut fastrand::Rng,
    t: TopicPartition,
    model: &mut Model,
    steps: usize,
) -> bool {
    for _ in 0..steps {
        if rng.u8(0..4) == 0 {
            driver.advance(PASS_MS);
        } else {
            let records: Vec<Said> = (0..rng.usize(1..4))
                .map(|_| {
                    let key = format!("k{}", rng.u8(0..6));
                    let value = format!("{}-{}", rng.u32(..), &filler()[..rng.usize(0..2_500)]);
                    (key, (rng.u8(0..5) > 0).then(|| value.into_bytes()))
                })
                .collect();
            let compression = [Compression::None, Compression::Lz4, Compression::Zstd][rng.usize(0..3)];
            match driver.try_ask(request(t, &records, compression)) {
                Some(Ok(Response::Produced { base_offset, .. })) => {
                    for (offset, (key, value)) in (base_offset.0..).zip(records) {
                        model.acked.entry(key).or_default().push((offset, value));
                    }
                }
                Some(Ok(other)) => panic!("{other:?}"),
                Some(Err(_)) | None => model.doubtful.extend(records),
            }
        }
        if driver.stopped.is_some() {
            return true;
        }
    }
    false
}
