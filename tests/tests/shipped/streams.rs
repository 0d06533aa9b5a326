//! Stream groups.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dure_client::{Client, Message, MessageStream, StreamMessage};
use dure_tests::harness::{Broker, Exit, eventually_async};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// A broker with topic `t` of four partitions, empty.
fn broker_with_topic() -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 4").ok();
    broker
}

/// Appends these numbers to each of the four partitions.
async fn produce(client: &Client, numbers: Range<u64>) {
    let producer = client.producer("t").build().await.unwrap();
    for number in numbers {
        for partition in 0..4 {
            drop(producer.enqueue(Message::new(number.to_string()).partition(partition)).await.unwrap());
        }
    }
    producer.close().await.unwrap();
}

async fn join(client: &Client) -> MessageStream {
    let stream = client.stream("t").group("s").session(Duration::from_secs(2));
    stream.auto_commit(Duration::from_millis(100)).subscribe().await.unwrap()
}

/// What was read, in the order in which it was.
type Seen = Arc<Mutex<Vec<StreamMessage>>>;

/// A member that reads until it is told to leave.
struct Member {
    leave: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Member {
    async fn start(broker: &Broker, seen: &Seen) -> Member {
        let mut stream = join(&broker.client().await).await;
        let (leave, seen) = (CancellationToken::new(), Arc::clone(seen));
        let told = leave.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = stream.next() => seen.lock().unwrap().push(message.unwrap().unwrap()),
                    () = told.cancelled() => break,
                }
            }
            stream.close().await.unwrap();
        });
        Member { leave, task }
    }

    async fn leave(self) {
        self.leave.cancel();
        timeout(LIMIT, self.task).await.expect("it leaves in time").unwrap();
    }
}

async fn shares(client: &Client) -> Vec<HashSet<u32>> {
    let group = client.admin().describe_group("s").await.unwrap();
    let own =
        |member: &dure_client::MemberDescription| member.partitions.iter().map(|p| p.partition).collect();
    group.members.iter().map(own).collect()
}

async fn shared_by(client: &Client, members: usize) {
    eventually_async(LIMIT, "an even share", async || {
        let shares = shares(client).await;
        let all: HashSet<u32> = shares.iter().flatten().copied().collect();
        let even = shares.iter().all(|share| share.len() == 4 / members);
        (shares.len() == members && even && all.len() == 4).then_some(())
    })
    .await;
}

async fn seen_all(seen: &Seen, per_partition: u64) {
    eventually_async(LIMIT, "everything is read", async || {
        (seen.lock().unwrap().len() as u64 >= 4 * per_partition).then_some(())
    })
    .await;
}

