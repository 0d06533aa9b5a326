//! Readers that want only messages with certain headers.

use std::time::Duration;

use dure_client::{Client, Compression, Message};
use dure_tests::harness::{Broker, eventually_async};
use serde_json::json;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// Numbers in one partition, of which each says whether it is even, and each tenth that it is round.
async fn produce(client: &Client, numbers: std::ops::Range<u64>, compression: Compression) {
    let producer = client.producer("t").compression(compression).build().await.unwrap();
    for number in numbers {
        let parity = if number % 2 == 0 { "even" } else { "odd" };
        let message = Message::new(format!("{number:060}")).header("parity", parity);
        let message = if number % 10 == 0 { message.header("round", "yes") } else { message };
        drop(producer.enqueue(message).await.unwrap());
    }
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_matches_is_sent_and_positions_pass_the_rest() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let client = broker.client().await;
    produce(&client, 0..5_000, Compression::None).await;
    produce(&client, 5_000..10_000, Compression::Zstd).await;
    for (filters, step) in [(&[("parity", "even")][..], 2), (&[("parity", "even"), ("round", "yes")], 10)] {
        let builder = client.stream("t").until_high_watermark();
        let builder = filters.iter().fold(builder, |builder, (name, value)| builder.filter(*name, *value));
        let mut stream = builder.subscribe().await.unwrap();
        let mut offsets = Vec::new();
        while let Some(message) = timeout(LIMIT, stream.next()).await.expect("in time") {
            let message = message.unwrap();
            assert_eq!(message.value.unwrap(), format!("{:060}", message.offset));
            offsets.push(message.offset);
        }
        assert_eq!(offsets, (0..10_000).step_by(step).collect::<Vec<_>>());
        assert_eq!(stream.position("t", 0), Some(10_000));
    }
    let mut all =
        client.stream("t").filter("parity", "neither").until_high_watermark().subscribe().await.unwrap();
    assert!(timeout(LIMIT, all.next()).await.expect("in time").is_none(), "it ends without a message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_group_has_no_lag_at_the_end() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let client = broker.client().await;
    produce(&client, 0..3_005, Compression::None).await;
    let builder = client.stream("t").group("g").filter("round", "yes");
    let mut stream = builder.auto_commit(Duration::from_millis(50)).subscribe().await.unwrap();
    for number in 0..301 {
        let message = timeout(LIMIT, stream.next()).await.expect("in time").unwrap().unwrap();
        assert_eq!(message.offset, number * 10);
    }
    let waiting = tokio::spawn(async move { stream.next().await.map(drop) });
    eventually_async(LIMIT, "no lag", async || {
        let group = client.admin().describe_group("g").await.unwrap();
        (group.lag == 0 && group.partitions[0].committed == Some(3_005)).then_some(())
    })
    .await;
    // What comes later and does not match is passed, too.
    produce(&client, 1..2, Compression::None).await;
    eventually_async(LIMIT, "no lag again", async || {
        (client.admin().describe_group("g").await.unwrap().partitions[0].committed == Some(3_006))
            .then_some(())
    })
    .await;
    waiting.abort();
}

#[test]
fn filters_on_the_command_line_have_to_match_all() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    for (value, headers) in [("a", "--header k=1"), ("b", "--header k=1 --header l=2"), ("c", "--header l=2")]
    {
        broker.dure(&format!("produce t {headers}")).stdin(value).ok();
    }
    let values = |line: &str| -> Vec<String> {
        broker.json_lines(line).iter().map(|m| m["value"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(values("consume t --filter k=1"), ["a", "b"]);
    assert_eq!(values("consume t --filter k=1 --filter l=2"), ["b"]);
    assert_eq!(values("consume t --filter k=2"), [] as [&str; 0]);
    assert_eq!(values("consume t --group g --filter l=2 --count 2"), ["b", "c"]);
    assert_eq!(broker.json("group describe g")["lag"], json!(0));

    // Nothing matches: what is passed is committed all the same.
    broker.dure("group create h --topic t --kind stream").ok();
    let mut reader = broker.dure("consume t --group h --filter k=none").spawn();
    let committed = || broker.json("group describe h")["partitions"][0]["committed"].clone();
    let started = std::time::Instant::now();
    while committed() != json!(3) {
        assert!(started.elapsed() < LIMIT, "{}", committed());
        std::thread::sleep(Duration::from_millis(100));
    }
    reader.terminate();
    reader.wait(LIMIT);
    broker.dure("consume t --filter k").exits(2).says(&["NAME=VALUE"]);
    let many = "--filter k=1 ".repeat(17);
    broker.dure(&format!("consume t {many}")).exits(1).says(&["17", "16"]);
}
