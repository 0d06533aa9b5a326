//! Queue groups that keep the order of keys, on the command line.

use std::time::Duration;

use dure_tests::harness::{Broker, eventually};
use serde_json::Value;

/// A broker with topic `t` and group `g`, which keeps the order of keys, over these `KEY:VALUE` lines.
fn broker_with(lines: &str, flags: &str) -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure(&format!("group create g --topic t --kind queue --ordering key {flags}")).ok();
    broker.dure("produce t --key-separator :").stdin(lines).ok();
    broker
}

fn receive(broker: &Broker, flags: &str) -> Vec<Value> {
    broker.json_lines(&format!("receive t --group g {flags}"))
}

fn values(jobs: &[Value]) -> Vec<&str> {
    jobs.iter().map(|job| job["value"].as_str().expect("a value")).collect()
}

fn settle(broker: &Broker, verb: &str, job: &Value) {
    let receipt = job["receipt"].as_str().expect("a receipt");
    broker.dure(&format!("{verb} t --group g {receipt} -o json")).ok();
}

#[test]
fn of_each_key_one_message_is_out_at_a_time_and_in_order() {
    let mut broker = broker_with("a:a1\na:a2\nb:b1\na:a3\nb:b2\n", "");
    let jobs = receive(&broker, "--count 10 --wait 10s");
    assert_eq!(values(&jobs), ["a1", "b1"]);
    assert!(receive(&broker, "--count 10 --wait 200ms").is_empty(), "the rest waits behind its key");
    let group = broker.json("group describe g");
    assert_eq!((&group["ready"], &group["leased"]), (&3.into(), &2.into()), "{group}");
    settle(&broker, "ack", &jobs[0]);
    let second = receive(&broker, "--count 10 --wait 10s");
    assert_eq!(values(&second), ["a2"]);

    // After a kill -9 keys are still taken, and nothing overtakes.
    broker.crash();
    assert!(receive(&broker, "--count 10 --wait 200ms").is_empty(), "leases go on");
    settle(&broker, "ack", &jobs[1]);
    assert_eq!(values(&receive(&broker, "--count 10 --wait 10s --ack")), ["b2"]);
    settle(&broker, "ack", &second[0]);
    assert_eq!(values(&receive(&broker, "--count 10 --wait 10s --ack")), ["a3"]);
    eventually(Duration::from_secs(5), "all is done", || {
        (broker.json("group describe g")["lag"] == 0).then_some(())
    });
}

#[test]
fn a_message_that_is_tried_again_holds_back_its_key_and_one_that_dies_lets_it_go() {
    let broker = broker_with("a:a1\na:a2\nb:b1\n", "--max-attempts 2 --backoff 500ms..500ms");
    let job = receive(&broker, "--wait 10s").remove(0);
    assert_eq!(job["value"], "a1");
    settle(&broker, "release", &job);
    assert_eq!(values(&receive(&broker, "--count 10 --wait 10s --ack")), ["b1"], "nobody else waits");
    let again = receive(&broker, "--count 10 --wait 10s");
    assert_eq!((values(&again), &again[0]["attempt"]), (vec!["a1"], &2.into()));
    settle(&broker, "reject", &again[0]);
    assert_eq!(values(&receive(&broker, "--wait 10s --ack")), ["a2"]);
}

#[test]
fn a_hot_key_hides_nobody_behind_it() {
    let mut lines: String = (0..20_000).map(|n| format!("hot:{n}\n")).collect();
    lines.push_str("cold:c\n");
    let broker = broker_with(&lines, "");
    // The first receive may come before all of it was looked at.
    let mut jobs = receive(&broker, "--count 2 --wait 10s");
    if jobs.len() == 1 {
        jobs.extend(receive(&broker, "--count 2 --wait 10s"));
    }
    assert_eq!(values(&jobs), ["0", "c"]);
}

#[test]
fn many_workers_on_one_partition_keep_every_key_in_order() {
    let lines: String = (0..200).map(|n| format!("k{}:{n}\n", n % 5)).collect();
    let broker = broker_with(&lines, "");
    let log = broker.home().join("done");
    let script = format!("echo $DURE_MSG_KEY $DURE_MSG_OFFSET >> {}", log.display());
    let workers: Vec<_> = (0..3)
        .map(|_| broker.dure("work t --group g --concurrency 4 -- sh -c").arg(&*script).spawn())
        .collect();
    eventually(Duration::from_secs(60), "all is done", || {
        (broker.json("group describe g")["lag"] == 0).then_some(())
    });
    drop(workers);
    let done = std::fs::read_to_string(&log).expect("what was done");
    for key in 0..5 {
        let key = format!("k{key} ");
        let offsets = done.lines().filter_map(|line| line.strip_prefix(&key)?.parse::<u64>().ok());
        let offsets: Vec<u64> = offsets.collect();
        assert_eq!(offsets.len(), 40, "{key}: {offsets:?}");
        assert!(offsets.is_sorted(), "{key}: {offsets:?}");
    }
}

#[test]
fn the_hottest_keys_are_named_in_the_groups_description() {
    let broker = broker_with("user-7:1\nuser-7:2\nuser-8:1\nuser-7:3\nuser-8:2\n", "");
    let jobs = receive(&broker, "--count 10 --wait 10s");
    assert_eq!(jobs.len(), 2);
    let group = broker.json("group describe g");
    let named: Vec<_> = group["hottest_keys"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|hot| (&hot["key"], &hot["waiting"], &hot["out"]))
        .collect();
    let (seven, eight) = (Value::from("user-7"), Value::from("user-8"));
    assert_eq!(named, [(&seven, &2.into(), &1.into()), (&eight, &1.into(), &1.into())], "{group}");
    let table = broker.dure("group describe g").ok();
    assert!(["KEY", "user-7", "WAITING"].iter().all(|word| table.text().contains(word)), "{table}");
}
