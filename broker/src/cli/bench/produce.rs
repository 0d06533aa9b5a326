//! `bench produce`.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use dure_client::{
    Client, Compression, Delivery, Durability, Error, ErrorCode, Message, Producer, TopicConfig,
};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::args::{self, OutputArgs, ServerArgs};
use super::super::failure::{Failure, Outcome, note};
use super::report::{Plan, Progress, Report, beside};

const TIME_DEFAULT: Duration = Duration::from_secs(10);
/// Random bytes that payloads are cut from: longer than a batch, so that none holds a piece twice.
const POOL_BYTES: usize = 16 << 20;

/// Measure producing.
///
/// As fast as it goes, or with --rate at fixed times, whatever the broker does meanwhile; latencies count from the time
/// at which a message was to be sent. Payloads are random. A topic that does not exist is created.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure bench produce --messages 1000000 --size 1KiB --partitions 4\n  \
    dure bench produce --seconds 30 --rate 20000/s -o json")]
pub(crate) struct ProduceArgs {
    #[arg(long, value_name = "T", default_value = "bench")]
    topic: String,
    /// Of the topic, if it has to be created.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Stop after so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Stop after so long [default: 10].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Of each message.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = args::size)]
    size: u64,
    /// At what size a batch is full.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = args::size)]
    batch: u64,
    /// How much may be under way, per producer.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = args::size)]
    inflight: u64,
    /// Producers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    producers: u32,
    /// Messages per second of all producers together [default: as fast as it goes].
    #[arg(long, value_name = "N/s", value_parser = args::rate)]
    rate: Option<f64>,
    #[arg(long, value_name = "none|lz4|zstd", default_value = "none")]
    compression: Compression,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ProduceArgs) -> Outcome {
    let failed = |error: Error| Failure::cannot(format!("bench producing to `{}`", args.topic), &error);
    let size = usize::try_from(args.size).unwrap_or(usize::MAX);
    if size > POOL_BYTES / 2 {
        return Err(Failure::Usage("--size is more than a message can have".into()));
    }
    let durability = ensure_topic(&args).await?;
    let mut producers = Vec::new();
    for _ in 0..args.producers {
        let client = args.server.connect().await?;
        producers.push(producer(&client, &args).await.map_err(failed)?);
    }
    let pool = Bytes::from(random_bytes(POOL_BYTES));
    let progress = Progress::default();
    let started = Instant::now();
    let time = args.seconds.map_or(TIME_DEFAULT, Duration::from_secs);
    let plan = args.messages.map_or(Plan::Time(time), Plan::Messages);
    let mut loads = JoinSet::new();
    for (index, producer) in producers.into_iter().enumerate() {
        let load = Load {
            pool: pool.clone(),
            size,
            run: per_partition(&args, size),
            messages: args.messages.map_or(u64::MAX, |all| share(all, args.producers, index as u64)),
            until: args.messages.is_none().then_some(started + time),
            started,
            rate: args.rate.map(|rate| rate / f64::from(args.producers)),
            first_partition: index as u32,
            progress: progress.clone(),
        };
        loads.spawn(load.run(producer));
    }
    let all = async {
        let mut micros = histogram();
        while let Some(done) = loads.join_next().await {
            let part = done.map_err(|error| Failure::failed(format!("a producer failed: {error}")))?;
            micros.add(part.map_err(failed)?).expect("they are of one kind");
        }
        Ok(micros)
    };
    let micros = beside(&progress, plan, all).await?;
    let elapsed = started.elapsed();
    let acked = if durability == Durability::Sync { "synced" } else { "written" };
    let report = Report::new(micros.len(), micros.len() * args.size, elapsed).with_latency(&micros, acked);
    report.print(args.output.format)
}

async fn ensure_topic(args: &ProduceArgs) -> Outcome<Durability> {
    let admin = args.server.connect().await?.admin();
    match admin.describe_topic(&args.topic).await {
        Ok(topic) => return Ok(topic.config.durability),
        Err(error) if error.code() == Some(ErrorCode::UnknownTopic) => {}
        Err(error) => return Err(Failure::cannot(format!("describe topic `{}`", args.topic), &error)),
    }
    let config = TopicConfig::default();
    let created = admin.create_topic(&args.topic, args.partitions, &config).await;
    created.map_err(|error| Failure::cannot(format!("create topic `{}`", args.topic), &error))?;
    let topic = &args.topic;
    note(format!("topic `{topic}` created; `dure topic delete {topic} --yes` removes it"));
    Ok(config.durability)
}

