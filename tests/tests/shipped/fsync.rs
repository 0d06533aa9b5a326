//! A disk that fails to sync. Needs `strace`; without it, or without the right to use it, the test says so and passes.

use std::time::Duration;

use dure_client::{ErrorCode, Message};
use dure_tests::harness::{Broker, FailingSyncs, eventually, http_get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_fails_what_is_pending_and_stops_the_shard_for_good() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    let client = broker.client().await;
    let producer = client.producer("t").build().await.unwrap();
    for n in 0..50 {
        producer.send(Message::new(format!("acked {n}"))).await.unwrap();
    }
    let strace = match FailingSyncs::attach(broker.process().id(), "1+") {
        Ok(strace) => strace,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };

    let failed = producer.send(Message::new("doomed")).await.unwrap_err();
    assert!(failed.code() == Some(ErrorCode::ShardStopped) || failed.is_outcome_unknown(), "{failed:?}");
    eventually(Duration::from_secs(10), "red health", || {
        let (code, body) = http_get(broker.http(), "/readyz");
        (code == 503 && body.contains("shard")).then_some(())
    });
    // Alive, and what is durable is served.
    assert_eq!(http_get(broker.http(), "/livez").0, 200);
    let read = broker.json_lines("consume t");
    assert_eq!(read.len(), 50, "nothing that was not synced is shown");
    assert_eq!(read[49]["value"], "acked 49");
    // A disk that works again changes nothing: what failed once is never believed.
    drop(strace);
    std::thread::sleep(Duration::from_millis(300));
    let still = client.producer("t").build().await.unwrap().send(Message::new("later")).await.unwrap_err();
    assert_eq!(still.code(), Some(ErrorCode::ShardStopped), "{still:?}");
    broker.dure("produce t").stdin("later\n").exits(1);

    broker.crash();
    assert_eq!(http_get(broker.http(), "/readyz").0, 200);
    let read = broker.json_lines("consume t");
    assert!((50..=51).contains(&read.len()), "{}", read.len());
    for (n, message) in read[..50].iter().enumerate() {
        assert_eq!(message["value"], format!("acked {n}"));
    }
    broker.dure("produce t").stdin("well again\n").ok();
}
