//! The scrubber of a running broker.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use dure_tests::harness::{Broker, eventually, http_get};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

fn flip(path: &Path, position: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, position).unwrap();
}

fn metric(broker: &Broker, name: &str) -> f64 {
    let (_, text) = http_get(broker.http(), "/metrics");
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(metric, _)| metric == name));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Lines of 5 KB, each a batch of its own.
fn produce(broker: &Broker, lines: std::ops::Range<usize>) {
    for n in lines {
        broker.dure("produce t").stdin(format!("line {n} {}\n", "x".repeat(5_000))).ok();
    }
}

#[test]
fn a_bit_that_flips_under_a_running_broker_is_found_within_seconds() {
    let mut broker = Broker::builder().flags("--scrub-rate 1GiB").start();
    broker.dure("topic create t --segment-size 16KiB").ok();
    produce(&broker, 0..12);
    let passes = metric(&broker, "dure_scrub_passes_total");
    eventually(LIMIT, "a whole pass", || {
        (metric(&broker, "dure_scrub_passes_total") > passes + 1.0).then_some(())
    });
    assert!(metric(&broker, "dure_scrub_bytes_total") > 40_000.0);
    assert!(metric(&broker, "dure_scrub_last_pass_timestamp_seconds") > 1_700_000_000.0);
    let lost = "dure_scrub_findings_total{kind=\"entries_lost\"}";
    assert_eq!(metric(&broker, lost), 0.0);
    let ready = || -> (u16, Value) {
        let (status, body) = http_get(broker.http(), "/readyz");
        (status, serde_json::from_str(&body).unwrap())
    };
    assert_eq!((ready().0, &ready().1["degraded"]), (200, &Value::Bool(false)));

    let log = broker.data().join("shard-0000/log/1/0");
    flip(&log.join("00000000000000000003.log"), 2_000);
    eventually(LIMIT, "the finding", || (metric(&broker, lost) == 1.0).then_some(()));
    let (status, body) = ready();
    assert_eq!((status, &body["ready"], &body["degraded"]), (200, &Value::Bool(true), &Value::Bool(true)));
    assert!(body["damage"][0].as_str().unwrap().contains("offsets 3 to 3 of 1/0"), "{body}");
    assert_eq!(broker.json("topic describe t")["partitions"][0]["lost"][0]["from"], 3);
    // The rest is served, and work goes on.
    let served = broker.dure("consume t -o json").exits(1).json_lines();
    let offsets: Vec<u64> = served.iter().map(|message| message["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, (0..12).filter(|n| *n != 3).collect::<Vec<u64>>());
    produce(&broker, 12..14);
    assert_eq!(metric(&broker, lost), 1.0, "it is told once");
    let stderr = broker.process().stderr();
    assert!(stderr.contains("scrubber: offsets 3 to 3 of 1/0"), "{stderr}");

    // What is deleted is no damage any more.
    broker.dure("topic delete t --yes").ok();
    eventually(LIMIT, "health is whole again", || {
        let (_, body) = http_get(broker.http(), "/readyz");
        let body: Value = serde_json::from_str(&body).unwrap();
        (body["degraded"] == false).then_some(())
    });
}

#[test]
fn the_scrubber_is_slow_by_default_and_can_be_off() {
    let broker = Broker::builder().flags("--scrub-rate 0").start();
    broker.dure("topic create t --segment-size 16KiB").ok();
    produce(&broker, 0..8);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(metric(&broker, "dure_scrub_bytes_total"), 0.0);
    let settings = dure_tests::harness::Dure::new("config show").json_lines();
    let rate = settings.iter().find(|setting| setting["name"] == "scrub-rate").expect("a setting");
    assert_eq!(rate["value"], "4MiB");
}
