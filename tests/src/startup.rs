//! How long a broker takes to be ready after `kill -9`: with much stored, and with load in the journal that no checkpoint
//! covers. A test does it with little, `src/bin/start.rs` with as much as is promised.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dure_client::{Client, Message};
use dure_proto::journal::{Checkpoint, LogSnapshot, SegmentSnapshot};
use prost::Message as _;

use crate::harness::Broker;

const TOPIC: &str = "stored";
const VALUE_BYTES: usize = 1024;
/// What a segment is sealed at.
const SEGMENT_BYTES: u64 = 64 << 20;
const CHECKPOINT_HEADER_BYTES: usize = 32;
const STOPS_MAX: usize = 5;

/// What is there when the broker is killed.
#[derive(Clone, Copy, Debug)]
pub struct Startup {
    /// Bytes in sealed segments, spread over the partitions. Their files are sparse.
    pub sealed_bytes: u64,
    /// Partitions of the one topic.
    pub partitions: u32,
    /// Messages of 1 KiB, spread over the partitions, that are acknowledged before each kill.
    pub messages: u64,
    /// How often it is killed and started.
    pub rounds: usize,
    /// How long it runs before the load of a round: a checkpoint may come, or none if this is short.
    pub pause: Duration,
}

/// How long it took, from the start of the process to its line that says so.
#[derive(Clone, Debug)]
pub struct Figures {
    startup: Startup,
    sealed_segments: u64,
    /// In the order of the rounds.
    pub ready: Vec<Duration>,
}

impl Figures {
    /// Of all rounds.
    #[must_use]
    pub fn median(&self) -> Duration {
        let mut ready = self.ready.clone();
        ready.sort_unstable();
        ready[ready.len() / 2]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Startup { sealed_bytes, partitions, messages, rounds, pause } = self.startup;
        writeln!(
            f,
            "{:.1} GiB in {} sealed segments of {partitions} partitions; before each of {rounds} kills {pause:?} of \
             rest and {messages} messages of {VALUE_BYTES} bytes",
            sealed_bytes as f64 / f64::from(1 << 30),
            self.sealed_segments
        )?;
        let ms = |took: &Duration| format!("{:.0}", took.as_secs_f64() * 1e3);
        let all: Vec<String> = self.ready.iter().map(ms).collect();
        write!(f, "  ready after kill -9: median {} ms of {}", ms(&self.median()), all.join(", "))
    }
}

/// Makes a data directory like that, and starts a broker on it again and again.
///
/// # Panics
/// If a message that was acknowledged is not there, or the broker does not start.
pub async fn run(startup: &Startup) -> Figures {
    assert!(startup.rounds > 0 && startup.partitions > 0, "{startup:?}");
    let mut broker = Broker::start();
    broker.dure(&format!("topic create {TOPIC} --partitions {}", startup.partitions)).ok();
    // A message in each, so that each has a segment.
    produce(&broker.client().await, startup.partitions, u64::from(startup.partitions)).await;
    let shard = broker.data().join("shard-0000");
    close(&mut broker, &shard, startup.partitions);
    let sealed = seal_more(&shard, startup.sealed_bytes);
    broker.start_again();

    let mut expected = messages(&broker).await;
    let mut ready = Vec::new();
    for _ in 0..startup.rounds {
        tokio::time::sleep(startup.pause).await;
        produce(&broker.client().await, startup.partitions, startup.messages).await;
        expected += startup.messages;
        broker.kill();
        ready.push(broker.start_again());
        assert_eq!(messages(&broker).await, expected, "what was acknowledged is there");
    }
    Figures { startup: *startup, sealed_segments: sealed, ready }
}

