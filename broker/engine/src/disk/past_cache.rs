//! Reading what the device holds, in pieces that leave syncs their turn.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags};

use super::real::{no_direct, retry_interrupted};
use super::{AlignedBytes, DIRECT_ALIGN};

/// Of a device that nobody syncs: a batch of 1 MiB, as clients make them, with its entry's header and the blocks that it
/// begins and ends in.
const QUIET_CHUNK_BYTES_MAX: usize = (1 << 20) + 2 * DIRECT_ALIGN;
/// Beside syncs, each of which waits behind what was asked for before.
const SHARED_CHUNK_BYTES_MAX: usize = 256 << 10;
const _: () = assert!(QUIET_CHUNK_BYTES_MAX.is_multiple_of(DIRECT_ALIGN));
/// A device is quiet when so long nobody has synced.
const QUIET_AFTER: Duration = Duration::from_millis(20);
/// A read waits no longer for its turn: that leaves it 200 MB/s beside syncs without a pause.
const GIVES_WAY_MAX: Duration = Duration::from_millis(1);
const LOOKS_AGAIN_AFTER: Duration = Duration::from_micros(50);

/// The syncs of a disk, which those who read much give way to. Somebody waits for each of them, and a device serves what
/// it was asked for in order.
#[derive(Debug)]
pub(super) struct Syncs {
    under_way: AtomicU32,
    /// Of the last one that ended, since `epoch`; zero before the first.
    ended_us: AtomicU64,
    epoch: Instant,
}

// What follows are hints about time: nothing is ordered by them.
impl Syncs {
    /// Makes one.
    pub(super) fn during<T>(&self, sync: impl FnOnce() -> T) -> T {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let synced = sync();
        self.ended_us.store(self.epoch.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        synced
    }

    fn are_under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// So long after `epoch`.
    fn is_quiet_at(&self, now: Duration) -> bool {
        let ended = Duration::from_micros(self.ended_us.load(Ordering::Relaxed));
        !self.are_under_way() && (ended.is_zero() || now >= ended + QUIET_AFTER)
    }

    /// How much may be read at once now, after a wait for those under way.
    fn turn(&self) -> usize {
        if self.is_quiet_at(self.epoch.elapsed()) {
            return QUIET_CHUNK_BYTES_MAX;
        }
        let asked = Instant::now();
        while self.are_under_way() && asked.elapsed() < GIVES_WAY_MAX {
            thread::sleep(LOOKS_AGAIN_AFTER);
        }
        SHARED_CHUNK_BYTES_MAX
    }
}

impl Default for Syncs {
    fn default() -> Syncs {
        Syncs { under_way: AtomicU32::new(0), ended_us: AtomicU64::new(0), epoch: Instant::now() }
    }
}

/// Hands `[position, position + len)`, as far as the file reaches, to `sink` in order, from the device if it can.
pub(super) fn read_uncached(
    path: &Path,
    position: u64,
    len: u64,
    syncs: &Syncs,
    mut sink: impl FnMut(&[u8]),
) -> io::Result<()> {
    let end = position.saturating_add(len);
    let mut at = position;
    let direct = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
    match direct {
        Ok(file) => match read_chunks(&file, &mut at, end, syncs, &mut sink) {
            // Some file systems accept the flag and refuse the read: go on plainly from where it stopped.
            Err(e) if no_direct(&e) => {}
            done => return done,
        },
        Err(e) if no_direct(&e) => {}
        Err(e) => return Err(e),
    }
    let file = File::open(path)?;
    // Only advice, and only clean pages go, which are those that a failed sync left behind.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    read_chunks(&file, &mut at, end, syncs, &mut sink)
}

thread_local! {
    /// Where a thread's direct reads go first: warm after the first one.
    static CHUNK: RefCell<AlignedBytes> = RefCell::default();
}

/// Reads whole aligned blocks and moves `at` with every byte that was handed out.
fn read_chunks(
    file: &File,
    at: &mut u64,
    end: u64,
    syncs: &Syncs,
    sink: &mut impl FnMut(&[u8]),
) -> io::Result<()> {
    const ALIGN: u64 = DIRECT_ALIGN as u64;
    CHUNK.with_borrow_mut(|chunk| {
        while *at < end {
            let block = *at / ALIGN * ALIGN;
            let wanted = (end - block).min(syncs.turn() as u64) as usize;
            let blocks = wanted.next_multiple_of(DIRECT_ALIGN);
            if chunk.len() < blocks {
                chunk.resize(blocks);
            }
            let n = retry_interrupted(|| file.read_at(&mut chunk[..blocks], block))?;
            let from = (*at - block) as usize;
            let to = (end - block).min(n as u64) as usize;
            if to <= from {
                return Ok(());
            }
            sink(&chunk[from..to]);
            *at = block + to as u64;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_device_is_asked_for_much_and_one_that_is_synced_for_little_and_not_at_once() {
        let syncs = Syncs::default();
        assert_eq!(syncs.turn(), QUIET_CHUNK_BYTES_MAX);
        syncs.during(|| {
            let asked = Instant::now();
            assert_eq!(syncs.turn(), SHARED_CHUNK_BYTES_MAX);
            assert!(asked.elapsed() >= GIVES_WAY_MAX);
        });
        let ended = Duration::from_micros(syncs.ended_us.load(Ordering::Relaxed));
        assert!(!syncs.is_quiet_at(ended + QUIET_AFTER / 2), "another may follow");
        assert!(syncs.is_quiet_at(ended + QUIET_AFTER));
    }

    #[test]
    fn what_is_read_in_small_pieces_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let content: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 4096 + n) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let syncs = Syncs::default();
        for (position, len) in [(0, u64::MAX), (4095, 1 << 20), (300_000, 600_001), (3 << 20, 10)] {
            let (mut quiet, mut shared) = (Vec::new(), Vec::new());
            read_uncached(&path, position, len, &Syncs::default(), |bytes| quiet.extend_from_slice(bytes))
                .unwrap();
            syncs.during(|| {
                read_uncached(&path, position, len, &syncs, |bytes| shared.extend_from_slice(bytes)).unwrap()
            });
            let end = (position + len.min(4 << 20)).min(content.len() as u64) as usize;
            assert!(quiet == content[position as usize..end] && shared == quiet, "at {position}");
        }
    }
}
