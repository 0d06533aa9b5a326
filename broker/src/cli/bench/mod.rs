//! `bench produce|consume`: load through the client library, and what came of it.

mod consume;
mod produce;
mod report;

use clap::Subcommand;

use super::failure::Outcome;

/// Generate load and measure it.
#[derive(Debug, Subcommand)]
pub(super) enum BenchVerb {
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
}

pub(super) async fn run(verb: BenchVerb) -> Outcome {
    match verb {
        BenchVerb::Produce(args) => produce::run(args).await,
        BenchVerb::Consume(args) => consume::run(args).await,
    }
}