/// Each message once, and in order per partition.
fn check_once_in_order(seen: &Seen, per_partition: u64) {
    let mut next: BTreeMap<u32, u64> = (0..4).map(|partition| (partition, 0)).collect();
    for message in seen.lock().unwrap().iter() {
        let next = next.get_mut(&message.partition).expect("one of four");
        let value = std::str::from_utf8(message.value.as_ref().unwrap()).unwrap();
        assert_eq!((message.offset, value), (*next, next.to_string().as_str()), "{}", message.partition);
        *next += 1;
    }
    assert!(next.values().all(|count| *count == per_partition), "{next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_share_four_partitions_and_the_other_takes_over_when_one_leaves() {
    let broker = broker_with_topic();
    let client = broker.client().await;
    let seen = Seen::default();
    let first = Member::start(&broker, &seen).await;
    let second = Member::start(&broker, &seen).await;
    shared_by(&client, 2).await;
    let group = broker.json("group describe s");
    assert_eq!((&group["kind"], &group["state"]), (&json!("stream"), &json!("stable")), "{group}");
    for member in group["members"].as_array().unwrap() {
        assert!(member["id"].is_string() && member["client"].is_string(), "{member}");
    }
    produce(&client, 0..500).await;
    seen_all(&seen, 500).await;

    let started = Instant::now();
    first.leave().await;
    shared_by(&client, 1).await;
    // It said good-bye, so its session is not waited for.
    assert!(started.elapsed() < Duration::from_millis(1800), "{:?}", started.elapsed());
    produce(&client, 500..700).await;
    seen_all(&seen, 700).await;
    second.leave().await;
    check_once_in_order(&seen, 700);

    let group = broker.json("group describe s");
    assert_eq!(
        (&group["state"], &group["lag"], &group["oldest_age_ms"]),
        (&json!("empty"), &json!(0), &json!(0))
    );
    for row in group["partitions"].as_array().unwrap() {
        assert_eq!((&row["committed"], &row["high_watermark"]), (&json!(700), &json!(700)), "{row}");
        for figure in ["ready", "leased", "delayed", "dead"] {
            assert_eq!(row[figure], 0, "{figure} of {row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_is_replaced_when_its_session_runs_out() {
    let broker = broker_with_topic();
    let client = broker.client().await;
    // A process of its own, so that it can be killed.
    let mut dying = broker.dure("consume t --group s -o json").spawn();
    let seen = Seen::default();
    let survivor = Member::start(&broker, &seen).await;
    shared_by(&client, 2).await;
    dying.kill();
    let started = Instant::now();
    shared_by(&client, 1).await;
    assert!(started.elapsed() < Duration::from_secs(10), "settled within 10 s: {:?}", started.elapsed());
    produce(&client, 0..50).await;
    seen_all(&seen, 50).await;
    survivor.leave().await;
    check_once_in_order(&seen, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_offset_never_moves_back_while_members_come_and_go() {
    const PER_PARTITION: u64 = 3_000;
    let mut broker = broker_with_topic();
    let client = broker.client().await;
    let seen = Seen::default();
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (client, done) = (broker.client().await, Arc::clone(&done));
        tokio::spawn(async move {
            let mut highest: HashMap<u32, u64> = HashMap::new();
            while !done.load(Ordering::Relaxed) {
                if let Ok(group) = client.admin().describe_group("s").await {
                    for row in group.partitions {
                        let highest = highest.entry(row.partition).or_default();
                        let committed = row.committed.unwrap_or(0);
                        assert!(
                            committed >= *highest,
                            "partition {}: {committed} < {highest}",
                            row.partition
                        );
                        assert!(committed <= row.high_watermark);
                        *highest = committed;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let mut members = vec![Member::start(&broker, &seen).await];
    let producing = tokio::spawn({
        let client = client.clone();
        async move {
            for chunk in 0..30 {
                produce(&client, chunk * PER_PARTITION / 30..(chunk + 1) * PER_PARTITION / 30).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    for round in 0..4 {
        members.push(Member::start(&broker, &seen).await);
        tokio::time::sleep(Duration::from_millis(150)).await;
        if round == 2 {
            broker.crash();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        members.remove(0).leave().await;
    }
    timeout(LIMIT, producing).await.expect("in time").unwrap();
    eventually_async(LIMIT, "everything is read", async || {
        (client.admin().describe_group("s").await.unwrap().lag == 0).then_some(())
    })
    .await;
    for member in members {
        member.leave().await;
    }
    done.store(true, Ordering::Relaxed);
    timeout(LIMIT, watcher).await.expect("in time").unwrap();
    let seen = seen.lock().unwrap();
    let places: HashSet<_> = seen.iter().map(|message| (message.partition, message.offset)).collect();
    assert_eq!(places.len() as u64, 4 * PER_PARTITION, "each of them, some of them more than once");
}

fn values(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["value"].as_str().expect("a text")).collect()
}

#[test]
fn consume_with_a_group_goes_on_where_it_stopped() {
    let mut broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\nb\nc\nd\ne\n").ok();
    assert_eq!(values(&broker.json_lines("consume t --group s --count 2")), ["a", "b"]);
    assert_eq!(broker.json("group describe s")["partitions"][0]["committed"], 2);
    assert_eq!(broker.json("group describe s")["lag"], 3);
    broker.crash();
    assert_eq!(values(&broker.json_lines("consume t --group s --count 1")), ["c"]);
    // `--from` counts only where nothing is committed.
    assert_eq!(values(&broker.json_lines("consume t --group s --from earliest --count 1")), ["d"]);
    let mut waiting = broker.dure("consume t --group fresh --from latest --count 1 -o json").spawn();
    std::thread::sleep(Duration::from_millis(1000));
    broker.dure("produce t").stdin("f\n").ok();
    assert_eq!(waiting.json().unwrap()["value"], "f");
    assert_eq!(waiting.wait(Duration::from_secs(5)), Exit::Code(0));
}

#[test]
fn an_interrupted_consumer_has_committed_what_it_wrote() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\nb\nc\n").ok();
    let mut consumer = broker.dure("consume t --group s -o json").spawn();
    let read: Vec<_> = (0..3).map(|_| consumer.json().unwrap()).collect();
    assert_eq!(values(&read), ["a", "b", "c"]);
    consumer.interrupt();
    assert_eq!(consumer.wait(Duration::from_secs(5)), Exit::Code(130), "{}", consumer.stderr());
    let group = broker.json("group describe s");
    assert_eq!((&group["partitions"][0]["committed"], &group["members"]), (&json!(3), &json!([])));
}

#[test]
fn a_group_is_sought_while_nobody_reads() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("produce t").stdin("a\nb\nc\nd\n").ok();
    assert_eq!(values(&broker.json_lines("consume t --group s --count 4")), ["a", "b", "c", "d"]);
    for (to, committed) in [("offset:1", 1), ("earliest", 0), ("latest", 4), ("time:2001-01-01T00:00:00Z", 0)]
    {
        broker.dure(&format!("group seek s --topic t --to {to}")).ok();
        assert_eq!(broker.json("group describe s")["partitions"][0]["committed"], committed, "{to}");
    }
    broker.dure("group seek s --topic t --to offset:2").ok();
    assert_eq!(values(&broker.json_lines("consume t --group s --count 2")), ["c", "d"]);

    let mut consumer = broker.dure("consume t --group s -o json").spawn();
    broker.dure("produce t").stdin("e\n").ok();
    assert_eq!(consumer.json().unwrap()["value"], "e");
    broker.dure("group seek s --topic t --to earliest").exits(1).says(&["s"]);
    broker.dure("group delete s").exits(1).says(&["s"]);
    consumer.terminate();
    consumer.wait(Duration::from_secs(5));
    broker.dure("group delete s").ok();
}
