//! `bench produce|consume|stream|queue|latency`: load through the client library, and what came of it. [`load`] sends, [`pace`] says when,
//! [`end_to_end`] takes,
//! [`stamp`] tells how long a message took, [`scratch`] is the topic of a run, [`report`] what is shown.

mod consume;
mod end_to_end;
mod latency;
mod load;
mod pace;
mod produce;
mod queue;
mod report;
mod scratch;
mod stamp;
mod stream;

use clap::Subcommand;

use super::failure::Outcome;

/// Generate load and measure it.
#[derive(Debug, Subcommand)]
pub(super) enum BenchVerb {
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Stream(stream::StreamArgs),
    Queue(queue::QueueArgs),
    Latency(latency::LatencyArgs),
}

pub(super) async fn run(verb: BenchVerb) -> Outcome {
    match verb {
        BenchVerb::Produce(args) => produce::run(args).await,
        BenchVerb::Consume(args) => consume::run(args).await,
        BenchVerb::Stream(args) => stream::run(args).await,
        BenchVerb::Queue(args) => queue::run(args).await,
        BenchVerb::Latency(args) => latency::run(args).await,
    }
}
