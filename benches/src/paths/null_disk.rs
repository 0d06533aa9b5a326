//! A disk that keeps names and lengths and nothing else: what a path costs beside the disk.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_engine::{DirEntry, Disk, DiskError, DiskFile, DiskOp, DiskResult, FileRef, OpenMode};

/// Whatever is written is gone, and whatever is read is zero.
#[derive(Default)]
pub(super) struct NullDisk {
    lengths: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
}

struct NullFile {
    path: String,
    bytes: Arc<AtomicU64>,
}

impl NullDisk {
    fn lengths(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicU64>>> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn length(&self, op: DiskOp, path: &str) -> DiskResult<u64> {
        let found = self.lengths().get(path).map(|bytes| bytes.load(Ordering::Relaxed));
        found.ok_or_else(|| not_found(op, path))
    }
}

fn not_found(op: DiskOp, path: &str) -> DiskError {
    DiskError::new(op, path, ErrorKind::NotFound.into())
}

/// How much of `buf` a file of that length fills from a position on.
fn fill(buf: &mut [u8], position: u64, length: u64) -> usize {
    let count = length.saturating_sub(position).min(buf.len() as u64) as usize;
    buf[..count].fill(0);
    count
}

impl Disk for NullDisk {
    fn create_dir_all(&self, _: &str) -> DiskResult<()> {
        Ok(())
    }

    fn open(&self, path: &str, mode: OpenMode) -> DiskResult<FileRef> {
        let mut lengths = self.lengths();
        let known = lengths.get(path).cloned();
        if known.is_none() && matches!(mode, OpenMode::Read | OpenMode::ReadWrite) {
            return Err(not_found(DiskOp::Open, path));
        }
        let bytes = known.unwrap_or_default();
        lengths.insert(path.to_owned(), Arc::clone(&bytes));
        Ok(Arc::new(NullFile { path: path.to_owned(), bytes }))
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let mut lengths = self.lengths();
        let bytes = lengths.remove(from).ok_or_else(|| not_found(DiskOp::Rename, from))?;
        lengths.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        self.lengths().remove(path).map(drop).ok_or_else(|| not_found(DiskOp::Remove, path))
    }

    fn remove_dir_all(&self, path: &str) -> DiskResult<()> {
        self.lengths().retain(|name, _| !is_below(name, path));
        Ok(())
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<DirEntry>> {
        let mut entries: BTreeMap<String, DirEntry> = BTreeMap::new();
        for (path, bytes) in self.lengths().iter().filter(|(path, _)| is_below(path, dir)) {
            let inside = path[dir.len()..].trim_start_matches('/');
            let (name, is_dir) = inside.split_once('/').map_or((inside, false), |(name, _)| (name, true));
            let bytes = if is_dir { 0 } else { bytes.load(Ordering::Relaxed) };
            entries.insert(name.to_owned(), DirEntry { name: name.to_owned(), is_dir, bytes });
        }
        Ok(entries.into_values().collect())
    }

    fn sync_dir(&self, _: &str) -> DiskResult<()> {
        Ok(())
    }

    fn read_past_cache_at(&self, path: &str, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        Ok(fill(buf, position, self.length(DiskOp::ReadPastCache, path)?))
    }

    fn read_past_cache(&self, path: &str) -> DiskResult<Vec<u8>> {
        Ok(vec![0; self.length(DiskOp::ReadPastCache, path)? as usize])
    }

    fn uncache(&self, _: &str, _: u64) {}

    fn available_bytes(&self) -> DiskResult<u64> {
        Ok(1 << 50)
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

impl DiskFile for NullFile {
    fn read_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        Ok(fill(buf, position, self.len()?))
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> DiskResult<()> {
        self.bytes.fetch_max(position + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> DiskResult<()> {
        Ok(())
    }

    fn len(&self) -> DiskResult<u64> {
        Ok(self.bytes.load(Ordering::Relaxed))
    }

    fn set_len(&self, bytes: u64) -> DiskResult<()> {
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> DiskResult<()> {
        self.bytes.fetch_max(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn read_cached_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<Option<usize>> {
        self.read_at(position, buf).map(Some)
    }

    fn path(&self) -> &str {
        &self.path
    }
}
