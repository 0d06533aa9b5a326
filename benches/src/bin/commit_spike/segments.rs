//! The other side of a commit: growing files, one per partition, written lazily and synced by checkpoints.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use crate::Res;
use crate::journal::HEADER_BYTES;

/// Growing files, one per partition.
pub(crate) struct Segments {
    pub(crate) files: Vec<(File, u64)>,
}

impl Segments {
    pub(crate) fn create(dir: &Path, numbers: impl Iterator<Item = usize>) -> Res<Self> {
        fs::create_dir_all(dir)?;
        let files =
            numbers.map(|n| Ok((File::create(dir.join(format!("{n}.segment")))?, 0))).collect::<Res<_>>()?;
        Ok(Self { files })
    }

    pub(crate) fn append(&mut self, index: usize, bytes: &[u8]) -> Res<()> {
        let (file, end) = &mut self.files[index];
        file.write_all_at(bytes, *end)?;
        *end += bytes.len() as u64;
        Ok(())
    }
}

/// The part of a payload that belongs to partition `index` of `count`.
pub(crate) fn share(bytes: usize, count: usize, index: usize) -> Range<usize> {
    index * bytes / count..(index + 1) * bytes / count
}

pub(crate) enum Behind {
    Commit(Vec<u8>),
    /// All commits of this piece and of those before it have been sent.
    Checkpoint(u64),
}

/// Appends acknowledged payloads to their segments, unsynced, and hands the buffers back.
pub(crate) fn append_lazily(
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
pub(crate) fn checkpoint(files: &[File], requests: Receiver<u64>, freed: Sender<u64>) -> Res<()> {
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
