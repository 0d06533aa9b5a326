//! `dure topic`.

use dure_tests::harness::Broker;
use serde_json::{Value, json};

#[test]
fn a_topic_is_created_described_listed_and_deleted() {
    let broker = Broker::start();
    broker
        .dure("topic create photos --partitions 3 --retention-time 1h --retention-size 10MiB")
        .args(["--segment-size", "1MiB", "--max-message", "64KiB"])
        .ok();
    let topic = broker.json("topic describe photos");
    assert_eq!(topic["name"], "photos");
    assert!(topic["id"].is_u64(), "{topic}");
    for figure in ["messages", "scheduled", "bytes"] {
        assert_eq!(topic[figure], 0, "{figure} in {topic}");
    }
    let partitions = topic["partitions"].as_array().expect("a list");
    assert_eq!(partitions.len(), 3);
    for (number, partition) in partitions.iter().enumerate() {
        assert_eq!(partition["partition"], number);
        for figure in ["log_start_offset", "high_watermark", "bytes", "segments"] {
            assert!(partition[figure].is_u64(), "{figure} in {partition}");
        }
    }
    let config = &topic["config"];
    assert_eq!(config["retention_ms"], 3_600_000, "{config}");
    assert_eq!(config["retention_bytes"], 10 << 20, "{config}");
    assert_eq!(config["segment_bytes"], 1 << 20, "{config}");
    assert_eq!(config["message_bytes_max"], 64 << 10, "{config}");
    assert_eq!(config["durability"], "sync", "{config}");
    assert_eq!(config["cleanup"], "delete", "{config}");

    broker.dure("topic create jobs").ok();
    let names = |broker: &Broker| -> Vec<Value> {
        broker.json_lines("topic list").into_iter().map(|topic| topic["name"].clone()).collect()
    };
    let mut listed = names(&broker);
    listed.sort_by_key(Value::to_string);
    assert_eq!(listed, [json!("jobs"), json!("photos")]);
    let table = broker.dure("topic list -o table").ok();
    assert!(table.text().contains("photos") && table.text().contains("jobs"), "{table}");

    let defaults = broker.json("topic describe jobs");
    assert_eq!(defaults["partitions"].as_array().map(Vec::len), Some(1));
    assert_eq!(defaults["config"]["retention_ms"], 7 * 24 * 3_600_000_u64);

    broker.dure("topic create jobs").exits(1).says(&["jobs", "exists"]);
    broker.dure("topic delete photos --yes").ok();
    assert_eq!(names(&broker), [json!("jobs")]);
    broker.dure("topic describe photos").exits(1).says(&["photos"]);
}

#[test]
fn figures_of_a_topic_follow_its_messages_and_a_purge_keeps_the_offsets() {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("produce t --partition 0").stdin("a\nb\nc\n").ok();
    broker.dure("produce t --partition 1").stdin("d\n").ok();
    let topic = broker.json("topic describe t");
    assert_eq!(topic["messages"], 4);
    assert_eq!(topic["partitions"][0]["high_watermark"], 3);
    assert_eq!(topic["partitions"][1]["high_watermark"], 1);
    assert!(topic["bytes"].as_u64() > Some(0), "{topic}");
    let sum =
        topic["partitions"][0]["bytes"].as_u64().unwrap() + topic["partitions"][1]["bytes"].as_u64().unwrap();
    assert_eq!(topic["bytes"], sum);

    broker.dure("topic purge t").ok();
    let purged = broker.json("topic describe t");
    assert_eq!(purged["messages"], 0);
    assert_eq!(purged["partitions"][0]["log_start_offset"], 3);
    assert_eq!(purged["partitions"][0]["high_watermark"], 3);
    assert_eq!(broker.dure("consume t -o raw").ok().text(), "");
    let ack = broker.dure("produce t --partition 0").stdin("e\n").json();
    assert_eq!(ack, json!({"topic": "t", "partition": 0, "offset": 3}));
}

#[test]
fn a_topic_is_altered_and_what_is_not_named_stays() {
    let broker = Broker::start();
    broker.dure("topic create t --retention-time 2h --segment-size 1MiB").ok();
    broker.dure("topic alter t --retention-size 5MiB --partitions 2").ok();
    let topic = broker.json("topic describe t");
    assert_eq!(topic["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(topic["config"]["retention_bytes"], 5 << 20);
    assert_eq!(topic["config"]["retention_ms"], 7_200_000);
    assert_eq!(topic["config"]["segment_bytes"], 1 << 20);

    broker.dure("produce t --key k").stdin("v\n").ok();
    broker.dure("topic alter t --partitions 3").exits(1).says(&["key", "--force"]);
    broker.dure("topic alter t --partitions 3 --force").ok();
    assert_eq!(broker.json("topic describe t")["partitions"].as_array().map(Vec::len), Some(3));
    broker.dure("topic alter nope --retention-time 1h").exits(1).says(&["nope"]);
}

#[test]
fn names_of_topics_keep_the_rules() {
    let broker = Broker::start();
    let longest = "x".repeat(249);
    for good in ["a", "A.b_c-9", "...", "_one", longest.as_str()] {
        broker.dure("topic create").arg(good).ok();
    }
    let too_long = "x".repeat(250);
    for bad in ["", ".", "..", "../../etc", "a/b", "a b", "ä", "__groups", too_long.as_str()] {
        let refused = broker.dure("topic create").arg(bad).run();
        assert_ne!(refused.exit, dure_tests::harness::Exit::Code(0), "{refused}");
        refused.says(&["name"]);
    }
    assert_eq!(broker.json_lines("topic list").len(), 5);
}

#[test]
fn an_unknown_topic_is_named_and_nothing_creates_one() {
    let broker = Broker::start();
    for line in [
        "produce missing",
        "consume missing",
        "topic describe missing",
        "topic delete missing --yes",
        "topic purge missing",
        "receive missing --group g --wait 0s",
        "consume missing --group s --count 1",
        "group create g --topic missing --kind queue",
    ] {
        broker.dure(line).stdin("x\n").exits(1).says(&["missing"]);
    }
    broker.dure("produce missing").stdin("x\n").exits(1).says(&["dure topic create"]);
    assert!(broker.json_lines("topic list").is_empty());
}

#[test]
fn wrong_usage_exits_with_2() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    for line in [
        "topic create t2 --partitons 3",
        "topic create t2 --partitions three",
        "topic create t2 --retention-time 7parsecs",
        "topic create t2 --retention-size manybytes",
        "produce",
        "produce t --compression rar",
        "consume t --from somewhere",
        "frobnicate",
        "group create g --topic t --kind heap",
        "serve --no-such-flag",
    ] {
        broker.dure(line).exits(2);
    }
    assert_eq!(broker.json_lines("topic list").len(), 1);
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let broker = Broker::start();
    let address = broker.native().to_string();
    broker.dure("topic list").arg("--server").arg(&address).ok();
    drop(broker);
    let failed = dure_tests::harness::Dure::new("topic list --server").arg(&address).exits(1);
    failed.says(&[&address]);
}
