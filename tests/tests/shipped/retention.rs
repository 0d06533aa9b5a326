//! What is deleted, and what is held.

use std::time::Duration;

use dure_tests::harness::{Broker, eventually, http_get, listing};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

fn partition(broker: &Broker) -> Value {
    broker.json("topic describe t")["partitions"][0].clone()
}

fn start_offset(broker: &Broker) -> u64 {
    partition(broker)["log_start_offset"].as_u64().unwrap()
}

/// Writes so many messages of a KiB in batches of ten.
fn produce(broker: &Broker, messages: usize) {
    for _ in 0..messages / 10 {
        broker.dure("produce t").stdin(format!("{}\n", "x".repeat(1023)).repeat(10)).ok();
    }
}

#[test]
fn size_removes_old_segments_and_reading_starts_behind_them() {
    let mut broker = Broker::start();
    broker.dure("topic create t --segment-size 16KiB --retention-size 48KiB").ok();
    produce(&broker, 200);
    eventually(LIMIT, "old segments go", || (start_offset(&broker) > 100).then_some(()));
    let small = |now: &Value| now["bytes"].as_u64().unwrap() <= (48 + 16 + 16) << 10;
    let now = eventually(LIMIT, "no more than that is kept", || Some(partition(&broker)).filter(small));
    assert_eq!(now["high_watermark"], 200);
    let messages = broker.json_lines("consume t");
    assert_eq!(messages[0]["offset"], now["log_start_offset"]);
    assert_eq!(messages.last().unwrap()["offset"], 199);
    // What is gone cannot be read; who asks for it gets what is left.
    assert_eq!(broker.json("consume t --from offset:0 --count 1")["offset"], now["log_start_offset"]);
    broker.crash();
    let after = partition(&broker);
    assert!(after["log_start_offset"].as_u64() >= now["log_start_offset"].as_u64(), "{now} became {after}");
    assert_eq!(after["high_watermark"], 200);
    let logs = broker.data().join("shard-0000/log");
    let kept: u64 =
        listing(&logs).iter().filter(|(path, _)| path.is_file()).map(|(_, (bytes, _))| bytes).sum();
    assert!((1..256 << 10).contains(&kept), "{kept} bytes in the directory");
}

#[test]
fn time_removes_old_messages() {
    let broker = Broker::start();
    broker.dure("topic create t --segment-size 16KiB --retention-time 3s").ok();
    produce(&broker, 60);
    eventually(LIMIT, "all of them are too old", || (start_offset(&broker) == 60).then_some(()));
    assert_eq!(broker.json("topic describe t")["messages"], 0);
    assert_eq!(broker.dure("produce t").stdin("new\n").json()["offset"], 60);
    assert_eq!(broker.json("consume t --count 1")["offset"], 60);
}

#[test]
fn what_a_queue_group_has_not_settled_is_held_unless_it_opts_out() {
    let mut broker = Broker::start();
    broker.dure("topic create t --segment-size 16KiB --retention-size 32KiB").ok();
    broker.dure("group create holding --topic t --kind queue").ok();
    broker.dure("group create careless --topic t --kind queue --hold no").ok();
    produce(&broker, 120);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(start_offset(&broker), 0, "nobody has settled the first one");
    assert_held(&broker);
    broker.crash();
    let mut received = 0;
    while received < 70 {
        let jobs = broker.json_lines("receive t --group holding --count 10 --wait 5s --ack");
        assert!(!jobs.is_empty());
        received += jobs.len();
    }
    eventually(LIMIT, "what is settled goes", || (start_offset(&broker) > 30).then_some(()));
    assert!(start_offset(&broker) <= received as u64, "beyond what is settled");
    let holding = broker.json("group describe holding");
    assert_eq!(holding["lag"], 120 - received as u64);
    // Who does not hold has lost what is gone, and is told no more of it.
    let careless = broker.json("group describe careless");
    assert_eq!(careless["lag"], json!(120 - start_offset(&broker)), "{careless}");
}

/// What is held is shown, who holds it, and since when.
fn assert_held(broker: &Broker) {
    let [holding, careless] = ["holding", "careless"].map(|g| broker.json(&format!("group describe {g}")));
    let row = &holding["partitions"][0];
    assert!(row["held_bytes"].as_u64().unwrap() > 60 << 10, "{holding}");
    assert!(row["held_since"].as_u64().unwrap() > 1_700_000_000_000, "{holding}");
    assert_eq!(holding["held_bytes"], row["held_bytes"]);
    assert_eq!(
        (&careless["held_bytes"], &careless["partitions"][0]["held_since"]),
        (&json!(0), &Value::Null)
    );
    let topic = partition(broker);
    assert_eq!(
        (&topic["held_bytes"], &topic["held_since"], &topic["held_by"]),
        (&row["held_bytes"], &row["held_since"], &json!(["holding"]))
    );
    let (_, metrics) = http_get(broker.http(), "/metrics");
    let line = format!("dure_group_held_bytes{{group=\"holding\"}} {}", row["held_bytes"]);
    assert!(metrics.contains(&line), "{metrics}");
    assert!(!metrics.contains("dure_group_held_age_ms{group=\"holding\"} 0\n"), "{metrics}");
}

#[test]
fn a_work_queue_forgets_what_every_group_has_settled() {
    let broker = Broker::start();
    broker.dure("topic create t --segment-size 16KiB --cleanup delete-when-settled").ok();
    broker.dure("group create one --topic t --kind queue").ok();
    broker.dure("group create two --topic t --kind queue").ok();
    produce(&broker, 60);
    let drain = |group: &str| {
        let mut received = 0;
        while received < 60 {
            received +=
                broker.json_lines(&format!("receive t --group {group} --count 60 --wait 5s --ack")).len();
        }
    };
    drain("one");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(start_offset(&broker), 0, "the other one needs them");
    drain("two");
    eventually(LIMIT, "settled segments go", || (start_offset(&broker) > 0).then_some(()));
}
