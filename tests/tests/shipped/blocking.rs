//! Handlers that block their thread.

use std::time::Duration;

use dure_client::{Client, Message};
use dure_tests::harness::Broker;

/// A lease of a second, and a handler that sleeps through four on the only thread of its runtime.
#[test]
fn a_handler_that_blocks_its_runtime_keeps_its_lease_and_the_message_is_delivered_once() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue --lease 1s").ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(broker.native().to_string()).await.expect("connected");
        let producer = client.producer("t").build().await.expect("a producer");
        producer.send(Message::new("once")).await.expect("sent");
        let mut jobs = client.queue("t", "g").prefetch(1).subscribe().await.expect("subscribed");
        let job = jobs.next().await.expect("one").expect("a job");
        assert_eq!(job.attempt(), 1);
        let others = broker.dure("receive t --group g --wait 3500ms -o json");
        let others = std::thread::spawn(move || others.ok());
        std::thread::sleep(Duration::from_secs(4));
        assert!(others.join().expect("no panic").stdout.is_empty(), "somebody else was given it");
        job.ack().await.expect("it is still this handler's");
        client.close().await;
    });
    let group = broker.json("group describe g");
    assert_eq!((&group["lag"], &group["dead"]), (&0.into(), &0.into()), "{group}");
}
