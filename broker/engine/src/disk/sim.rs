//! A seeded disk in memory: it forgets what was not synced, tears and reorders it sector by sector, and fails on
//! request. The same seed, calls and crashes give the same disk, byte for byte.
//!
//! What it is harsher in than the usual file systems: syncing a file never makes its name durable, entries of one
//! directory survive independently of each other, and a length survives at any value between the old and the new.
//! What it does not model: sectors torn inside, neighbours damaged by a write.

mod calls;
mod content;
mod faults;
mod file;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use rustix::io::Errno;

pub use self::faults::{FailedSync, FaultRule, InjectedCounts, IoCounts, Latency, PastCache, SimFaults};

use self::faults::{Fault, Faults};
use self::tree::{Ino, Tree};
use super::{DiskError, DiskOp, DiskResult, check_path};

/// What survives a power cut or not as a whole.
pub const SECTOR_BYTES: usize = 512;

const UNLIMITED_BYTES: u64 = 1 << 40;

/// A simulated disk, used through [`Disk`](super::Disk). Clones are the same disk; [`SimDisk::fork`] makes another one.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// Something that a power cut may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsynced {
    /// Its place in the order in which all unsynced things of the disk were made.
    pub seq: u64,
    /// The file, or the entry.
    pub path: Arc<str>,
    /// What of it.
    pub part: UnsyncedPart,
    /// Lost or kept, it makes no difference: a sector that already holds what was written to it.
    pub is_idle: bool,
}

/// See [`Unsynced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsyncedPart {
    /// A created, renamed or removed name. If it is kept, earlier changes of the same names are as well.
    Entry,
    /// One write of one sector; the last kept one of a sector wins.
    Sector {
        /// Its first byte in the file.
        position: u64,
    },
    /// The file was cut to this length.
    Cut {
        /// The length.
        bytes: u64,
    },
    /// The file has grown. Where it has been cut as well the bounds are those of all cuts kept.
    Length {
        /// If lost.
        from: u64,
        /// If kept.
        to: u64,
    },
}

/// What a power cut does to an [`Unsynced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// As if it had not been.
    Lost,
    /// As if it had been synced.
    Kept,
    /// For a length: this one, within its bounds. `Kept` for all else.
    Partly(u64),
}

/// What a power cut found unsynced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// What survived.
    pub kept: u64,
    /// What did not.
    pub lost: u64,
}

#[derive(Clone, Debug)]
struct State {
    tree: Tree,
    faults: Faults,
    io: IoCounts,
    rng: Rng,
    latency: Latency,
    spent_ms: u64,
    /// Handles of earlier lives are dead.
    life: u64,
    /// The power goes when `io.changes()` has come to this; it is off once a call has been refused.
    changes_max: Option<u64>,
    is_off: bool,
}

