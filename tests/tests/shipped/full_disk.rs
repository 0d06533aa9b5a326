//! A disk that fills up: a small ext4 of its own. Needs root; without it the test says so and passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dure_client::{ErrorCode, Message};
use dure_tests::harness::{Broker, FileSystem, LoopDisk, eventually, http_get};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const RESERVE_MIB: u64 = 64;
const VALUE_BYTES: usize = 32 << 10;

fn readyz(broker: &Broker) -> (u16, Value) {
    let (code, body) = http_get(broker.http(), "/readyz");
    (code, serde_json::from_str(&body).expect("JSON"))
}

fn refuses(broker: &Broker) -> bool {
    let (code, body) = readyz(broker);
    assert_eq!(code, 200, "consuming, acknowledging and deleting go on: {body}");
    let (_, metrics) = http_get(broker.http(), "/metrics");
    let refused = body["producing_refused"].as_array().expect("a list");
    let full = metrics.lines().any(|line| line == "dure_disk_full 1");
    assert_eq!(full, !refused.is_empty(), "{body}");
    full
}

/// Several producers at once, as fast as they can, until each of them is refused. Returns what was acknowledged.
async fn fill(broker: &Broker) -> u64 {
    let acked = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for n in 0..32_u8 {
        let (client, acked) = (broker.client().await, acked.clone());
        tasks.push(tokio::spawn(async move {
            let producer = client.producer("t").build().await.unwrap();
            loop {
                match producer.send(Message::new(vec![n; VALUE_BYTES])).await {
                    Ok(_) => acked.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.code() == Some(ErrorCode::DiskFull) => return,
                    Err(error) => panic!("{error}"),
                };
            }
        }));
    }
    for task in tasks {
        task.await.expect("refused at last");
    }
    acked.load(Ordering::Relaxed)
}

/// Everything in the topic; each message must be whole.
fn count(broker: &Broker) -> u64 {
    let text = broker.dure("consume t -o raw").ok().stdout;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assert!(
            line.len() == VALUE_BYTES && line.iter().all(|byte| *byte == line[0]),
            "{} bytes",
            line.len()
        );
    }
    text.len() as u64 / (VALUE_BYTES as u64 + 1)
}

/// Takes and acknowledges messages one by one.
fn work(broker: &Broker, messages: usize) {
    for _ in 0..messages {
        assert_eq!(broker.json_lines("receive t --group g --wait 5s --ack").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_producers_and_nobody_else_and_loses_nothing() {
    if let Some(why) = LoopDisk::missing(FileSystem::Ext4) {
        eprintln!("skipped: {why}");
        return;
    }
    let disk = LoopDisk::new(FileSystem::Ext4, 400 * MIB).expect("a small disk");
    let flags = "--journal-piece 16MiB --checkpoint 32MiB --reserve";
    let flags = format!("{flags} {RESERVE_MIB}MiB");
    let mut broker = Broker::builder().flags(&flags).inside(&disk.root()).start();
    broker.dure("topic create t --partitions 4").ok();
    broker.dure("topic create other").ok();
    assert!(!refuses(&broker));

    let mut acked = fill(&broker).await;
    assert!(acked * VALUE_BYTES as u64 > 100 * MIB, "{acked}");
    let left = disk.available_bytes();
    assert!(left > RESERVE_MIB * MIB / 2, "{left} bytes were left when all were refused");
    assert!(refuses(&broker));
    let refused = broker.dure("produce other").stdin("more\n").exits(1);
    assert!(refused.stderr.contains("disk full"), "{refused}");
    assert_eq!(count(&broker), acked);
    work(&broker, 5);

    broker.crash();
    acked += fill(&broker).await;
    assert!(refuses(&broker));
    assert_eq!(count(&broker), acked);

    // Somebody else takes the reserve, too, and the broker goes on all the same, and starts with the spare piece.
    let filler = disk.fill();
    work(&broker, 10);
    broker.crash();
    work(&broker, 10);
    assert_eq!(count(&broker), acked);
    assert_eq!(broker.json("group describe g")["lag"], acked - 25);

    // Room is made, and producing resumes by itself.
    std::fs::remove_file(filler).expect("removed");
    broker.dure("topic purge t --yes").ok();
    // Health and metrics are asked one after the other: they need to agree only when it is over.
    let resumed =
        || readyz(&broker).1["producing_refused"].as_array().is_some_and(Vec::is_empty).then_some(());
    eventually(Duration::from_secs(20), "producing resumes", resumed);
    assert!(!refuses(&broker));
    broker.dure("produce other").stdin("again\n").ok();
    assert_eq!(broker.dure("consume other -o raw").ok().text(), "again\n");
    broker.stop();
    let verified =
        dure_tests::harness::Dure::new("log verify --data").arg(broker.data().to_str().unwrap()).run();
    assert_eq!(verified.exit, dure_tests::harness::Exit::Code(0), "{verified}");
    drop(broker);
}
