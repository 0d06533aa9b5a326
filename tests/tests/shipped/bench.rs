//! `dure bench`: what it reports is what it did, and it leaves nothing behind but what it says.

use dure_tests::harness::Broker;
use serde_json::Value;

const QUANTILES: [&str; 5] = ["p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"];

fn rises(latency: &Value) {
    let figures: Vec<f64> = QUANTILES.iter().map(|name| latency[name].as_f64().expect(name)).collect();
    assert!(figures.is_sorted() && figures[4] > 0.0, "{latency}");
}

fn bench(broker: &Broker, line: &str, messages: u64, size: u64) -> Value {
    let report = broker.json(&format!("bench {line}"));
    assert_eq!(report["messages"], messages, "{report}");
    assert_eq!(report["bytes"], messages * size, "{report}");
    assert_eq!(report["acked"], "synced", "{report}");
    for rate in ["seconds", "messages_per_s", "mb_per_s"] {
        assert!(report[rate].as_f64().is_some_and(|rate| rate > 0.0), "{rate} in {report}");
    }
    report
}

#[test]
fn each_load_reports_every_message_once_and_takes_its_topic_away() {
    let broker = Broker::start();
    let report = bench(&broker, "stream --messages 3000 --size 200 --partitions 3 --members 2", 3000, 200);
    rises(&report);
    rises(&report["ack"]);
    let report = bench(&broker, "queue --messages 2000 --size 64 --workers 3 --prefetch 5", 2000, 64);
    rises(&report["ack"]);
    for queue in ["", "--queue"] {
        let report = bench(&broker, &format!("latency --rate 500/s --seconds 1 {queue}"), 500, 100);
        rises(&report);
        rises(&report["ack"]);
    }
    assert_eq!(broker.json_lines("topic list"), Vec::<Value>::new());
    assert_eq!(broker.json_lines("group list"), Vec::<Value>::new());
}

#[test]
fn what_a_bench_produced_stays_for_the_one_that_reads() {
    let broker = Broker::start();
    rises(&bench(&broker, "produce --topic load --messages 1000 --size 100 --partitions 2", 1000, 100));
    let report = broker.json("bench consume --topic load");
    assert_eq!((&report["messages"], &report["bytes"]), (&1000.into(), &100_000.into()), "{report}");
    let report = bench(&broker, "queue --topic load --workers 2", 1000, 100);
    rises(&report["ack"]);
    assert_eq!(broker.json("topic describe load")["messages"], 1000, "the topic is somebody's");
    assert_eq!(broker.json_lines("group list"), Vec::<Value>::new());
}

/// By Little's law: who waits for each before the next has waited for all of them. A look at the clock for several
/// messages must not count the waits of those before.
#[test]
fn what_one_at_a_time_waits_is_not_counted_twice() {
    let broker = Broker::start();
    let report = bench(&broker, "produce --messages 300 --size 1KiB --inflight 1100", 300, 1024);
    let each_ms = 1_000.0 / report["messages_per_s"].as_f64().expect("a rate");
    assert!(report["p50_ms"].as_f64().expect("a median") < 3.0 * each_ms, "{each_ms} ms each: {report}");
}
