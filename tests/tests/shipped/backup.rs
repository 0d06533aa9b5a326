//! Backups of running and of stopped brokers, and what is restored from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dure_client::{Client, Message};
use dure_tests::harness::{Broker, Dure, Exit, eventually, eventually_async, http_get, listing};
use serde_json::Value;
use tokio::task::{JoinSet, block_in_place};

type Place = (u32, u64);

/// What clients were told, as it goes on.
#[derive(Default)]
struct History {
    produced: Mutex<BTreeMap<Place, String>>,
    acked: Mutex<BTreeSet<Place>>,
    rejected: Mutex<BTreeSet<Place>>,
    /// Asked for, whatever came of it.
    asked: Mutex<BTreeSet<Place>>,
    slowest_ms: AtomicU64,
    stop: AtomicBool,
}

impl History {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

async fn produce(client: Client, history: Arc<History>, who: usize) {
    let producer = client.producer("t").build().await.unwrap();
    let mut n = 0_u64;
    while history.goes_on() {
        let value = format!("{who}-{n}-{}", "x".repeat((n % 700) as usize));
        let asked = Instant::now();
        let ack = producer.send(Message::new(value.clone())).await.unwrap();
        history.slowest_ms.fetch_max(asked.elapsed().as_millis() as u64, Ordering::Relaxed);
        assert_eq!(
            history.produced.lock().unwrap().insert((ack.partition, ack.offset.unwrap()), value),
            None
        );
        n += 1;
    }
}

async fn work(client: Client, history: Arc<History>) {
    let mut jobs = client.queue("t", "g").prefetch(8).subscribe().await.unwrap();
    while history.goes_on() {
        let Ok(Some(job)) = tokio::time::timeout(Duration::from_millis(200), jobs.next()).await else {
            continue;
        };
        let job = job.unwrap();
        let place = (job.partition(), job.offset());
        history.asked.lock().unwrap().insert(place);
        if place.1 % 11 == 3 {
            job.reject("every eleventh").await.unwrap();
            history.rejected.lock().unwrap().insert(place);
        } else {
            job.ack().await.unwrap();
            history.acked.lock().unwrap().insert(place);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Everything in topic `t` by its place; offsets are dense.
fn everything(broker: &Broker) -> BTreeMap<Place, String> {
    let mut found: BTreeMap<Place, String> = BTreeMap::new();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for message in broker.json_lines("consume t") {
        let number = |name: &str| message[name].as_u64().expect("a number");
        let place = (number("partition") as u32, number("offset"));
        let next = next.entry(place.0).or_default();
        assert_eq!(place.1, *next, "partition {}", place.0);
        *next += 1;
        found.insert(place, message["value"].as_str().expect("a text").to_owned());
    }
    found
}

/// Puts what was restored in the place of a broker's data, and starts it on that.
fn start_on_restored(broker: &mut Broker, archive: &Path) -> Value {
    fs::rename(broker.data(), broker.home().join("original")).unwrap();
    let restored = Dure::new("restore").args([text(archive), "--data", text(&broker.data())]).json();
    broker.start_again();
    restored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_what_was_acknowledged_before_it() {
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 3 --segment-size 256KiB").ok();
    broker.dure("group create g --topic t --kind queue --lease 60s").ok();
    let history = Arc::new(History::default());
    let mut tasks = JoinSet::new();
    for who in 0..4 {
        tasks.spawn(produce(broker.client().await, history.clone(), who));
        if who % 2 == 0 {
            tasks.spawn(work(broker.client().await, history.clone()));
        }
    }
    eventually_async(Duration::from_secs(60), "there is load", async || {
        let (produced, acked) = (history.produced.lock().unwrap().len(), history.acked.lock().unwrap().len());
        (produced > 1_500 && acked > 300 && history.rejected.lock().unwrap().len() > 20).then_some(())
    })
    .await;
    let archive = broker.home().join("backup.tar");
    let (before, acked, rejected) = (
        history.produced.lock().unwrap().clone(),
        history.acked.lock().unwrap().clone(),
        history.rejected.lock().unwrap().clone(),
    );
    let quiet_ms = history.slowest_ms.swap(0, Ordering::Relaxed);
    let made = block_in_place(|| broker.dure("backup --to").arg(text(&archive)).json());
    let during_ms = history.slowest_ms.swap(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    history.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    eprintln!("slowest produce: {quiet_ms} ms before, {during_ms} ms during the backup; {made}");
    assert!(during_ms < 1_000.max(4 * quiet_ms), "producers were held up for {during_ms} ms");
    assert_eq!(made["bytes"].as_u64().unwrap(), fs::metadata(&archive).unwrap().len());
    assert!(!broker.home().join("backup.tar.partial").exists());

    let original = everything(&broker);
    broker.kill();
    let restored = start_on_restored(&mut broker, &archive);
    assert_eq!(restored["findings"], Value::Array(Vec::new()));
    let found = everything(&broker);
    assert_eq!(restored["topics"], 2, "{restored}");
    for (place, value) in &before {
        assert_eq!(found.get(place), Some(value), "{place:?}");
    }
    for (place, value) in &found {
        assert_eq!(original.get(place), Some(value), "{place:?}");
    }
    // Of each message the group knows either what became of it, or nothing: then it is delivered again.
    let dead: BTreeSet<Place> = broker
        .json_lines("dlq list t --group g")
        .iter()
        .map(|letter| (letter["partition"].as_u64().unwrap() as u32, letter["offset"].as_u64().unwrap()))
        .collect();
    assert!(rejected.is_subset(&dead), "dead letters are in it");
    let asked = history.asked.lock().unwrap().clone();
    assert!(dead.is_subset(&asked));
    let described = broker.json("group describe g");
    let rows = described["partitions"].as_array().unwrap();
    let sum = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("dead"), dead.len() as u64);
    let settled = found.len() as u64 - described["lag"].as_u64().unwrap();
    assert!(settled >= (acked.len() + rejected.len()) as u64, "{settled} are settled");
    // Nothing that was settled before comes back. Leases that were out run for another minute.
    let again = broker.json_lines("receive t --group g --count 1000 --wait 1s --ack");
    assert!(!again.is_empty() || described["ready"] == 0);
    for message in &again {
        let place = (message["partition"].as_u64().unwrap() as u32, message["offset"].as_u64().unwrap());
        assert!(!acked.contains(&place) && !dead.contains(&place), "{place:?} came back");
    }
    broker.stop();
    Dure::new("log verify --data").arg(text(&broker.data())).ok();
}

/// A stopped broker's data with a backup of it.
fn broker_with_backup() -> (Broker, PathBuf) {
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("produce t").stdin((0..500).map(|n| format!("line {n}\n")).collect::<String>()).ok();
    broker.kill();
    let archive = broker.home().join("backup.tar");
    Dure::new("backup --to").args([text(&archive), "--data", text(&broker.data())]).ok();
    (broker, archive)
}

#[test]
fn a_broker_that_was_killed_is_backed_up_from_its_directory() {
    let (mut broker, archive) = broker_with_backup();
    broker.start_again();
    let original = everything(&broker);
    assert_eq!(original.len(), 500);
    let before = broker.json("topic describe t");
    broker.stop();
    start_on_restored(&mut broker, &archive);
    assert_eq!(everything(&broker), original);
    assert_eq!(broker.json("topic describe t")["id"], before["id"]);
    broker.dure("produce t").stdin("more\n").ok();
    assert_eq!(everything(&broker).len(), 501);
    broker.crash();
    assert_eq!(everything(&broker).len(), 501);
}

#[test]
fn receipts_of_what_was_restored_are_of_epochs_that_the_original_never_sees() {
    let (mut broker, archive) = broker_with_backup();
    let epoch = |broker: &Broker| -> u64 {
        let message = broker.json("receive t --group g --lease 1s");
        message["receipt"].as_str().unwrap().split('-').nth(2).unwrap().parse().unwrap()
    };
    broker.start_again();
    let original = epoch(&broker);
    broker.stop();
    let restored = start_on_restored(&mut broker, &archive);
    let first = epoch(&broker);
    assert_eq!(restored["epoch"], first);
    assert!(first > original + 60_000, "{original} and {first}");
}

#[test]
fn an_archive_with_a_flipped_bit_or_cut_off_is_refused() {
    let (broker, archive) = broker_with_backup();
    let bytes = fs::read(&archive).unwrap();
    let to = broker.home().join("restored");
    let spoiled = broker.home().join("spoiled.tar");
    let restore = || Dure::new("restore").args([text(&spoiled), "--data", text(&to)]).exits(1);
    let left = || (to.exists(), broker.home().join("restored.restoring").exists());
    for at in [0, 700, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1500, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        fs::write(&spoiled, flipped).unwrap();
        restore().says(&["spoiled.tar", "nothing was restored"]);
        assert_eq!(left(), (false, false), "flipped at {at}");
    }
    for length in [0, 100, 512, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&spoiled, &bytes[..length]).unwrap();
        restore().says(&["spoiled.tar", "nothing was restored"]);
        assert_eq!(left(), (false, false), "cut at {length}");
    }
    fs::write(&spoiled, &bytes[..bytes.len() / 2]).unwrap();
    restore().says(&["cut off"]);
    fs::write(&spoiled, "just a text\n").unwrap();
    restore().says(&["no backup of DureMQ"]);
    Dure::new("restore").args([text(&archive), "--data", text(&to)]).ok();
    assert_eq!(left(), (true, false));
}

#[test]
fn nothing_that_is_there_is_overwritten_by_a_restore() {
    let (broker, archive) = broker_with_backup();
    let data = broker.data();
    let restore = |to: &Path| Dure::new("restore").args([text(&archive), "--data", text(to)]);
    restore(&data).exits(1).says(&["not empty", text(&data)]);
    let empty = broker.home().join("empty");
    fs::create_dir(&empty).unwrap();
    restore(&empty).ok();
    assert!(empty.join("FORMAT").exists());
    restore(&empty).exits(1).says(&["not empty"]);
    fs::create_dir(broker.home().join("next.restoring")).unwrap();
    restore(&broker.home().join("next")).exits(1).says(&["next.restoring", "remove it"]);
    restore(&archive).exits(1).says(&["not empty"]);
    Dure::new("restore nowhere.tar --data")
        .arg(text(&broker.home().join("x")))
        .exits(1)
        .says(&["nowhere.tar"]);
}

#[test]
fn the_directory_of_a_running_broker_is_refused() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let archive = broker.home().join("backup.tar");
    let refused = Dure::new("backup --to").args([text(&archive), "--data", text(&broker.data())]).exits(1);
    refused.says(&["in use by another broker"]);
    let none = Dure::new("backup --to").args([text(&archive), "--data", "no-such-directory"]).exits(1);
    none.says(&["no-such-directory"]);
    assert!(!archive.exists() && !broker.home().join("backup.tar.partial").exists());
    broker.dure("backup --to").arg("no-such-directory/backup.tar").exits(1).says(&["no-such-directory"]);
}

#[test]
fn a_file_that_cannot_be_read_ends_the_backup_and_is_named() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\nb\n").ok();
    let archive = broker.home().join("backup.tar");
    broker.dure("backup --to").arg(text(&archive)).ok();
    fs::remove_file(&archive).unwrap();
    let segment = broker.data().join("shard-0000/log/1/0/00000000000000000000.log");
    fs::remove_file(&segment).unwrap();
    fs::create_dir(&segment).unwrap();
    let failed = broker.dure("backup --to").arg(text(&archive)).exits(1);
    failed.says(&["shard-0000/log/1/0/00000000000000000000.log"]);
    assert!(!archive.exists() && !broker.home().join("backup.tar.partial").exists());
    // The broker goes on, and so do backups once the disk is mended.
    fs::remove_dir(&segment).unwrap();
    let short = broker.json(&format!("backup --to {}", text(&archive)));
    assert_eq!(short["damaged"][0], "shard-0000/log/1/0/00000000000000000000.log");
    // What it lost is said once more, and accepted if that is wanted.
    let restore = Dure::new("restore").args([text(&archive), "--data", text(&broker.home().join("r"))]);
    restore.exits(1).says(&["entries_lost", "--accept-damage"]);
    let restore =
        Dure::new("restore --accept-damage").args([text(&archive), "--data", text(&broker.home().join("r"))]);
    assert_eq!(restore.json()["findings"][0]["kind"], "entries_lost");
}

#[test]
fn a_client_that_goes_away_makes_room_for_the_next_backup() {
    let broker = Broker::start();
    broker.dure("topic create t --segment-size 1MiB").ok();
    broker.dure("bench produce --topic t --messages 40000 --size 1000 -o json").ok();
    let archive = broker.home().join("backup.tar");
    for _ in 0..3 {
        let mut first = broker.dure("backup --to").arg(text(&archive)).spawn();
        eventually(Duration::from_secs(10), "the first one has begun", || {
            broker.home().join("backup.tar.partial").exists().then_some(())
        });
        first.kill();
        assert!(!archive.exists());
    }
    eventually(Duration::from_secs(10), "the next one is made", || {
        let made = broker.dure("backup --to").arg(text(&archive)).run();
        archive.exists().then_some(made)
    });
}

#[test]
fn what_compaction_wrote_is_backed_up_and_no_damage_to_the_scrubber() {
    let mut broker = Broker::builder().flags("--scrub-rate 1GiB").start();
    broker.dure("topic create t --cleanup compact --segment-size 16KiB --config compact-after=1s").ok();
    for round in 0..8 {
        let lines: String = (0..20).map(|key| format!("k{key}:{round} {}\n", "x".repeat(1_000))).collect();
        broker.dure("produce t --key-separator :").stdin(lines).ok();
    }
    eventually(Duration::from_secs(60), "only the newest is left", || {
        (broker.json_lines("consume t").len() == 20).then_some(())
    });
    // A compacted segment that stays sealed, and whole passes over it.
    broker.dure("produce t --key-separator :").stdin(format!("other:{}\n", "y".repeat(15_000))).ok();
    broker.dure("produce t --key-separator :").stdin(format!("another:{}\n", "z".repeat(15_000))).ok();
    std::thread::sleep(Duration::from_millis(3_500));
    let (_, metrics) = http_get(broker.http(), "/metrics");
    assert!(metrics.contains("dure_scrub_findings_total{kind=\"entries_lost\"} 0"), "{metrics}");
    assert!(metrics.contains("dure_scrub_findings_total{kind=\"read_failed\"} 0"), "{metrics}");
    let messages = broker.json_lines("consume t");
    let archive = broker.home().join("backup.tar");
    broker.dure("backup --to").arg(text(&archive)).ok();
    broker.kill();
    let restored = start_on_restored(&mut broker, &archive);
    assert_eq!(restored["findings"], Value::Array(Vec::new()));
    assert_eq!(broker.json_lines("consume t"), messages);
}

fn segments_on(broker: &Broker) -> usize {
    let files = listing(&broker.data().join("shard-0000/log"));
    files.keys().filter(|path| path.extension().is_some_and(|kind| kind == "log")).count()
}

#[test]
fn a_client_that_takes_nothing_for_a_minute_loses_its_backup_and_nothing_is_kept_for_it() {
    let broker = Broker::start();
    broker.dure("topic create t --segment-size 1MiB").ok();
    broker.dure("bench produce --topic t --messages 150000 --size 1000 -o json").ok();
    let archive = broker.home().join("backup.tar");
    let mut stalled = broker.dure("backup --to").arg(text(&archive)).spawn();
    // Before the first of it comes, what there is may still go.
    let partial = broker.home().join("backup.tar.partial");
    eventually(Duration::from_secs(10), "it has begun", || {
        partial.metadata().is_ok_and(|file| file.len() > 0).then_some(())
    });
    stalled.pause();
    broker.dure("topic purge t --yes").ok();
    assert!(segments_on(&broker) > 50, "they are kept for the backup");
    eventually(Duration::from_secs(90), "the backup is given up", || {
        (segments_on(&broker) <= 1).then_some(())
    });
    broker.dure("produce t").stdin("after it\n").ok();
    stalled.resume();
    let exit = stalled.wait(Duration::from_secs(10));
    assert_eq!(exit, Exit::Code(1));
    let said = stalled.stderr();
    assert!(said.contains("took nothing for 60 s"), "{said}");
    assert!(!archive.exists() && !broker.home().join("backup.tar.partial").exists());
    broker.dure("backup --to").arg(text(&archive)).ok();
}