/// Stops it with every log in its checkpoint. To sync so many new files may take a slow disk longer than a broker takes
/// to stop; the next time most of them are synced.
fn close(broker: &mut Broker, shard: &Path, partitions: u32) {
    for _ in 0..STOPS_MAX {
        broker.stop();
        let (_, checkpoint) = newest_checkpoint(&shard.join("checkpoint"));
        if checkpoint.logs.iter().filter(|log| !log.segments.is_empty()).count() == partitions as usize {
            return;
        }
        broker.start_again();
    }
    panic!("no checkpoint holds {partitions} logs after {STOPS_MAX} stops");
}

async fn messages(broker: &Broker) -> u64 {
    let topic = broker.client().await.admin().describe_topic(TOPIC).await.expect("it is there");
    assert_eq!(topic.partitions.iter().map(|partition| partition.lost.len()).sum::<usize>(), 0);
    topic.messages
}

async fn produce(client: &Client, partitions: u32, messages: u64) {
    let producer = client.producer(TOPIC).build().await.expect("the topic is there");
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    for number in 0..messages {
        let partition = (number % u64::from(partitions)) as u32;
        // Whether all of them arrived, `close` says.
        drop(producer.enqueue(Message::new(value.clone()).partition(partition)).await.expect("taken"));
    }
    producer.close().await.expect("every message is acknowledged");
}

/// Puts sealed segments behind those that are there: sparse files, and a checkpoint that names them. Returns how many.
fn seal_more(shard: &Path, bytes: u64) -> u64 {
    let (path, mut checkpoint) = newest_checkpoint(&shard.join("checkpoint"));
    let mut sealed = 0;
    let logs = checkpoint.logs.len() as u64;
    for (nth, log) in (0..).zip(&mut checkpoint.logs) {
        let dir = shard.join(format!("log/{}/{}", log.topic, log.partition));
        // What does not come out even goes to the first ones.
        sealed += seal_in(log, &dir, bytes / logs + u64::from(nth < bytes % logs));
    }
    let next = path.with_file_name("made.tmp");
    fs::write(&next, encode(&checkpoint)).expect("written");
    fs::rename(next, path).expect("renamed");
    sealed
}

fn seal_in(log: &mut LogSnapshot, dir: &Path, mut bytes: u64) -> u64 {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64;
    let mut sealed = 0;
    while bytes > VALUE_BYTES as u64 {
        let segment_bytes = bytes.min(SEGMENT_BYTES);
        let (base, end) = (log.log_end, log.log_end + segment_bytes / VALUE_BYTES as u64);
        for (extension, bytes) in [("log", segment_bytes), ("index", segment_bytes / 4096 * 20)] {
            let file = File::create_new(dir.join(format!("{base:020}.{extension}"))).expect("a new segment");
            file.set_len(bytes).expect("a sparse file");
        }
        log.segments.push(SegmentSnapshot {
            base,
            end,
            bytes: segment_bytes,
            first_ms: now_ms,
            last_ms: now_ms,
            ..Default::default()
        });
        (log.log_end, log.sealed) = (end, true);
        bytes -= segment_bytes;
        sealed += 1;
    }
    sealed
}

fn newest_checkpoint(dir: &Path) -> (PathBuf, Checkpoint) {
    let paths = fs::read_dir(dir).expect("checkpoints").map(|entry| entry.expect("an entry").path());
    let checkpoints =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
    let path = checkpoints.max().expect("a checkpoint");
    let file = fs::read(&path).expect("it can be read");
    let checkpoint = Checkpoint::decode(&file[CHECKPOINT_HEADER_BYTES..]).expect("its body");
    (path, checkpoint)
}

/// As in FORMAT.md.
fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let body = checkpoint.encode_to_vec();
    let mut fields = Vec::new();
    fields.extend_from_slice(&1u32.to_le_bytes());
    fields.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    fields.extend_from_slice(&(body.len() as u64).to_le_bytes());
    fields.extend_from_slice(&checkpoint.seq.to_le_bytes());
    let mut out = Vec::from(*b"DuCk");
    out.extend_from_slice(&crc32fast::hash(&fields).to_le_bytes());
    [out, fields, body].concat()
}
