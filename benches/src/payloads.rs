//! Incompressible payloads.

use bytes::{Bytes, BytesMut};

/// Longer than a batch, so that none holds a piece twice.
const POOL_BYTES: usize = 8 << 20;

/// Payloads of one size, cut from a pool of random bytes.
#[derive(Clone, Debug)]
pub struct Payloads {
    pool: Bytes,
    size: usize,
}

impl Payloads {
    /// Of `size` bytes each, 8 MiB at most.
    #[must_use]
    pub fn new(size: usize) -> Payloads {
        assert!((1..=POOL_BYTES).contains(&size), "a payload of {size} bytes");
        let mut pool = vec![0; POOL_BYTES];
        fastrand::Rng::new().fill(&mut pool);
        Payloads { pool: pool.into(), size }
    }

    /// Bytes of each.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    fn place(&self, number: u64) -> std::ops::Range<usize> {
        let at = (number % (self.pool.len() / self.size) as u64) as usize * self.size;
        at..at + self.size
    }

    /// The payload of a message, by the message's number.
    #[must_use]
    pub fn get(&self, number: u64) -> &[u8] {
        &self.pool[self.place(number)]
    }

    /// The same, not copied.
    #[must_use]
    pub fn share(&self, number: u64) -> Bytes {
        self.pool.slice(self.place(number))
    }

    /// The same, its beginning replaced; it is at least as long as that.
    #[must_use]
    pub fn stamped(&self, number: u64, stamp: &[u8]) -> Bytes {
        let mut payload = BytesMut::with_capacity(self.size.max(stamp.len()));
        payload.extend_from_slice(stamp);
        payload.extend_from_slice(self.get(number).get(stamp.len()..).unwrap_or_default());
        payload.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_its_size() {
        let payloads = Payloads::new(20);
        assert_eq!((payloads.get(1 << 40).len(), payloads.share(3).len()), (20, 20));
        let stamped = payloads.stamped(5, &[1, 2]);
        assert_eq!((stamped.len(), &stamped[..2], &stamped[2..]), (20, &[1, 2][..], &payloads.get(5)[2..]));
        assert_eq!(Payloads::new(1).stamped(0, &[1, 2]).len(), 2);
    }
}
