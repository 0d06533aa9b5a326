//! SIGTERM.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use dure_client::{Client, Error, Message};
use dure_tests::harness::{Broker, Exit};

#[test]
fn an_idle_broker_stops_at_once_with_either_signal() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\n").ok();
    let _follower = broker.dure("consume t --follow -o json").spawn();
    assert!(broker.stop() < Duration::from_secs(5));
    broker.start_again();
    broker.process().interrupt();
    assert_eq!(broker.process().wait(Duration::from_secs(10)), Exit::Code(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_request_is_acknowledged_and_kept_or_fails_as_retriable() {
    const MESSAGES: usize = 400;
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("topic create jobs").ok();
    broker.dure("produce jobs").stdin((0..MESSAGES).map(|n| format!("{n}\n")).collect::<String>()).ok();
    let connect = async |broker: &Broker| {
        let builder = Client::builder().servers(broker.native().to_string());
        builder.request_timeout(Duration::from_secs(2)).connect().await.unwrap()
    };

    let mut producing = Vec::new();
    for task in 0..8 {
        let client = connect(&broker).await;
        producing.push(tokio::spawn(async move {
            let producer = client.producer("t").build().await.unwrap();
            let mut acked = Vec::new();
            for number in 0.. {
                let value = format!("{task}-{number} {}", "x".repeat(2_000));
                match producer.send(Message::new(value.clone())).await {
                    Ok(ack) => acked.push(((ack.partition, ack.offset.unwrap()), value)),
                    Err(error) => {
                        assert!(error.is_retriable(), "{error:?}");
                        break;
                    }
                }
            }
            acked
        }));
    }
    let client = connect(&broker).await;
    let working = tokio::spawn(async move {
        let mut jobs = client.queue("jobs", "g").prefetch(4).subscribe().await.unwrap();
        let mut acked = HashSet::new();
        while let Some(job) = jobs.next().await {
            let job = match job {
                Ok(job) => job,
                Err(error) => {
                    assert!(error.is_retriable(), "{error:?}");
                    break;
                }
            };
            let offset = job.offset();
            tokio::time::sleep(Duration::from_millis(2)).await;
            match job.ack().await {
                Ok(()) => assert!(acked.insert(offset), "{offset} came back"),
                Err(error) => {
                    assert!(
                        error.is_retriable() || matches!(error, Error::OutcomeUnknown { .. }),
                        "{error:?}"
                    );
                    break;
                }
            }
        }
        acked
    });

    tokio::time::sleep(Duration::from_millis(400)).await;
    let took = tokio::task::spawn_blocking(move || (broker.stop(), broker));
    let (took, mut broker) = took.await.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut acked = HashMap::new();
    for task in producing {
        acked.extend(task.await.unwrap());
    }
    let settled = working.await.unwrap();
    assert!(acked.len() > 50 && !settled.is_empty(), "{} and {}", acked.len(), settled.len());

    broker.start_again();
    let mut found = HashMap::new();
    for message in broker.json_lines("consume t") {
        let place = (message["partition"].as_u64().unwrap() as u32, message["offset"].as_u64().unwrap());
        found.insert(place, message["value"].as_str().unwrap().to_owned());
    }
    for (place, value) in &acked {
        assert_eq!(found.get(place), Some(value), "{place:?}");
    }
    let values: HashSet<_> = found.values().collect();
    assert_eq!(values.len(), found.len(), "appended twice");
    let client = broker.client().await;
    let mut left = 0;
    loop {
        let jobs = client.receive("jobs", "g", 100, Duration::from_millis(200), None).await.unwrap();
        if jobs.is_empty() {
            break;
        }
        left += jobs.len();
        for job in jobs {
            assert!(!settled.contains(&job.offset), "{} came back", job.offset);
        }
    }
    // A prefetched job may still be leased; nothing else is missing.
    let group = client.admin().describe_group("g").await.unwrap();
    assert!(left as u64 <= group.lag && group.lag + settled.len() as u64 >= MESSAGES as u64 - 1, "{group:?}");
}
