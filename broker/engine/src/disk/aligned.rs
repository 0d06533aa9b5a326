//! Memory for direct I/O.

use std::ops::{Deref, DerefMut};

/// Positions, lengths and memory of direct I/O are multiples of this: it covers every device's block size in use.
pub(crate) const DIRECT_ALIGN: usize = 4096;

/// Growing bytes of which the first one lies at a multiple of [`DIRECT_ALIGN`] in memory.
#[derive(Debug, Default)]
pub(crate) struct AlignedBytes {
    /// Never grows by itself, since that may move it: see [`AlignedBytes::reserve`].
    backing: Vec<u8>,
    start: usize,
}

impl AlignedBytes {
    /// Forgets what it holds and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.backing.truncate(self.start);
    }

    /// Makes room for so many more bytes, at least doubling what there is.
    fn reserve(&mut self, additional: usize) {
        if self.backing.len() + additional <= self.backing.capacity() {
            return;
        }
        let bytes = (self.len() + additional).max(2 * self.len()).next_multiple_of(DIRECT_ALIGN);
        let mut backing = Vec::with_capacity(bytes + DIRECT_ALIGN);
        let start = (backing.as_ptr() as usize).wrapping_neg() % DIRECT_ALIGN;
        backing.resize(start, 0);
        backing.extend_from_slice(self);
        *self = AlignedBytes { backing, start };
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.backing.extend_from_slice(bytes);
    }

    /// Cuts it, or extends it with zeroes.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.reserve(bytes.saturating_sub(self.len()));
        self.backing.resize(self.start + bytes, 0);
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.backing[self.start..]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.backing[self.start..]
    }
}

/// Whether a write of these bytes at that position may go past the page cache.
pub(super) fn is_aligned(position: u64, bytes: &[u8]) -> bool {
    let numbers = [position as usize, bytes.len(), bytes.as_ptr() as usize];
    !bytes.is_empty() && numbers.iter().all(|number| number.is_multiple_of(DIRECT_ALIGN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_aligned_and_whole_however_it_grows() {
        let (mut aligned, mut plain) = (AlignedBytes::default(), Vec::new());
        for round in 1..200_usize {
            let more = vec![round as u8; round * 37];
            aligned.extend_from_slice(&more);
            plain.extend_from_slice(&more);
            assert_eq!(aligned.as_ptr() as usize % DIRECT_ALIGN, 0, "after {} bytes", plain.len());
        }
        assert!(*aligned == plain[..]);
        aligned.resize(10);
        aligned.resize(5_000_000);
        assert!(aligned[..10] == plain[..10] && aligned[10..].iter().all(|byte| *byte == 0));
        aligned.clear();
        assert!(aligned.is_empty());
        aligned.resize(DIRECT_ALIGN);
        assert!(is_aligned(DIRECT_ALIGN as u64, &aligned));
        assert!(!is_aligned(1, &aligned) && !is_aligned(0, &aligned[1..]) && !is_aligned(0, &[]));
    }
}
