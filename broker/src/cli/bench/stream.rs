//! `bench stream`.

use std::time::Duration;

use clap::Args;
use dure_client::{Compression, Durability};

use super::super::args::{self, OutputArgs, ServerArgs};
use super::super::failure::Outcome;
use super::end_to_end::{self, Takers};
use super::load::{Plan, payload_size};
use super::report::Report;
use super::scratch::Scratch;
use super::stamp::STAMP_BYTES;

const TIME_DEFAULT: Duration = Duration::from_secs(10);

/// Measure producing and reading at once, end to end.
///
/// Producers fill a topic of its own while the members of a stream group read it. The rate is of messages that were
/// read; latencies count from the time at which a message was to be sent until a member had it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure bench stream --partitions 4 --members 2\n  \
    dure bench stream --rate 50000/s --size 100 --seconds 30 -o json")]
pub(crate) struct StreamArgs {
    /// Of the topic.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// Members of the group, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    members: u32,
    /// Producers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    producers: u32,
    /// Stop after so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Stop after so long [default: 10].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Of each message, 16 bytes at least.
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = payload_size)]
    size: u64,
    /// Messages per second of all producers together [default: as fast as it goes].
    #[arg(long, value_name = "N/s", value_parser = args::rate)]
    rate: Option<f64>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: StreamArgs) -> Outcome {
    let size = args.size.max(STAMP_BYTES as u64);
    let plan = Plan {
        messages: args.messages,
        time: args.seconds.map_or(TIME_DEFAULT, Duration::from_secs),
        rate: args.rate,
        producers: args.producers,
        ..Plan::of(size, Compression::None)
    };
    let scratch = Scratch::new(&args.server, args.partitions, None).await?;
    let measured = end_to_end::run(&args.server, &scratch, plan, Takers::Members(args.members)).await;
    scratch.remove().await?;
    let measured = measured?;
    let messages = measured.arrived.len();
    let report = Report::new(messages, messages * size, measured.elapsed);
    let report = report.with_latency(&measured.arrived).with_acks(&measured.acked);
    report.acked(Durability::Sync).print(args.output.format)
}
