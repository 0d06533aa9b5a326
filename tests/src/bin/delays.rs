//! Delayed messages through the shipped binary: the memory that the broker takes while many wait, each in a batch of its
//! own, before and after `kill -9`; then, with all of them waiting, how late others enter beside a load of 1 KiB messages.
//!
//! `cargo build --release -p dure-broker && cargo run --release -p dure-tests --bin delays -- --messages 10000000`

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use dure_client::{Client, Message, Start};
use dure_tests::harness::Broker;

/// Delays of those that stay: in one delay log, longer than anybody measures.
const FAR_MS: std::ops::Range<u64> = 2 * 86_400_000..7 * 86_400_000;
/// Partitions that the many wait for, and tasks that send them.
const PARTITIONS: u32 = 16;
const SENDERS: u64 = 4;
/// Of each task: little enough that none waits for long before it is sent.
const INFLIGHT_BYTES: usize = 1 << 20;
/// What the load sends.
const LOAD_BYTES: usize = 1024;
const LOAD_SENDERS: u64 = 2;
/// Delays of those whose lateness is measured.
const NEAR_MS: std::ops::Range<u64> = 500..5_000;

#[derive(Debug, Parser)]
struct Options {
    /// How many messages wait.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// How long lateness is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Delayed messages sent in each of them.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Messages of the load in each of them; 0: as many as the broker takes.
    #[arg(long, default_value_t = 20_000)]
    load: u64,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let mut broker = Broker::start();
    broker.dure(&format!("topic create waiting --partitions {PARTITIONS}")).ok();
    broker.dure("topic create due --partitions 4").ok();
    broker.dure("topic create load --partitions 4").ok();
    println!("empty: {}", memory(&mut broker));

    let begun = Instant::now();
    let senders: Vec<_> = (0..SENDERS).map(|_| connect(&broker)).collect();
    let mut sending = Vec::new();
    for client in senders {
        sending.push(tokio::spawn(send_far(client.await, options.messages / SENDERS)));
    }
    for task in sending {
        task.await.expect("all are acknowledged");
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{} batches of one message wait, sent in {took:.0} s: {}",
        scheduled(&broker),
        memory(&mut broker)
    );

    broker.kill();
    let ready = broker.start_again();
    println!("ready {:.3} s after kill -9: {}", ready.as_secs_f64(), memory(&mut broker));
    let found = Instant::now();
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = status(&mut broker, "VmRSS");
        if now.abs_diff(last) < 256 {
            break;
        }
        last = now;
    }
    println!("  all found again within {:.0} s: {}", found.elapsed().as_secs_f64(), memory(&mut broker));
    println!("  {} wait", scheduled(&broker));
    measure_lateness(&broker, &options).await;
    println!("  afterwards: {}", memory(&mut broker));
}

/// One that waits for as long as a busy machine takes.
async fn connect(broker: &Broker) -> Client {
    let builder = Client::builder().servers(broker.native().to_string());
    builder.request_timeout(Duration::from_secs(120)).connect().await.expect("the broker answers")
}

/// Each has a due time of its own, so that each is a batch of its own.
async fn send_far(client: Client, messages: u64) {
    let producer =
        client.producer("waiting").inflight_bytes(INFLIGHT_BYTES).build().await.expect("the topic is there");
    for n in 0..messages {
        let at = UNIX_EPOCH + Duration::from_millis(now_ms() + fastrand::u64(FAR_MS));
        let message = Message::new("a message that waits").partition((n % u64::from(PARTITIONS)) as u32);
        drop(producer.enqueue(message.deliver_at(at)).await.expect("taken"));
    }
    producer.close().await.expect("every message is acknowledged");
}

