//! Members of stream groups under names that outlive their processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dure_client::{Client, Error, ErrorCode, Message, MessageStream, StreamMessage};
use dure_tests::harness::{Broker, Exit, eventually_async};
use serde_json::json;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
/// Long, so that nothing moves because a session ended.
const SESSION: Duration = Duration::from_secs(60);

fn broker_with_topic() -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 4").ok();
    broker
}

async fn join(client: &Client, name: &str) -> MessageStream {
    client.stream("t").group("s").member(name).session(SESSION).subscribe().await.unwrap()
}

/// One message to each partition.
async fn produce(client: &Client, value: &str) {
    let producer = client.producer("t").build().await.unwrap();
    for partition in 0..4 {
        producer.send(Message::new(value.to_owned()).partition(partition)).await.unwrap();
    }
}

/// Who reads what, by name.
async fn shares(client: &Client) -> BTreeMap<String, Vec<u32>> {
    let group = client.admin().describe_group("s").await.unwrap();
    assert!(group.members.iter().all(|member| member.named));
    let own = |member: dure_client::MemberDescription| {
        (member.id, member.partitions.iter().map(|at| at.partition).collect())
    };
    group.members.into_iter().map(own).collect()
}

async fn even_shares(client: &Client) -> BTreeMap<String, Vec<u32>> {
    eventually_async(LIMIT, "an even share", async || {
        let shares = shares(client).await;
        (shares.len() == 2 && shares.values().all(|share| share.len() == 2)).then_some(shares)
    })
    .await
}

async fn next(stream: &mut MessageStream) -> Result<StreamMessage, Error> {
    timeout(LIMIT, stream.next()).await.expect("in time").expect("not the end")
}

/// Two messages, and of which partitions they are.
async fn two(stream: &mut MessageStream) -> Vec<u32> {
    let mut partitions = Vec::new();
    for _ in 0..2 {
        let message = next(stream).await.unwrap();
        stream.commit(&message).await.unwrap();
        partitions.push(message.partition);
    }
    partitions.sort_unstable();
    partitions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_started_again_under_its_name_goes_on_with_its_partitions() {
    let broker = broker_with_topic();
    let (observer, first, second) = (broker.client().await, broker.client().await, broker.client().await);
    let mut ann = join(&first, "ann").await;
    let mut bob = join(&second, "bob").await;
    let before = even_shares(&observer).await;
    produce(&observer, "1").await;
    assert_eq!(two(&mut ann).await, before["ann"]);
    assert_eq!(two(&mut bob).await, before["bob"]);

    // Once it closes, once its process is gone.
    for round in ["2", "3"] {
        if round == "2" {
            ann.close().await.unwrap()
        } else {
            drop(ann)
        }
        assert_eq!(shares(&observer).await, before, "its place is kept");
        let restarted = broker.client().await;
        let started = Instant::now();
        ann = join(&restarted, "ann").await;
        produce(&observer, round).await;
        assert_eq!(two(&mut ann).await, before["ann"]);
        assert!(started.elapsed() < Duration::from_secs(5), "at once: {:?}", started.elapsed());
        assert_eq!(two(&mut bob).await, before["bob"], "and nothing moved");
        assert_eq!(shares(&observer).await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_under_one_name_the_earlier_is_told_to_end() {
    let mut broker = broker_with_topic();
    let client = broker.client().await;
    // The same client: one connection.
    for another in [client.clone(), broker.client().await] {
        let mut earlier = join(&client, "ann").await;
        produce(&client, "x").await;
        let message = next(&mut earlier).await.unwrap();
        let mut later = join(&another, "ann").await;
        let refused = earlier.commit(&message).await.unwrap_err();
        let codes = [Some(ErrorCode::MemberReplaced), Some(ErrorCode::FencedGeneration)];
        assert!(codes.contains(&refused.code()), "{refused}");
        let mut told = false;
        while let Some(message) = timeout(LIMIT, earlier.next()).await.expect("in time") {
            told |= message.is_err_and(|error| error.code() == Some(ErrorCode::MemberReplaced));
        }
        assert!(told, "its stream ends with that error");
        // What it did not commit is read again.
        for _ in 0..4 {
            let message = next(&mut later).await.unwrap();
            later.commit(&message).await.unwrap();
        }
    }
    // A broker that was restarted knows nobody, and the names are taken again.
    let mut ann = join(&client, "ann").await;
    broker.crash();
    produce(&client, "y").await;
    let mut seen = 0;
    while seen < 4 {
        // That the broker is away is told in between.
        seen += u32::from(next(&mut ann).await.is_ok_and(|message| message.value.unwrap() == "y"));
    }
}

#[test]
fn a_consumer_on_the_command_line_keeps_its_place_for_its_session() {
    let broker = broker_with_topic();
    broker.dure("produce t --partition 0").stdin("a\nb\n").ok();
    for value in ["a", "b"] {
        let read = broker.json_lines("consume t --group s --member audit-1 --session 10s --count 1");
        assert_eq!(read[0]["value"], value);
        let group = broker.json("group describe s");
        assert_eq!(
            (&group["members"][0]["id"], &group["members"][0]["named"]),
            (&json!("audit-1"), &json!(true))
        );
        assert_eq!(group["members"][0]["partitions"].as_array().unwrap().len(), 4, "{group}");
    }
    let mut earlier = broker.dure("consume t --group s --member audit-1").spawn();
    std::thread::sleep(Duration::from_millis(500));
    let later = broker.dure("consume t --group s --member audit-1").spawn();
    assert_eq!(earlier.wait(LIMIT), Exit::Code(1));
    assert!(earlier.stderr().contains("replaced"), "{}", earlier.stderr());
    drop(later);
    broker.dure("consume t --member x").exits(2).says(&["--group"]);
    broker.dure("consume t --group s --member a/b").exits(1).says(&["member name `a/b`"]);
    broker.dure("consume t --group s --session 40m").exits(1).says(&["1800000"]);
}
