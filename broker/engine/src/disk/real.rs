//! A directory of the machine.
//!
//! Past the page cache leads `O_DIRECT`, whose memory, position and length are multiples of [`DIRECT_ALIGN`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned::is_aligned;
use super::errno::{is, no_direct, retry_interrupted};
use super::past_cache::{Syncs, read_uncached};
use super::{DirEntry, Disk, DiskError, DiskFile, DiskOp, DiskResult, FileRef, OpenMode, check_path};

/// A directory of the machine, used through [`Disk`].
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
    syncs: Arc<Syncs>,
}

impl RealDisk {
    /// Uses the existing directory `root`.
    pub fn open(root: &Path) -> DiskResult<RealDisk> {
        let fail = |e| DiskError::new(DiskOp::Open, &root.to_string_lossy(), e);
        let root = fs::canonicalize(root).map_err(fail)?;
        if !fs::metadata(&root).map_err(fail)?.is_dir() {
            return Err(fail(io::ErrorKind::NotADirectory.into()));
        }
        Ok(RealDisk { root, syncs: Arc::default() })
    }

    /// Creates `root` and the missing directories above it, syncs their entries, and uses it.
    pub fn create(root: &Path) -> DiskResult<RealDisk> {
        let fail = |e| DiskError::new(DiskOp::CreateDir, &root.to_string_lossy(), e);
        let absolute = std::path::absolute(root).map_err(fail)?;
        let missing = absolute.ancestors().take_while(|p| !p.exists()).count();
        fs::create_dir_all(&absolute).map_err(fail)?;
        for parent in absolute.ancestors().skip(1).take(missing) {
            sync_dir_at(parent).map_err(fail)?;
        }
        RealDisk::open(&absolute)
    }

