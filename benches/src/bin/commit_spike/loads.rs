//! What is measured: a journal with commits in flight, directly synced files, and a bare hop between threads.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::*;
use crate::journal::*;
use crate::segments::*;
use crate::{PIECES, Res};

/// A checkpoint is asked for whenever this many pieces have filled.
const CHECKPOINT_PIECES: u64 = 2;
pub(crate) const SYNC_THREADS: usize = 8;
/// Commits that the segment writer may lag behind before it holds the journal back.
const LAZY_COMMITS_MAX: usize = 4;

const _: () = assert!(CHECKPOINT_PIECES * 2 < PIECES as u64);

/// What one round yields.
pub(crate) struct Round {
    pub(crate) seconds: f64,
    pub(crate) payload_bytes: u64,
    pub(crate) latencies_ms: Vec<f64>,
}

/// How commits are made in one round.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) payload_bytes: usize,
    /// Payload sizes vary between 1 byte and `payload_bytes`.
    pub(crate) vary: bool,
    pub(crate) flights: usize,
    /// Even a single flight is a thread of its own.
    pub(crate) hop: bool,
    pub(crate) partitions: usize,
    pub(crate) checkpoints: bool,
    pub(crate) seconds: f64,
    pub(crate) rolls_max: usize,
}

impl Load {
    pub(crate) fn journal(payload_bytes: usize, flights: usize, partitions: usize, seconds: f64) -> Self {
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

pub(crate) struct Pending {
    pub(crate) seq: u64,
    pub(crate) crc: u32,
    pub(crate) slot: Slot,
    pub(crate) payload_bytes: usize,
    pub(crate) began: Instant,
    pub(crate) done: Option<Vec<u8>>,
}

/// The thread that forms commits and acknowledges them in order.
pub(crate) struct Committer<'a> {
    pub(crate) journal: &'a mut Journal,
    pub(crate) load: Load,
    pub(crate) random: Random,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) spare: Receiver<Vec<u8>>,
    pub(crate) give_back: Sender<Vec<u8>>,
    pub(crate) behind: Option<SyncSender<Behind>>,
    pub(crate) freed: Receiver<u64>,
    pub(crate) freed_piece: u64,
    pub(crate) acked_piece: u64,
    pub(crate) round: Round,
}

impl Committer<'_> {
    pub(crate) fn form(&mut self) -> Res<(Slot, Vec<u8>, usize)> {
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

    pub(crate) fn handle_synced(
        &mut self,
        seq: u64,
        frame: Vec<u8>,
        on_ack: &mut dyn FnMut(u64, u32),
    ) -> Res<()> {
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
pub(crate) fn run_journal(
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
pub(crate) fn commit_until_end(mut committer: Committer<'_>, on_ack: &mut dyn FnMut(u64, u32)) -> Res<Round> {
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
pub(crate) fn run_direct(dir: &Path, parts: &[usize], threads: usize, seconds: f64) -> Res<Round> {
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
pub(crate) fn run_bare_hop(seconds: f64) -> Res<Round> {
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