impl SimDisk {
    /// An empty disk. The seed decides what its faults do; what a crash does is decided by the crash's own.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::from_state(State {
            tree: Tree::new(),
            faults: Faults::default(),
            io: IoCounts::default(),
            rng: Rng::with_seed(seed),
            latency: Latency::default(),
            spent_ms: 0,
            life: 0,
            changes_max: None,
            is_off: false,
        })
    }

    fn from_state(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk in the same state. Open handles stay with this one; those on the fork are counted as dead.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.lock().clone();
        state.tree.crash_process();
        state.life += 1;
        SimDisk::from_state(state)
    }

    /// Replaces the faults and starts their counting anew.
    pub fn set_faults(&self, faults: SimFaults) {
        self.lock().faults.set(faults);
    }

    /// How long calls take from now on.
    pub fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
    }

    /// What all calls since the disk was made took, in simulated milliseconds.
    pub fn spent_ms(&self) -> u64 {
        self.lock().spent_ms
    }

    /// Lets `changes` more changing calls (writes, syncs, entries) through; the next one and all calls after it fail
    /// without an effect until [`SimDisk::crash`]. With a crash at each count this visits every boundary.
    pub fn power_off_after(&self, changes: u64) {
        let mut state = self.lock();
        state.changes_max = Some(state.io.changes() + changes);
    }

    /// Whether [`SimDisk::power_off_after`] has come true.
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Cuts the power and turns it on again: `rng` decides what of the unsynced survives, in one of several manners
    /// (nothing, all, a prefix in the order of writing, each by itself). Handles opened before return ESTALE.
    pub fn crash(&self, rng: &mut Rng) -> CrashReport {
        match rng.u8(0..8) {
            0 => self.crash_with(|_| Survival::Lost),
            1 => self.crash_with(|_| Survival::Kept),
            2 | 3 => {
                let unsynced = {
                    let tree = &self.lock().tree;
                    tree.unsynced_start()..=tree.next_seq
                };
                let end = rng.u64(unsynced);
                self.crash_with(|unsynced| if unsynced.seq < end { Survival::Kept } else { Survival::Lost })
            }
            manner => {
                let keep_of_8 = [1, 4, 4, 7][usize::from(manner) - 4];
                self.crash_with(|unsynced| survive(rng, keep_of_8, unsynced))
            }
        }
    }

    /// Cuts the power and turns it on again; `decide` is asked for each of [`SimDisk::unsynced`], in that order,
    /// whatever it answers. It must not use this disk.
    pub fn crash_with(&self, mut decide: impl FnMut(&Unsynced) -> Survival) -> CrashReport {
        let mut report = CrashReport::default();
        let mut state = self.lock();
        let State { tree, faults, .. } = &mut *state;
        let counts = &mut faults.counts;
        tree.crash(&mut |unsynced| {
            let survival = decide(unsynced);
            if survival == Survival::Lost {
                report.lost += 1;
                *match unsynced.part {
                    UnsyncedPart::Entry => &mut counts.lost_entries,
                    UnsyncedPart::Sector { .. } => &mut counts.lost_sectors,
                    UnsyncedPart::Cut { .. } | UnsyncedPart::Length { .. } => &mut counts.lost_lengths,
                } += 1;
            } else {
                report.kept += 1;
            }
            survival
        });
        counts.power_cuts += 1;
        state.start_next_life();
        report
    }

    /// What a crash would ask about now, in its order.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let mut found = Vec::new();
        self.lock().tree.clone().crash(&mut |unsynced| {
            found.push(unsynced.clone());
            Survival::Lost
        });
        found
    }

    /// Kills the process (`kill -9`): handles are dead, and all that was written is there, unsynced as it was.
    pub fn crash_process(&self) {
        let mut state = self.lock();
        state.tree.crash_process();
        state.faults.counts.process_kills += 1;
        state.start_next_life();
    }

    /// Forgets the clean pages. Only what a failed sync has left behind can be told from it: the old data is back.
    pub fn drop_caches(&self) {
        self.lock().tree.drop_caches();
    }

    /// Flips a bit (0 to 7) on the device and in the page cache; `InvalidInput` beyond the end.
    pub fn flip_bit(&self, path: &str, position: u64, bit: u32) -> DiskResult<()> {
        assert!(bit < 8, "a byte has no bit {bit}");
        let mut state = self.lock();
        let flipped = state.tree.lookup_file(path).and_then(|ino| {
            let found = state.tree.content_mut(ino).0.flip_bit(position as usize, bit);
            if found { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
        });
        state.faults.counts.flipped_bits += u64::from(flipped.is_ok());
        flipped.map_err(|e| DiskError::new(DiskOp::Write, path, e))
    }

    /// The files that can be seen, sorted.
    pub fn snapshot_paths(&self) -> Vec<String> {
        self.lock().tree.files().into_keys().collect()
    }

    /// The files that can be seen, with their content, for comparing two disks.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        let files = state.tree.files().into_iter();
        files.map(|(path, ino)| (path, state.tree.content(ino).cached().to_vec())).collect()
    }

    /// What is in use of the disk's capacity.
    pub fn used_bytes(&self) -> u64 {
        self.lock().tree.used_bytes()
    }

    /// What has been injected since the disk was made.
    pub fn injected(&self) -> InjectedCounts {
        self.lock().faults.counts
    }

    /// The calls since the disk was made.
    pub fn io_counts(&self) -> IoCounts {
        self.lock().io
    }

    #[cfg(test)]
    pub(super) fn inode_count(&self) -> usize {
        self.lock().tree.inode_count()
    }

    fn run<T>(
        &self,
        op: DiskOp,
        path: &str,
        call: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> DiskResult<T> {
        check_path(op, path)?;
        let mut state = self.lock();
        state.check_power().and_then(|()| call(&mut state)).map_err(|e| DiskError::new(op, path, e))
    }
}

/// Keeps it with `keep_of_8` chances of 8; a length that is not lost may be any in between.
fn survive(rng: &mut Rng, keep_of_8: u8, unsynced: &Unsynced) -> Survival {
    if rng.u8(0..8) >= keep_of_8 {
        return Survival::Lost;
    }
    match unsynced.part {
        UnsyncedPart::Length { from, to } if rng.bool() => Survival::Partly(rng.u64(from..=to)),
        _ => Survival::Kept,
    }
}

impl State {
    fn start_next_life(&mut self) {
        self.life += 1;
        self.changes_max = None;
        self.is_off = false;
    }

    fn check_power(&self) -> io::Result<()> {
        if self.is_off { Err(io::Error::other("the simulated power is off")) } else { Ok(()) }
    }

    /// Counts a changing call, unless the power goes first.
    fn begin_change(&mut self, count: impl FnOnce(&mut IoCounts)) -> io::Result<()> {
        self.is_off = self.changes_max.is_some_and(|max| self.io.changes() >= max);
        self.check_power()?;
        count(&mut self.io);
        Ok(())
    }

