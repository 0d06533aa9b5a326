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

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

const MAGIC: u32 = 0x4b50_5344;
const HEADER_BYTES: usize = 64;
const ALIGN_BYTES: usize = 4096;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const PIECE_BYTES: usize = 64 * MIB;
const PIECES: usize = 8;
/// A checkpoint is asked for whenever this many pieces have filled.
const CHECKPOINT_PIECES: u64 = 2;
const SYNC_THREADS: usize = 8;
/// Commits that the segment writer may lag behind before it holds the journal back.
const LAZY_COMMITS_MAX: usize = 4;
/// About as much page cache as the segments of one round take.
const WARM_UP_BYTES: usize = 1536 * MIB;
const KILL_PIECE_BYTES: usize = 8 * MIB;
const KILL_PIECES: usize = 32;
const KILL_PAYLOAD_BYTES_MAX: usize = 256 * KIB;
const KILL_CYCLES: usize = 25;

const _: () = assert!(KILL_PAYLOAD_BYTES_MAX + HEADER_BYTES < KILL_PIECE_BYTES);
const _: () = assert!(CHECKPOINT_PIECES * 2 < PIECES as u64);

// ---------------------------------------------------------------- journal

/// Where a frame goes: the piece's number and the position in it, in bytes.
#[derive(Clone, Copy)]
struct Slot {
    piece: u64,
    position: usize,
}

/// A frame found valid on disk.
#[derive(Clone, Copy)]
struct Found {
    seq: u64,
    epoch: u32,
    crc: u32,
    prev_crc: u32,
    piece: u64,
    start: usize,
    end: usize,
}

/// The forming side of the journal. It never writes frames itself: a [`Flight`] does.
struct Journal {
    dir: PathBuf,
    piece_bytes: usize,
    /// Oldest first; the last one is written to. Never empty.
    pieces: VecDeque<u64>,
    next_piece: u64,
    position: usize,
    seq: u64,
    epoch: u32,
    prev_crc: u32,
    /// The last acknowledged sequence; at most `seq`.
    durable_upto: u64,
    rolls: Vec<f64>,
}

fn piece_path(dir: &Path, piece: u64) -> PathBuf {
    dir.join(format!("{piece:016x}.piece"))
}

fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN_BYTES)
}

impl Journal {
    /// Writes all pieces once and syncs them, so that later commits change no metadata.
    fn create(dir: &Path, piece_bytes: usize, count: usize) -> Res<Self> {
        fs::create_dir_all(dir)?;
        let zeros = vec![0u8; MIB];
        for piece in 0..count as u64 {
            let mut file = File::create(piece_path(dir, piece))?;
            for _ in 0..piece_bytes / MIB {
                file.write_all(&zeros)?;
            }
            file.sync_all()?;
        }
        File::open(dir)?.sync_all()?;
        Ok(Self {
            dir: dir.to_owned(),
            piece_bytes,
            pieces: (0..count as u64).collect(),
            next_piece: count as u64,
            position: piece_bytes,
            seq: 0,
            epoch: 1,
            prev_crc: 0,
            durable_upto: 0,
            rolls: Vec::new(),
        })
    }

    /// Opens what a killed process left, in a new epoch that starts behind the last kept frame.
    fn open(dir: &Path, piece_bytes: usize) -> Res<Self> {
        let scan = scan(dir)?;
        let last = scan.frames.last();
        let next_piece = scan.order.iter().max().ok_or("no pieces")? + 1;
        Ok(Self {
            dir: dir.to_owned(),
            piece_bytes,
            pieces: scan.order.into(),
            next_piece,
            position: last.map_or(piece_bytes, |f| f.end),
            seq: last.map_or(0, |f| f.seq),
            epoch: last.map_or(0, |f| f.epoch) + 1,
            prev_crc: last.map_or(0, |f| f.crc),
            durable_upto: last.map_or(0, |f| f.seq),
            rolls: Vec::new(),
        })
    }

    fn must_roll(&self, payload_bytes: usize) -> bool {
        self.position + frame_bytes(payload_bytes) > self.piece_bytes
    }

