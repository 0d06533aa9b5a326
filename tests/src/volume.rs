//! Many messages through one topic to the members of one stream group: each once, in order, and the broker ready
//! again soon after `kill -9`. The test does it with a hundred thousand, `src/bin/million.rs` with a million.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dure_client::{Client, Message};
use tokio::time::timeout;

use crate::harness::{Broker, eventually_async};

const TOPIC: &str = "volume";
const GROUP: &str = "volume-readers";
/// Nothing for so long means that something is lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Messages in all partitions.
    pub messages: u64,
    /// Bytes of each value, at least eight.
    pub value_bytes: usize,
    /// Partitions of the topic; a divisor of `messages`.
    pub partitions: u32,
    /// Members of the group that reads; a divisor of `partitions`.
    pub members: usize,
}

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    volume: Volume,
    /// From the first message sent to the last one acknowledged, while the members read.
    pub produced: Duration,
    /// From the first message sent to the last one read.
    pub consumed: Duration,
    /// From `kill -9` behind all that until the broker was ready again.
    pub ready_after_kill: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Volume { messages, value_bytes, partitions, members } = self.volume;
        let rate = |took: Duration| {
            let (messages, seconds) = (messages as f64, took.as_secs_f64());
            format!(
                "{seconds:.2} s, {:.0} messages/s, {:.0} MB/s",
                messages / seconds,
                messages * value_bytes as f64 / seconds / 1e6
            )
        };
        writeln!(
            f,
            "{messages} messages of {value_bytes} bytes, {partitions} partitions, {members} members"
        )?;
        writeln!(f, "  acknowledged: {}", rate(self.produced))?;
        writeln!(f, "  read, each once and in order: {}", rate(self.consumed))?;
        write!(f, "  ready after kill -9: {:.3} s", self.ready_after_kill.as_secs_f64())
    }
}

/// Does it on a broker that has no such topic yet.
///
/// # Panics
/// If a message is missing, altered, out of order or there twice.
pub async fn run(broker: &mut Broker, volume: &Volume) -> Figures {
    broker.dure(&format!("topic create {TOPIC} --partitions {}", volume.partitions)).ok();
    let client = broker.client().await;
    let mut members = Vec::new();
    for _ in 0..volume.members {
        let client = broker.client().await;
        let stream = client.stream(TOPIC).group(GROUP).auto_commit(Duration::from_millis(200));
        members.push(stream.subscribe().await.expect("it joins"));
    }
    await_shares(&client, volume).await;

    let started = Instant::now();
    let share = volume.messages / volume.members as u64;
    let reading: Vec<_> =
        members.into_iter().map(|stream| tokio::spawn(read_share(stream, share, *volume))).collect();
    produce(&client, volume).await;
    let produced = started.elapsed();
    let mut offsets = BTreeMap::new();
    for task in reading {
        for (partition, next) in task.await.expect("each once and in order") {
            assert_eq!(
                offsets.insert(partition, next),
                None,
                "partition {partition} was read by two members"
            );
        }
    }
    let consumed = started.elapsed();
    let per_partition = volume.messages / u64::from(volume.partitions);
    let expected: BTreeMap<u32, u64> =
        (0..volume.partitions).map(|partition| (partition, per_partition)).collect();
    assert_eq!(offsets, expected);

    broker.kill();
    let ready_after_kill = broker.start_again();
    let group = client.admin().describe_group(GROUP).await.expect("it is there");
    assert_eq!(group.lag, 0, "what was committed stays committed");
    let topic = client.admin().describe_topic(TOPIC).await.expect("it is there");
    assert_eq!(topic.messages, volume.messages);
    Figures { volume: *volume, produced, consumed, ready_after_kill }
}

async fn await_shares(client: &Client, volume: &Volume) {
    let each = volume.partitions as usize / volume.members;
    eventually_async(Duration::from_secs(20), "the members share the partitions", async || {
        let group = client.admin().describe_group(GROUP).await.ok()?;
        let even = group.members.iter().all(|member| member.partitions.len() == each);
        (group.members.len() == volume.members && even).then_some(())
    })
    .await;
}

/// The value of a partition's nth message: its number, then a pattern of it.
fn fill(value: &mut [u8], number: u64) {
    let (head, tail) = value.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    tail.fill(number as u8);
}

async fn produce(client: &Client, volume: &Volume) {
    let producer = client.producer(TOPIC).build().await.expect("the topic is there");
    let mut value = vec![0; volume.value_bytes];
    for number in 0..volume.messages / u64::from(volume.partitions) {
        fill(&mut value, number);
        for partition in 0..volume.partitions {
            let message = Message::new(Bytes::copy_from_slice(&value)).partition(partition);
            // Whether all of them arrived, `close` says.
            drop(producer.enqueue(message).await.expect("taken"));
        }
    }
    producer.close().await.expect("every message is acknowledged");
}

/// Reads its share and returns where it ended in each partition.
async fn read_share(
    mut stream: dure_client::MessageStream,
    share: u64,
    volume: Volume,
) -> BTreeMap<u32, u64> {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    let mut expected = vec![0; volume.value_bytes];
    for _ in 0..share {
        let message = timeout(SILENCE_MAX, stream.next()).await.expect("a message is missing");
        let message = message.expect("it does not end").expect("no error");
        let next = next.entry(message.partition).or_default();
        fill(&mut expected, *next);
        assert_eq!(message.offset, *next, "partition {}", message.partition);
        assert!(message.value.as_deref() == Some(&expected[..]), "another value at {}", message.offset);
        *next += 1;
    }
    stream.close().await.expect("committed");
    next
}
