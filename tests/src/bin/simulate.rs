//! Runs the engine's simulator: many seeds, each a story of its own with crashes and failing disks.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use dure_tests::sim::{Run, Totals, exhaustive, run_seed};

/// How often it says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Simulates the engine of DureMQ on a disk that forgets, tears and fails, one seed after the other.
///
/// Prints what was done, counted, and the first seed that broke a promise with its whole history. The same seed
/// replays byte for byte. Exits with 1 if there was one.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many run side by side.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Instead of seeds: one small story, cut off at every I/O boundary and at those of the recoveries that follow.
    #[arg(long, conflicts_with_all = ["seeds", "from", "threads"])]
    exhaustive: bool,
    /// Print every seed with its history's hash, and the history if it is the only one.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic is a failure like others, printed with its history.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        eprintln!("panic at {place}");
    }));
    let begun = Instant::now();
    if options.exhaustive {
        let done = exhaustive(true);
        println!("{} boundaries, {} crashes in {:.1?}", done.boundaries, done.crashes, begun.elapsed());
        return done.failure.map_or(ExitCode::SUCCESS, |what| {
            println!("FAILED: {what}");
            ExitCode::FAILURE
        });
    }
    let mut totals = Totals::default();
    let mut failed: Option<Run> = None;
    let threads = options.threads.max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let options = &options;
                    move || run_some(options, n, threads)
                })
            })
            .collect();
        for worker in workers {
            let (part, first) = worker.join().expect("panics are caught");
            totals.add(&part);
            failed = match (failed.take(), first) {
                (Some(a), Some(b)) => Some(if a.seed < b.seed { a } else { b }),
                (a, b) => a.or(b),
            };
        }
    });
    let ran = totals.checks.get("seeds").copied().unwrap_or(0);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{totals}");
    println!("{ran} seeds in {seconds:.1} s: {:.0} seeds/s", ran as f64 / seconds);
    match failed {
        None => ExitCode::SUCCESS,
        Some(run) => {
            println!("{}", run.history.text());
            println!("seed {} FAILED: {}", run.seed, run.failure.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// Every `of`-th seed, until one fails.
fn run_some(options: &Options, nth: u64, of: u64) -> (Totals, Option<Run>) {
    let mut totals = Totals::default();
    let mut reported = Instant::now();
    for seed in (options.from + nth..options.from + options.seeds).step_by(of as usize) {
        let run = run_seed(seed);
        totals.add(&run.totals);
        *totals.checks.entry("seeds").or_default() += 1;
        if options.verbose {
            println!(
                "seed {seed}: {:016x}, {} lines",
                run.history.hash(),
                run.history.text().lines().count()
            );
        }
        if run.failure.is_some() || (options.verbose && options.seeds == 1) {
            return (totals, Some(run).filter(|run| run.failure.is_some() || print_history(run)));
        }
        if reported.elapsed() >= REPORT_EVERY && nth == 0 {
            eprintln!("at seed {seed}");
            reported = Instant::now();
        }
    }
    (totals, None)
}

fn print_history(run: &Run) -> bool {
    println!("{}", run.history.text());
    false
}
