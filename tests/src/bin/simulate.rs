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
    /// Instead of seeds: small stories, cut off at every I/O boundary and at those of the recoveries that follow.
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
        done.stories.iter().for_each(|story| println!("{story}"));
        let crashes: u64 = done.stories.iter().map(|story| story.crashes).sum();
        println!("{crashes} crashes in {:.1?}", begun.elapsed());
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
    print_speed(totals.crash_cycles(), seconds);
    match failed {
        None => ExitCode::SUCCESS,
        Some(run) => {
            println!("{}", run.history.text());
            println!("seed {} FAILED: {}", run.seed, run.failure.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// A crash cycle is a crash, or an opening that failed, and the recovery that follows. What a night gives depends on
/// what else the machine does, so the processor time is told as well.
fn print_speed(cycles: u64, seconds: f64) {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    let (by_clock, by_cpu) = (cycles as f64 / seconds, cycles as f64 / cpu_seconds);
    println!(
        "{cycles} crash cycles: {by_clock:.0}/s, {by_cpu:.0} per second of processor time ({cpu_seconds:.1} s)"
    );
    println!(
        "at this speed {:.1} million in 10 hours; with the processor to itself {:.1} million for each thread",
        by_clock * 36_000.0 / 1e6,
        by_cpu * 36_000.0 / 1e6
    );
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
