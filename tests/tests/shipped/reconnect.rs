//! Clients outlive their broker.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dure_client::{Error, Message, Start};
use dure_tests::harness::Broker;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_goes_on_and_nothing_acknowledged_is_lost() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    let client = broker.client().await;
    let producer = client.producer("t").build().await.unwrap();
    let (progress, mut watching) = tokio::sync::watch::channel(0);
    let sending = tokio::spawn(async move {
        let mut acked = HashMap::new();
        let mut unknown = 0;
        for n in 0..3_000 {
            match producer.send(Message::new(format!("{n}"))).await {
                Ok(ack) => assert_eq!(acked.insert(ack.offset.unwrap(), format!("{n}")), None),
                // In flight when the broker died: the next one does not know the session.
                Err(Error::OutcomeUnknown { .. }) => unknown += 1,
                Err(error) => panic!("{error:?}"),
            }
            progress.send_replace(n);
        }
        (acked, unknown)
    });
    for crash in 1..=3 {
        timeout(LIMIT, watching.wait_for(|n| *n >= crash * 700)).await.expect("it goes on").unwrap();
        broker.crash();
    }
    let (acked, unknown) = timeout(LIMIT, sending).await.expect("it ends").unwrap();
    assert!(unknown <= 3, "{unknown} unknown with one message in flight at each of three crashes");
    let messages = broker.json_lines("consume t");
    let mut values = HashSet::new();
    for message in &messages {
        let value = message["value"].as_str().unwrap();
        assert!(values.insert(value), "{value} was appended twice");
        if let Some(acked) = acked.get(&message["offset"].as_u64().unwrap()) {
            assert_eq!(acked, value);
        }
    }
    assert!(acked.len() + unknown >= messages.len() && messages.len() >= acked.len());
    assert!(acked.values().all(|value| values.contains(value.as_str())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_consumer_goes_on_and_nothing_settled_comes_back() {
    const MESSAGES: usize = 600;
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("produce t").stdin((0..MESSAGES).map(|n| format!("{n}\n")).collect::<String>()).ok();
    let client = broker.client().await;
    let mut jobs =
        client.queue("t", "g").prefetch(8).lease(Duration::from_secs(2)).subscribe().await.unwrap();
    let mut settled = HashSet::new();
    let mut crashed = 0;
    while settled.len() < MESSAGES {
        let job = match timeout(LIMIT, jobs.next()).await.expect("it goes on").expect("it does not end") {
            Ok(job) => job,
            Err(error) => {
                assert!(error.is_retriable(), "{error:?}");
                continue;
            }
        };
        let value = String::from_utf8(job.value().to_vec()).unwrap();
        assert!(!settled.contains(&value), "{value} came back");
        if settled.len() / 200 > crashed {
            crashed += 1;
            // In the middle of a job: its receipt outlives the broker, or the job comes again.
            broker.crash();
        }
        match job.ack().await {
            Ok(()) => assert!(settled.insert(value)),
            Err(error) => assert!(crashed > 0, "{error:?}"),
        }
    }
    let group = broker.json("group describe g");
    assert_eq!((&group["lag"], &group["dead"]), (&0.into(), &0.into()), "{group}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_behind_the_last_message() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    let client = broker.client().await;
    let mut stream = client.stream("t").from(Start::Earliest).subscribe().await.unwrap();
    for round in 0..4_u64 {
        broker.dure("produce t").stdin("a\nb\nc\n").ok();
        for n in 0..3 {
            let message = loop {
                match timeout(LIMIT, stream.next()).await.expect("it goes on").expect("it does not end") {
                    Ok(message) => break message,
                    Err(error) => assert!(matches!(error, Error::Disconnected { .. }), "{error:?}"),
                }
            };
            assert_eq!(message.offset, 3 * round + n);
        }
        broker.crash();
    }
}

/// The settler of a queue consumer once waited for a connection while it kept the one who was making it from going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_nobody_polls_does_not_keep_others_from_connecting() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    broker.kill();
    let mut unpolled = Box::pin(client.ping());
    assert!(timeout(Duration::from_millis(200), &mut unpolled).await.is_err(), "there is no broker");
    broker.start_again();
    timeout(Duration::from_secs(5), client.ping()).await.expect("it connects").unwrap();
    timeout(Duration::from_secs(5), unpolled).await.expect("and so does the other one").unwrap();
}