async fn measure_lateness(broker: &Broker, options: &Options) {
    let stop = Arc::new(AtomicBool::new(false));
    let loaded = Arc::new(AtomicU64::new(0));
    let mut loading = Vec::new();
    let rate = options.load;
    for _ in 0..LOAD_SENDERS {
        let (client, stop, loaded) = (connect(broker).await, stop.clone(), loaded.clone());
        loading.push(tokio::spawn(async move {
            let producer = client.producer("load").build().await.expect("the topic is there");
            let begun = Instant::now();
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                drop(producer.enqueue(Message::new(vec![7; LOAD_BYTES])).await.expect("taken"));
                loaded.fetch_add(1, Ordering::Relaxed);
                let next = begun + Duration::from_micros(1_000_000 * n * LOAD_SENDERS / rate.max(1));
                if rate > 0 && next > Instant::now() {
                    tokio::time::sleep_until(next.into()).await;
                }
            }
            producer.close().await.expect("acknowledged");
        }));
    }
    let count = options.rate * options.seconds;
    let client = connect(broker).await;
    let mut stream = client.stream("due").from(Start::Earliest).subscribe().await.expect("it reads");
    let reading = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..count {
            let message = stream.next().await.expect("it does not end").expect("no error");
            let due_ms: u64 = std::str::from_utf8(&message.value.expect("a value"))
                .expect("text")
                .parse()
                .expect("a number");
            assert!(message.timestamp_ms >= due_ms, "{} ms early", due_ms - message.timestamp_ms);
            let (entered_ms, read_ms) = (message.timestamp_ms - due_ms, now_ms().saturating_sub(due_ms));
            seen.push(((message.partition, message.offset), entered_ms, read_ms));
        }
        seen
    });
    let producer = client.producer("due").build().await.expect("the topic is there");
    let begun = Instant::now();
    let mut deliveries = Vec::new();
    for n in 0..count {
        let due_ms = now_ms() + fastrand::u64(NEAR_MS);
        let at = UNIX_EPOCH + Duration::from_millis(due_ms);
        deliveries
            .push(producer.enqueue(Message::new(due_ms.to_string()).deliver_at(at)).await.expect("taken"));
        let next = begun + Duration::from_micros(1_000_000 * (n + 1) / options.rate);
        tokio::time::sleep_until(next.into()).await;
    }
    // What a busy broker took when it was due already never waited.
    let mut never_waited = BTreeSet::new();
    for delivery in deliveries {
        let ack = delivery.await.expect("acknowledged");
        never_waited.extend(ack.offset.map(|offset| (ack.partition, offset)));
    }
    let mut seen = reading.await.expect("all of them came");
    seen.retain(|(place, ..)| !never_waited.contains(place));
    stop.store(true, Ordering::Relaxed);
    for task in loading {
        task.await.expect("acknowledged");
    }
    let rate = loaded.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let mb_per_s = rate * LOAD_BYTES as f64 / 1e6;
    let waited = seen.len();
    println!("{waited} of {count} waited beside {rate:.0} messages/s ({mb_per_s:.0} MB/s, synced), late by");
    println!("  entering: {}", spread(seen.iter().map(|(_, entered_ms, _)| *entered_ms).collect()));
    println!("  reading:  {}", spread(seen.iter().map(|(_, _, read_ms)| *read_ms).collect()));
}

fn spread(mut late_ms: Vec<u64>) -> String {
    late_ms.sort_unstable();
    let at = |share: f64| late_ms[((late_ms.len() - 1) as f64 * share) as usize];
    format!("p50 {} ms, p99 {} ms, p99.9 {} ms, max {} ms", at(0.5), at(0.99), at(0.999), at(1.0))
}

fn scheduled(broker: &Broker) -> u64 {
    broker.json("topic describe waiting")["scheduled"].as_u64().expect("a number")
}

fn memory(broker: &mut Broker) -> String {
    let mib = |kib: u64| kib as f64 / 1024.0;
    let (rss, anonymous) = (status(broker, "VmRSS"), status(broker, "RssAnon"));
    format!("{:.0} MiB resident, {:.0} of them its own memory", mib(rss), mib(anonymous))
}

/// In KiB.
fn status(broker: &mut Broker, field: &str) -> u64 {
    let path = format!("/proc/{}/status", broker.process().id());
    let text = std::fs::read_to_string(path).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("a number")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}
