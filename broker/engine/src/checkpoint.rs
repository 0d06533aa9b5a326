//! The checkpoint file: `<sequence number, 20 digits>.checkpoint`.
//!
//! ```text
//!  0  4  magic "DuCk"
//!  4  4  CRC-32 of bytes 8..32
//!  8  4  version, 1
//! 12  4  CRC-32 of the body
//! 16  8  length of the body
//! 24  8  sequence number of the last commit in it
//! 32     body: protobuf, `journal.proto` Checkpoint
//! ```
//!
//! It is valid once its name is there: before, the segments that it counts on are synced, then the file, then its
//! directory. The two newest are kept.

use std::io;
use std::sync::atomic::Ordering;

use dure_proto::CommitSeq;
use dure_proto::journal::Checkpoint;
use prost::Message;

use crate::backup::BackupContent;
use crate::disk::{Disk, DiskError, DiskOp, DiskResult, FileRef, OpenMode, SyncFailed};
use crate::finding::Finding;
use crate::journal::JOURNAL_NUMBER_MAX;
use crate::log::WrittenPart;
use crate::mutant::{self, Mutant};

const MAGIC: &[u8; 4] = b"DuCk";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const CHECKPOINTS_KEPT: usize = 2;

/// A checkpoint on its way to the disk.
pub(crate) struct CheckpointFile {
    dir: String,
    checkpoint: Checkpoint,
    sync_files: Vec<FileRef>,
    /// Parents behind children: each name is durable before what leads to it.
    sync_dirs: Vec<String>,
    /// A backup reads what it names.
    for_backup: bool,
    /// Set when the sync of a directory failed elsewhere.
    dir_sync_failed: SyncFailed,
    /// Parts that an earlier checkpoint synced and nobody is expected to read soon.
    uncached: Vec<WrittenPart>,
}

pub(crate) fn checkpoint_path(dir: &str, seq: u64) -> String {
    format!("{dir}/{seq:020}.checkpoint")
}

fn checkpoint_seq(name: &str) -> Option<u64> {
    let seq = name.strip_suffix(".checkpoint")?.parse().ok()?;
    // A name that only reads like the number is not that of the checkpoint.
    (format!("{seq:020}.checkpoint") == name).then_some(seq)
}

impl CheckpointFile {
    pub(crate) fn new(
        dir: String,
        checkpoint: Checkpoint,
        sync_files: Vec<FileRef>,
        sync_dirs: Vec<String>,
        for_backup: bool,
        dir_sync_failed: SyncFailed,
        uncached: Vec<WrittenPart>,
    ) -> CheckpointFile {
        CheckpointFile { dir, checkpoint, sync_files, sync_dirs, for_backup, dir_sync_failed, uncached }
    }

    pub(crate) fn seq(&self) -> CommitSeq {
        CommitSeq(self.checkpoint.seq)
    }

    /// Makes it durable, and removes those that it makes superfluous. Returns what a backup needs, if there is one.
    /// Where there is no room for it, it leaves nothing behind and may be called again.
    pub(crate) fn write(&self, disk: &dyn Disk) -> DiskResult<Option<BackupContent>> {
        for file in self.sync_files.iter().filter(|_| !mutant::is(Mutant::SegmentsNotSynced)) {
            file.sync()?;
        }
        for dir in self.sync_dirs.iter().filter(|_| !mutant::is(Mutant::SegmentDirsNotSynced)) {
            match disk.sync_dir(dir) {
                // Its topic was deleted since the checkpoint was taken, by a commit behind it.
                Err(error) if error.is_not_found() => {}
                synced => synced?,
            }
        }
        if self.dir_sync_failed.load(Ordering::Acquire) {
            let why = io::Error::other("not believed, since the sync of a directory failed beside it");
            return Err(DiskError::new(DiskOp::SyncDir, &self.dir, why));
        }
        let temporary = format!("{}/next.tmp", self.dir);
        let bytes = encode(&self.checkpoint);
        let named = write_synced(disk, &temporary, &bytes)
            .and_then(|()| disk.rename(&temporary, &checkpoint_path(&self.dir, self.checkpoint.seq)));
        if let Err(error) = named {
            if error.waits_for_room() {
                let _ = disk.remove(&temporary);
            }
            return Err(error);
        }
        if !mutant::is(Mutant::CheckpointDirNotSynced) {
            disk.sync_dir(&self.dir)?;
        }
        let kept = CHECKPOINTS_KEPT - usize::from(mutant::is(Mutant::OlderCheckpointRemoved));
        for seq in list(disk, &self.dir)?.into_iter().rev().skip(kept) {
            disk.remove(&checkpoint_path(&self.dir, seq))?;
        }
        for part in &self.uncached {
            disk.uncache(&part.path, part.upto);
        }
        let shard_dir = self.dir.trim_end_matches("/checkpoint");
        Ok(self.for_backup.then(|| BackupContent::of(shard_dir, &self.checkpoint, bytes)))
    }
}

