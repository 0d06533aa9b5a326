//! The disk seam: everything the engine knows about files goes through [`Disk`] and [`DiskFile`].
//!
//! [`RealDisk`] is a directory of the machine; [`SimDisk`] is a seeded one in memory that forgets, tears and fails.
//! Both are synchronous: whoever may not wait calls from a thread that may.
//!
//! Nothing is durable until it is synced, and names are synced apart from content: a file that was created, written
//! and synced may still vanish in a power cut until [`Disk::sync_dir`] of its directory (and of every new directory
//! above it) has returned.

mod aligned;
mod errno;
mod past_cache;
mod real;
mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) use aligned::{AlignedBytes, DIRECT_ALIGN};
pub use real::RealDisk;
pub use sim::{
    CrashReport, FailedSync, FaultRule, InjectedCounts, IoCounts, Latency, PastCache, SECTOR_BYTES, SimDisk,
    SimFaults, Survival, Unsynced, UnsyncedPart,
};

/// A shared disk.
pub type DiskRef = Arc<dyn Disk>;
/// A shared open file; it is closed when the last reference goes.
pub type FileRef = Arc<dyn DiskFile>;
/// The result of every disk operation.
pub type DiskResult<T> = Result<T, DiskError>;

/// A directory tree. Paths are relative to its root and `/`-separated, as in `shard-0/journal/0000000001.piece`;
/// the empty path is the root itself. A path with an empty, `.` or `..` component, a leading `/` or a NUL is refused
/// with [`io::ErrorKind::InvalidInput`].
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and the missing ones above it. None of the new entries is synced by it.
    fn create_dir_all(&self, path: &str) -> DiskResult<()>;
    /// Opens a file (never a directory). A new one has no durable name before [`Disk::sync_dir`] of its directory.
    fn open(&self, path: &str, mode: OpenMode) -> DiskResult<FileRef>;
    /// [`Disk::open`] of an existing file, for reading and writing. What is written of it in whole blocks need not pass
    /// through the page cache; where the file system has no direct I/O it does.
    fn open_for_blocks(&self, path: &str) -> DiskResult<FileRef> {
        self.open(path, OpenMode::ReadWrite)
    }
    /// Renames atomically; an existing file at `to` is replaced. Durable once the directory of `to` is synced.
    /// When the two directories differ, sync the one of `from` as well.
    fn rename(&self, from: &str, to: &str) -> DiskResult<()>;
    /// Removes a file. Handles that are open keep working.
    fn remove(&self, path: &str) -> DiskResult<()>;
    /// Removes a directory and all below it, but never the root. Not atomic: a crash may leave a part.
    fn remove_dir_all(&self, path: &str) -> DiskResult<()>;
    /// The entries of a directory, sorted by name. A missing directory is [`DiskErrorKind::NotFound`].
    fn list(&self, dir: &str) -> DiskResult<Vec<DirEntry>>;
    /// Makes the entries of this directory durable (not those below, nor its own entry in its parent).
    /// As with [`DiskFile::sync`], a failed one is not to be retried.
    fn sync_dir(&self, dir: &str) -> DiskResult<()>;
    /// Reads what the device holds and not the page cache, and returns the bytes read; fewer than `buf` holds only at
    /// the end of the file. Where the file system has no direct I/O (tmpfs) clean pages are dropped first, if the
    /// kernel is willing, and the read is a plain one.
    fn read_past_cache_at(&self, path: &str, position: u64, buf: &mut [u8]) -> DiskResult<usize>;
    /// [`Disk::read_past_cache_at`] for a whole file.
    fn read_past_cache(&self, path: &str) -> DiskResult<Vec<u8>>;
    /// Nobody is expected to read the first `upto` bytes of this file soon: what is clean of them need not stay in
    /// memory. Advice: nothing depends on it, and a file that is gone is as good.
    fn uncache(&self, path: &str, upto: u64);
    /// What an unprivileged process may still write.
    fn available_bytes(&self) -> DiskResult<u64>;
}

/// An open file. Positions and lengths are bytes.
///
/// The kernel reports a failed write-back once per open file: whoever must learn of it on their own opens their own.
pub trait DiskFile: Send + Sync {
    /// Reads at most `buf.len()` bytes. Fewer may be returned at any time; 0 (for a non-empty `buf`) only at the end.
    fn read_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize>;
    /// Writes all of `bytes`, extending the file as needed. After an error any part of them may be written.
    fn write_all_at(&self, position: u64, bytes: &[u8]) -> DiskResult<()>;
    /// `fdatasync`: the content and the length are durable when this returns `Ok`. After an error nothing of the file
    /// may be believed from the page cache again, and a second call would return `Ok` without the data: never retry.
    fn sync(&self) -> DiskResult<()>;
    /// These bytes are not going to change: the device may have them now, so that the sync that covers them has little
    /// left to do, and others need not wait behind it. Advice: nothing is durable by it, and nothing waits.
    fn begin_write_back(&self, _position: u64, _bytes: u64) {}
    /// The file's length as readers see it.
    fn len(&self) -> DiskResult<u64>;
    /// Cuts the file, or extends it with a hole of zeroes. Durable with the next [`DiskFile::sync`].
    fn set_len(&self, bytes: u64) -> DiskResult<()>;
    /// Extends the file to at least `bytes`, reading as zeroes, with its space reserved where the file system can.
    fn allocate(&self, bytes: u64) -> DiskResult<()>;
    /// Reads only what needs no waiting: `None` if the first byte is not in memory, or if that cannot be told here.
    /// `Some(n)` with less than `buf` holds means the end of the file or of what is cached; `Some(0)` the end.
    fn read_cached_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<Option<usize>>;
    /// The path it was opened under.
    fn path(&self) -> &str;
    /// The file of the operating system, for mapping an index; simulated files have none.
    fn as_std_file(&self) -> Option<&File> {
        None
    }
    /// Reads until `buf` is full; the end of the file before that is [`DiskErrorKind::UnexpectedEnd`].
    fn read_exact_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<()> {
        let mut done = 0;
        while done < buf.len() {
            let n = self.read_at(position + done as u64, &mut buf[done..])?;
            if n == 0 {
                return Err(DiskError::new(DiskOp::Read, self.path(), io::ErrorKind::UnexpectedEof.into()));
            }
            done += n;
        }
        Ok(())
    }
    /// Whether the file holds no byte.
    fn is_empty(&self) -> DiskResult<bool> {
        Ok(self.len()? == 0)
    }
}