    /// Makes the oldest piece the newest by renaming it.
    fn roll(&mut self) -> Res<()> {
        let began = Instant::now();
        let oldest = self.pieces.pop_front().ok_or("no pieces")?;
        let new = self.next_piece;
        self.next_piece += 1;
        fs::rename(piece_path(&self.dir, oldest), piece_path(&self.dir, new))?;
        File::open(&self.dir)?.sync_all()?;
        self.pieces.push_back(new);
        self.position = 0;
        self.rolls.push(ms(began));
        Ok(())
    }

    /// Numbers, chains and checksums the frame in `frame`, whose payload is in place, and assigns its slot.
    fn form(&mut self, frame: &mut [u8], payload_bytes: usize) -> Slot {
        assert!(!self.must_roll(payload_bytes), "the caller rolls first");
        self.seq += 1;
        let end = HEADER_BYTES + payload_bytes;
        frame[..HEADER_BYTES].fill(0);
        frame[..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[8..12].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        frame[12..16].copy_from_slice(&self.prev_crc.to_le_bytes());
        frame[20..24].copy_from_slice(&self.epoch.to_le_bytes());
        frame[24..32].copy_from_slice(&self.seq.to_le_bytes());
        frame[32..40].copy_from_slice(&self.durable_upto.to_le_bytes());
        frame[end..frame_bytes(payload_bytes)].fill(0);
        let crc = crc32fast::hash(&frame[8..end]);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        self.prev_crc = crc;
        let slot = Slot { piece: *self.pieces.back().expect("never empty"), position: self.position };
        self.position += frame_bytes(payload_bytes);
        slot
    }
}

/// One commit in flight: a descriptor of its own, so that a failed write-back is reported to it.
struct Flight {
    dir: PathBuf,
    open: Option<(u64, File)>,
}

impl Flight {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// Writes the frame and returns once it is synced.
    fn commit(&mut self, slot: Slot, frame: &[u8]) -> Res<()> {
        if self.open.as_ref().is_none_or(|(piece, _)| *piece != slot.piece) {
            let file = OpenOptions::new().write(true).open(piece_path(&self.dir, slot.piece))?;
            self.open = Some((slot.piece, file));
        }
        let (_, file) = self.open.as_ref().expect("just opened");
        file.write_all_at(frame, slot.position as u64)?;
        file.sync_data()?;
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn parse(piece: u64, bytes: &[u8], at: usize) -> Option<Found> {
    let bytes = bytes.get(at..)?;
    if bytes.len() < HEADER_BYTES || u32_at(bytes, 0) != MAGIC {
        return None;
    }
    let payload_bytes = u32_at(bytes, 8) as usize;
    let body = bytes.get(8..HEADER_BYTES + payload_bytes)?;
    let crc = u32_at(bytes, 4);
    (crc32fast::hash(body) == crc).then(|| Found {
        seq: u64_at(bytes, 24),
        epoch: u32_at(bytes, 20),
        crc,
        prev_crc: u32_at(bytes, 12),
        piece,
        start: at,
        end: at + frame_bytes(payload_bytes),
    })
}

/// What a journal directory holds.
struct Scan {
    /// The longest chain, in order, without a gap.
    frames: Vec<Found>,
    /// Pieces in the order of recycling: dead ones first, then the live ones, oldest first.
    order: Vec<u64>,
    /// Whether the last live piece holds a frame's magic, of a newer sequence, that is not valid.
    torn: bool,
}

fn follows(next: &Found, last: &Found) -> bool {
    next.seq == last.seq + 1 && next.prev_crc == last.crc && next.epoch >= last.epoch
}

/// Reads every piece; the frames, not the names, say in which order they belong.
fn scan(dir: &Path) -> Res<Scan> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).ok_or("odd name")?;
        let piece = u64::from_str_radix(stem, 16)?;
        let bytes = fs::read(&path)?;
        let mut run: Vec<Found> = Vec::new();
        let mut at = 0;
        while let Some(found) = parse(piece, &bytes, at) {
            if run.last().is_some_and(|last| !follows(&found, last)) {
                break;
            }
            at = found.end;
            run.push(found);
        }
        let magic_behind = at + HEADER_BYTES <= bytes.len() && u32_at(&bytes, at) == MAGIC;
        let seq_behind = if magic_behind { u64_at(&bytes, at + 24) } else { 0 };
        let torn = run.last().is_some_and(|last| seq_behind > last.seq && parse(piece, &bytes, at).is_none());
        runs.push((run, piece, torn));
    }
    runs.sort_by_key(|(run, piece, _)| (run.first().map_or(0, |f| f.seq), *piece));
    let mut scan = Scan { frames: Vec::new(), order: Vec::new(), torn: false };
    let mut live = Vec::new();
    for (run, piece, torn) in runs {
        let fits = match (run.first(), scan.frames.last()) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(first), Some(last)) => follows(first, last),
        };
        if fits {
            scan.frames.extend(run);
            scan.torn = torn;
            live.push(piece);
        } else {
            scan.order.push(piece);
        }
    }
    scan.order.extend(live);
    Ok(scan)
}