fn write_synced(disk: &dyn Disk, path: &str, bytes: &[u8]) -> DiskResult<()> {
    let file = disk.open(path, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(0, bytes)?;
    if mutant::is(Mutant::CheckpointNotSynced) { Ok(()) } else { file.sync() }
}

pub(crate) fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let body = checkpoint.encode_to_vec();
    let mut out = vec![0; HEADER_BYTES];
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    out[24..32].copy_from_slice(&checkpoint.seq.to_le_bytes());
    let checksum = crc32fast::hash(&out[8..]);
    out[..4].copy_from_slice(MAGIC);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Reads the bytes of a checkpoint file; the error says what is wrong with them.
pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or("shorter than its header")?;
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if &header[..4] != MAGIC || u32_at(4) != crc32fast::hash(&header[8..]) {
        return Err("no valid header".into());
    }
    if u32_at(8) != VERSION {
        return Err(format!("version {} where {VERSION} is known", u32_at(8)));
    }
    let length = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
    if body.len() as u64 != length || u32_at(12) != crc32fast::hash(body) {
        return Err("the body is not what was written".into());
    }
    let checkpoint = Checkpoint::decode(body).map_err(|error| error.to_string())?;
    let numbers = [checkpoint.seq, checkpoint.epoch, checkpoint.piece];
    if numbers.iter().any(|number| *number > JOURNAL_NUMBER_MAX) {
        return Err(format!("commit {}, epoch {}, piece {} cannot be", numbers[0], numbers[1], numbers[2]));
    }
    Ok(checkpoint)
}

/// As [`decode`], for a file whose name says `seq`. One under another's name would stand before those that are newer.
fn decode_named(seq: u64, bytes: &[u8]) -> Result<Checkpoint, String> {
    let checkpoint = decode(bytes)?;
    match checkpoint.seq == seq {
        true => Ok(checkpoint),
        false => {
            Err(format!("it is the checkpoint of commit {}, not of the one in its name", checkpoint.seq))
        }
    }
}

fn list(disk: &dyn Disk, dir: &str) -> DiskResult<Vec<u64>> {
    Ok(disk.list(dir)?.iter().filter_map(|entry| checkpoint_seq(&entry.name)).collect())
}

/// The checkpoints as a start finds them.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The newest one that can be read.
    pub(crate) newest: Option<Checkpoint>,
    /// The one before it.
    pub(crate) before: Option<Before>,
    /// What is wrong with others. One that the disk refuses to read is as good as a damaged one.
    pub(crate) findings: Vec<Finding>,
}

/// What is kept for the case that the newest checkpoint is damaged some day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    /// The last commit in it.
    pub(crate) seq: CommitSeq,
    /// The piece that it is in; a replay from here needs none before it.
    pub(crate) piece: u64,
}

/// Reads the two newest checkpoints that can be read.
pub(crate) fn load(disk: &dyn Disk, dir: &str) -> DiskResult<Loaded> {
    let mut loaded = Loaded::default();
    for seq in list(disk, dir)?.into_iter().rev() {
        let path = checkpoint_path(dir, seq);
        let read = disk.read_past_cache(&path).map_err(|error| error.to_string());
        match read.and_then(|bytes| decode_named(seq, &bytes)) {
            Ok(checkpoint) if loaded.newest.is_none() => loaded.newest = Some(checkpoint),
            Ok(before) => {
                loaded.before = Some(Before { seq: CommitSeq(before.seq), piece: before.piece });
                break;
            }
            Err(what) => loaded.findings.push(Finding::CheckpointDamaged { path, what }),
        }
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_and_no_cut_is_believed() {
        let bytes = encode(&Checkpoint { seq: 5, epoch: 2, topic_next: 3, ..Checkpoint::default() });
        assert_eq!(decode(&bytes).map(|checkpoint| checkpoint.epoch), Ok(2));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err());
        }
        assert!(decode(&[0; 4096]).is_err());
    }

    /// Found by fuzzing: it stood before every later one, and the journal behind those was gone.
    #[test]
    fn a_checkpoint_under_anothers_name_is_not_taken() {
        let bytes = encode(&Checkpoint { seq: 5, epoch: 2, ..Checkpoint::default() });
        assert!(decode_named(5, &bytes).is_ok());
        let refused = decode_named(9, &bytes).expect_err("its name says 9");
        assert!(refused.contains("commit 5"), "{refused}");
    }
}
