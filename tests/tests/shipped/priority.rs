//! Queue groups in which urgent messages go first, on the command line and through the client.

use dure_client::{Client, Message, Ordering, QueueSettings};
use dure_tests::harness::Broker;
use serde_json::Value;

fn values(jobs: &[Value]) -> Vec<&str> {
    jobs.iter().map(|job| job["value"].as_str().expect("a value")).collect()
}

#[test]
fn urgent_messages_go_first_before_and_after_a_crash() {
    let mut broker = Broker::start();
    broker.dure("topic create alarms").ok();
    broker.dure("group create guards --topic alarms --kind queue --ordering priority").ok();
    broker.dure("group create archive --topic alarms --kind queue").ok();
    assert_eq!(broker.json("group describe guards")["settings"]["ordering"], "priority");
    broker.dure("produce alarms --priority 0").stdin("lamp\n").ok();
    broker.dure("produce alarms").stdin("door\n").ok();
    broker.dure("produce alarms --priority 9").stdin("smoke\nfire\n").ok();
    let receive = |broker: &Broker, group: &str, count: u32| {
        broker.json_lines(&format!("receive alarms --group {group} --count {count} --wait 10s"))
    };
    assert_eq!(values(&receive(&broker, "guards", 1)), ["smoke"]);
    broker.crash();
    assert_eq!(values(&receive(&broker, "guards", 9)), ["fire", "door", "lamp"]);
    assert_eq!(
        values(&receive(&broker, "archive", 9)),
        ["lamp", "door", "smoke", "fire"],
        "others do not care"
    );
    broker.dure("produce alarms --priority 10").stdin("x\n").exits(2).says(&["0..=9"]);
}

#[tokio::test]
async fn those_that_are_not_urgent_are_not_passed_over_for_ever() {
    let broker = Broker::start();
    let client = Client::connect(broker.native().to_string()).await.expect("connected");
    broker.dure("topic create jobs").ok();
    let settings = QueueSettings { ordering: Ordering::Priority, ..QueueSettings::default() };
    client.admin().create_queue_group("g", &["jobs"], &settings).await.expect("created");
    let producer = client.producer("jobs").build().await.expect("a producer");
    producer.send(Message::new("low").priority(1)).await.expect("sent");
    for _ in 0..40 {
        producer.send(Message::new("high").priority(8)).await.expect("sent");
    }
    let mut jobs = client.queue("jobs", "g").prefetch(1).subscribe().await.expect("subscribed");
    let mut before = 0;
    loop {
        let job = jobs.next().await.expect("more").expect("a job");
        let is_low = job.value() == b"low";
        job.ack().await.expect("acked");
        if is_low {
            break;
        }
        before += 1;
    }
    assert!(
        (1..8).contains(&before),
        "one of eight is the one that waited longest, and {before} came before it"
    );
}
