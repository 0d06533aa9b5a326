//! How long the shipped binary takes to be ready after `kill -9`, with much stored in sealed segments and load behind the
//! last checkpoint. Fails when it takes too long, or when something that was acknowledged is gone.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dure_tests::startup::{Startup, run};

/// Kills a broker under load again and again, and measures how long it takes to be ready.
///
/// Exits with 1 if the median is above the limit.
#[derive(Debug, Parser)]
#[command(name = "start")]
struct Options {
    /// GiB in sealed segments. The files are sparse: they take no room.
    #[arg(long, default_value_t = 100)]
    gib: u64,
    /// Partitions that they are spread over.
    #[arg(long, default_value_t = 1_000)]
    partitions: u32,
    /// Messages of 1 KiB that are acknowledged before each kill.
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// How often it is killed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long it runs before the load of a round. With 0 no checkpoint comes between two kills, and a start replays what
    /// all rounds left.
    #[arg(long, default_value_t = 3_000)]
    pause_ms: u64,
    /// What the median may be.
    #[arg(long, default_value_t = 1_000)]
    limit_ms: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Options { gib, partitions, messages, rounds, pause_ms, limit_ms } = Options::parse();
    let figures = run(&Startup {
        sealed_bytes: gib << 30,
        partitions,
        messages,
        rounds,
        pause: Duration::from_millis(pause_ms),
    })
    .await;
    println!("{figures}");
    if figures.median() > Duration::from_millis(limit_ms) {
        println!("FAILED: the limit is {limit_ms} ms");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