// ---------------------------------------------------------------- segments

/// Growing files, one per partition.
struct Segments {
    files: Vec<(File, u64)>,
}

impl Segments {
    fn create(dir: &Path, numbers: impl Iterator<Item = usize>) -> Res<Self> {
        fs::create_dir_all(dir)?;
        let files =
            numbers.map(|n| Ok((File::create(dir.join(format!("{n}.segment")))?, 0))).collect::<Res<_>>()?;
        Ok(Self { files })
    }

    fn append(&mut self, index: usize, bytes: &[u8]) -> Res<()> {
        let (file, end) = &mut self.files[index];
        file.write_all_at(bytes, *end)?;
        *end += bytes.len() as u64;
        Ok(())
    }
}

/// The part of a payload that belongs to partition `index` of `count`.
fn share(bytes: usize, count: usize, index: usize) -> Range<usize> {
    index * bytes / count..(index + 1) * bytes / count
}

enum Behind {
    Commit(Vec<u8>),
    /// All commits of this piece and of those before it have been sent.
    Checkpoint(u64),
}

/// Appends acknowledged payloads to their segments, unsynced, and hands the buffers back.
fn append_lazily(
    mut segments: Segments,
    payload_bytes: usize,
    inbox: Receiver<Behind>,
    spare: Sender<Vec<u8>>,
    checkpoints: SyncSender<u64>,
) -> Res<()> {
    let count = segments.files.len();
    for message in inbox {
        match message {
            Behind::Commit(frame) => {
                for index in 0..count {
                    let part = share(payload_bytes, count, index);
                    segments.append(index, &frame[HEADER_BYTES..][part])?;
                }
                // The journal's thread may have finished; then nobody wants the buffer.
                let _ = spare.send(frame);
            }
            Behind::Checkpoint(piece) => checkpoints.send(piece)?,
        }
    }
    Ok(())
}

/// Syncs every segment per request, and once more at the end, then says which pieces are free.
fn checkpoint(files: &[File], requests: Receiver<u64>, freed: Sender<u64>) -> Res<()> {
    for piece in requests {
        for file in files {
            file.sync_data()?;
        }
        let _ = freed.send(piece);
    }
    for file in files {
        file.sync_data()?;
    }
    Ok(())
}

// ---------------------------------------------------------------- loads

/// What one round yields.
struct Round {
    seconds: f64,
    payload_bytes: u64,
    latencies_ms: Vec<f64>,
}

/// How commits are made in one round.
#[derive(Clone, Copy)]
struct Load {
    payload_bytes: usize,
    /// Payload sizes vary between 1 byte and `payload_bytes`.
    vary: bool,
    flights: usize,
    /// Even a single flight is a thread of its own.
    hop: bool,
    partitions: usize,
    checkpoints: bool,
    seconds: f64,
    rolls_max: usize,
}

impl Load {
    const fn journal(payload_bytes: usize, flights: usize, partitions: usize, seconds: f64) -> Self {
        Self {
            payload_bytes,
            vary: false,
            flights,
            hop: flights > 1,
            partitions,
            checkpoints: false,
            seconds,
            rolls_max: usize::MAX,
        }
    }
}

struct Pending {
    seq: u64,
    crc: u32,
    slot: Slot,
    payload_bytes: usize,
    began: Instant,
    done: Option<Vec<u8>>,
}

/// The thread that forms commits and acknowledges them in order.
struct Committer<'a> {
    journal: &'a mut Journal,
    load: Load,
    random: Random,
    pending: VecDeque<Pending>,
    spare: Receiver<Vec<u8>>,
    give_back: Sender<Vec<u8>>,
    behind: Option<SyncSender<Behind>>,
    freed: Receiver<u64>,
    freed_piece: u64,
    acked_piece: u64,
    round: Round,
}

