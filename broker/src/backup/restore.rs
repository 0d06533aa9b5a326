//! Makes a data directory of an archive. It is unpacked beside its place, checked there, synced, and renamed: either the
//! whole directory is there or none.

use std::fs;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dure_engine::{
    Disk, DiskError, FileRef, Finding, OpenMode, RESTORED_EPOCHS_MAX, RESTORED_EPOCHS_MIN, RealDisk,
    VerifyReport, rebuild_indexes, restored_checkpoint, verify,
};
use dure_proto::ShardId;

use super::archive::{ArchiveError, Identity, Sink, read};
use crate::data_dir::{DataDirError, write_format};

const RESTORED_EPOCHS: Range<u64> = RESTORED_EPOCHS_MIN..RESTORED_EPOCHS_MAX;

/// A data directory that was made.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the archive says of itself.
    pub identity: Identity,
    /// The epoch that the next start opens, the largest among the shards.
    pub epoch: u64,
    /// What is in it.
    pub report: VerifyReport,
}

/// Why no data directory was made. Nothing is at its place.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Something is there already.
    #[error("{} is not empty: give a directory that is empty or not there", .path.display())]
    NotEmpty {
        /// The place.
        path: PathBuf,
    },
    /// An earlier restore was interrupted, or another one runs.
    #[error("{} is there, from a restore that was interrupted or still runs: remove it and try again", .path.display())]
    LeftOver {
        /// Where it unpacked.
        path: PathBuf,
    },
    /// The archive cannot be opened.
    #[error("cannot open {}: {source}", .path.display())]
    Open {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is refused.
    #[error("{} is refused: {source}", .path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: ArchiveError,
    },
    /// The archive is whole, and what was put into it was damaged before.
    #[error(
        "what {} holds was damaged when it was made ({} findings, the first: {}); --accept-damage restores the rest",
        .path.display(), .findings.len(), .findings[0]
    )]
    DamagedData {
        /// The archive.
        path: PathBuf,
        /// What is damaged.
        findings: Vec<Finding>,
    },
    /// The directory cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its `FORMAT` cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file of it cannot be written or read back.
    #[error("the disk of the new data directory failed: {0}")]
    Disk(#[from] DiskError),
}

/// Restores an archive to a place where nothing is. With `accept_damage`, damage that was in the data when the backup was
/// made is no reason to refuse it.
pub fn restore(archive: &Path, to: &Path, accept_damage: bool) -> Result<Restored, RestoreError> {
    let file = fs::File::open(archive)
        .and_then(
            |file| if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) },
        )
        .map_err(|source| RestoreError::Open { path: archive.to_owned(), source })?;
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Io { path, source }
    };
    let to = std::path::absolute(to).map_err(io_error(to))?;
    refuse_taken(&to)?;
    let name = to.file_name().ok_or_else(|| RestoreError::NotEmpty { path: to.clone() })?;
    let mut beside = name.to_owned();
    beside.push(".restoring");
    let beside = to.with_file_name(beside);
    if beside.exists() {
        return Err(RestoreError::LeftOver { path: beside });
    }
    let made = unpack(archive, file, &beside, accept_damage).and_then(|restored| {
        fs::rename(&beside, &to).map_err(io_error(&to))?;
        let parent = to.parent().unwrap_or(Path::new("/"));
        fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error(parent))?;
        Ok(restored)
    });
    if made.is_err() && beside.exists() {
        // What is left of it is in nobody's way but the next restore's, which says so.
        let _ = fs::remove_dir_all(&beside);
    }
    made
}

fn refuse_taken(to: &Path) -> Result<(), RestoreError> {
    match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(RestoreError::NotEmpty { path: to.to_owned() })
        }
        Err(source) => Err(RestoreError::Io { path: to.to_owned(), source }),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(RestoreError::NotEmpty { path: to.to_owned() }),
        },
    }
}

