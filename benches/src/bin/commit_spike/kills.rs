//! A child that commits until it is killed, and the count of what was lost.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::figures::Random;
use crate::journal::*;
use crate::loads::{Load, run_journal};
use crate::{KIB, MIB, Res};

pub(crate) const KILL_PIECE_BYTES: usize = 8 * MIB;
const KILL_PIECES: usize = 32;
const KILL_PAYLOAD_BYTES_MAX: usize = 256 * KIB;
const KILL_CYCLES: usize = 25;

const _: () = assert!(KILL_PAYLOAD_BYTES_MAX + HEADER_BYTES < KILL_PIECE_BYTES);

/// The child: commits until it is killed and prints each acknowledged sequence with its checksum.
pub(crate) fn run_child(dir: &Path) -> Res<()> {
    let mut journal = Journal::open(&dir.join("journal"), KILL_PIECE_BYTES)?;
    let mut load = Load::journal(KILL_PAYLOAD_BYTES_MAX, 2, 0, 60.0);
    load.vary = true;
    // Nothing that this child wrote is recycled before the parent has checked it.
    load.rolls_max = KILL_PIECES - 2;
    let mut out = std::io::stdout().lock();
    run_journal(&mut journal, &dir.join("segments"), load, &mut |seq, crc| {
        writeln!(out, "{seq} {crc}").and_then(|()| out.flush()).expect("the parent reads");
    })?;
    // All pieces are used up: wait for the kill.
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

/// Totals over all kill cycles.
#[derive(Default)]
pub(crate) struct Kills {
    pub(crate) cycles: usize,
    pub(crate) acked: usize,
    pub(crate) lost: usize,
    pub(crate) unacked_kept: u64,
    pub(crate) torn: usize,
    pub(crate) control_lost: usize,
}

pub(crate) fn kill_cycle(dir: &Path, random: &mut Random) -> Res<BTreeMap<u64, u32>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child".as_ref(), dir.as_os_str()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut text = String::new();
    lines.read_line(&mut text)?;
    let reader = thread::spawn(move || lines.read_to_string(&mut text).map(|_| text));
    thread::sleep(Duration::from_micros(1_000 + random.below(100_000) as u64));
    child.kill()?;
    child.wait()?;
    let text = reader.join().map_err(|_| "the reader panicked")??;
    let mut acked = BTreeMap::new();
    // Without its newline a line was cut off by the kill and promises nothing.
    for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
        let (seq, crc) = line.trim_end().split_once(' ').ok_or("odd line")?;
        acked.insert(seq.parse()?, crc.parse()?);
    }
    Ok(acked)
}

pub(crate) fn lost(acked: &BTreeMap<u64, u32>, frames: &[Found]) -> usize {
    let kept: BTreeMap<u64, u32> = frames.iter().map(|f| (f.seq, f.crc)).collect();
    acked.iter().filter(|(seq, crc)| kept.get(seq) != Some(crc)).count()
}

pub(crate) fn run_kills(dir: &Path) -> Res<Kills> {
    let journal = dir.join("journal");
    drop(Journal::create(&journal, KILL_PIECE_BYTES, KILL_PIECES)?);
    let mut random = Random::new();
    let mut kills = Kills::default();
    let mut acked = BTreeMap::new();
    for _ in 0..KILL_CYCLES {
        acked = kill_cycle(dir, &mut random)?;
        let scan = scan(&journal)?;
        let last = scan.frames.last().map_or(0, |f| f.seq);
        let last_acked = acked.keys().next_back().copied().unwrap_or(0);
        kills.cycles += 1;
        kills.acked += acked.len();
        kills.lost += lost(&acked, &scan.frames);
        kills.unacked_kept += last.saturating_sub(last_acked);
        kills.torn += usize::from(scan.torn);
    }
    // Does the check see damage at all? Flip a bit in the last acknowledged frame of the last child.
    let last = acked.keys().next_back().ok_or("nothing acknowledged")?;
    let frames = scan(&journal)?.frames;
    let frame = frames.iter().find(|f| f.seq == *last).ok_or("the last one is lost")?;
    let path = piece_path(&journal, frame.piece);
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let at = (frame.start + HEADER_BYTES) as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    kills.control_lost = lost(&acked, &scan(&journal)?.frames);
    fs::remove_dir_all(dir)?;
    Ok(kills)
}
