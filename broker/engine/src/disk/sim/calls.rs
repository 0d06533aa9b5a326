//! The calls of the simulated disk.

use std::io;
use std::sync::Arc;

use super::super::{DirEntry, Disk, DiskOp, DiskResult, FileRef, OpenMode, check_path};
use super::faults::Fault;
use super::file::SimFile;
use super::tree::Ino;
use super::{SimDisk, UNLIMITED_BYTES, copy_at};

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &str) -> DiskResult<()> {
        self.run(DiskOp::CreateDir, path, |state| {
            if state.tree.lookup(path).is_ok_and(|ino| state.tree.is_dir(ino)) {
                return Ok(());
            }
            state.begin_entry_change(path)?;
            state.tree.create_dir_all(path)
        })
    }

    fn open(&self, path: &str, mode: OpenMode) -> DiskResult<FileRef> {
        let (ino, life, failed_syncs) = self.run(DiskOp::Open, path, |state| {
            let ino = match (mode, state.tree.lookup_file(path)) {
                (OpenMode::CreateNew, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                (OpenMode::CreateNew, Err(e)) if e.kind() == io::ErrorKind::IsADirectory => {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                (OpenMode::CreateNew | OpenMode::Create, Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                    state.begin_entry_change(path)?;
                    state.tree.create_file(path)?
                }
                (_, found) => found?,
            };
            state.io.lookups += 1;
            let inode = state.tree.inode_mut(ino);
            inode.open += 1;
            let failed_syncs = inode.failed_syncs;
            Ok((ino, state.life, failed_syncs))
        })?;
        let is_writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile::new(self.clone(), path, ino, life, is_writable, failed_syncs)))
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        check_path(DiskOp::Rename, to)?;
        self.run(DiskOp::Rename, from, |state| {
            state.begin_entry_change(from)?;
            state.tree.rename(from, to)
        })
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        self.run(DiskOp::Remove, path, |state| {
            state.begin_entry_change(path)?;
            state.tree.remove(path)
        })
    }

    fn remove_dir_all(&self, path: &str) -> DiskResult<()> {
        self.run(DiskOp::Remove, path, |state| {
            state.begin_entry_change(path)?;
            state.tree.remove_dir_all(path)
        })
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<DirEntry>> {
        self.run(DiskOp::List, dir, |state| {
            state.io.lookups += 1;
            state.check(Fault::List, dir)?;
            let tree = &state.tree;
            let entries = tree.entries(tree.lookup(dir)?)?.iter();
            let entry = |(name, ino): (&String, &Ino)| {
                let is_dir = tree.is_dir(*ino);
                let bytes = if is_dir { 0 } else { tree.content(*ino).cached().len() as u64 };
                DirEntry { name: name.clone(), is_dir, bytes }
            };
            Ok(entries.map(entry).collect())
        })
    }

    fn sync_dir(&self, dir: &str) -> DiskResult<()> {
        self.run(DiskOp::SyncDir, dir, |state| {
            let ino = state.tree.lookup(dir)?;
            state.tree.entries(ino)?;
            state.begin_change(|io| io.dir_syncs += 1)?;
            state.spend(state.latency.sync_ms_max);
            let outcome = state.check(Fault::SyncDir, dir);
            match &outcome {
                Ok(()) => state.tree.sync_dir(ino),
                Err(_) => state.tree.fail_sync_dir(ino),
            }
            outcome
        })
    }

    fn uncache(&self, _path: &str, _upto: u64) {
        // What readers see here is what was written, from wherever it comes.
    }

    fn read_past_cache_at(&self, path: &str, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        self.run(DiskOp::ReadPastCache, path, |state| {
            let read = copy_at(&state.read_past_cache(path)?, position, buf);
            state.io.read_bytes += read as u64;
            Ok(read)
        })
    }

    fn read_past_cache(&self, path: &str) -> DiskResult<Vec<u8>> {
        self.run(DiskOp::ReadPastCache, path, |state| {
            let content = state.read_past_cache(path)?;
            state.io.read_bytes += content.len() as u64;
            Ok(content)
        })
    }

    fn available_bytes(&self) -> DiskResult<u64> {
        self.run(DiskOp::AvailableBytes, "", |state| {
            let capacity = state.faults.rules.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
            Ok(capacity.saturating_sub(state.tree.used_bytes()))
        })
    }
}
