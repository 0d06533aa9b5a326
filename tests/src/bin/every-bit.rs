//! Flips every bit of a reference data directory, one at a time, and looks at what the engine makes of it.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use dure_tests::bits::{EveryBit, Tally};
use dure_tests::sim::Violation;

/// Flips that a thread takes at a time.
const CHUNK_FLIPS: u64 = 1024;
/// Flips after which it says how far it is.
const REPORT_EVERY_FLIPS: u64 = 32 * CHUNK_FLIPS;
/// Primes: one that does not divide the number of bits leads to each of them once.
const STRIDES: [u64; 3] = [1_000_003, 1_000_033, 1_000_037];

/// Flips each bit of a reference data directory by itself, recovers, reads everything, and compares.
///
/// Prints what became of the flips, and the first one by which something was delivered wrong, lost beyond its entry or
/// lost without a word. Exits with 1 if there was one.
#[derive(Debug, Parser)]
#[command(name = "every-bit")]
struct Options {
    /// Flip only so many, spread over all files; 0 means all.
    #[arg(long, default_value_t = 0)]
    sample: u64,
    /// Go on behind the first so many flips of a run that was ended.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many threads flip side by side.
    #[arg(long, default_value_t = 1)]
    threads: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let every_bit = match EveryBit::build() {
        Ok(every_bit) => every_bit,
        Err(Violation(what)) => {
            println!("the reference cannot be made: {what}");
            return ExitCode::FAILURE;
        }
    };
    for (path, bytes) in every_bit.files() {
        println!("{bytes:>8}  {path}");
    }
    let bits = every_bit.bits();
    let from = options.from.min(bits);
    let to = if options.sample == 0 { bits } else { bits.min(from.saturating_add(options.sample)) };
    println!("{} files, {bits} bits, of which {} are flipped", every_bit.files().count(), to - from);
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let begun = Instant::now();
    let tally = flip_all(&every_bit, options.threads.max(1), from..to);
    for ((file, outcome), count) in &tally.outcomes {
        println!("{count:>10}  {file}: {outcome}");
    }
    let (flips, seconds) = (tally.flips(), begun.elapsed().as_secs_f64());
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    println!(
        "{flips} flips in {seconds:.1} s: {:.0} flips/s, {:.0} per second of processor time; {} of them verified",
        flips as f64 / seconds,
        flips as f64 / cpu_seconds,
        tally.verified
    );
    match tally.violation {
        None => ExitCode::SUCCESS,
        Some(what) => {
            println!("VIOLATION: {what}");
            ExitCode::FAILURE
        }
    }
}

/// The bits in an order that goes through all files at once, so that a part of the way is a sample of the whole. Each
/// thread takes the next chunk until none is left or a promise is broken.
fn flip_all(every_bit: &EveryBit, threads: u32, flips: Range<u64>) -> Tally {
    let next = AtomicU64::new(flips.start);
    let bits = every_bit.bits();
    let stride =
        STRIDES.into_iter().find(|stride| !bits.is_multiple_of(*stride)).expect("not of all of them");
    let work = || {
        let mut tally = Tally::default();
        while tally.violation.is_none() {
            let from = next.fetch_add(CHUNK_FLIPS, Ordering::Relaxed);
            if from >= flips.end {
                break;
            }
            if (from - flips.start).is_multiple_of(REPORT_EVERY_FLIPS) {
                eprintln!("at flip {from}");
            }
            let chunk = from..flips.end.min(from + CHUNK_FLIPS);
            tally.add(every_bit.flip(chunk.map(|n| n * stride % bits)));
        }
        // The others need not go on.
        if tally.violation.is_some() {
            next.store(flips.end, Ordering::Relaxed);
        }
        tally
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Tally::default();
        workers.into_iter().for_each(|worker| all.add(worker.join().expect("panics are caught")));
        all
    })
}
