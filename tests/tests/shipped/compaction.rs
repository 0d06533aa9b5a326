//! Compaction by key, with a broker that is killed meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use dure_tests::harness::{Broker, Dure, eventually, listing};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
const KEYS: usize = 20;

/// A KiB for each key, many times over.
fn say(broker: &Broker, round: usize) {
    let lines: String = (0..KEYS).map(|key| format!("k{key}:{round} {}\n", "x".repeat(1000))).collect();
    broker.dure("produce t --key-separator :").stdin(lines).ok();
}

#[test]
fn a_key_is_deleted_from_the_command_line() {
    let broker = Broker::start();
    let settings = "compact-after=1s --config tombstone-retention=1s";
    broker.dure(&format!("topic create t --cleanup compact --config {settings}")).ok();
    broker.dure("produce t --key-separator :").stdin("a:1\nb:2\nc:3\n").ok();
    broker.dure("produce t --key-separator : -Z").stdin("a:\nb:4\n").ok();
    broker.dure("produce t --key c -Z").stdin("\n").ok();
    let values: Vec<_> = broker.json_lines("consume t").into_iter().map(|m| m["value"].clone()).collect();
    assert_eq!(values[3..], [json!(null), json!("4"), json!(null)]);
    // First what they said goes, and after a while the tombstones.
    eventually(LIMIT, "only b is left", || {
        broker.dure("produce t --key other").stdin("keeps it going\n").ok();
        let left = broker.json_lines("consume t");
        (left.iter().all(|m| m["key"] != "a" && m["key"] != "c")).then_some(())
    });
    let b = broker.json_lines("consume t").into_iter().find(|m| m["key"] == "b").expect("it is there");
    assert_eq!(b["value"], "4");
    // Without the flag an empty message is an empty message.
    broker.dure("produce t --key b").stdin("\n").ok();
    assert_eq!(broker.json_lines("consume t").last().expect("one")["value"], "");
}

/// The newest of each key, and how many messages there are.
fn newest(broker: &Broker) -> (BTreeMap<String, String>, usize) {
    let messages = broker.json_lines("consume t");
    let offsets: Vec<u64> = messages.iter().map(|message| message["offset"].as_u64().unwrap()).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let round = |message: &serde_json::Value| text(&message["value"]).split(' ').next().unwrap().to_owned();
    (messages.iter().map(|message| (text(&message["key"]), round(message))).collect(), messages.len())
}

#[test]
fn the_newest_of_each_key_stays_whenever_the_broker_is_killed() {
    let mut broker = Broker::start();
    broker.dure("topic create t --cleanup compact --segment-size 64KiB --config compact-after=1s").ok();
    broker.dure("produce t").stdin("no key\n").exits(1).says(&["compacted", "needs one"]);
    broker.dure("group create g --topic t --kind queue").exits(1).says(&["compacted", "`g`"]);
    for round in 0..12 {
        say(&broker, round);
        // Passes begin each second; somewhere in them it is killed.
        std::thread::sleep(Duration::from_millis(170 * (round as u64 % 4)));
        if round % 2 == 1 {
            broker.crash();
        }
        let (found, _) = newest(&broker);
        let wanted: BTreeMap<String, String> =
            (0..KEYS).map(|key| (format!("k{key}"), round.to_string())).collect();
        assert_eq!(found, wanted, "after round {round}");
    }
    eventually(LIMIT, "only the newest is left", || (newest(&broker).1 == KEYS).then_some(()));
    let topic = broker.json("topic describe t");
    assert_eq!(topic["partitions"][0]["high_watermark"], json!(12 * KEYS));
    assert_eq!(broker.json("consume t --from offset:3 --count 1")["offset"], json!(11 * KEYS));
    // Nothing is left of what was replaced, and nothing is damaged.
    broker.stop();
    let verify = Dure::new("log verify --data").arg(broker.data().to_str().unwrap());
    let verified = verify.json();
    assert_eq!(verified["records"], json!(KEYS), "{verified}");
    let kept = listing(&broker.data().join("shard-0000/log"));
    let bytes: u64 = kept.iter().filter(|(path, _)| path.is_file()).map(|(_, (bytes, _))| bytes).sum();
    assert!(bytes < 64 << 10, "{bytes} bytes in {kept:?}");
}
