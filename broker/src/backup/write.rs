//! Makes an archive of what the shards named.

use std::io::{self, Write};

use dure_engine::{BackupFile, BackupPlan, Disk, DiskError, OpenMode};

use super::archive::{ArchiveWriter, IDENTITY, Identity, ShardPoint, Totals, VERSION};
use crate::data_dir::Format;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Length of the archive.
    pub bytes: u64,
    /// Files in it, but for those that it is checked by.
    pub files: u64,
    /// Segments that are shorter on the disk than they were said to be: damage that was there before. What is missing
    /// of them is zeroes in the archive, which decode as nothing.
    pub short: Vec<String>,
}

/// Why no archive was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of the data directory cannot be read.
    #[error("the disk of the data directory failed: {0}")]
    Disk(#[from] DiskError),
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The shard kept the files no longer.
    #[error(
        "the backup took too long, or the disk of the broker filled up meanwhile: it was given up; try again"
    )]
    GivenUp,
}

/// Writes an archive of these shards, all of one data directory, in the order of their numbers.
pub fn write(
    disk: &dyn Disk,
    data: &Format,
    created_ms: u64,
    plans: &[BackupPlan],
    out: impl Write,
) -> Result<Written, BackupError> {
    let point =
        |plan: &BackupPlan| ShardPoint { shard: plan.shard.0, commit: plan.seq.0, epoch: plan.epoch.0 };
    let identity = Identity {
        backup: VERSION,
        data: data.clone(),
        broker: env!("CARGO_PKG_VERSION").to_owned(),
        created_ms,
        shards: plans.iter().map(point).collect(),
    };
    let mut short = Vec::new();
    let mut archive = ArchiveWriter::new(out);
    let mut text = serde_json::to_vec(&identity).expect("numbers and text become JSON");
    text.push(b'\n');
    archive.whole_file(IDENTITY, &text)?;
    for plan in plans {
        archive.whole_file(&format!("shard-{:04}/checkpoint", plan.shard.0), &plan.checkpoint)?;
        for segment in &plan.segments {
            if copy(disk, plan, segment, &mut archive)? {
                short.push(segment.path.clone());
            }
        }
    }
    let Totals { bytes, files } = archive.finish()?;
    Ok(Written { bytes, files, short })
}

/// Says whether it was shorter than it should be.
fn copy(
    disk: &dyn Disk,
    plan: &BackupPlan,
    segment: &BackupFile,
    archive: &mut ArchiveWriter<impl Write>,
) -> Result<bool, BackupError> {
    let file = match disk.open(&segment.path, OpenMode::Read) {
        Err(error) if error.is_not_found() => None,
        opened => Some(opened?),
    };
    let mut short = false;
    archive.file(&segment.path, segment.bytes, |position, buffer| {
        let mut done = 0;
        if let Some(file) = &file {
            while done < buffer.len() {
                match file.read_at(position + done as u64, &mut buffer[done..])? {
                    0 => break,
                    n => done += n,
                }
            }
        }
        // Asked after the read: what was there until now was read.
        if plan.is_given_up() {
            return Err(BackupError::GivenUp);
        }
        short |= done < buffer.len();
        buffer[done..].fill(0);
        Ok(())
    })?;
    Ok(short)
}
