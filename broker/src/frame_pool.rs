//! Memory of large frames, used again. An allocator gives blocks of this size back to the system, which then has to find,
//! clear and map each page anew: that costs as much as reading the frame.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

/// What is kept for the next frames when no frame is there.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Lengths of buffers are multiples of this, so that frames of about the same length fit into each other's.
const STEP_BYTES: usize = 128 << 10;

/// Buffers that no frame is in.
#[derive(Debug, Default)]
pub(crate) struct FramePool {
    kept: Mutex<Vec<Vec<u8>>>,
}

/// An empty buffer, or what was read into it. Its memory goes back to the pool when the last reference to it goes.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    pub(crate) bytes: Vec<u8>,
    pool: Arc<FramePool>,
}

impl FramePool {
    /// A buffer with room for so much.
    pub(crate) fn take(self: &Arc<FramePool>, bytes: usize) -> FrameBuffer {
        let mut kept = self.kept();
        let fits = kept.iter().enumerate().filter(|(_, buffer)| buffer.capacity() >= bytes);
        let smallest = fits.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
        let reused = smallest.map(|at| kept.swap_remove(at));
        drop(kept);
        let bytes = reused.unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(STEP_BYTES)));
        FrameBuffer { bytes, pool: self.clone() }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.kept.lock().expect("nobody panics with it")
    }
}

impl FrameBuffer {
    /// What was read, from `start` on.
    pub(crate) fn freeze(self, start: usize) -> Bytes {
        Bytes::from_owner(self).slice(start..)
    }
}

impl AsRef<[u8]> for FrameBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for FrameBuffer {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.bytes);
        buffer.clear();
        let mut kept = self.pool.kept();
        if kept.iter().map(Vec::capacity).sum::<usize>() + buffer.capacity() <= KEPT_BYTES_MAX {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_and_what_is_kept_is_bounded() {
        let pool = Arc::new(FramePool::default());
        let mut buffer = pool.take(100_000);
        buffer.bytes.extend_from_slice(b"abcd");
        let at = buffer.bytes.as_ptr();
        let frame = buffer.freeze(1);
        let again = frame.clone();
        assert_eq!(&frame[..], b"bcd");
        drop(frame);
        assert_ne!(pool.take(100_000).bytes.as_ptr(), at, "it is still read");
        drop(again);
        let capacities: Vec<usize> = pool.kept().iter().map(Vec::capacity).collect();
        assert_eq!(capacities, [STEP_BYTES; 2]);
        assert!(pool.take(STEP_BYTES).bytes.is_empty());
        let many: Vec<FrameBuffer> = (0..20).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        let kept: usize = pool.kept().iter().map(Vec::capacity).sum();
        assert!(kept <= KEPT_BYTES_MAX && kept > KEPT_BYTES_MAX / 2, "{kept}");
        assert_eq!(pool.take(100_000).bytes.capacity(), STEP_BYTES, "the smallest that fits");
    }
}
