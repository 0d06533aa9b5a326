//! Reading what the device holds, in pieces that leave syncs their turn.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Advice, OFlags};

use super::errno::{no_direct, retry_interrupted};
use super::{AlignedBytes, DIRECT_ALIGN};

/// Of a device that nobody syncs: a batch of 1 MiB, as clients make them, with its entry's header and the blocks that it
/// begins and ends in.
const QUIET_CHUNK_BYTES_MAX: usize = (1 << 20) + 2 * DIRECT_ALIGN;
/// Beside syncs, each of which waits behind what was asked for before.
const SHARED_CHUNK_BYTES_MAX: usize = 256 << 10;
const _: () = assert!(QUIET_CHUNK_BYTES_MAX.is_multiple_of(DIRECT_ALIGN));
/// A device is quiet when so many of these were read without a sync: it takes some 20 ms.
const QUIET_AFTER_CHUNKS: u32 = 64;
/// A read waits no longer for its turn: that leaves it 200 MB/s beside syncs without a pause.
const GIVES_WAY_MAX: Duration = Duration::from_millis(1);

/// The syncs of a disk, which those who read much give way to. Somebody waits for each of them, and a device serves what
/// it was asked for in order.
#[derive(Debug)]
pub(super) struct Syncs {
    state: Mutex<State>,
    none_under_way: Condvar,
}

#[derive(Debug)]
struct State {
    under_way: u32,
    /// Who waits until there is none.
    waiting: u32,
    chunks_since: u32,
}

impl Syncs {
    /// Makes one.
    pub(super) fn during<T>(&self, sync: impl FnOnce() -> T) -> T {
        self.state().under_way += 1;
        let synced = sync();
        let mut state = self.state();
        state.under_way -= 1;
        state.chunks_since = 0;
        if state.under_way == 0 && state.waiting > 0 {
            self.none_under_way.notify_all();
        }
        synced
    }

    /// Nothing that can panic runs while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much may be read at once now, after a wait for those under way.
    fn turn(&self) -> usize {
        let mut state = self.state();
        if state.under_way > 0 {
            state.waiting += 1;
            let waited =
                self.none_under_way.wait_timeout_while(state, GIVES_WAY_MAX, |state| state.under_way > 0);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        state.chunks_since = state.chunks_since.saturating_add(1);
        match state.under_way == 0 && state.chunks_since > QUIET_AFTER_CHUNKS {
            true => QUIET_CHUNK_BYTES_MAX,
            false => SHARED_CHUNK_BYTES_MAX,
        }
    }
}

impl Default for Syncs {
    fn default() -> Syncs {
        let quiet = State { under_way: 0, waiting: 0, chunks_since: QUIET_AFTER_CHUNKS };
        Syncs { state: Mutex::new(quiet), none_under_way: Condvar::new() }
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
        syncs.during(|| assert_eq!(syncs.turn(), SHARED_CHUNK_BYTES_MAX, "it waits for ever"));
        for _ in 0..QUIET_AFTER_CHUNKS {
            assert_eq!(syncs.turn(), SHARED_CHUNK_BYTES_MAX, "another may follow");
        }
        assert_eq!(syncs.turn(), QUIET_CHUNK_BYTES_MAX);
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
