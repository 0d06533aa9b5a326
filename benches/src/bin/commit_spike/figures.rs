//! Rounds, medians and the tables that are printed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::journal::{ALIGN_BYTES, HEADER_BYTES, Journal};
use crate::loads::*;
use crate::segments::share;
use crate::{KIB, MIB, Res};

/// About as much page cache as the segments of one round take.
const WARM_UP_BYTES: usize = 1536 * MIB;

/// xorshift64*: incompressible payloads and kill moments; nothing here needs a seed to be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self(now.as_nanos() as u64 | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Written through, so that no page of it is cold.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        bytes
    }
}

pub(crate) fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent / 100).min(values.len().max(1) - 1)).copied().unwrap_or(f64::NAN)
}

/// All rounds of one configuration.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) section: &'static str,
    pub(crate) name: String,
    pub(crate) mb_per_second: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, section: &'static str, name: &str, mut round: Round) {
        let found = self.0.iter().position(|r| r.section == section && r.name == name);
        let index = found.unwrap_or_else(|| {
            self.0.push(Row { section, name: name.to_owned(), ..Row::default() });
            self.0.len() - 1
        });
        let row = &mut self.0[index];
        row.mb_per_second.push(round.payload_bytes as f64 / 1e6 / round.seconds);
        row.p50_ms.push(percentile(&mut round.latencies_ms, 50));
        row.p99_ms.push(percentile(&mut round.latencies_ms, 99));
    }

    pub(crate) fn print(&mut self, json: bool) {
        self.0.sort_by_key(|r| r.section);
        let mut section = "";
        for row in &mut self.0 {
            let stats = [&mut row.mb_per_second, &mut row.p50_ms, &mut row.p99_ms].map(|v| {
                (percentile(v, 50), v.first().copied().unwrap_or(0.0), v.last().copied().unwrap_or(0.0))
            });
            if json {
                let fields = ["mb_per_second", "p50_ms", "p99_ms"]
                    .iter()
                    .zip(stats)
                    .map(|(name, (median, min, max))| format!(r#""{name}":[{median:.4},{min:.4},{max:.4}]"#));
                let fields = fields.collect::<Vec<_>>().join(",");
                println!(r#"{{"section":"{}","name":"{}",{fields}}}"#, row.section, row.name);
                continue;
            }
            if section != row.section {
                section = row.section;
                println!("\n{section}");
                println!("{:<52} {:>22} {:>21} {:>21}", "", "MB/s", "p50 ms", "p99 ms");
            }
            let [rate, p50, p99] = stats;
            let rate = format!("{:.0} ({:.0}..{:.0})", rate.0, rate.1, rate.2);
            let cell = |s: (f64, f64, f64)| format!("{:.3} ({:.3}..{:.3})", s.0, s.1, s.2);
            println!("{:<52} {rate:>22} {:>21} {:>21}", row.name, cell(p50), cell(p99));
        }
    }
}

pub(crate) const PARTITIONS: &str =
    "a. commits over n partitions (time until durable; MB/s until segments are written too)";
pub(crate) const ATOMIC: &str = "b. produce 64 KiB + ack 64 B + dead letter 1 KiB";
pub(crate) const HOP: &str = "d. one 4 KiB commit at a time";
pub(crate) const PIECE: &str =
    "e. piece size, 1 MiB commits, two in flight, no segments (p50/p99 of the last two: a roll)";

pub(crate) fn size_name(bytes: usize) -> String {
    if bytes >= MIB { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / KIB) }
}

/// Page cache that the host has taken back is slow to touch again, and whoever comes first would pay.
pub(crate) fn warm_up(path: &Path) -> Res<()> {
    let mut file = File::create(path)?;
    let block = vec![1; MIB];
    for _ in 0..WARM_UP_BYTES / MIB {
        file.write_all(&block)?;
    }
    fs::remove_file(path)?;
    Ok(())
}

pub(crate) fn measure_partitions(
    journal: &mut Journal,
    dir: &Path,
    seconds: f64,
    turn: usize,
    table: &mut Table,
) -> Res<()> {
    for bytes in [64 * KIB, MIB] {
        let size = size_name(bytes);
        for (name, flights, hop) in
            [("1 in flight", 1, false), ("1 in flight, hop", 1, true), ("2 in flight", 2, true)]
        {
            let mut load = Load::journal(bytes, flights, 0, seconds);
            load.hop = hop;
            let round = run_journal(journal, &dir.join("s"), load, &mut |_, _| ())?;
            table.add(PARTITIONS, &format!("{size}, journal alone, {name}"), round);
        }
        let mut counts = [1, 16, 100];
        counts.rotate_left(turn % 3);
        for n in counts {
            warm_up(&dir.join("warm"))?;
            for (flights, checkpoints) in [(1, false), (2, false), (1, true), (2, true)] {
                let mut load = Load::journal(bytes, flights, n, seconds);
                let mut name = format!("{size}, n={n}, journal {flights} in flight + lazy");
                if checkpoints {
                    load.checkpoints = true;
                    load.seconds *= 1.5;
                    name.push_str(" + checkpoints");
                }
                let round = run_journal(journal, &dir.join("s"), load, &mut |_, _| ())?;
                table.add(PARTITIONS, &name, round);
            }
            let parts: Vec<usize> = (0..n).map(|i| share(bytes, n, i).len()).collect();
            let round = run_direct(&dir.join("s"), &parts, SYNC_THREADS.min(n), seconds)?;
            table.add(PARTITIONS, &format!("{size}, n={n}, segments synced directly"), round);
        }
    }
    Ok(())
}

pub(crate) fn measure_small(journal: &mut Journal, dir: &Path, seconds: f64, table: &mut Table) -> Res<()> {
    let parts = [64 * KIB, 64, 1088];
    let load = Load::journal(parts.iter().sum(), 1, 0, seconds);
    let round = run_journal(journal, &dir.join("s"), load, &mut |_, _| ())?;
    table.add(ATOMIC, "one journal commit (1 sync)", round);
    let round = run_direct(&dir.join("s"), &parts, 1, seconds)?;
    table.add(ATOMIC, "three files, one after the other (3 syncs)", round);
    let round = run_direct(&dir.join("s"), &parts, 3, seconds)?;
    table.add(ATOMIC, "three files, three threads (3 syncs, not atomic)", round);

    for (name, hop) in [("write + fdatasync in one thread", false), ("handed to a thread and back", true)] {
        let mut load = Load::journal(ALIGN_BYTES - HEADER_BYTES, 1, 0, seconds);
        load.hop = hop;
        let round = run_journal(journal, &dir.join("s"), load, &mut |_, _| ())?;
        table.add(HOP, name, round);
    }
    table.add(HOP, "the hop alone, both sides asleep before", run_bare_hop(seconds)?);
    Ok(())
}

pub(crate) fn measure_pieces(
    journals: &mut [Journal],
    dir: &Path,
    seconds: f64,
    table: &mut Table,
) -> Res<()> {
    for journal in journals {
        let size = size_name(journal.piece_bytes);
        journal.rolls.clear();
        let load = Load::journal(MIB, 2, 0, seconds);
        let round = run_journal(journal, &dir.join("s"), load, &mut |_, _| ())?;
        table.add(PIECE, &format!("{size} pieces"), round);
        let rolls = std::mem::take(&mut journal.rolls);
        let round = Round { seconds: 1.0, payload_bytes: 0, latencies_ms: rolls };
        table.add(PIECE, &format!("{size} pieces: the rolls (rename + directory sync)"), round);
    }
    Ok(())
}
