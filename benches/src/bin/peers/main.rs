//! DureMQ beside Redis Streams, NATS JetStream and RabbitMQ in one run on one machine: the same work, each with its
//! best client practice, what an acknowledgement means said in every row, and the bare limits of the machine.
//!
//! `cargo run --release -p dure-benches --bin peers` after `cargo build --release -p dure-broker --bins`; the servers
//! come from the packages `redis-server nats-server rabbitmq-server`. Which is not installed is said and left out.

mod amqp;
mod drive;
mod nats;
mod ours;
mod peer;
mod redis;
mod report;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use dure_benches::server::Server;
use dure_benches::{broker, limits};

use peer::{PEERS, Peer};
use report::{Report, Round, Row, Table};
use wire::Res;

#[derive(Debug, Parser)]
#[command(about = "DureMQ and its peers, side by side")]
struct Options {
    /// Rounds of everything; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Messages of a load at full speed.
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// Seconds of a load at a fixed rate.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only loads with this in their name.
    #[arg(long, default_value = "")]
    load: String,
    /// Only servers with this in their name, and DureMQ.
    #[arg(long, default_value = "")]
    peer: String,
    /// Where peers.json, peers.md and peers.svg go.
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
}

/// A piece of work that all do.
#[derive(Clone, Copy, Debug)]
enum Load {
    Produce { size: usize },
    Singly { connections: usize },
    Consume { workers: usize },
    Latency { rate: f64 },
}

const LOADS: [(&str, Load); 9] = [
    ("produce 1 KiB", Load::Produce { size: 1024 }),
    ("produce 100 B", Load::Produce { size: 100 }),
    ("produce 1 KiB one at a time, 1 connection", Load::Singly { connections: 1 }),
    ("produce 1 KiB one at a time, 64 connections", Load::Singly { connections: 64 }),
    ("consume and acknowledge 1 KiB, 1 worker", Load::Consume { workers: 1 }),
    ("consume and acknowledge 1 KiB, 16 workers", Load::Consume { workers: 16 }),
    ("consume and acknowledge 1 KiB, 256 workers", Load::Consume { workers: 256 }),
    ("end to end, 100 B at 5,000/s", Load::Latency { rate: 5e3 }),
    ("end to end, 100 B at 50,000/s", Load::Latency { rate: 5e4 }),
];

#[tokio::main]
async fn main() -> Res {
    let options = Options::parse();
    let mut limits = BTreeMap::new();
    for (name, bytes) in [("synced appends of 4 KiB", 4 << 10), ("synced appends of 1 MiB", 1 << 20)] {
        let (rate, median) = limits::synced_appends(bytes)?;
        limits.insert(name, rate);
        if bytes == 4 << 10 {
            limits.insert("one synced append of 4 KiB, ms", median);
        }
    }
    limits.insert("loopback, one connection", limits::loopback()?);
    limits.insert("copying memory", limits::memory());
    let mut report =
        Report { machine: format!("{}; limits in MB/s:", limits::machine()), limits, tables: Vec::new() };
    for (name, load) in LOADS {
        if name.contains(&options.load) {
            report.tables.push(measure(name, load, &options).await);
            println!("{}", report.tables.last().expect("just pushed").text());
            save(&report, &options)?;
        }
    }
    Ok(())
}

fn save(report: &Report, options: &Options) -> Res {
    fs::create_dir_all(&options.out)?;
    fs::write(options.out.join("peers.json"), serde_json::to_string_pretty(report)? + "\n")?;
    fs::write(options.out.join("peers.md"), report.text())?;
    Ok(fs::write(options.out.join("peers.svg"), report.svg())?)
}

/// Everybody does it once in each round, so that a noisy minute meets all of them.
async fn measure(name: &'static str, load: Load, options: &Options) -> Table {
    let mut ours = Vec::new();
    let mut theirs: Vec<(Peer, Vec<Round>)> = PEERS
        .into_iter()
        .filter(|peer| peer.name().contains(&options.peer))
        .map(|peer| (peer, Vec::new()))
        .collect();
    for _ in 0..options.rounds {
        match of_ours(load, options).await {
            Ok(round) => ours.push(round),
            Err(error) => eprintln!("{name}: {}: {error}", ours::NAME),
        }
        for (peer, rounds) in &mut theirs {
            match of_peer(*peer, load, options).await {
                Ok(round) => rounds.push(round),
                Err(error) => eprintln!("{name}: {}: {error}", peer.name()),
            }
        }
    }
    let mut rows = vec![Row::of(ours::NAME, ours::ACKED, &ours)];
    let measured = theirs.iter().filter(|(_, rounds)| !rounds.is_empty());
    rows.extend(measured.map(|(peer, rounds)| Row::of(peer.name(), peer.acked(), rounds)));
    let unit = if matches!(load, Load::Latency { .. }) { "ms" } else { "messages/s" };
    Table { load: name, unit, rows }
}

/// Messages sent singly: fewer, since each waits for the disk.
fn singly(connections: usize, options: &Options) -> u64 {
    (options.messages / 100).max(100) * if connections > 1 { 20 } else { 1 }
}

async fn of_ours(load: Load, options: &Options) -> Res<Round> {
    let server = broker::start(&[]).await?;
    if let Load::Consume { .. } = load {
        ours::produce(&server, options.messages, 1024).await?;
    }
    let before = server.cpu_seconds();
    let time = Duration::from_secs(options.seconds);
    let (messages, seconds, latency) = match load {
        Load::Produce { size } => {
            (options.messages, ours::produce(&server, options.messages, size).await?, None)
        }
        Load::Singly { connections } => {
            let messages = singly(connections, options);
            (messages, ours::produce_singly(&server, connections, messages, 1024).await?, None)
        }
        Load::Consume { workers } => (options.messages, ours::queue(&server, workers).await?, None),
        Load::Latency { rate } => {
            let latency = ours::latency(&server, rate, time, 100).await?;
            ((rate * time.as_secs_f64()) as u64, 1.0, Some(latency))
        }
    };
    Ok(round(&server, before, messages, seconds, latency))
}

async fn of_peer(peer: Peer, load: Load, options: &Options) -> Res<Round> {
    let server = peer.start().await?;
    if let Load::Consume { .. } = load {
        peer.produce(&server, options.messages, 1024).await?;
    }
    let before = server.cpu_seconds();
    let time = Duration::from_secs(options.seconds);
    let (messages, seconds, latency) = match load {
        Load::Produce { size } => {
            (options.messages, peer.produce(&server, options.messages, size).await?, None)
        }
        Load::Singly { connections } => {
            let messages = singly(connections, options);
            (messages, peer.produce_singly(&server, connections, messages, 1024).await?, None)
        }
        Load::Consume { workers } => {
            // Connections share what there is; a remainder is nobody's.
            let messages = options.messages / 64 * 64;
            (messages, peer.consume(&server, workers, messages).await?, None)
        }
        Load::Latency { rate } => {
            let latency = peer.latency(&server, rate, time, 100).await?;
            ((rate * time.as_secs_f64()) as u64, 1.0, Some(latency))
        }
    };
    Ok(round(&server, before, messages, seconds, latency))
}

fn round(server: &Server, before: f64, messages: u64, seconds: f64, latency: Option<(f64, f64)>) -> Round {
    Round {
        figure: latency.map_or(messages as f64 / seconds, |(p50, _)| p50),
        p99_ms: latency.map(|(_, p99)| p99),
        cpu_us: (server.cpu_seconds() - before) * 1e6 / messages as f64,
        resident_mb: server.resident_bytes() as f64 / 1e6,
    }
}
