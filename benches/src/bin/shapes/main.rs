//! What a message costs the broker as one thing after the other grows: its size, its batch, partitions, groups, connections,
//! what is stored, what waits. One table, one row of plots and one judgement for each; at the end what is asked of
//! DureMQ, and whether it holds.
//!
//! `cargo run --release -p dure-benches --bin shapes` after `cargo build --release -p dure-broker --bins`: about 12 minutes,
//! about 2 with `--quick`.

mod axes;
mod figure;
mod goals;
mod judgement;
mod plot;
mod report;
mod shape;

use std::fs;
use std::path::PathBuf;

use clap::Parser;
use dure_benches::{Res, limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use axes::{Axis, Plan};
use report::Report;

#[derive(Debug, Parser)]
#[command(about = "What a message costs as one thing after the other grows")]
struct Options {
    /// Only these; may repeat [default: all].
    #[arg(long, value_name = "NAME", value_enum)]
    axis: Vec<Axis>,
    /// Fewer values, each for a shorter time.
    #[arg(long)]
    quick: bool,
    /// How far `stored` goes, in GB; half of what is free at most [default: 20, quick: 2].
    #[arg(long, value_name = "GB")]
    stored_max: Option<f64>,
    /// How far `backlog` goes, in messages [default: 100000000, quick: 3000000].
    #[arg(long, value_name = "N")]
    backlog_max: Option<f64>,
    /// Where shapes.json, shapes.md and shapes.svg go.
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Res {
    let options = Options::parse();
    // Dropping what runs stops the broker and removes its directory.
    tokio::select! {
        done = measure(&options) => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}

async fn measure(options: &Options) -> Res {
    let plan = plan(options)?;
    raise_open_files();
    let axes = if options.axis.is_empty() { Axis::ALL.to_vec() } else { options.axis.clone() };
    let mut report = Report::new(limits::machine(), limits::loopback()?, options.quick);
    let mut failed = false;
    for axis in axes {
        let began = std::time::Instant::now();
        match axis.measure(&plan).await {
            Ok(shapes) => {
                shapes.iter().for_each(|shape| println!("{}", shape.text()));
                report.shapes.extend(shapes);
            }
            Err(error) => {
                eprintln!("{axis:?}: {error}");
                failed = true;
            }
        }
        eprintln!("{axis:?}: {:.0} s", began.elapsed().as_secs_f64());
        save(&report, options)?;
    }
    println!("{}", report.goals_text());
    if failed { Err("not every axis could be measured".into()) } else { Ok(()) }
}

fn plan(options: &Options) -> Res<Plan> {
    let disk = rustix::fs::statvfs(".")?;
    let free_bytes = (disk.f_bavail * disk.f_frsize) as f64;
    let (stored_gb, backlog) = if options.quick { (2.0, 3e6) } else { (20.0, 1e8) };
    Ok(Plan {
        quick: options.quick,
        stored_bytes_max: (options.stored_max.unwrap_or(stored_gb) * 1e9).min(free_bytes / 2.0),
        backlog_max: options.backlog_max.unwrap_or(backlog),
    })
}

/// Ours; the broker raises its own.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        eprintln!("the limit of open files cannot be raised: {error}");
    }
}

fn save(report: &Report, options: &Options) -> Res {
    fs::create_dir_all(&options.out)?;
    fs::write(options.out.join("shapes.json"), serde_json::to_string_pretty(&report.with_goals())? + "\n")?;
    fs::write(options.out.join("shapes.md"), report.text())?;
    Ok(fs::write(options.out.join("shapes.svg"), plot::svg(&report.shapes))?)
}
