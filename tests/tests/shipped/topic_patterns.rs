//! Reading topics by a pattern of their names.

use std::collections::BTreeSet;
use std::time::Duration;

use dure_client::{Client, ErrorCode, Message, MessageStream, Start};
use dure_tests::harness::{Broker, Exit, eventually_async};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

async fn produce(client: &Client, topic: &str, value: &str) {
    let producer = client.producer(topic).build().await.unwrap();
    producer.send(Message::new(value.to_owned())).await.unwrap();
}

async fn values(stream: &mut MessageStream, count: usize) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    while values.len() < count {
        let message = timeout(LIMIT, stream.next()).await.expect("in time").expect("not the end").unwrap();
        let value = String::from_utf8(message.value.unwrap().to_vec()).unwrap();
        assert!(values.insert(format!("{}={value}", message.topic)), "each once");
    }
    values
}

fn set(values: &[&str]) -> BTreeSet<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_reads_topics_that_appear_and_leaves_those_that_vanish() {
    let broker = Broker::start();
    broker.dure("topic create photos.raw --partitions 2").ok();
    broker.dure("topic create logs").ok();
    let client = broker.client().await;
    produce(&client, "photos.raw", "1").await;
    produce(&client, "logs", "not this").await;
    let stream = client.stream("photos.*").group("g").auto_commit(Duration::from_millis(100));
    // What appears later is read from its start on, wherever the others begin.
    let mut ann = stream.clone().subscribe().await.unwrap();
    assert_eq!(values(&mut ann, 1).await, set(&["photos.raw=1"]));
    broker.dure("topic create photos.small").ok();
    produce(&client, "photos.small", "2").await;
    broker.dure("topic create photos.small.old").ok();
    produce(&client, "photos.small.old", "nor this").await;
    assert_eq!(values(&mut ann, 1).await, set(&["photos.small=2"]));

    // A second member of the pattern shares all three partitions.
    let mut bob = broker.client().await.stream("photos.*").group("g").subscribe().await.unwrap();
    let observer = broker.client().await;
    let reading = tokio::spawn(async move {
        let message = timeout(LIMIT, ann.next()).await.expect("in time").expect("not the end").unwrap();
        (message, ann)
    });
    eventually_async(LIMIT, "a share for each", async || {
        let group = observer.admin().describe_group("g").await.unwrap();
        let shares: Vec<usize> = group.members.iter().map(|member| member.partitions.len()).collect();
        (group.lag == 0 && (shares == [1, 2] || shares == [2, 1])).then_some(())
    })
    .await;
    reading.abort();
    let _ = reading.await;

    // One is deleted and made again: its offsets begin anew, and nobody hears of an error.
    broker.dure("topic delete photos.small --yes").ok();
    broker.dure("topic delete photos.raw --yes").ok();
    broker.dure("topic create photos.small").ok();
    broker.dure("produce photos.small").stdin("3").ok();
    assert_eq!(values(&mut bob, 1).await, set(&["photos.small=3"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_group_a_pattern_is_what_there_is_and_if_it_goes_on_what_appears() {
    let broker = Broker::start();
    for topic in ["a.x", "a.y.z", "b.x"] {
        broker.dure(&format!("topic create {topic}")).ok();
        broker.dure(&format!("produce {topic}")).stdin(topic).ok();
    }
    let read = |line: &str| -> BTreeSet<String> {
        let lines = broker.json_lines(line);
        lines.iter().map(|line| line["topic"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(read("consume a.*"), set(&["a.x"]));
    assert_eq!(read("consume a.>"), set(&["a.x", "a.y.z"]));
    assert_eq!(read("consume *.x"), set(&["a.x", "b.x"]));
    assert_eq!(read("consume c.>"), set(&[]));
    let client = broker.client().await;
    let mut stream = client.stream("*.x").from(Start::Latest).subscribe().await.unwrap();
    broker.dure("topic create c.x").ok();
    produce(&client, "c.x", "from its start").await;
    assert_eq!(values(&mut stream, 1).await, set(&["c.x=from its start"]));
    broker.dure("topic delete a.x --yes").ok();
    produce(&client, "b.x", "still").await;
    assert_eq!(values(&mut stream, 1).await, set(&["b.x=still"]), "no error in between");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_pattern_is_refused_with_a_type_and_hidden_topics_are_never_meant() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("x").ok();
    // A queue group's dead-letter log is a hidden topic.
    broker.dure("group create q --topic t --kind queue").ok();
    let client = broker.client().await;
    for pattern in ["t.>.x", "t*", "a b.*"] {
        let alone = client.stream(pattern).subscribe().await.unwrap_err();
        assert_eq!(alone.code(), Some(ErrorCode::BadPattern), "{alone}");
        let member = client.stream(pattern).group("g").subscribe().await.unwrap_err();
        assert_eq!(member.code(), Some(ErrorCode::BadPattern), "{member}");
    }
    broker.dure("consume t*").exits(1).says(&["t*", "whole part between dots"]);
    let all = broker.json_lines("consume >");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["topic"], "t");
    let mut reader = broker.dure("consume > --group all --count 1 -o json").spawn();
    assert_eq!(reader.json().unwrap()["topic"], "t");
    assert_eq!(reader.wait(LIMIT), Exit::Code(0));
}
