//! `group create --dead-letter TOPIC`, on the command line.

use std::time::Duration;

use dure_tests::harness::{Broker, eventually};
use serde_json::{Value, json};

fn reject_all(broker: &Broker, count: usize) {
    let jobs = broker.json_lines(&format!("receive t --group g --count {count} --wait 10s"));
    assert_eq!(jobs.len(), count);
    for job in jobs {
        let receipt = job["receipt"].as_str().expect("a receipt");
        broker.dure(&format!("reject t --group g {receipt}")).ok();
    }
}

fn header(message: &Value, name: &str) -> Value {
    let headers = message["headers"].as_array().expect("headers");
    let found = headers.iter().find(|header| header[0] == name);
    found.unwrap_or_else(|| panic!("no {name} in {message}"))[1].clone()
}

#[test]
fn dead_letters_come_to_their_topic_once_also_after_kill_9() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("topic create graves --partitions 2").ok();
    broker.dure("group create g --topic t --kind queue --dead-letter graves").ok();
    broker.dure("produce t --key k --header trace=47").stdin("a\nb\nc\n").ok();
    reject_all(&broker, 3);
    broker.crash();
    eventually(Duration::from_secs(10), "copied", || {
        (broker.json("group describe g")["partitions"][0]["uncopied"] == 0).then_some(())
    });
    broker.crash();
    let copies = broker.json_lines("consume graves");
    let values: Vec<_> = copies.iter().map(|copy| copy["value"].as_str().expect("a text")).collect();
    assert_eq!(values, ["a", "b", "c"], "in the order in which they died");
    let last = &copies[2];
    assert_eq!((&last["key"], header(last, "trace")), (&json!("k"), json!("47")));
    assert_eq!((header(last, "dure-dead-topic"), header(last, "dure-dead-offset")), (json!("t"), json!("2")));
    assert_eq!(
        (header(last, "dure-dead-group"), header(last, "dure-dead-attempts")),
        (json!("g"), json!("1"))
    );
    assert_eq!(broker.json_lines("dlq list t --group g").len(), 3, "they are dead letters as before");
}

#[test]
fn a_topic_that_takes_none_is_told_and_nothing_else_waits() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let refused = broker.dure("group create g --topic t --kind queue --dead-letter graves").exits(1);
    assert!(refused.stderr.contains("unknown topic `graves`"), "{}", refused.stderr);
    let refused = broker.dure("group create g --topic t --kind queue --dead-letter t").exits(1);
    assert!(refused.stderr.contains("cannot work that topic itself"), "{}", refused.stderr);
    broker.dure("topic create graves").ok();
    broker.dure("group create g --topic t --kind queue --dead-letter graves").ok();
    broker.dure("topic delete graves --yes").ok();
    broker.dure("produce t").stdin("a\nb\n").ok();
    reject_all(&broker, 1);
    let row = broker.json("group describe g")["partitions"][0].clone();
    assert_eq!((&row["dead"], &row["uncopied"]), (&json!(1), &json!(1)), "{row}");
    assert!(row["copies_wait"].as_str().is_some_and(|why| why.contains("`graves`")), "{row}");
    let shown = broker.dure("group describe g").ok().stdout;
    assert!(String::from_utf8_lossy(&shown).contains("1 dead letter not in the dead-letter topic yet"));
    assert_eq!(broker.json_lines("receive t --group g --wait 5s --ack")[0]["value"], "b", "others go on");
    broker.dure("topic create graves").ok();
    eventually(Duration::from_secs(10), "copied", || {
        (broker.json_lines("consume graves").len() == 1).then_some(())
    });
    assert_eq!(broker.json("group describe g")["partitions"][0]["copies_wait"], Value::Null);
}