impl Committer<'_> {
    fn form(&mut self) -> Res<(Slot, Vec<u8>, usize)> {
        // Waiting for the segment writer to give a buffer back is part of the latency.
        let began = Instant::now();
        let mut frame = self.spare.recv()?;
        let max = self.load.payload_bytes;
        let bytes = if self.load.vary { 1 + self.random.below(max) } else { max };
        if self.journal.must_roll(bytes) {
            let oldest = self.journal.pieces[0];
            while self.load.checkpoints && oldest > self.freed_piece {
                self.freed_piece = self.freed.recv()?;
            }
            self.journal.roll()?;
        }
        let seq = self.journal.seq + 1;
        let stamp = &seq.to_le_bytes()[..bytes.min(8)];
        frame[HEADER_BYTES..][..stamp.len()].copy_from_slice(stamp);
        let slot = self.journal.form(&mut frame, bytes);
        let crc = self.journal.prev_crc;
        self.pending.push_back(Pending { seq, crc, slot, payload_bytes: bytes, began, done: None });
        Ok((slot, frame, frame_bytes(bytes)))
    }

    fn handle_synced(&mut self, seq: u64, frame: Vec<u8>, on_ack: &mut dyn FnMut(u64, u32)) -> Res<()> {
        let first = self.pending.front().ok_or("nothing pending")?.seq;
        self.pending[(seq - first) as usize].done = Some(frame);
        while self.pending.front().is_some_and(|p| p.done.is_some()) {
            let acked = self.pending.pop_front().expect("just seen");
            self.journal.durable_upto = acked.seq;
            on_ack(acked.seq, acked.crc);
            self.round.latencies_ms.push(ms(acked.began));
            self.round.payload_bytes += acked.payload_bytes as u64;
            let full = acked.slot.piece != self.acked_piece;
            let frame = acked.done.expect("just seen");
            match &self.behind {
                None => self.give_back.send(frame)?,
                Some(behind) => {
                    let due = full && self.acked_piece.is_multiple_of(CHECKPOINT_PIECES);
                    if due && self.load.checkpoints {
                        behind.send(Behind::Checkpoint(self.acked_piece))?;
                    }
                    behind.send(Behind::Commit(frame))?;
                }
            }
            self.acked_piece = acked.slot.piece;
        }
        Ok(())
    }
}

/// One round on the journal. The time runs until the segments are written too (and synced, if checkpoints are on).
fn run_journal(
    journal: &mut Journal,
    segment_dir: &Path,
    load: Load,
    on_ack: &mut dyn FnMut(u64, u32),
) -> Res<Round> {
    let mut random = Random::new();
    let (give_back, spare) = channel();
    for _ in 0..load.flights + LAZY_COMMITS_MAX {
        give_back.send(random.bytes(frame_bytes(load.payload_bytes)))?;
    }
    let segments = Segments::create(segment_dir, 0..load.partitions)?;
    let clones = segments.files.iter().map(|(f, _)| f.try_clone()).collect::<Result<Vec<_>, _>>()?;
    let (behind, behind_inbox) = sync_channel(LAZY_COMMITS_MAX);
    let (request, requests) = sync_channel(PIECES);
    let (free, freed) = channel();
    let last_piece = *journal.pieces.back().ok_or("no pieces")?;
    let round = thread::scope(|scope| -> Res<Round> {
        let began = Instant::now();
        let mut helpers = Vec::new();
        if load.partitions > 0 {
            let back = give_back.clone();
            helpers.push(
                scope.spawn(move || append_lazily(segments, load.payload_bytes, behind_inbox, back, request)),
            );
        }
        if load.checkpoints {
            helpers.push(scope.spawn(|| checkpoint(&clones, requests, free)));
        }
        let committer = Committer {
            journal: &mut *journal,
            load,
            random,
            pending: VecDeque::new(),
            spare,
            give_back,
            behind: (load.partitions > 0).then_some(behind),
            freed,
            freed_piece: last_piece,
            acked_piece: last_piece,
            round: Round { seconds: 0.0, payload_bytes: 0, latencies_ms: Vec::new() },
        };
        let mut round = commit_until_end(committer, on_ack)?;
        for helper in helpers {
            helper.join().map_err(|_| "a helper panicked")??;
        }
        round.seconds = began.elapsed().as_secs_f64();
        Ok(round)
    })?;
    fs::remove_dir_all(segment_dir)?;
    Ok(round)
}