async fn producer(client: &Client, args: &ProduceArgs) -> Result<Producer, Error> {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let producer = client.producer(&args.topic).compression(args.compression);
    producer.batch_bytes(bytes(args.batch)).inflight_bytes(bytes(args.inflight)).build().await
}

/// How many messages in a row go to one partition: a batch of them at full speed, one at a given rate, as keys would
/// spread them.
fn per_partition(args: &ProduceArgs, size: usize) -> u64 {
    if args.rate.is_some() { 1 } else { (args.batch / (size.max(1) as u64)).max(1) }
}

/// What one of `parts` does of `all`.
fn share(all: u64, parts: u32, index: u64) -> u64 {
    let parts = u64::from(parts);
    all / parts + u64::from(index < all % parts)
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fastrand::Rng::new().fill(&mut bytes);
    bytes
}

/// Microseconds, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// What one producer sends.
struct Load {
    pool: Bytes,
    size: usize,
    /// Messages in a row to one partition.
    run: u64,
    messages: u64,
    until: Option<Instant>,
    started: Instant,
    /// Per second.
    rate: Option<f64>,
    first_partition: u32,
    progress: Progress,
}

impl Load {
    /// Sends, and waits for each partition's acknowledgements in a task of its own: in order, so that none is counted
    /// late because of another partition's.
    async fn run(self, producer: Producer) -> Result<Histogram<u64>, Error> {
        let partitions = producer.partitions();
        let mut waits = JoinSet::new();
        // Bounded by the producer's bytes in flight.
        let lanes: Vec<_> = (0..partitions)
            .map(|_| {
                let (lane, sent) = mpsc::unbounded_channel();
                waits.spawn(measure(sent, self.progress.clone()));
                lane
            })
            .collect();
        for number in 0..self.messages {
            let Some(intended) = self.due(number).await else { break };
            let partition = (number / self.run + u64::from(self.first_partition)) % u64::from(partitions);
            let message = Message::new(self.payload(number)).partition(partition as u32);
            let delivery = producer.enqueue(message).await?;
            if lanes[partition as usize].send((intended, delivery)).is_err() {
                break; // it failed and says why below
            }
        }
        drop(lanes);
        let mut micros = histogram();
        while let Some(done) = waits.join_next().await {
            let part = done.unwrap_or(Err(Error::Closed))?;
            micros.add(part).expect("they are of one kind");
        }
        Ok(micros)
    }

    /// When the message is to be sent, once that time has come; `None` when it is over.
    async fn due(&self, number: u64) -> Option<Instant> {
        let intended = match self.rate {
            None => Instant::now(),
            Some(rate) => self.started + Duration::from_secs_f64(number as f64 / rate),
        };
        if self.until.is_some_and(|until| intended >= until) {
            return None;
        }
        if self.rate.is_some() && intended > Instant::now() {
            sleep_until(intended).await;
        }
        Some(intended)
    }

    fn payload(&self, number: u64) -> Bytes {
        let places = (self.pool.len() / self.size.max(1)) as u64;
        let at = (number % places) as usize * self.size;
        self.pool.slice(at..at + self.size)
    }
}

async fn measure(
    mut sent: mpsc::UnboundedReceiver<(Instant, Delivery)>,
    progress: Progress,
) -> Result<Histogram<u64>, Error> {
    let mut micros = histogram();
    while let Some((intended, delivery)) = sent.recv().await {
        delivery.await?;
        let latency = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
        micros.record(latency).expect("it grows with what is recorded");
        progress.add(1);
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        let shares: Vec<u64> = (0..3).map(|index| share(10, 3, index)).collect();
        assert_eq!(shares, [4, 3, 3]);
        assert_eq!(share(2, 3, 2), 0);
    }
}
