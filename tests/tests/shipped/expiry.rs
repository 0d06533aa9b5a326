//! Messages that are good for a while only, on the command line.

use std::time::Duration;

use dure_tests::harness::{Broker, eventually};

fn broker_with(flags: &str) -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure(&format!("group create g --topic t --kind queue {flags}")).ok();
    broker
}

#[test]
fn an_expired_message_is_not_delivered_but_counted_and_streams_have_it() {
    let broker = broker_with("");
    broker.dure("produce t --ttl 1s").stdin("stale\n").ok();
    broker.dure("produce t --ttl 1h").stdin("good\n").ok();
    broker.dure("produce t").stdin("always\n").ok();
    std::thread::sleep(Duration::from_millis(1_100));
    let jobs = broker.json_lines("receive t --group g --count 9 --wait 10s --ack");
    let values: Vec<_> = jobs.iter().map(|job| job["value"].as_str().expect("a value")).collect();
    assert_eq!(values, ["good", "always"]);
    let group = broker.json("group describe g");
    assert_eq!(
        (&group["expired"], &group["lag"], &group["dead"]),
        (&1.into(), &0.into(), &0.into()),
        "{group}"
    );
    assert_eq!(group["partitions"][0]["full"], serde_json::Value::Null);
    assert_eq!(broker.json_lines("consume t").len(), 3, "a stream delivers the log as it is");
}

#[test]
fn an_expired_message_dies_where_the_group_says_so_and_can_be_redriven() {
    let mut broker = broker_with("--expired dead-letter");
    broker.dure("produce t --ttl 300ms --key k").stdin("late\n").ok();
    broker.crash();
    std::thread::sleep(Duration::from_millis(400));
    assert!(broker.json_lines("receive t --group g --wait 200ms").is_empty());
    eventually(Duration::from_secs(5), "dead", || {
        (broker.json("group describe g")["dead"] == 1).then_some(())
    });
    let letter = broker.json_lines("dlq list t --group g").remove(0);
    assert_eq!((&letter["value"], &letter["reason"]), (&"late".into(), &"expired".into()), "{letter}");
    broker.dure("dlq redrive t --group g").ok();
    assert_eq!(broker.json_lines("receive t --group g --wait 10s --ack")[0]["value"], "late");
}