/// Forms, flies and acknowledges until the time is over. Dropping the committer ends the helpers.
fn commit_until_end(mut committer: Committer<'_>, on_ack: &mut dyn FnMut(u64, u32)) -> Res<Round> {
    let load = committer.load;
    let dir = committer.journal.dir.clone();
    let end = Instant::now() + Duration::from_secs_f64(load.seconds);
    let more = |c: &Committer<'_>| Instant::now() < end && c.journal.rolls.len() < load.rolls_max;
    if !load.hop {
        let mut flight = Flight::new(&dir);
        while more(&committer) {
            let (slot, frame, bytes) = committer.form()?;
            flight.commit(slot, &frame[..bytes])?;
            let seq = committer.journal.seq;
            committer.handle_synced(seq, frame, on_ack)?;
        }
        return Ok(committer.round);
    }
    thread::scope(|scope| -> Res<Round> {
        let (done, synced) = channel::<(u64, Res<Vec<u8>>)>();
        let mut flights = Vec::new();
        for _ in 0..load.flights {
            let (fly, jobs) = channel::<(u64, Slot, Vec<u8>, usize)>();
            let (done, mut flight) = (done.clone(), Flight::new(&dir));
            scope.spawn(move || -> Res<()> {
                for (seq, slot, frame, bytes) in jobs {
                    // An error travels too: the committer must not wait for a flight that is gone.
                    done.send((seq, flight.commit(slot, &frame[..bytes]).map(|()| frame)))?;
                }
                Ok(())
            });
            flights.push(fly);
        }
        drop(done);
        loop {
            while committer.pending.len() < load.flights && more(&committer) {
                let (slot, frame, bytes) = committer.form()?;
                let seq = committer.journal.seq;
                flights[seq as usize % load.flights].send((seq, slot, frame, bytes))?;
            }
            if committer.pending.is_empty() {
                return Ok(committer.round);
            }
            let (seq, frame) = synced.recv()?;
            committer.handle_synced(seq, frame?, on_ack)?;
        }
    })
}

/// One round of growing files, each synced by itself; `parts` are the bytes per file of one commit.
fn run_direct(dir: &Path, parts: &[usize], threads: usize, seconds: f64) -> Res<Round> {
    let total: usize = parts.iter().sum();
    let mut starts = vec![0];
    starts.extend(parts.iter().scan(0, |at, part| {
        *at += part;
        Some(*at)
    }));
    let work = |payload: &[u8], files: &mut Segments, thread: usize| -> Res<()> {
        for index in 0..files.files.len() {
            let part = thread + index * threads;
            files.append(index, &payload[starts[part]..starts[part + 1]])?;
            files.files[index].0.sync_data()?;
        }
        Ok(())
    };
    let work = &work;
    let mut files = Vec::new();
    for thread in 0..threads {
        files.push(Segments::create(dir, (thread..parts.len()).step_by(threads))?);
    }
    let mut payload = Arc::new(Random::new().bytes(total));
    let mut round = Round { seconds: 0.0, payload_bytes: 0, latencies_ms: Vec::new() };
    thread::scope(|scope| -> Res<()> {
        let mut own = files.pop().ok_or("no threads")?;
        let (done, synced) = channel::<()>();
        let mut helpers = Vec::new();
        for (thread, mut files) in files.into_iter().enumerate() {
            let (go, jobs) = channel::<Arc<Vec<u8>>>();
            let done = done.clone();
            scope.spawn(move || -> Res<()> {
                for payload in jobs {
                    work(&payload, &mut files, thread)?;
                    drop(payload);
                    done.send(())?;
                }
                Ok(())
            });
            helpers.push(go);
        }
        drop(done);
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            let began = Instant::now();
            let bytes = Arc::get_mut(&mut payload).ok_or("the payload is still shared")?;
            bytes[..8].copy_from_slice(&(round.latencies_ms.len() as u64).to_le_bytes());
            std::hint::black_box(crc32fast::hash(bytes));
            for helper in &helpers {
                helper.send(payload.clone())?;
            }
            work(&payload, &mut own, threads - 1)?;
            for _ in &helpers {
                synced.recv()?;
            }
            round.latencies_ms.push(ms(began));
            round.payload_bytes += total as u64;
        }
        round.seconds = start.elapsed().as_secs_f64();
        Ok(())
    })?;
    fs::remove_dir_all(dir)?;
    Ok(round)
}

