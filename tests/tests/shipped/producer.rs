//! The client's producer: once, whatever is retried.

use std::collections::HashSet;
use std::time::Duration;

use dure_client::{Client, Compression, Message};
use dure_tests::harness::{Broker, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_whose_answer_was_lost_is_appended_once() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let proxy = Proxy::start(broker.native());
    let client = Client::connect(proxy.address().to_string()).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    for n in 0..20 {
        proxy.lose_answers(1);
        let ack = producer.send(Message::new(format!("{n}"))).await.unwrap();
        assert_eq!(ack.offset, Some(n), "not appended twice");
        assert_eq!(proxy.answers_to_lose(), 0, "the answer was not lost");
    }
    assert_eq!(broker.json("topic describe t")["messages"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_batches_keeps_its_order_through_lost_answers() {
    const MESSAGES: u64 = 4_000;
    let broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    let proxy = Proxy::start(broker.native());
    let client = Client::connect(proxy.address().to_string()).await.unwrap();
    let producer =
        client.producer("t").batch_bytes(2_000).compression(Compression::Lz4).build().await.unwrap();
    let mut deliveries = Vec::new();
    for n in 0..MESSAGES {
        if n % 400 == 200 {
            proxy.lose_answers(1);
        }
        let message = Message::new(n.to_string()).partition((n % 2) as u32);
        deliveries.push(producer.enqueue(message).await.unwrap());
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let ack = delivery.await.unwrap();
        assert_eq!((u64::from(ack.partition), ack.offset), (n as u64 % 2, Some(n as u64 / 2)), "message {n}");
    }
    assert_eq!(proxy.answers_to_lose(), 0);
    let messages = broker.json_lines("consume t");
    let values: HashSet<_> = messages.iter().map(|message| message["value"].as_str().unwrap()).collect();
    assert_eq!((messages.len() as u64, values.len() as u64), (MESSAGES, MESSAGES));
}
