//! An open file of the simulated disk.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::super::{DiskFile, DiskOp, DiskResult};
use super::faults::Fault;
use super::tree::Ino;
use super::{SimDisk, State, copy_at};

#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    path: Box<str>,
    ino: Ino,
    life: u64,
    is_writable: bool,
    /// The failed syncs of the inode that this handle needs no longer report.
    seen_failures: Mutex<u64>,
}

impl SimFile {
    pub(super) fn new(
        disk: SimDisk,
        path: &str,
        ino: Ino,
        life: u64,
        is_writable: bool,
        failed_syncs: u64,
    ) -> SimFile {
        SimFile { disk, path: path.into(), ino, life, is_writable, seen_failures: Mutex::new(failed_syncs) }
    }

    fn run<T>(&self, op: DiskOp, call: impl FnOnce(&mut State) -> io::Result<T>) -> DiskResult<T> {
        self.disk.run(op, &self.path, |state| {
            if state.life != self.life {
                return Err(Errno::STALE.into());
            }
            call(state)
        })
    }

    fn check_writable(&self, code: Errno) -> io::Result<()> {
        if self.is_writable { Ok(()) } else { Err(code.into()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<usize> {
        self.run(DiskOp::Read, |state| {
            state.begin_read();
            state.check(Fault::Read, &self.path)?;
            let mut n = copy_at(state.tree.content(self.ino).cached(), position, buf);
            if n > 1 && state.hits(Fault::ShortRead, &self.path) {
                n = state.rng.usize(1..n);
            }
            state.io.read_bytes += n as u64;
            Ok(n)
        })
    }

    fn write_all_at(&self, position: u64, bytes: &[u8]) -> DiskResult<()> {
        self.run(DiskOp::Write, |state| {
            self.check_writable(Errno::BADF)?;
            state.write(self.ino, &self.path, position, bytes)
        })
    }

    fn sync(&self) -> DiskResult<()> {
        self.run(DiskOp::Sync, |state| {
            let mut seen = self.seen_failures.lock().unwrap_or_else(PoisonError::into_inner);
            state.sync(self.ino, &self.path, &mut seen)
        })
    }

    fn len(&self) -> DiskResult<u64> {
        self.run(DiskOp::Length, |state| Ok(state.tree.content(self.ino).cached().len() as u64))
    }

    fn set_len(&self, bytes: u64) -> DiskResult<()> {
        self.run(DiskOp::SetLength, |state| {
            self.check_writable(Errno::INVAL)?;
            state.begin_write()?;
            state.check(Fault::Write, &self.path)?;
            let (content, next_seq) = state.tree.content_mut(self.ino);
            content.set_len(next_seq, bytes as usize);
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> DiskResult<()> {
        self.run(DiskOp::Allocate, |state| {
            let length = state.tree.content(self.ino).cached().len() as u64;
            if bytes <= length {
                return Ok(());
            }
            self.check_writable(Errno::BADF)?;
            state.begin_write()?;
            state.check(Fault::Write, &self.path)?;
            state.check(Fault::Space, &self.path)?;
            if bytes > state.length_max(length) {
                state.faults.counts.space_errors += 1;
                return Err(Errno::NOSPC.into());
            }
            let (content, next_seq) = state.tree.content_mut(self.ino);
            content.set_len(next_seq, bytes as usize);
            Ok(())
        })
    }

    fn read_cached_at(&self, position: u64, buf: &mut [u8]) -> DiskResult<Option<usize>> {
        self.run(DiskOp::Read, |state| {
            if state.hits(Fault::ColdRead, &self.path) {
                return Ok(None);
            }
            Ok(Some(copy_at(state.tree.content(self.ino).cached(), position, buf)))
        })
    }

    fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.life == self.life {
            state.tree.inode_mut(self.ino).open -= 1;
        }
    }
}