/// A message to another thread and back, with nothing done there.
fn run_bare_hop(seconds: f64) -> Res<Round> {
    let mut round = Round { seconds, payload_bytes: 0, latencies_ms: Vec::new() };
    thread::scope(|scope| -> Res<()> {
        let (there, inbox) = channel::<u64>();
        let (back, outbox) = channel::<u64>();
        scope.spawn(move || inbox.into_iter().try_for_each(|n| back.send(n)));
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            // Sleep as long as a commit does, so that the other side sleeps too.
            thread::sleep(Duration::from_micros(250));
            let began = Instant::now();
            there.send(1)?;
            outbox.recv()?;
            round.latencies_ms.push(ms(began));
        }
        Ok(())
    })?;
    Ok(round)
}

// ---------------------------------------------------------------- kill -9

/// The child: commits until it is killed and prints each acknowledged sequence with its checksum.
fn run_child(dir: &Path) -> Res<()> {
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
struct Kills {
    cycles: usize,
    acked: usize,
    lost: usize,
    unacked_kept: u64,
    torn: usize,
    control_lost: usize,
}

fn kill_cycle(dir: &Path, random: &mut Random) -> Res<BTreeMap<u64, u32>> {
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

fn lost(acked: &BTreeMap<u64, u32>, frames: &[Found]) -> usize {
    let kept: BTreeMap<u64, u32> = frames.iter().map(|f| (f.seq, f.crc)).collect();
    acked.iter().filter(|(seq, crc)| kept.get(seq) != Some(crc)).count()
}

fn run_kills(dir: &Path) -> Res<Kills> {
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

// ---------------------------------------------------------------- figures

/// xorshift64*: incompressible payloads and kill moments; nothing here needs a seed to be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self(now.as_nanos() as u64 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Written through, so that no page of it is cold.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        bytes
    }
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent / 100).min(values.len().max(1) - 1)).copied().unwrap_or(f64::NAN)
}

/// All rounds of one configuration.
#[derive(Default)]
struct Row {
    section: &'static str,
    name: String,
    mb_per_second: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn add(&mut self, section: &'static str, name: &str, mut round: Round) {
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

    fn print(&mut self, json: bool) {
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

const PARTITIONS: &str =
    "a. commits over n partitions (time until durable; MB/s until segments are written too)";
const ATOMIC: &str = "b. produce 64 KiB + ack 64 B + dead letter 1 KiB";
const HOP: &str = "d. one 4 KiB commit at a time";
const PIECE: &str =
    "e. piece size, 1 MiB commits, two in flight, no segments (p50/p99 of the last two: a roll)";

fn size_name(bytes: usize) -> String {
    if bytes >= MIB { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / KIB) }
}

/// Page cache that the host has taken back is slow to touch again, and whoever comes first would pay.
fn warm_up(path: &Path) -> Res<()> {
    let mut file = File::create(path)?;
    let block = vec![1; MIB];
    for _ in 0..WARM_UP_BYTES / MIB {
        file.write_all(&block)?;
    }
    fs::remove_file(path)?;
    Ok(())
}

fn measure_partitions(
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

fn measure_small(journal: &mut Journal, dir: &Path, seconds: f64, table: &mut Table) -> Res<()> {
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

fn measure_pieces(journals: &mut [Journal], dir: &Path, seconds: f64, table: &mut Table) -> Res<()> {
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

/// Command line: every flag has a default.
struct Args {
    dir: PathBuf,
    seconds: f64,
    rounds: usize,
    json: bool,
    child: Option<PathBuf>,
}

fn parse_args() -> Res<Args> {
    let dir = std::env::current_dir()?.join(format!("commit-spike-{}", std::process::id()));
    let mut args = Args { dir, seconds: 0.7, rounds: 5, json: false, child: None };
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
            "--child" => args.child = Some(value()?.into()),
            _ => {
                return Err(
                    "usage: commit_spike [--dir DIR] [--seconds PER_ROUND] [--rounds N] [--json]".into()
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
