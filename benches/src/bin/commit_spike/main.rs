//! The spike of the commit path: a recycled journal with lazy segments against directly synced ones.
//!
//! It fixes nothing and ships nowhere; its figures decide the on-disk format. One frame of its journal:
//!
//! ```text
//!  0 magic u32 | 4 crc u32 of 8..64+len | 8 len u32 | 12 crc of the frame before u32
//! 16 shard u32 | 20 epoch u32 | 24 sequence u64 | 32 durable_upto u64 | 40 zeros
//! 64 payload (len bytes) | zeros up to the next multiple of 4096
//! ```
//!
//! Pieces are written once, synced, and recycled by rename; the directory is synced at each roll.
//! "synced" is `fdatasync` everywhere. Configurations take turns within a round, so that a noisy
//! minute hits all of them; every figure is the median of the rounds with min..max.

mod figures;
mod journal;
mod kills;
mod loads;
mod once;
mod segments;

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use figures::*;
use journal::Journal;
use kills::{KILL_PIECE_BYTES, Kills, run_child, run_kills};

type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const PIECE_BYTES: usize = 64 * MIB;
const PIECES: usize = 8;

/// Command line: every flag has a default.
struct Args {
    dir: PathBuf,
    seconds: f64,
    rounds: usize,
    json: bool,
    /// Only what is written once or twice.
    once: bool,
    child: Option<PathBuf>,
}

fn parse_args() -> Res<Args> {
    let dir = std::env::current_dir()?.join(format!("commit-spike-{}", std::process::id()));
    let mut args = Args { dir, seconds: 0.7, rounds: 5, json: false, once: false, child: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--dir" => {
                args.dir = PathBuf::from(value()?).join(format!("commit-spike-{}", std::process::id()))
            }
            "--seconds" => args.seconds = value()?.parse()?,
            "--rounds" => args.rounds = value()?.parse()?,
            "--json" => args.json = true,
            "--once" => args.once = true,
            "--child" => args.child = Some(value()?.into()),
            _ => {
                return Err(
                    "usage: commit_spike [--dir DIR] [--seconds PER_ROUND] [--rounds N] [--json | --once]"
                        .into(),
                );
            }
        }
    }
    Ok(args)
}

fn measure(args: &Args) -> Res<(Table, Kills)> {
    let mut table = Table::default();
    let mut journal = Journal::create(&args.dir.join("journal"), PIECE_BYTES, PIECES)?;
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        measure_small(&mut journal, &args.dir, args.seconds, &mut table)?;
        measure_partitions(&mut journal, &args.dir, args.seconds, round, &mut table)?;
    }
    fs::remove_dir_all(args.dir.join("journal"))?;
    let mut journals = Vec::new();
    for mib in [8, 16, 64, 256] {
        let journal = args.dir.join(format!("journal-{mib}"));
        journals.push(Journal::create(&journal, mib * MIB, (512 / mib).max(3))?);
    }
    for _ in 0..args.rounds {
        measure_pieces(&mut journals, &args.dir, args.seconds, &mut table)?;
    }
    for journal in journals {
        fs::remove_dir_all(journal.dir)?;
    }
    eprintln!("kill -9");
    Ok((table, run_kills(&args.dir.join("kill"))?))
}

fn main() -> Res<()> {
    let args = parse_args()?;
    if let Some(dir) = &args.child {
        return run_child(dir);
    }
    fs::create_dir_all(&args.dir)?;
    if args.once {
        let measured = once::measure_once(&args.dir, args.seconds, args.rounds);
        fs::remove_dir_all(&args.dir)?;
        return measured;
    }
    let measured = measure(&args);
    fs::remove_dir_all(&args.dir)?;
    let (mut table, kills) = measured?;
    if !args.json {
        println!(
            "commit spike: {} rounds of {} s, {} x {} pieces, synced = fdatasync, median (min..max)",
            args.rounds,
            args.seconds,
            PIECES,
            size_name(PIECE_BYTES)
        );
    }
    table.print(args.json);
    let Kills { cycles, acked, lost, unacked_kept, torn, control_lost } = kills;
    if args.json {
        println!(
            r#"{{"section":"c","cycles":{cycles},"acknowledged":{acked},"lost":{lost},"unacknowledged_kept":{unacked_kept},"torn":{torn},"control_lost":{control_lost}}}"#
        );
    } else {
        println!("\nc. kill -9, two in flight, {} pieces, recovered by scan", size_name(KILL_PIECE_BYTES));
        println!("kill cycles: {cycles}, acknowledged: {acked}, lost: {lost}");
        println!(
            "valid but not acknowledged: {unacked_kept}; torn tails: {torn}; control (one byte flipped): {control_lost} reported lost"
        );
    }
    if lost > 0 || control_lost == 0 {
        return Err("acknowledged commits were lost, or the control saw no damage".into());
    }
    Ok(())
}
