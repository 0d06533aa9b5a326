//! Flips every bit of a reference data directory, one at a time, and looks at what the engine makes of it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use dure_tests::bits::{EveryBit, Tally};
use dure_tests::sim::Violation;

/// Bits that a thread takes at a time.
const CHUNK_BITS: u64 = 4096;
/// Flips after which it says how far it is.
const REPORT_EVERY_BITS: u64 = 64 * CHUNK_BITS;

/// Flips each bit of a reference data directory by itself, recovers, reads everything, and compares.
///
/// Prints what became of the flips, and the first one by which something was delivered wrong, lost beyond its entry or
/// lost without a word. Exits with 1 if there was one.
#[derive(Debug, Parser)]
#[command(name = "every-bit")]
struct Options {
    /// Flip only so many, spread evenly; 0 means all.
    #[arg(long, default_value_t = 0)]
    sample: u64,
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
    let step = bits.checked_div(options.sample).unwrap_or(1).max(1);
    println!("{} files, {bits} bits, one in {step} is flipped", every_bit.files().count());
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let begun = Instant::now();
    let tally = flip_all(&every_bit, options.threads.max(1), step);
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

/// Every `step`-th bit; each thread takes the next chunk until none is left or a promise is broken.
fn flip_all(every_bit: &EveryBit, threads: u32, step: u64) -> Tally {
    let next = AtomicU64::new(0);
    let bits = every_bit.bits();
    let work = || {
        let mut tally = Tally::default();
        while tally.violation.is_none() {
            let from = next.fetch_add(CHUNK_BITS * step, Ordering::Relaxed);
            if from >= bits {
                break;
            }
            if from / step % REPORT_EVERY_BITS == 0 {
                eprintln!("at bit {from}");
            }
            tally.add(every_bit.flip((from..bits.min(from + CHUNK_BITS * step)).step_by(step as usize)));
        }
        // The others need not go on.
        if tally.violation.is_some() {
            next.store(bits, Ordering::Relaxed);
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