fn unpack(
    archive: &Path,
    file: impl Read,
    beside: &Path,
    accept_damage: bool,
) -> Result<Restored, RestoreError> {
    let disk = RealDisk::create(beside)?;
    let refused = |source| RestoreError::Archive { path: archive.to_owned(), source };
    let mut sink = Unpacking { disk: &disk, open: None, dirs: Default::default() };
    let identity = read(BufReader::with_capacity(1 << 20, file), &mut sink).map_err(refused)?;
    let mut dirs = sink.dirs;
    let (mut report, mut epoch) = (VerifyReport::default(), 0);
    for point in &identity.shards {
        let shard = ShardId(point.shard);
        let opened = begin_anew(&disk, shard).map_err(refused)?;
        epoch = epoch.max(opened);
        let dir = format!("shard-{:04}", shard.0);
        for child in ["journal", "log", "checkpoint"] {
            disk.create_dir_all(&format!("{dir}/{child}"))?;
            dirs.insert(format!("{dir}/{child}"));
        }
        rebuild_indexes(&disk, shard)?;
        let salt = u64::from_str_radix(&identity.data.salt, 16).unwrap_or_default();
        report.add(verify(&disk, shard, salt)?);
    }
    let damage: Vec<Finding> =
        report.findings.iter().filter(|finding| finding.is_damage()).cloned().collect();
    if !(damage.is_empty() || accept_damage) {
        return Err(RestoreError::DamagedData { path: archive.to_owned(), findings: damage });
    }
    // Children before parents.
    for dir in dirs.iter().rev() {
        disk.sync_dir(dir)?;
    }
    for point in &identity.shards {
        disk.sync_dir(&format!("shard-{:04}", point.shard))?;
    }
    write_format(beside, &identity.data)?;
    Ok(Restored { identity, epoch: epoch + 1, report })
}

/// Puts the checkpoint in its place, moved to epochs that the original never comes to. Returns the last one before them.
fn begin_anew(disk: &RealDisk, shard: ShardId) -> Result<u64, ArchiveError> {
    let sink = |error: DiskError| ArchiveError::Sink(error.into());
    let path = unpacked_checkpoint(shard);
    let bytes = disk.read_past_cache(&path).map_err(|error| match error.is_not_found() {
        true => ArchiveError::Damaged { what: format!("shard {shard} has no checkpoint"), position: 0 },
        false => sink(error),
    })?;
    let restored = restored_checkpoint(shard, &bytes, fastrand::u64(RESTORED_EPOCHS))
        .map_err(|what| ArchiveError::Damaged { what: format!("`{path}`: {what}"), position: 0 })?;
    disk.remove(&path).map_err(sink)?;
    let (dir, _) = restored.path.rsplit_once('/').expect("a checkpoint lies in a directory");
    disk.create_dir_all(dir).map_err(sink)?;
    let file = disk.open(&restored.path, OpenMode::CreateNew).map_err(sink)?;
    file.write_all_at(0, &restored.bytes).and_then(|()| file.sync()).map_err(sink)?;
    Ok(restored.epoch.0)
}

/// Where the checkpoint of an archive is unpacked to: its place in the data directory is a directory.
fn unpacked_checkpoint(shard: ShardId) -> String {
    format!("shard-{:04}/checkpoint.unpacked", shard.0)
}

/// Files of an archive on their way to the disk.
struct Unpacking<'a> {
    disk: &'a RealDisk,
    open: Option<(FileRef, u64)>,
    /// All that were made, for syncing.
    dirs: std::collections::BTreeSet<String>,
}

impl Sink for Unpacking<'_> {
    fn begin(&mut self, name: &str, _: u64) -> io::Result<()> {
        let path = match name.strip_suffix("/checkpoint") {
            Some(_) => format!("{name}.unpacked"),
            None => name.to_owned(),
        };
        let (dir, _) = path.rsplit_once('/').expect("every accepted name lies in a shard's directory");
        if self.dirs.insert(dir.to_owned()) {
            self.disk.create_dir_all(dir)?;
            self.dirs.extend(dir.match_indices('/').map(|(at, _)| dir[..at].to_owned()));
        }
        self.open = Some((self.disk.open(&path, OpenMode::CreateNew)?, 0));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (file, position) = self.open.as_mut().expect("a file was begun");
        file.write_all_at(*position, bytes)?;
        *position += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let (file, _) = self.open.take().expect("a file was begun");
        Ok(file.sync()?)
    }
}
