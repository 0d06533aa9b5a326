//! The journal's files: pieces of one fixed size, written once with zeroes and then used again and again.
//!
//! Overwriting what is already allocated and written costs an `fdatasync` no metadata: two to three times as fast as
//! growing a file. A piece that no checkpoint needs any more is renamed to the next number; the rename is synced
//! before a commit goes in. A spare piece is prepared ahead, off the shard's thread.

use std::collections::VecDeque;

use dure_proto::CommitSeq;

use super::commit::JOURNAL_NUMBER_MAX;
use crate::disk::{AlignedBytes, Disk, DiskResult, FileRef, OpenMode};
use crate::mutant::{self, Mutant};

/// How many pieces nobody needs are kept for reuse; more are removed.
const FREE_PIECES_MAX: usize = 4;
/// What is written of a new piece at a time.
const ZEROES_BYTES: usize = 1 << 20;

pub(crate) fn piece_path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:010}.piece")
}

/// The number of the piece with this file name.
pub(crate) fn piece_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".piece")?.parse().ok().filter(|number| *number <= JOURNAL_NUMBER_MAX)?;
    // A name that only reads like the number is not that of the piece.
    (format!("{number:010}.piece") == name).then_some(number)
}

/// A piece that is open for writing. Two commits may be in flight, each with a descriptor of its own, because the
/// kernel reports a failed write-back once per descriptor.
pub(crate) struct OpenPiece {
    pub(crate) number: u64,
    files: [FileRef; 2],
    bytes: u64,
    position: u64,
}

/// Room for one commit.
pub(crate) struct Slot {
    pub(crate) file: FileRef,
    pub(crate) position: u64,
}

impl OpenPiece {
    /// Creates a piece of zeroes, or renames one that is no longer needed, and syncs its name. `recycle` is the
    /// path of the old piece. Where there is no room for it, it may be called again.
    pub(crate) fn prepare(
        disk: &dyn Disk,
        dir: &str,
        number: u64,
        bytes: u64,
        recycle: Option<&str>,
    ) -> DiskResult<OpenPiece> {
        let path = piece_path(dir, number);
        let length = match recycle {
            // Gone: a call before this one had renamed it when it found no room.
            Some(old) => match disk.rename(old, &path) {
                Err(error) if error.is_not_found() => 0,
                renamed => renamed.and_then(|()| disk.open(&path, OpenMode::Read)?.len())?,
            },
            None => 0,
        };
        // A crash may have left an old one half made, and the configured size may have been smaller.
        if length < bytes
            && !(recycle.is_some() && mutant::is(Mutant::HalfMadePieceUsed))
            && let Err(error) = write_zeroes(disk, &path, bytes)
        {
            if error.waits_for_room() {
                // What there was room for is given back to whoever can go on with less.
                let _ = disk.remove(&path);
            }
            return Err(error);
        }
        if !mutant::is(Mutant::SkipPieceDirSync) {
            disk.sync_dir(dir)?;
        }
        let files = [disk.open_for_blocks(&path)?, disk.open_for_blocks(&path)?];
        Ok(OpenPiece { number, bytes: files[0].len()?, files, position: 0 })
    }

    fn take(&mut self, bytes: u64, seq: CommitSeq) -> Option<Slot> {
        let end = self.position + bytes;
        (end <= self.bytes).then(|| {
            let slot = Slot { file: self.files[(seq.0 % 2) as usize].clone(), position: self.position };
            self.position = end;
            slot
        })
    }
}

/// Past the page cache and a little at a time: what is left for the sync holds up those of commits, and 64 MiB of it did so
/// for 30 ms.
fn write_zeroes(disk: &dyn Disk, path: &str, bytes: u64) -> DiskResult<()> {
    disk.open(path, OpenMode::Create)?.allocate(bytes)?;
    let file = disk.open_for_blocks(path)?;
    let mut zeroes = AlignedBytes::default();
    zeroes.resize(ZEROES_BYTES.min(bytes as usize));
    let mut position = 0;
    while position < bytes {
        let part = zeroes.len().min((bytes - position) as usize);
        file.write_all_at(position, &zeroes[..part])?;
        position += part as u64;
    }
    file.sync()
}

/// What a full journal asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PieceWanted {
    pub(crate) number: u64,
    pub(crate) recycle: Option<u64>,
}

/// Which pieces there are and what each is good for.
pub(crate) struct Pieces {
    current: OpenPiece,
    spare: Option<OpenPiece>,
    preparing: bool,
    /// Full pieces with the last commit in each, oldest first.
    full: VecDeque<(u64, CommitSeq)>,
    /// Pieces that nothing needs.
    free: Vec<u64>,
    last_seq: CommitSeq,
}

impl Pieces {
    /// `full` are the pieces that recovery may need again, with the last commit in each.
    pub(crate) fn new(
        current: OpenPiece,
        full: Vec<(u64, CommitSeq)>,
        free: Vec<u64>,
        last_seq: CommitSeq,
    ) -> Pieces {
        Pieces { current, spare: None, preparing: false, full: full.into(), free, last_seq }
    }

    /// The piece that the last commit was written to, and where that one ends in it.
    pub(crate) fn end(&self) -> (u64, u64) {
        (self.current.number, self.current.position)
    }

    /// The piece that a commit of this padded length would be written to: the current one, or the spare.
    pub(crate) fn number_for(&self, bytes: u64) -> Option<u64> {
        if self.current.position + bytes <= self.current.bytes {
            return Some(self.current.number);
        }
        self.spare.as_ref().map(|spare| spare.number)
    }

    /// Room for a commit. Call only where [`Pieces::number_for`] named a piece.
    pub(crate) fn take(&mut self, bytes: u64, seq: CommitSeq) -> Slot {
        if let Some(slot) = self.current.take(bytes, seq) {
            self.last_seq = seq;
            return slot;
        }
        let spare = self.spare.take().expect("number_for named the spare");
        let full = std::mem::replace(&mut self.current, spare);
        self.full.push_back((full.number, self.last_seq));
        self.last_seq = seq;
        self.current.take(bytes, seq).expect("a commit fits into an empty piece")
    }

    /// Whether a spare is to be prepared now.
    pub(crate) fn wants(&mut self) -> Option<PieceWanted> {
        if self.preparing || self.spare.is_some() {
            return None;
        }
        self.preparing = true;
        Some(PieceWanted { number: self.current.number + 1, recycle: self.free.pop() })
    }

    /// A piece that nothing needs, for a preparation that found no room for a new one.
    pub(crate) fn take_free(&mut self) -> Option<u64> {
        self.free.pop()
    }

    /// Whether pieces are kept that a checkpoint would release.
    pub(crate) fn holds_full(&self) -> bool {
        !self.full.is_empty()
    }

    pub(crate) fn handle_prepared(&mut self, piece: OpenPiece) {
        self.preparing = false;
        self.spare = Some(piece);
    }

    /// Nothing at or below `seq` is needed any more. Returns the pieces to remove.
    pub(crate) fn release(&mut self, seq: CommitSeq) -> Vec<u64> {
        while let Some((number, _)) = self.full.pop_front_if(|(_, last)| *last <= seq) {
            self.free.push(number);
        }
        self.free.split_off(self.free.len().min(FREE_PIECES_MAX))
    }
}