/// What a file is opened for. Nothing is ever truncated by opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenMode {
    /// Reading; the file must exist.
    Read,
    /// Reading and writing; the file must exist.
    ReadWrite,
    /// Reading and writing; the file must not exist.
    CreateNew,
    /// Reading and writing; the file is created if it does not exist.
    Create,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name inside the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The file's length; 0 for a directory.
    pub bytes: u64,
}

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DiskOp {
    CreateDir,
    Open,
    Rename,
    Remove,
    List,
    SyncDir,
    ReadPastCache,
    AvailableBytes,
    Read,
    Write,
    Sync,
    Length,
    SetLength,
    Allocate,
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskOp::CreateDir => "create directory",
            DiskOp::Open => "open",
            DiskOp::Rename => "rename",
            DiskOp::Remove => "remove",
            DiskOp::List => "list",
            DiskOp::SyncDir => "sync directory",
            DiskOp::ReadPastCache => "read past the cache",
            DiskOp::AvailableBytes => "available space of",
            DiskOp::Read => "read",
            DiskOp::Write => "write",
            DiskOp::Sync => "sync",
            DiskOp::Length => "length of",
            DiskOp::SetLength => "set length of",
            DiskOp::Allocate => "allocate",
        })
    }
}

/// A failed disk operation: what, where, and the operating system's reason. Cheap to clone, so that every request
/// that a failed commit takes down can carry it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op} {path:?}: {source}")]
pub struct DiskError {
    /// What was tried.
    pub op: DiskOp,
    /// Where: relative to the root of the disk (the root itself: empty).
    pub path: Arc<str>,
    /// Why, with its raw code.
    pub source: Arc<io::Error>,
}

/// Whether the sync of a commit has failed: the file of the one that is in flight beside it is not synced any more. Or
/// that of a directory beside a checkpoint: what is synced after it says nothing.
pub(crate) type SyncFailed = Arc<AtomicBool>;

impl DiskError {
    /// An error of `op` at `path`.
    pub fn new(op: DiskOp, path: &str, source: io::Error) -> DiskError {
        DiskError { op, path: path.into(), source: Arc::new(source) }
    }

    /// The kinds that a caller acts upon differently.
    pub fn kind(&self) -> DiskErrorKind {
        match self.source.kind() {
            io::ErrorKind::NotFound => DiskErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => DiskErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::NoSpace,
            io::ErrorKind::UnexpectedEof => DiskErrorKind::UnexpectedEnd,
            _ => DiskErrorKind::Other,
        }
    }

    /// Whether the path, or a directory above it, does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind() == DiskErrorKind::NotFound
    }

    /// Whether the disk or the quota is full.
    pub fn is_no_space(&self) -> bool {
        self.kind() == DiskErrorKind::NoSpace
    }

    /// Whether the same call may be made again once there is room. Not after a sync, whatever its reason: what it
    /// failed to write is gone from the page cache, and the next one would not say so.
    pub fn waits_for_room(&self) -> bool {
        self.is_no_space() && !matches!(self.op, DiskOp::Sync | DiskOp::SyncDir)
    }
}

impl From<DiskError> for io::Error {
    /// Keeps the kind; the raw code is found through [`DiskError::source`](DiskError#structfield.source).
    fn from(error: DiskError) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}

/// What a caller tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskErrorKind {
    /// The path does not exist.
    NotFound,
    /// It exists, and was to be new.
    AlreadyExists,
    /// ENOSPC or EDQUOT: goes away when something is deleted.
    NoSpace,
    /// The file ends before what was to be read.
    UnexpectedEnd,
    /// All else, EIO first of all: the file is not to be trusted further.
    Other,
}

/// Refuses paths that could leave the root or name one place in two ways.
fn check_path(op: DiskOp, path: &str) -> DiskResult<()> {
    let bad_component = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
    if !path.is_empty() && path.split('/').any(bad_component) {
        return Err(DiskError::new(op, path, io::ErrorKind::InvalidInput.into()));
    }
    Ok(())
}
