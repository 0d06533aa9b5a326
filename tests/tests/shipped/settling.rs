//! Settling on the command line: everything up to an offset, and releases that say why.

use dure_tests::harness::Broker;
use serde_json::Value;

fn broker_with(lines: &str, flags: &str) -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure(&format!("group create g --topic t --kind queue {flags}")).ok();
    broker.dure("produce t").stdin(lines).ok();
    broker
}

fn receive(broker: &Broker, count: u32) -> Vec<Value> {
    broker.json_lines(&format!("receive t --group g --count {count} --wait 10s"))
}

fn receipt(job: &Value) -> &str {
    job["receipt"].as_str().expect("a receipt")
}

#[test]
fn everything_up_to_an_offset_is_acknowledged_at_once_whoever_holds_it() {
    let mut broker = broker_with("a\nb\nc\nd\n", "");
    let held = receive(&broker, 2);
    let lines = broker.json_lines("ack t --group g --up-to 0:2");
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["receipt"], &lines[0]["ok"]), (&"0:2".into(), &true.into()), "{}", lines[0]);
    assert_eq!(lines[0]["already_settled"], false);
    let group = broker.json("group describe g");
    assert_eq!(
        (&group["ready"], &group["leased"], &group["lag"]),
        (&1.into(), &0.into(), &1.into()),
        "{group}"
    );
    let late = broker.json_lines(&format!("ack t --group g {}", receipt(&held[0])));
    assert_eq!(late[0]["already_settled"], true);
    broker.crash();
    let again = broker.json_lines("ack t --group g --up-to 0:2");
    assert_eq!(again[0]["already_settled"], true, "asking again does no harm");
    broker.dure("ack t --group g --up-to 0:4").exits(1).says(&["no offset 4 yet"]);
    broker.dure("ack t --group g --up-to 4").exits(2).says(&["PARTITION:OFFSET"]);
    assert_eq!(receive(&broker, 9)[0]["value"], "d");
}

#[test]
fn the_last_release_tells_the_dead_letter_why() {
    let broker = broker_with("a\n", "--max-attempts 2");
    for reason in ["no paper", "no ink"] {
        let job = receive(&broker, 1).remove(0);
        broker.dure(&format!("release t --group g {} --delay 0s --reason", receipt(&job))).arg(reason).ok();
    }
    let letter = dure_tests::harness::eventually(std::time::Duration::from_secs(10), "dead", || {
        broker.json_lines("dlq list t --group g").pop()
    });
    assert_eq!(letter["reason"], "released in attempt 2 of 2: no ink", "{letter}");
}
