//! Memory of large buffers, used again. An allocator gives blocks of this size back to the system, which then has to find,
//! clear and map each page anew: that costs as much as what is done with them.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// What the process keeps for the next buffers, beside those in use.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Smaller ones are left to the allocator. Capacities are multiples of this, so that buffers of about the same length fit
/// into each other's memory.
const STEP_BYTES: usize = 128 << 10;

static KEPT: Kept = Kept { buffers: Mutex::new(Vec::new()) };

/// A vector of bytes whose memory is kept for others when it goes, if it is large.
#[derive(Debug, Default)]
pub struct ReusedBuffer {
    bytes: Vec<u8>,
}

impl ReusedBuffer {
    /// An empty one with room for so many bytes.
    #[must_use]
    pub fn with_room(bytes: usize) -> ReusedBuffer {
        let mut buffer = ReusedBuffer { bytes: KEPT.take(bytes) };
        buffer.clear();
        buffer
    }

    /// One of this length, in bytes, to be written over: it holds zeroes, or what was in it before.
    #[inline]
    #[must_use]
    pub fn of_length(bytes: usize) -> ReusedBuffer {
        let bytes = match bytes {
            STEP_BYTES.. => {
                let mut reused = KEPT.take(bytes);
                reused.resize(bytes, 0);
                reused
            }
            _ => vec![0; bytes],
        };
        ReusedBuffer { bytes }
    }

    /// What it holds, to be shared; its memory goes when the last reference to it goes.
    #[inline]
    #[must_use]
    pub fn freeze(mut self) -> Bytes {
        match self.bytes.capacity() {
            STEP_BYTES.. => Bytes::from_owner(self),
            _ => Bytes::from(std::mem::take(&mut self.bytes)),
        }
    }
}

impl From<Vec<u8>> for ReusedBuffer {
    fn from(bytes: Vec<u8>) -> ReusedBuffer {
        ReusedBuffer { bytes }
    }
}

impl Clone for ReusedBuffer {
    fn clone(&self) -> ReusedBuffer {
        let mut copy = ReusedBuffer::with_room(self.len());
        copy.extend_from_slice(self);
        copy
    }
}

impl Deref for ReusedBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for ReusedBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for ReusedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReusedBuffer {
    #[inline]
    fn drop(&mut self) {
        if self.bytes.capacity() >= STEP_BYTES {
            KEPT.put(std::mem::take(&mut self.bytes));
        }
    }
}

#[derive(Debug)]
struct Kept {
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Kept {
    /// One with room for so much and whatever it holds. None of a larger kind: what bounds those who take many counts what
    /// they asked for.
    fn take(&self, bytes: usize) -> Vec<u8> {
        if bytes < STEP_BYTES {
            return Vec::with_capacity(bytes);
        }
        let wanted = bytes.next_multiple_of(STEP_BYTES);
        let mut buffers = self.buffers();
        let fits = |capacity: usize| (bytes..=2 * wanted).contains(&capacity);
        // Of those of a size the last one, which is the likeliest to be in the processor's cache.
        let fitting = buffers.iter().enumerate().rev().filter(|(_, buffer)| fits(buffer.capacity()));
        let smallest = fitting.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
        let reused = smallest.map(|at| buffers.swap_remove(at));
        drop(buffers);
        reused.unwrap_or_else(|| Vec::with_capacity(wanted))
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers();
        if buffers.iter().map(Vec::capacity).sum::<usize>() + buffer.capacity() <= KEPT_BYTES_MAX {
            buffers.push(buffer);
        } else {
            drop(buffers); // before the memory goes
        }
    }

    /// Nothing that can panic runs while it is held.
    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept { buffers: Mutex::default() }
    }

    fn capacities(kept: &Kept) -> Vec<usize> {
        kept.buffers().iter().map(Vec::capacity).collect()
    }

    #[test]
    fn memory_goes_round_as_it_is() {
        let kept = kept();
        let mut buffer = kept.take(STEP_BYTES + 1);
        buffer.extend_from_slice(b"abcd");
        let at = buffer.as_ptr();
        kept.put(buffer);
        let again = kept.take(2 * STEP_BYTES);
        assert_eq!((again.as_ptr(), &again[..]), (at, &b"abcd"[..]));
        kept.put(again);
        let another = Vec::with_capacity(2 * STEP_BYTES);
        let at = another.as_ptr();
        kept.put(another);
        let last = kept.take(2 * STEP_BYTES);
        assert_eq!(last.as_ptr(), at, "the last one first");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = kept();
        let many: Vec<Vec<u8>> = (0..20).map(|_| kept.take(1 << 20)).collect();
        many.into_iter().for_each(|buffer| kept.put(buffer));
        assert_eq!(capacities(&kept), [1 << 20; KEPT_BYTES_MAX >> 20]);
    }

    #[test]
    fn the_smallest_that_fits_is_taken_and_none_of_more_than_twice_the_size() {
        let kept = kept();
        [4, 2, 3].iter().for_each(|steps| kept.put(Vec::with_capacity(steps * STEP_BYTES)));
        assert_eq!(kept.take(2 * STEP_BYTES).capacity(), 2 * STEP_BYTES);
        assert_eq!(kept.take(STEP_BYTES).capacity(), STEP_BYTES, "3 and 4 are too large");
        assert_eq!(capacities(&kept).iter().sum::<usize>(), 7 * STEP_BYTES);
    }

    #[test]
    fn what_it_holds_is_shared_and_a_copy_is_its_own() {
        for bytes in [10, 2 * STEP_BYTES] {
            let mut buffer = ReusedBuffer::of_length(bytes);
            assert_eq!(buffer.len(), bytes);
            buffer[..4].copy_from_slice(b"abcd");
            let copy = buffer.clone();
            let shared = buffer.freeze();
            assert_eq!((&shared.slice(1..3)[..], shared.len()), (&b"bc"[..], bytes));
            assert_eq!((&copy[..4], copy.len()), (&b"abcd"[..], bytes));
        }
        assert!(ReusedBuffer::with_room(STEP_BYTES).is_empty());
    }
}
