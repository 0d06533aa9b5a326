//! Brings faults upon the shipped binary under load and checks what it promises about them.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use dure_tests::faults::campaign::{Report, names, run};

/// Runs `dure serve` under concurrent producers, stream consumers and queue workers, brings a fault upon it, and checks
/// the whole history.
///
/// Prints one line per fault, and what it could not run on this machine and why. Exits with 1 if a promise was broken,
/// with the seed and the history around it. A seed draws the moments again, not the schedule of the machine.
#[derive(Debug, Parser)]
#[command(name = "faults", after_help = "Example:\n  faults power-ext4 --cycles 50 --seed 7")]
struct Options {
    /// Which fault, or `all`.
    #[arg(default_value = "all")]
    fault: String,
    /// How often each strikes.
    #[arg(long, default_value_t = 2)]
    cycles: u64,
    /// The first cycle's seed; those behind it count up. Random unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// `json` prints one object per fault.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut chosen = names();
    if options.fault != "all" && !chosen.contains(&options.fault.as_str()) {
        eprintln!("`{}` is none of: all, {}", options.fault, chosen.join(", "));
        return ExitCode::from(2);
    }
    chosen.retain(|name| options.fault == "all" || *name == options.fault);
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    eprintln!("seed {seed}");
    let mut reports: Vec<Report> = Vec::new();
    for fault in chosen {
        let report = run(fault, options.cycles, seed);
        for violation in &report.violations {
            eprintln!("VIOLATION {violation}");
        }
        match options.output {
            Output::Table => println!("{report}"),
            Output::Json => println!("{}", report.json()),
        }
        reports.push(report);
    }
    let sum = |figure: fn(&Report) -> u64| reports.iter().map(figure).sum::<u64>();
    let violations = sum(|report| report.violations.len() as u64);
    if options.output == Output::Table {
        println!(
            "total        {} cycles, {} produced, {} acked, {} deliveries, {violations} violations",
            sum(|report| report.cycles),
            sum(|report| report.produced),
            sum(|report| report.acked),
            sum(|report| report.deliveries),
        );
    }
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
