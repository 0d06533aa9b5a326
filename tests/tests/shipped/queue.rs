//! Queue groups on the command line: leases, settling, dead letters.

use std::collections::HashSet;
use std::time::Duration;

use dure_tests::harness::{Broker, Output, eventually};
use serde_json::{Value, json};

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A broker with topic `t` that holds these lines.
fn broker_with(lines: &str) -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin(lines).ok();
    broker
}

fn receive(broker: &Broker, flags: &str) -> Vec<Value> {
    broker.json_lines(&format!("receive t --group g {flags}"))
}

/// The one message that there is.
fn receive_one(broker: &Broker, flags: &str) -> Value {
    let mut jobs = receive(broker, &format!("--wait 10s {flags}"));
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

fn receipt(job: &Value) -> &str {
    job["receipt"].as_str().expect("a receipt")
}

/// Settles one message and returns the exit code's meaning and the one line printed.
fn settle(broker: &Broker, verb: &str, receipt: &str, flags: &str) -> Value {
    let output = settling(broker, verb, receipt, flags).run();
    let lines = output.json_lines();
    assert_eq!(lines.len(), 1, "{output}");
    let ok = lines[0]["ok"].as_bool().expect("whether it worked");
    assert_eq!(output.exit == dure_tests::harness::Exit::Code(0), ok, "{output}");
    assert_eq!(lines[0]["receipt"], receipt);
    lines[0].clone()
}

fn settling(broker: &Broker, verb: &str, receipts: &str, flags: &str) -> dure_tests::harness::Dure {
    broker.dure(&format!("{verb} t --group g {receipts} {flags} -o json"))
}

fn figures(broker: &Broker) -> [u64; 5] {
    let group = broker.json("group describe g");
    for figure in ["lag", "ready", "leased", "delayed", "dead"] {
        let rows = group["partitions"].as_array().expect("rows").iter();
        assert_eq!(group[figure].as_u64(), rows.map(|row| row[figure].as_u64()).sum(), "{figure} of {group}");
    }
    ["lag", "ready", "leased", "delayed", "dead"].map(|figure| group[figure].as_u64().expect("a number"))
}

#[test]
fn received_and_acknowledged_messages_are_gone() {
    let broker = broker_with("a\nb\nc\n");
    let jobs = receive(&broker, "--count 2 --wait 2s");
    assert!((1..=2).contains(&jobs.len()), "{jobs:?}");
    let job = &jobs[0];
    for field in ["topic", "partition", "offset", "timestamp", "key", "value", "headers"] {
        assert!(job.get(field).is_some(), "{field} in {job}");
    }
    assert_eq!((&job["value"], &job["attempt"]), (&json!("a"), &json!(1)));
    assert!(job["lease_deadline"].as_u64() > job["timestamp"].as_u64(), "{job}");
    let done = settle(&broker, "ack", receipt(job), "");
    let expected = json!({"receipt": receipt(job), "ok": true, "already_settled": false, "error": null});
    assert_eq!(done, expected);
    let again = settle(&broker, "ack", receipt(job), "");
    assert_eq!((&again["ok"], &again["already_settled"]), (&json!(true), &json!(true)));
    for verb in ["extend", "release", "reject"] {
        let refused = settle(&broker, verb, receipt(job), "");
        assert_eq!(refused["ok"], false, "{verb}: {refused}");
        assert!(refused["error"].is_string(), "{verb}: {refused}");
    }
    let [lag, ready, leased, delayed, dead] = figures(&broker);
    assert_eq!((lag, ready + leased, delayed, dead), (2, 2, 0, 0));
}

#[test]
fn receive_returns_with_what_there_is_and_with_nothing_after_the_wait() {
    let broker = broker_with("a\nb\nc\n");
    // Kept for the whole test.
    let jobs = receive(&broker, "--count 10 --wait 10s --lease 60s");
    assert_eq!(jobs.len(), 3);
    let started = std::time::Instant::now();
    let none = broker.dure("receive t --group g --wait 300ms -o json").ok();
    assert!(none.stdout.is_empty(), "{none}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    // One that comes while it waits ends the wait.
    let waiting = broker.dure("receive t --group g --wait 20s --ack -o raw").spawn();
    sleep_ms(300);
    broker.dure("produce t").stdin("d\n").ok();
    assert_eq!(waiting.line().as_deref(), Some("d"));
    drop(waiting);
    eventually(Duration::from_secs(5), "--ack settles it", || (figures(&broker)[0] == 3).then_some(()));
    assert_eq!(figures(&broker), [3, 0, 3, 0, 0]);
}

#[test]
fn several_receipts_are_settled_and_the_good_ones_stand() {
    let broker = broker_with("a\nb\nc\n");
    let jobs = receive(&broker, "--count 3 --wait 5s");
    let receipts: Vec<_> = jobs.iter().map(receipt).collect();
    settle(&broker, "reject", receipts[1], "");
    let output: Output = settling(&broker, "release", &receipts.join(" "), "").exits(1);
    let lines = output.json_lines();
    let oks: Vec<_> = lines.iter().map(|line| line["ok"].as_bool().unwrap()).collect();
    assert_eq!(oks, [true, false, true], "{output}");
    let named: Vec<_> = lines.iter().map(|line| line["receipt"].as_str().unwrap()).collect();
    assert_eq!(named, receipts);
    broker.dure("ack t --group g not-a-receipt").run().says(&["not-a-receipt"]);
}

#[test]
fn a_released_message_comes_back_after_its_delay_with_the_next_attempt() {
    let broker = broker_with("a\n");
    let job = receive_one(&broker, "");
    assert_eq!(settle(&broker, "release", receipt(&job), "--delay 1500ms")["ok"], true);
    assert_eq!(figures(&broker), [1, 0, 0, 1, 0]);
    assert!(receive(&broker, "--wait 0s").is_empty());
    let again = receive_one(&broker, "");
    assert_eq!((&again["value"], &again["attempt"]), (&json!("a"), &json!(2)));
    assert_ne!(receipt(&again), receipt(&job));
    let stale = settle(&broker, "ack", receipt(&job), "");
    assert_eq!(stale["ok"], false);
    assert!(stale["error"].as_str().unwrap().to_lowercase().contains("stale lease"), "{stale}");
    assert_eq!(settle(&broker, "ack", receipt(&again), "")["ok"], true);
    assert_eq!(figures(&broker), [0, 0, 0, 0, 0]);
}

#[test]
fn a_lease_that_ran_out_counts_until_the_message_is_leased_anew() {
    let broker = broker_with("a\nb\n");
    broker.dure("group create g --topic t --kind queue --backoff 10ms..20ms").ok();
    let jobs = receive(&broker, "--count 2 --wait 5s --lease 300ms");
    sleep_ms(1000);
    assert_eq!(settle(&broker, "ack", receipt(&jobs[0]), "")["ok"], true, "nobody else has it");
    let anew = receive_one(&broker, "");
    assert_eq!((&anew["value"], &anew["attempt"]), (&json!("b"), &json!(2)));
    assert_eq!(settle(&broker, "ack", receipt(&jobs[1]), "")["ok"], false);
    assert_eq!(settle(&broker, "release", receipt(&jobs[1]), "")["ok"], false);
    assert_eq!(settle(&broker, "ack", receipt(&anew), "")["ok"], true);
}

#[test]
fn an_extended_lease_keeps_the_message() {
    let broker = broker_with("a\n");
    let job = receive_one(&broker, "--lease 1500ms");
    assert_eq!(settle(&broker, "extend", receipt(&job), "--lease 60s")["ok"], true);
    sleep_ms(1700);
    assert!(receive(&broker, "--wait 0s").is_empty());
    assert_eq!(figures(&broker), [1, 0, 1, 0, 0]);
    assert_eq!(settle(&broker, "ack", receipt(&job), "")["already_settled"], false);
}

#[test]
fn a_message_dies_at_the_limit_of_its_attempts_and_keeps_what_it_carried() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue --max-attempts 3 --backoff 10ms..20ms").ok();
    broker.dure("produce t --key k --header a=1 --header a=2").stdin("poison\n").ok();
    for attempt in 1..=3 {
        let job = receive_one(&broker, "");
        assert_eq!(job["attempt"], attempt);
        assert_eq!(settle(&broker, "release", receipt(&job), "")["ok"], true);
    }
    eventually(Duration::from_secs(5), "dead", || (figures(&broker) == [0, 0, 0, 0, 1]).then_some(()));
    assert!(receive(&broker, "--wait 0s").is_empty());
    let letters = broker.json_lines("dlq list t --group g");
    assert_eq!(letters.len(), 1);
    let id = letters[0]["id"].as_str().expect("an id");
    let letter = broker.json(&format!("dlq show t --group g {id}"));
    for (field, value) in [
        ("id", json!(id)),
        ("topic", json!("t")),
        ("partition", json!(0)),
        ("offset", json!(0)),
        ("key", json!("k")),
        ("value", json!("poison")),
        ("headers", json!([["a", "1"], ["a", "2"]])),
        ("attempts", json!(3)),
    ] {
        assert_eq!(letter[field], value, "{field} of {letter}");
    }
    assert!(letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{letter}");
    assert!(letter["dead_time"].as_u64() >= letter["timestamp"].as_u64(), "{letter}");
    broker.dure("dlq show t --group g 0-999").exits(1).says(&["0-999"]);
    broker.dure("dlq list t --group unknown").exits(1).says(&["unknown"]);
}

#[test]
fn a_lease_that_runs_out_counts_as_an_attempt() {
    let broker = broker_with("a\n");
    broker
        .dure("group create g --topic t --kind queue --max-attempts 2 --backoff 10ms..20ms --lease 200ms")
        .ok();
    for attempt in 1..=2 {
        assert_eq!(receive_one(&broker, "")["attempt"], attempt);
    }
    eventually(Duration::from_secs(5), "dead", || (figures(&broker)[4] == 1).then_some(()));
}

#[test]
fn dead_letters_are_redriven_to_their_group_alone_and_purged() {
    let broker = broker_with("a\nb\nc\n");
    let jobs = receive(&broker, "--count 3 --wait 5s");
    for job in &jobs {
        settle(&broker, "reject", receipt(job), "");
    }
    let other = broker.json_lines("receive t --group other --count 3 --wait 5s --ack");
    assert_eq!(other.len(), 3, "another group has all of them");
    assert_eq!(figures(&broker), [0, 0, 0, 0, 3]);
    broker.dure("dlq redrive t --group g --count 2").ok();
    assert_eq!(figures(&broker), [2, 2, 0, 0, 1]);
    let again = receive(&broker, "--count 2 --wait 5s --ack");
    let values: HashSet<_> = again.iter().map(|job| job["value"].as_str().unwrap()).collect();
    assert_eq!(values, HashSet::from(["a", "b"]));
    assert!(broker.json_lines("receive t --group other --wait 0s").is_empty());
    assert_eq!(broker.json_lines("dlq list t --group g").len(), 1);
    broker.dure("dlq purge t --group g").ok();
    assert!(broker.json_lines("dlq list t --group g").is_empty());
    assert_eq!(figures(&broker), [0, 0, 0, 0, 0]);
}

#[test]
fn receipts_work_after_a_restart_and_what_is_settled_never_comes_back() {
    let mut broker = broker_with(&(0..60).map(|n| format!("{n}\n")).collect::<String>());
    let mut settled = HashSet::new();
    for round in 0..3 {
        let jobs = receive(&broker, "--count 20 --wait 10s --lease 120s");
        assert_eq!(jobs.len(), 20, "round {round}");
        let (now, later) = jobs.split_at(10);
        for half in [now, later] {
            let receipts: Vec<_> = half.iter().map(receipt).collect();
            let done = settling(&broker, "ack", &receipts.join(" "), "").ok().json_lines();
            assert!(
                done.iter().all(|line| line["ok"] == true && line["already_settled"] == false),
                "{done:?}"
            );
            for job in half {
                assert!(settled.insert(job["offset"].as_u64().unwrap()), "it came back: {job}");
            }
            broker.crash();
        }
        let again = settling(&broker, "ack", receipt(&jobs[0]), "").ok().json_lines();
        assert_eq!(again[0]["already_settled"], true);
    }
    assert_eq!(settled.len(), 60);
    assert_eq!(figures(&broker), [0, 0, 0, 0, 0]);
    assert!(receive(&broker, "--wait 500ms").is_empty());
}

#[test]
fn dead_letters_attempts_and_delays_survive_kill_9() {
    let mut broker = broker_with("dead\ndelayed\n");
    let jobs = receive(&broker, "--count 2 --wait 5s");
    settle(&broker, "reject", receipt(&jobs[0]), "");
    settle(&broker, "release", receipt(&jobs[1]), "--delay 2s");
    broker.crash();
    assert_eq!(broker.json_lines("dlq list t --group g")[0]["value"], "dead");
    let [lag, _, leased, _, dead] = figures(&broker);
    assert_eq!((lag, leased, dead), (1, 0, 1));
    let job = receive_one(&broker, "");
    assert_eq!((&job["value"], &job["attempt"]), (&json!("delayed"), &json!(2)));
}

#[test]
fn groups_are_listed_described_sought_and_deleted() {
    let broker = broker_with("a\nb\n");
    broker.dure("group create g --topic t --kind queue --lease 45s --max-attempts 9 --backoff 2s..3m").ok();
    broker.dure("group create g --topic t --kind queue").exits(1).says(&["g", "exists"]);
    let group = broker.json("group describe g");
    assert_eq!(
        (&group["group"], &group["kind"], &group["state"]),
        (&json!("g"), &json!("queue"), &json!("empty"))
    );
    assert_eq!(group["members"], json!([]));
    let row = &group["partitions"][0];
    for field in [
        "committed",
        "high_watermark",
        "lag",
        "ready",
        "leased",
        "delayed",
        "dead",
        "oldest_age_ms",
        "partition",
    ] {
        assert!(row.get(field).is_some(), "{field} in {row}");
    }
    assert_eq!((&row["topic"], &row["lag"], &row["ready"]), (&json!("t"), &json!(2), &json!(2)));
    assert!(group["oldest_age_ms"].as_u64() > Some(0));
    assert_eq!(broker.json_lines("group list")[0]["group"], "g");

    assert_eq!(receive(&broker, "--count 2 --wait 5s --ack").len(), 2);
    assert_eq!(broker.json("group describe g")["partitions"][0]["committed"], 2, "the ack floor");
    assert_eq!(broker.json("group describe g")["oldest_age_ms"], 0);
    broker.dure("group seek g --topic t --to offset:1").ok();
    assert_eq!(figures(&broker), [1, 1, 0, 0, 0]);
    assert_eq!(receive_one(&broker, "--ack")["value"], "b");
    broker.dure("group delete g").ok();
    assert!(broker.json_lines("group list").is_empty());
    broker.dure("group describe g").exits(1).says(&["g"]);
}

#[test]
fn a_group_of_the_wrong_kind_is_refused_by_name() {
    let broker = broker_with("a\n");
    broker.dure("group create q --topic t --kind queue").ok();
    broker.dure("consume t --group q --count 1").exits(1).says(&["q", "queue"]);
    assert_eq!(broker.json_lines("consume t --group s --count 1").len(), 1);
    assert_eq!(broker.json("group describe s")["kind"], "stream");
    broker.dure("receive t --group s --wait 0s").exits(1).says(&["s", "stream"]);
    broker.dure("work t --group s -- true").exits(1).says(&["s", "stream"]);
}