    /// The directory, absolute and without symbolic links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place of `path` in the file system, and a wrapper for the errors there.
    fn at<'a>(
        &self,
        op: DiskOp,
        path: &'a str,
    ) -> DiskResult<(PathBuf, impl Fn(io::Error) -> DiskError + 'a)> {
        check_path(op, path)?;
        // Joining an empty path would add a trailing slash.
        let full = if path.is_empty() { self.root.clone() } else { self.root.join(path) };
        Ok((full, move |e| DiskError::new(op, path, e)))
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, path: &str) -> DiskResult<()> {
        let (full, fail) = self.at(DiskOp::CreateDir, path)?;
        fs::create_dir_all(full).map_err(fail)
    }

    fn open(&self, path: &str, mode: OpenMode) -> DiskResult<FileRef> {
        let (full, fail) = self.at(DiskOp::Open, path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::ReadWrite => {}
            OpenMode::CreateNew => _ = options.create_new(true),
            OpenMode::Create => _ = options.create(true).truncate(false),
        }
        let file = options.open(full).map_err(&fail)?;
        // Linux opens a directory for reading, and only fails when it is read.
        if mode == OpenMode::Read && file.metadata().map_err(&fail)?.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        // Whoever reads asks for large pieces itself. What the system would read ahead of that comes in one go of several
        // MiB, and a sync waits behind it. Advice: nothing depends on it.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(Arc::new(RealFile { file, blocks: None, path: path.into(), syncs: self.syncs.clone() }))
    }

    fn open_for_blocks(&self, path: &str) -> DiskResult<FileRef> {
        let (full, fail) = self.at(DiskOp::Open, path)?;
        let file = OpenOptions::new().read(true).write(true).open(&full).map_err(&fail)?;
        let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&full);
        let blocks = match direct {
            Err(e) if no_direct(&e) => None,
            direct => Some(direct.map_err(&fail)?),
        };
        Ok(Arc::new(RealFile { file, blocks, path: path.into(), syncs: self.syncs.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let (full_from, fail) = self.at(DiskOp::Rename, from)?;
        let (full_to, _) = self.at(DiskOp::Rename, to)?;
        fs::rename(full_from, full_to).map_err(fail)
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        let (full, fail) = self.at(DiskOp::Remove, path)?;
        fs::remove_file(full).map_err(fail)
    }

    fn remove_dir_all(&self, path: &str) -> DiskResult<()> {
        let (full, fail) = self.at(DiskOp::Remove, path)?;
        if path.is_empty() {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        }
        fs::remove_dir_all(full).map_err(fail)
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<DirEntry>> {
        let (full, fail) = self.at(DiskOp::List, dir)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(full).map_err(&fail)? {
            let entry = entry.map_err(&fail)?;
            let metadata = match entry.metadata() {
                // Removed since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(&fail)?,
            };
            let is_dir = metadata.is_dir();
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir, bytes: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn sync_dir(&self, dir: &str) -> DiskResult<()> {
        let (full, fail) = self.at(DiskOp::SyncDir, dir)?;
        sync_dir_at(&full).map_err(fail)
    }

    fn uncache(&self, path: &str, upto: u64) {
        let Ok((full, _)) = self.at(DiskOp::Open, path) else { return };
        if let (Ok(file), Some(upto)) = (File::open(full), NonZeroU64::new(upto)) {
            let _ = rustix::fs::fadvise(&file, 0, Some(upto), Advice::DontNeed);
        }
    }

    fn read_past_cache_at(&self, path: &str, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        let (full, fail) = self.at(DiskOp::ReadPastCache, path)?;
        let mut done = 0;
        let read = read_uncached(&full, position, buf.len() as u64, &self.syncs, |bytes| {
            buf[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        });
        read.map_err(fail)?;
        Ok(done)
    }

    fn read_past_cache(&self, path: &str) -> DiskResult<Vec<u8>> {
        let (full, fail) = self.at(DiskOp::ReadPastCache, path)?;
        let mut content = Vec::new();
        read_uncached(&full, 0, u64::MAX, &self.syncs, |bytes| content.extend_from_slice(bytes))
            .map_err(fail)?;
        Ok(content)
    }

    fn available_bytes(&self) -> DiskResult<u64> {
        let (full, fail) = self.at(DiskOp::AvailableBytes, "")?;
        let stat = rustix::fs::statvfs(&full).map_err(|e| fail(e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same file past the page cache.
    blocks: Option<File>,
    path: Box<str>,
    syncs: Arc<Syncs>,
}

impl RealFile {
    fn fail(&self, op: DiskOp) -> impl Fn(io::Error) -> DiskError {
        move |e| DiskError::new(op, &self.path, e)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        retry_interrupted(|| self.file.read_at(buf, position)).map_err(self.fail(DiskOp::Read))
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> DiskResult<()> {
        if let Some(blocks) = self.blocks.as_ref().filter(|_| is_aligned(position, bytes)) {
            match blocks.write_all_at(bytes, position) {
                // Some file systems accept the flag and refuse the write.
                Err(e) if no_direct(&e) => {}
                written => return written.map_err(self.fail(DiskOp::Write)),
            }
        }
        self.file.write_all_at(bytes, position).map_err(self.fail(DiskOp::Write))
    }

    fn sync(&self) -> DiskResult<()> {
        // Not `File::sync_data`, which repeats an interrupted call: this one is made exactly once.
        let synced = self.syncs.during(|| rustix::fs::fdatasync(&self.file));
        synced.map_err(|e| self.fail(DiskOp::Sync)(e.into()))
    }

    fn begin_write_back(&self, position: u64, bytes: u64) {
        // Linux begins to write what is dirty before it gives up what is clean, and nothing of it is yet.
        let _ = rustix::fs::fadvise(&self.file, position, NonZeroU64::new(bytes), Advice::DontNeed);
    }

    fn len(&self) -> DiskResult<u64> {
        Ok(self.file.metadata().map_err(self.fail(DiskOp::Length))?.len())
    }

    fn set_len(&self, bytes: u64) -> DiskResult<()> {
        self.file.set_len(bytes).map_err(self.fail(DiskOp::SetLength))
    }

    fn allocate(&self, bytes: u64) -> DiskResult<()> {
        let fail = self.fail(DiskOp::Allocate);
        let length = self.file.metadata().map_err(&fail)?.len();
        if bytes <= length {
            return Ok(());
        }
        let reserve = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), length, bytes - length);
        match retry_interrupted(|| reserve().map_err(io::Error::from)) {
            Err(e) if is(&e, Errno::OPNOTSUPP) || is(&e, Errno::NOSYS) => {
                self.file.set_len(bytes).map_err(fail)
            }
            other => other.map_err(fail),
        }
    }

    fn read_cached_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<Option<usize>> {
        let mut slices = [IoSliceMut::new(buf)];
        let read = retry_interrupted(|| {
            Ok(rustix::io::preadv2(&self.file, &mut slices, position, ReadWriteFlags::NOWAIT)?)
        });
        match read {
            Ok(n) => Ok(Some(n)),
            Err(e) if [Errno::AGAIN, Errno::OPNOTSUPP, Errno::NOSYS].iter().any(|code| is(&e, *code)) => {
                Ok(None)
            }
            Err(e) => Err(self.fail(DiskOp::Read)(e)),
        }
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn as_std_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

fn sync_dir_at(dir: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY.bits() as i32;
    let dir = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
    Ok(rustix::fs::fsync(&dir)?)
}
