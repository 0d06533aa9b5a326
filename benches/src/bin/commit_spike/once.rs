//! Batches of 1 MiB written twice, to the journal and to their segment, or once, to their segment alone with a line in the
//! journal that says where.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};

use crate::figures::{Random, ms, percentile};
use crate::journal::ALIGN_BYTES;
use crate::{MIB, Res};

const BATCH_BYTES: usize = MIB;
/// As much as a checkpoint lets come together.
const SEGMENT_SYNC_BYTES: u64 = 64 * MIB as u64;
const JOURNAL_BYTES: u64 = 256 * MIB as u64;
const FLIGHTS: [usize; 2] = [1, 2];

#[derive(Clone, Copy, PartialEq)]
enum Way {
    TwiceCached,
    TwiceDirect,
    OnceCached,
    OnceDirect,
}

impl Way {
    /// Whether segments pass by the page cache; then they are allocated ahead.
    fn is_direct(self) -> bool {
        matches!(self, Way::TwiceDirect | Way::OnceDirect)
    }
}

const WAYS: [(Way, &str); 4] = [
    (Way::TwiceCached, "journal (direct, recycled), then segment (page cache)"),
    (Way::TwiceDirect, "journal (direct, recycled), then segment (direct)"),
    (Way::OnceCached, "segment (page cache) and a line in the journal"),
    (Way::OnceDirect, "segment (direct) and a line in the journal"),
];

/// The two files, and where the next batch goes.
struct Files {
    journal: File,
    segment: File,
    next: AtomicU64,
}

/// What one round of one way gave.
struct Figures {
    mb_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of all processors, the kernel's own threads among them, for each KiB.
    processor_us: f64,
}

/// Prints a table: medians of the rounds, with the least and the most.
pub(crate) fn measure_once(dir: &Path, seconds: f64, rounds: usize) -> Res<()> {
    let mut rows: Vec<(String, Vec<Figures>)> = Vec::new();
    for (_, name) in WAYS {
        rows.extend(FLIGHTS.map(|flights| (format!("{name}, {flights} in flight"), Vec::new())));
    }
    let journal = dir.join("journal-once");
    fs::write(&journal, vec![7; JOURNAL_BYTES as usize])?;
    File::open(&journal)?.sync_all()?;
    for _ in 0..rounds {
        let turns = WAYS.into_iter().flat_map(|(way, _)| FLIGHTS.map(|flights| (way, flights)));
        for ((way, flights), (_, figures)) in turns.zip(&mut rows) {
            figures.push(run(way, flights, &journal, &dir.join("segment-once"), seconds)?);
        }
    }
    println!("1 MiB batches of one partition; {rounds} rounds of {seconds} s, median (min..max)");
    println!("{:<66} {:>18} {:>20} {:>20} {:>20}", "", "MB/s", "p50 ms", "p99 ms", "processor us/KiB");
    for (name, figures) in &rows {
        let cell = |of: fn(&Figures) -> f64, digits: usize| {
            let mut values: Vec<f64> = figures.iter().map(of).collect();
            let median = percentile(&mut values, 50);
            let ends =
                (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
            format!("{median:.digits$} ({:.digits$}..{:.digits$})", ends.0, ends.1)
        };
        let (rate, processor) = (cell(|f| f.mb_per_second, 0), cell(|f| f.processor_us, 2));
        println!(
            "{name:<66} {rate:>18} {:>20} {:>20} {processor:>20}",
            cell(|f| f.p50_ms, 2),
            cell(|f| f.p99_ms, 2)
        );
    }
    Ok(())
}

fn run(way: Way, flights: usize, journal: &Path, segment: &Path, seconds: f64) -> Res<Figures> {
    let direct = OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    let segment_flags = if way.is_direct() { direct } else { 0 };
    let files = Files {
        journal: OpenOptions::new().write(true).custom_flags(direct).open(journal)?,
        segment: options.custom_flags(segment_flags).open(segment)?,
        next: AtomicU64::new(0),
    };
    let (latencies, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
    let (began, busy) = (Instant::now(), busy_us()?);
    let end = began + Duration::from_secs_f64(seconds);
    thread::scope(|scope| {
        for _ in 0..flights {
            scope.spawn(|| match fly(way, &files, end) {
                Ok(taken) => latencies.lock().expect("no panic").extend(taken),
                Err(error) => *failed.lock().expect("no panic") = Some(error),
            });
        }
    });
    files.segment.sync_data()?;
    let (elapsed, busy) = (began.elapsed().as_secs_f64(), busy_us()? - busy);
    fs::remove_file(segment)?;
    if let Some(error) = failed.into_inner()? {
        return Err(error);
    }
    let mut latencies = latencies.into_inner()?;
    let bytes = (latencies.len() * BATCH_BYTES) as f64;
    Ok(Figures {
        mb_per_second: bytes / 1e6 / elapsed,
        p50_ms: percentile(&mut latencies, 50),
        p99_ms: percentile(&mut latencies, 99),
        processor_us: busy / (bytes / 1024.0),
    })
}

/// One batch after the other; the milliseconds until each was durable.
fn fly(way: Way, files: &Files, end: Instant) -> Res<Vec<f64>> {
    // Direct I/O wants memory that begins at a block.
    let mut memory = Random::new().bytes(BATCH_BYTES + 2 * ALIGN_BYTES);
    let start = (memory.as_ptr() as usize).wrapping_neg() % ALIGN_BYTES;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        // Each position once; nothing else is ordered by it.
        let number = files.next.fetch_add(1, Ordering::Relaxed);
        memory[start..][..8].copy_from_slice(&number.to_le_bytes());
        let batch = &memory[start..][..BATCH_BYTES];
        std::hint::black_box(crc32fast::hash(batch));
        let at = number * BATCH_BYTES as u64;
        if way.is_direct() && at.is_multiple_of(SEGMENT_SYNC_BYTES) {
            fallocate(&files.segment, FallocateFlags::empty(), at, SEGMENT_SYNC_BYTES)?;
        }
        if matches!(way, Way::TwiceCached | Way::TwiceDirect) {
            files.journal.write_all_at(batch, at % JOURNAL_BYTES)?;
            files.journal.sync_data()?;
            latencies.push(ms(began));
            files.segment.write_all_at(batch, at)?;
            // Has it written out as it comes, as the broker does.
            let _ = fadvise(&files.segment, at, (BATCH_BYTES as u64).try_into().ok(), Advice::DontNeed);
            if at.is_multiple_of(SEGMENT_SYNC_BYTES) {
                files.segment.sync_data()?;
            }
            continue;
        }
        files.segment.write_all_at(batch, at)?;
        files.segment.sync_data()?;
        files.journal.write_all_at(&batch[..ALIGN_BYTES], number * ALIGN_BYTES as u64 % JOURNAL_BYTES)?;
        files.journal.sync_data()?;
        latencies.push(ms(began));
    }
    Ok(latencies)
}

/// Microseconds in which processors were not idle since the machine's start (proc(5), /proc/stat; a tick is 10 ms).
fn busy_us() -> Res<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    let [user, nice, system, _idle, _wait, irq, soft, ..] = ticks[..] else {
        return Err("an odd /proc/stat".into());
    };
    Ok((user + nice + system + irq + soft) * 1e4)
}
