//! What becomes of memory and latency when there is too much to do: producers that take all there is, four fifths of the
//! top rate, a consumer that is slow, and one that reads from a cold disk what others read long ago.
//!
//! `cargo run --release -p dure-benches --bin overload` after `cargo build --release -p dure-broker --bins`.

mod cold;
mod flooded;
mod neighbours;
mod report;
mod top_rate;

use std::fs;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use dure_benches::{Res, limits};

use report::Report;

#[derive(Debug, Parser)]
#[command(about = "Memory and latency when there is too much to do")]
struct Options {
    /// Only these; may repeat [default: all].
    #[arg(long, value_name = "NAME", value_enum)]
    part: Vec<Part>,
    /// Shorter, and one round of everything.
    #[arg(long)]
    quick: bool,
    /// Where overload.json and overload.md go.
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
}

/// What is measured with a broker of its own.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Flooded,
    TopRate,
    Neighbours,
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
    let mut report = Report::new(limits::machine(), options.quick);
    let all = Part::value_variants();
    for part in if options.part.is_empty() { all } else { &options.part } {
        report.rows.extend(match part {
            Part::Flooded => vec![flooded::measure(options.quick).await?],
            Part::TopRate => top_rate::measure(options.quick).await?,
            Part::Neighbours => neighbours::measure(options.quick).await?,
        });
    }
    println!("{}", report.text());
    fs::create_dir_all(&options.out)?;
    fs::write(options.out.join("overload.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(fs::write(options.out.join("overload.md"), report.text())?)
}
