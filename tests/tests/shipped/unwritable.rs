//! A partition whose directory cannot be written, while everything else can.

use std::fs;
use std::time::Duration;

use dure_tests::harness::{Broker, Dure, eventually, http_get};
use serde_json::{Value, json};

fn refused(broker: &Broker) -> Value {
    let (code, body) = http_get(broker.http(), "/readyz");
    assert_eq!(code, 200, "everything else is served: {body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["producing_refused"].clone()
}

fn values(broker: &Broker) -> Vec<Value> {
    broker.json_lines("consume t --partition 1").into_iter().map(|message| message["value"].clone()).collect()
}

#[test]
fn a_partition_that_cannot_be_written_takes_nothing_more_and_loses_nothing() {
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("produce t --partition 0").stdin("a\n").ok();
    // Something stands where its directory should be made.
    let in_the_way = broker.data().join("shard-0000/log/1/1");
    fs::write(&in_the_way, "").unwrap();
    broker.dure("produce t --partition 1").stdin("acknowledged\n").ok();
    broker.dure("produce t --partition 1").stdin("refused\n").exits(1).says(&["`t` partition 1", "log/1/1"]);
    broker.dure("produce t --partition 0").stdin("b\n").ok();
    assert_eq!(values(&broker), ["acknowledged"]);
    let shown = refused(&broker);
    assert_eq!((&shown[0]["topic"], &shown[0]["partition"]), (&json!("t"), &json!(1)), "{shown}");
    let (_, metrics) = http_get(broker.http(), "/metrics");
    assert!(metrics.contains("dure_partitions_unwritable 1"), "{metrics}");
    let described = broker.json("topic describe t");
    let why = described["partitions"][1]["unwritable"].as_str().expect("it says why");
    assert!(why.contains("log/1/1"), "{why}");
    assert_eq!(described["partitions"][0].get("unwritable"), None);

    for kill in [true, false] {
        if kill {
            broker.crash();
        } else {
            broker.stop();
            broker.start_again();
        }
        assert_eq!(values(&broker), ["acknowledged"], "killed: {kill}");
        assert_eq!(refused(&broker)[0]["partition"], 1);
    }
    fs::remove_file(&in_the_way).unwrap();
    eventually(Duration::from_secs(10), "producing resumes by itself", || {
        (refused(&broker) == json!([])).then_some(())
    });
    broker.dure("produce t --partition 1").stdin("and more\n").ok();
    assert_eq!(values(&broker), ["acknowledged", "and more"]);
    broker.stop();
    let verified = Dure::new("log verify --data").arg(broker.data().to_str().unwrap()).json();
    assert_eq!((&verified["records"], &verified["ok"]), (&json!(4), &json!(true)), "{verified}");
}
