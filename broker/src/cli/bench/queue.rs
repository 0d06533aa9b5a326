//! `bench queue`.

use std::time::Duration;

use clap::Args;
use dure_client::{Compression, Durability, QueueSettings};
use tokio::time::Instant;

use super::super::args::{OutputArgs, ServerArgs};
use super::super::failure::{Failure, Outcome, note};
use super::end_to_end::{Taken, Takers, Taking};
use super::load::{Load, Plan, payload_size};
use super::report::{Length, Progress, Report, beside};
use super::scratch::Scratch;

/// Measure working through a queue group: every message leased, and acknowledged by itself.
///
/// A topic of its own is filled first, which is not measured; then the workers go through it. With --topic they go
/// through what that one holds, as a group of its own. Latencies are of acknowledgements: from when a worker asked
/// until it was on disk.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure bench queue --workers 16\n  \
    dure bench queue --workers 256 --messages 1000000 --prefetch 16 -o json\n  \
    dure bench queue --topic load")]
pub(crate) struct QueueArgs {
    /// A topic that holds messages already [default: one that is made and filled].
    #[arg(long, value_name = "T", conflicts_with_all = ["messages", "size", "partitions"])]
    topic: Option<String>,
    /// Workers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    workers: u32,
    /// How many each may hold at a time.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    prefetch: u32,
    /// How many there are to do.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Of each message.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = payload_size)]
    size: u64,
    /// Of the topic.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: QueueArgs) -> Outcome {
    let settings = QueueSettings::default();
    let scratch = match &args.topic {
        Some(topic) => Scratch::on(&args.server, topic, &settings).await?,
        None => Scratch::new(&args.server, args.partitions, Some(settings)).await?,
    };
    let measured = measure(&args, &scratch).await;
    scratch.remove().await?;
    let Worked { taken, bytes, elapsed } = measured?;
    let report = Report::new(taken.acks.len(), bytes, elapsed).with_acks(&taken.acks);
    report.acked(Durability::Sync).print(args.output.format)
}

struct Worked {
    taken: Taken,
    bytes: u64,
    elapsed: Duration,
}

async fn measure(args: &QueueArgs, scratch: &Scratch) -> Outcome<Worked> {
    let messages = match args.topic {
        Some(_) => scratch.messages().await?,
        None => fill(args, scratch).await?,
    };
    note(format!("{messages} messages are there; the workers begin"));
    let takers = Takers::Workers { count: args.workers, prefetch: args.prefetch };
    let clients = takers.connect(&args.server).await?;
    let started = Instant::now();
    let taking = Taking::start(&clients, scratch, takers, None).await?;
    let taken = taking.taken.clone();
    beside(&taken, Length::Messages(messages), taking.wait_for(messages)).await?;
    let taken = taking.finish().await?;
    let elapsed = taken.last.saturating_duration_since(started);
    Ok(Worked { bytes: taken.bytes, taken, elapsed })
}

/// Returns how many messages are there now.
async fn fill(args: &QueueArgs, scratch: &Scratch) -> Outcome<u64> {
    let plan = Plan { messages: Some(args.messages), ..Plan::of(args.size, Compression::None) };
    let client = args.server.connect().await?;
    let load = Load::new(plan, &scratch.topic, &[client]).await;
    let load = load.map_err(|error| Failure::cannot(format!("produce to `{}`", scratch.topic), &error))?;
    let filled = Progress::default();
    beside(&filled, Length::Messages(args.messages), load.run(None, &filled)).await?;
    Ok(args.messages)
}
