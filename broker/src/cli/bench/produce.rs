//! `bench produce`.

use std::time::Duration;

use clap::Args;
use dure_client::{Compression, Durability, ErrorCode, TopicConfig};
use tokio::time::Instant;

use super::super::args::{self, OutputArgs, ServerArgs};
use super::super::failure::{Failure, Outcome, note};
use super::load::{Load, Plan, payload_size};
use super::report::{Length, Progress, Report, beside};

const TIME_DEFAULT: Duration = Duration::from_secs(10);

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
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = payload_size)]
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
    let durability = ensure_topic(&args).await?;
    let mut clients = Vec::new();
    for _ in 0..args.producers {
        clients.push(args.server.connect().await?);
    }
    let plan = Plan {
        size: args.size as usize,
        messages: args.messages,
        time: args.seconds.map_or(TIME_DEFAULT, Duration::from_secs),
        rate: args.rate,
        producers: args.producers,
        batch_bytes: args.batch as usize,
        inflight_bytes: args.inflight as usize,
        compression: args.compression,
    };
    let length = plan.messages.map_or(Length::Time(plan.time), Length::Messages);
    let load = Load::new(plan, &args.topic, &clients).await;
    let load = load.map_err(|error| Failure::cannot(format!("produce to `{}`", args.topic), &error))?;
    let progress = Progress::default();
    let started = Instant::now();
    let acked = beside(&progress, length, load.run(None, &progress)).await?;
    let report = Report::new(acked.len(), acked.len() * args.size, started.elapsed());
    report.with_latency(&acked).acked(durability).print(args.output.format)
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
