//! `kill -9` of the broker.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use dure_tests::harness::{Broker, Exit};
use serde_json::Value;

type Place = (u64, u64);

fn place(message: &Value) -> Place {
    (message["partition"].as_u64().expect("a partition"), message["offset"].as_u64().expect("an offset"))
}

/// Everything in topic `t` by its place. Nothing may be twice at one place, and offsets have no gaps.
fn everything(broker: &Broker) -> HashMap<Place, String> {
    let mut found = HashMap::new();
    let mut next: HashMap<u64, u64> = HashMap::new();
    for message in broker.json_lines("consume t") {
        let (partition, offset) = place(&message);
        let next = next.entry(partition).or_default();
        assert_eq!(offset, *next, "partition {partition}");
        *next += 1;
        found.insert((partition, offset), message["value"].as_str().expect("a text").to_owned());
    }
    found
}

#[test]
fn every_line_that_produce_printed_is_there_after_kill_9() {
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    let mut printed: HashMap<Place, String> = HashMap::new();
    for cycle in 0..6_usize {
        let mut produce = broker.dure("produce t -o json").spawn();
        let mut stdin = produce.take_stdin();
        let feeder = std::thread::spawn(move || {
            // More than is read before the kill; a broken pipe ends it.
            for n in 0..200_000 {
                let line = format!("cycle {cycle} line {n} {}\n", "x".repeat(n % 300));
                if stdin.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let mut lines = 0..;
        let mut take = |ack: &Value| {
            let n: usize = lines.next().expect("endless");
            let line = format!("cycle {cycle} line {n} {}", "x".repeat(n % 300));
            assert_eq!(printed.insert(place(ack), line), None, "acknowledged twice: {ack}");
        };
        for _ in 0..50 + 700 * cycle {
            take(&produce.json().expect("it goes on"));
        }
        broker.kill();
        // What it has been told, it prints. It may go on with the next broker, too.
        produce.terminate();
        while let Some(ack) = produce.json() {
            take(&ack);
        }
        produce.wait(Duration::from_secs(10));
        feeder.join().expect("the feeder ends");
        broker.start_again();
        let found = everything(&broker);
        for (place, value) in &printed {
            assert_eq!(found.get(place), Some(value), "cycle {cycle}, {place:?}");
        }
    }
    assert!(printed.len() > 10_000, "{}", printed.len());
    let found = everything(&broker);
    assert_eq!(found.values().collect::<HashSet<_>>().len(), found.len(), "a line was appended twice");
    // The files say the same.
    broker.stop();
    let verified =
        dure_tests::harness::Dure::new("log verify --data").arg(broker.data().to_str().unwrap()).run();
    assert_eq!(verified.exit, Exit::Code(0), "{verified}");
}

#[test]
fn produce_goes_on_with_the_next_broker() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    let mut produce = broker.dure("produce t -o json").spawn();
    assert!(produce.write(b"before\n"));
    assert_eq!(produce.json().unwrap()["offset"], 0);
    broker.crash();
    assert!(produce.write(b"after\n"));
    assert_eq!(produce.json().unwrap()["offset"], 1);
    produce.close_stdin();
    assert_eq!(produce.wait(Duration::from_secs(10)), Exit::Code(0));
    assert_eq!(broker.dure("consume t -o raw").ok().text(), "before\nafter\n");
}

#[test]
fn topics_groups_and_settings_survive_kill_9() {
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 3 --retention-time 2h --max-message 2KiB").ok();
    broker.dure("topic create gone").ok();
    broker.dure("topic delete gone --yes").ok();
    broker.dure("group create q --topic t --kind queue --max-attempts 7 --lease 11s").ok();
    broker.dure("produce t").stdin("a\nb\n").ok();
    let before = (broker.json("topic describe t"), broker.json("group describe q"));
    broker.crash();
    let after = (broker.json("topic describe t"), broker.json("group describe q"));
    for figure in ["name", "id", "config", "messages", "partitions"] {
        assert_eq!(before.0[figure], after.0[figure], "{figure}");
    }
    for figure in ["group", "kind", "lag", "ready", "settings"] {
        assert_eq!(before.1[figure], after.1[figure], "{figure}");
    }
    assert_eq!(broker.json_lines("topic list").len(), 1);
    let id = before.0["id"].as_u64().unwrap();
    broker.dure("topic create next").ok();
    assert!(broker.json("topic describe next")["id"].as_u64().unwrap() > id + 1, "ids are never used again");
}
