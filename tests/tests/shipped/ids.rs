//! Messages with ids, on the command line and through the client library.

use dure_client::{Client, Message};
use dure_tests::harness::Broker;
use serde_json::json;

#[test]
fn a_message_sent_twice_with_one_id_is_there_once_even_after_kill_9() {
    let mut broker = Broker::start();
    broker.dure("topic create orders --partitions 3").ok();
    let send = |broker: &Broker, line: &str, flags: &str| {
        broker.dure(&format!("produce orders {flags}")).stdin(line).json_lines()
    };
    let first = send(&broker, "2 loaves\n", "--message-id order-1 --partition 2");
    assert_eq!(first, [json!({"topic": "orders", "partition": 2, "offset": 0})]);
    let again = json!({"topic": "orders", "partition": 2, "offset": 0, "duplicate": true});
    assert_eq!(send(&broker, "2 loaves\n", "--message-id order-1"), std::slice::from_ref(&again));
    broker.crash();
    assert_eq!(send(&broker, "2 loaves\n", "--message-id order-1 --partition 0"), [again]);
    // Lines whose keys are their ids: of those sent before, nothing is sent again.
    let keyed = "--key-separator : --id-from-key --partition 1";
    let sent = send(&broker, "order-2:a\norder-3:b\n", keyed);
    assert!(sent.iter().all(|line| line.get("duplicate").is_none()), "{sent:?}");
    let sent = send(&broker, "order-4:c\norder-2:a\norder-1:x\norder-5:d\n", keyed);
    let found: Vec<_> =
        sent.iter().map(|l| (&l["partition"], &l["offset"], l.get("duplicate").is_some())).collect();
    let at = |partition, offset| (json!(partition), json!(offset));
    let expected = [(at(1, 2), false), (at(1, 0), true), (at(2, 0), true), (at(1, 3), false)];
    let expected: Vec<_> = expected.iter().map(|((p, o), duplicate)| (p, o, *duplicate)).collect();
    assert_eq!(found, expected);
    let mut values: Vec<_> = broker.json_lines("consume orders");
    values.sort_by_key(|message| (message["partition"].as_u64(), message["offset"].as_u64()));
    let values: Vec<_> = values.iter().map(|message| message["value"].as_str().expect("text")).collect();
    assert_eq!(values, ["a", "b", "c", "d", "2 loaves"]);
    assert_eq!(broker.json("topic describe orders")["config"]["dedup_window_ms"], 120_000);
}

#[test]
fn a_topic_says_for_how_long_and_wrong_ids_are_refused() {
    let broker = Broker::start();
    broker.dure("topic create off --config dedup-window=0s").ok();
    broker.dure("produce off --message-id a").stdin("1\n2\n").ok();
    assert_eq!(broker.json_lines("consume off").len(), 2);
    let refused = broker.dure("topic create long --dedup-window 25h").exits(1);
    assert!(refused.stderr.contains("dedup-window"), "{}", refused.stderr);
    let refused = broker.dure("produce off --id-from-key").stdin("a\n").exits(2);
    assert!(refused.stderr.contains("--key-separator"), "{}", refused.stderr);
    let long = format!("produce off --message-id {}", "x".repeat(257));
    let refused = broker.dure(&long).stdin("a\n").exits(1);
    assert!(refused.stderr.contains("257 bytes"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_told_where_the_first_one_is() {
    let broker = Broker::start();
    broker.dure("topic create orders --partitions 4").ok();
    let client = Client::connect(broker.native().to_string()).await.expect("connected");
    let producer = client.producer("orders").build().await.expect("a producer");
    let mut sent = Vec::new();
    for n in 0..500 {
        let id = format!("order-{}", n % 100);
        sent.push(producer.enqueue(Message::new(id.clone()).key(n.to_string()).id(id)).await.expect("taken"));
    }
    let (mut first, mut duplicates) = (std::collections::HashMap::new(), Vec::new());
    for (n, delivery) in sent.into_iter().enumerate() {
        let ack = delivery.await.expect("acknowledged");
        let place = (ack.partition, ack.offset.expect("an offset"));
        if ack.duplicate {
            duplicates.push((n % 100, place))
        } else {
            assert_eq!(first.insert(n % 100, place), None)
        }
    }
    assert_eq!((first.len(), duplicates.len()), (100, 400));
    assert!(duplicates.iter().all(|(id, place)| first[id] == *place));
    assert_eq!(broker.json_lines("consume orders").len(), 100);
}
