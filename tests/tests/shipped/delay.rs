//! Messages that wait for their time, on the command line and over crashes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dure_client::Message;
use dure_tests::harness::{Broker, Dure, eventually};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}

fn scheduled(broker: &Broker) -> u64 {
    broker.json("topic describe t")["scheduled"].as_u64().expect("a number")
}

#[test]
fn a_delayed_message_has_no_offset_until_it_is_due_and_then_everybody_reads_it() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue").ok();
    let sent_ms = now_ms();
    let printed = broker.dure("produce t --delay 2s").stdin("later\n").json_lines();
    assert_eq!((&printed[0]["topic"], &printed[0]["offset"]), (&"t".into(), &Value::Null), "{}", printed[0]);
    assert_eq!(broker.dure("produce t").stdin("now\n").json_lines()[0]["offset"], 0);
    assert_eq!((scheduled(&broker), broker.json_lines("consume t").len()), (1, 1));
    assert_eq!(broker.json("group describe g")["lag"], 1, "it is in no group's counts");
    eventually(LIMIT, "it is due", || (broker.json_lines("consume t").len() == 2).then_some(()));
    let message = broker.json_lines("consume t").remove(1);
    let entered_ms = message["timestamp"].as_u64().expect("a time");
    assert_eq!((&message["value"], &message["offset"]), (&"later".into(), &1.into()));
    assert!((sent_ms + 2_000..sent_ms + 4_000).contains(&entered_ms), "{entered_ms}, sent at {sent_ms}");
    assert_eq!((scheduled(&broker), &broker.json("group describe g")["ready"]), (0, &2.into()));
}

#[test]
fn a_time_that_is_past_means_now_and_more_than_a_year_ahead_is_refused() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let printed = broker.dure("produce t --at 2020-01-31T12:00:00+01:00").stdin("a\n").json_lines();
    assert_eq!(printed[0]["offset"], 0);
    broker.dure("produce t --delay 367d").stdin("a\n").exits(1).says(&["`t`", "at most 366 days"]);
    broker.dure("produce t --at 2099-01-01T00:00:00Z").stdin("a\n").exits(1).says(&["at most 366 days"]);
    broker.dure("produce t --at tomorrow").stdin("a\n").exits(2).says(&["2026-01-31T12:00:00Z"]);
    broker.dure("produce t --delay 366d").stdin("a\n").ok();
    assert_eq!(scheduled(&broker), 1);
    // Nobody sees what is the broker's own.
    assert_eq!(broker.json_lines("topic list").len(), 1);
    broker.dure("topic purge t --yes").ok();
    assert_eq!(scheduled(&broker), 0);
}

/// Killed again and again while messages become due: all that were acknowledged enter, once, and none early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_between_due_and_entered_loses_none_and_repeats_none() {
    const MESSAGES: u64 = 2_000;
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    let client = broker.client().await;
    let producer = client.producer("t").build().await.expect("a producer");
    let begun_ms = now_ms();
    let mut deliveries = Vec::new();
    for n in 0..MESSAGES {
        let due_ms = begun_ms + 1_000 + n * 37 % 4_000;
        let at = UNIX_EPOCH + Duration::from_millis(due_ms);
        let message = Message::new(format!("{n} {due_ms}")).deliver_at(at).partition((n % 2) as u32);
        deliveries.push(producer.enqueue(message).await.expect("enqueued"));
    }
    for delivery in deliveries {
        assert_eq!(delivery.await.expect("acknowledged").offset, None);
    }
    while now_ms() < begun_ms + 5_200 {
        broker.crash();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    eventually(LIMIT, "all have entered", || (scheduled(&broker) == 0).then_some(()));
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for message in broker.json_lines("consume t") {
        let value = message["value"].as_str().expect("a value");
        let (n, due_ms) = value.split_once(' ').expect("two numbers");
        *found.entry(n.parse().expect("a number")).or_default() += 1;
        let entered_ms = message["timestamp"].as_u64().expect("a time");
        assert!(due_ms.parse::<u64>().expect("a number") <= entered_ms, "{value} entered at {entered_ms}");
    }
    assert!(found.len() as u64 == MESSAGES && found.values().all(|times| *times == 1), "{found:?}");
}

#[test]
fn a_backup_has_what_waits_and_the_logs_verify() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t --delay 4s").stdin("a\nb\n").ok();
    broker.dure("produce t --delay 30d").stdin("c\n").ok();
    let archive = broker.home().join("backup.tar");
    let archive = archive.to_str().expect("UTF-8");
    broker.dure("backup --to").arg(archive).ok();
    broker.stop();
    let data = broker.data();
    let data = data.to_str().expect("UTF-8");
    Dure::new("log verify --data").arg(data).ok();
    std::fs::remove_dir_all(data).expect("removed");
    Dure::new("restore").args([archive, "--data", data]).ok();
    broker.start_again();
    eventually(LIMIT, "they are due", || (broker.json_lines("consume t").len() == 2).then_some(()));
    assert_eq!(scheduled(&broker), 1);
}
