//! `bench latency`.

use std::time::Duration;

use clap::Args;
use dure_client::{Compression, Durability, QueueSettings};

use super::super::args::{self, OutputArgs, ServerArgs};
use super::super::failure::Outcome;
use super::end_to_end::{self, Takers};
use super::load::{Plan, payload_size};
use super::report::Report;
use super::scratch::Scratch;
use super::stamp::STAMP_BYTES;

const PREFETCH: u32 = 1000;

/// Measure how long a message takes from its producer to a consumer that waits for it.
///
/// One producer sends at a fixed rate, whatever the broker does meanwhile, into a topic of its own; latencies count
/// from the time at which a message was to be sent until the consumer had it, which is after it was synced.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure bench latency\n  \
    dure bench latency --rate 50000/s --queue -o json")]
pub(crate) struct LatencyArgs {
    /// Messages per second.
    #[arg(long, value_name = "N/s", default_value = "5000/s", value_parser = args::rate)]
    rate: f64,
    /// For so long.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Of each message, 16 bytes at least.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = payload_size)]
    size: u64,
    /// Of the topic.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// To a worker of a queue group, which acknowledges each message, in place of a member of a stream group.
    #[arg(long)]
    queue: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: LatencyArgs) -> Outcome {
    let size = args.size.max(STAMP_BYTES as u64);
    let plan = Plan {
        time: Duration::from_secs(args.seconds),
        rate: Some(args.rate),
        ..Plan::of(size, Compression::None)
    };
    let (settings, takers) = match args.queue {
        true => (Some(QueueSettings::default()), Takers::Workers { count: 1, prefetch: PREFETCH }),
        false => (None, Takers::Members(1)),
    };
    let scratch = Scratch::new(&args.server, args.partitions, settings).await?;
    let measured = end_to_end::run(&args.server, &scratch, plan, takers).await;
    scratch.remove().await?;
    let measured = measured?;
    let messages = measured.arrived.len();
    let report = Report::new(messages, messages * size, measured.elapsed);
    let report = report.with_latency(&measured.arrived).with_acks(&measured.acked);
    report.acked(Durability::Sync).print(args.output.format)
}
