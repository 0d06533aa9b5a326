//! The spike's journal: recycled pieces of fixed size, frames on 4 KiB boundaries, and how they are found again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::figures::ms;
use crate::{MIB, Res};

const MAGIC: u32 = 0x4b50_5344;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const ALIGN_BYTES: usize = 4096;

/// Where a frame goes: the piece's number and the position in it, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) piece: u64,
    pub(crate) position: usize,
}

/// A frame found valid on disk.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) epoch: u32,
    pub(crate) crc: u32,
    pub(crate) prev_crc: u32,
    pub(crate) piece: u64,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The forming side of the journal. It never writes frames itself: a [`Flight`] does.
pub(crate) struct Journal {
    pub(crate) dir: PathBuf,
    pub(crate) piece_bytes: usize,
    /// Oldest first; the last one is written to. Never empty.
    pub(crate) pieces: VecDeque<u64>,
    pub(crate) next_piece: u64,
    pub(crate) position: usize,
    pub(crate) seq: u64,
    pub(crate) epoch: u32,
    pub(crate) prev_crc: u32,
    /// The last acknowledged sequence; at most `seq`.
    pub(crate) durable_upto: u64,
    pub(crate) rolls: Vec<f64>,
}

pub(crate) fn piece_path(dir: &Path, piece: u64) -> PathBuf {
    dir.join(format!("{piece:016x}.piece"))
}

pub(crate) fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN_BYTES)
}

impl Journal {
    /// Writes all pieces once and syncs them, so that later commits change no metadata.
    pub(crate) fn create(dir: &Path, piece_bytes: usize, count: usize) -> Res<Self> {
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
    pub(crate) fn open(dir: &Path, piece_bytes: usize) -> Res<Self> {
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

    pub(crate) fn must_roll(&self, payload_bytes: usize) -> bool {
        self.position + frame_bytes(payload_bytes) > self.piece_bytes
    }

    /// Makes the oldest piece the newest by renaming it.
    pub(crate) fn roll(&mut self) -> Res<()> {
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
    pub(crate) fn form(&mut self, frame: &mut [u8], payload_bytes: usize) -> Slot {
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
pub(crate) struct Flight {
    pub(crate) dir: PathBuf,
    pub(crate) open: Option<(u64, File)>,
}

impl Flight {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// Writes the frame and returns once it is synced.
    pub(crate) fn commit(&mut self, slot: Slot, frame: &[u8]) -> Res<()> {
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

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn parse(piece: u64, bytes: &[u8], at: usize) -> Option<Found> {
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
pub(crate) struct Scan {
    /// The longest chain, in order, without a gap.
    pub(crate) frames: Vec<Found>,
    /// Pieces in the order of recycling: dead ones first, then the live ones, oldest first.
    pub(crate) order: Vec<u64>,
    /// Whether the last live piece holds a frame's magic, of a newer sequence, that is not valid.
    pub(crate) torn: bool,
}

pub(crate) fn follows(next: &Found, last: &Found) -> bool {
    next.seq == last.seq + 1 && next.prev_crc == last.crc && next.epoch >= last.epoch
}

/// Reads every piece; the frames, not the names, say in which order they belong.
pub(crate) fn scan(dir: &Path) -> Res<Scan> {
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