    /// A call of a kind that takes up to so long.
    fn spend(&mut self, ms_max: u64) {
        let Latency { hang_per_million, hang_ms_max, .. } = self.latency;
        let hangs = hang_per_million > 0 && self.rng.u32(0..1_000_000) < hang_per_million;
        self.faults.counts.hung_calls += u64::from(hangs);
        let ms_max = if hangs { hang_ms_max } else { ms_max };
        if ms_max > 0 {
            self.spent_ms += self.rng.u64(0..=ms_max);
        }
    }

    fn begin_entry_change(&mut self, path: &str) -> io::Result<()> {
        self.begin_change(|io| io.entry_changes += 1)?;
        self.spend(self.latency.entry_ms_max);
        self.check(Fault::Entry, path)
    }

    fn hits(&mut self, fault: Fault, path: &str) -> bool {
        self.faults.hits(fault, path, &mut self.rng)
    }

    fn check(&mut self, fault: Fault, path: &str) -> io::Result<()> {
        let code = if matches!(fault, Fault::Space) { Errno::NOSPC } else { Errno::IO };
        if self.hits(fault, path) { Err(code.into()) } else { Ok(()) }
    }

    fn begin_read(&mut self) {
        self.io.reads += 1;
        self.spend(self.latency.read_ms_max);
    }

    fn begin_write(&mut self) -> io::Result<()> {
        self.begin_change(|io| io.writes += 1)?;
        self.spend(self.latency.write_ms_max);
        Ok(())
    }

    /// How far a file of `length` may grow.
    fn length_max(&self, length: u64) -> u64 {
        let capacity = self.faults.rules.capacity_bytes;
        capacity.map_or(u64::MAX, |capacity| length + capacity.saturating_sub(self.tree.used_bytes()))
    }

    fn read_past_cache(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let ino = self.tree.lookup_file(path)?;
        self.begin_read();
        self.check(Fault::Read, path)?;
        let content = self.tree.content(ino);
        Ok(match self.faults.rules.past_cache {
            PastCache::Durable => content.durable().to_vec(),
            PastCache::AfterWriteBack => content.written_back(),
        })
    }

    fn write(&mut self, ino: Ino, path: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.begin_write()?;
        let failed = self.check(Fault::Write, path).and_then(|()| self.check(Fault::Space, path));
        let length = self.tree.content(ino).cached().len() as u64;
        let end = position.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let fits = if end <= length { end } else { end.min(self.length_max(length)) };
        let mut done = fits.saturating_sub(position) as usize;
        let mut outcome = if done < bytes.len() { Err(Errno::NOSPC.into()) } else { Ok(()) };
        if failed.is_err() {
            done = self.rng.usize(0..=done);
            outcome = failed;
        } else if done < bytes.len() {
            self.faults.counts.space_errors += 1;
        }
        self.faults.counts.short_writes += u64::from(0 < done && done < bytes.len());
        let mut at = position;
        if done > 0 && self.hits(Fault::MisdirectedWrite, path) {
            let sectors = length.div_ceil(SECTOR_BYTES as u64).max(1);
            at = self.rng.u64(0..sectors) * SECTOR_BYTES as u64;
        }
        let (content, next_seq) = self.tree.content_mut(ino);
        content.write(next_seq, at as usize, &bytes[..done]);
        self.io.written_bytes += done as u64;
        outcome
    }

    fn sync(&mut self, ino: Ino, path: &str, seen_failures: &mut u64) -> io::Result<()> {
        self.begin_change(|io| io.syncs += 1)?;
        self.spend(self.latency.sync_ms_max);
        if self.hits(Fault::Sync, path) {
            let loses_all = self.faults.rules.failed_sync == FailedSync::LosesAll;
            let inode_path = self.tree.inode(ino).path.clone();
            let rng = &mut self.rng;
            let mut decide = |unsynced: &Unsynced| survive(rng, if loses_all { 0 } else { 4 }, unsynced);
            self.tree.content_mut(ino).0.fail_sync(&inode_path, &mut decide);
            self.tree.inode_mut(ino).failed_syncs += 1;
        } else {
            self.tree.content_mut(ino).0.sync();
        }
        // The kernel reports a failed write-back once to every file that was open then.
        let failures = self.tree.inode(ino).failed_syncs;
        if std::mem::replace(seen_failures, failures) < failures { Err(Errno::IO.into()) } else { Ok(()) }
    }
}

fn copy_at(content: &[u8], position: u64, buf: &mut [u8]) -> usize {
    let from = position.min(content.len() as u64) as usize;
    let n = buf.len().min(content.len() - from);
    buf[..n].copy_from_slice(&content[from..from + n]);
    n
}
