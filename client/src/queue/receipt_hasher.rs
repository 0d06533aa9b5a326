//! A hash for receipts. What tells them apart is a counter, which one multiplication spreads; each message is looked up
//! five times, and a hash that nobody can foresee would cost more than all the rest of that. A broker that chose receipts
//! which collide would slow down a table of a few thousand.

use std::hash::Hasher;

/// Odd, and its bits look like noise: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReceiptHasher(u64);

impl Hasher for ReceiptHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(FACTOR);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, Receipt};

    use super::*;

    #[test]
    fn receipts_in_a_row_spread_over_a_table() {
        let hasher = BuildHasherDefault::<ReceiptHasher>::default();
        let receipt = |n: u64| Receipt {
            partition: PartitionId(n as u32 % 3),
            offset: Offset(1_000_000 + n),
            token: LeaseToken { epoch: Epoch(7), counter: 5_000 + n },
        };
        let slots: HashSet<u64> = (0..1_024).map(|n| hasher.hash_one(receipt(n)) % 1_024).collect();
        assert!(slots.len() > 600, "{} of 1,024 slots are used; chance would use 647", slots.len());
        let marks: HashSet<u64> = (0..1_024).map(|n| hasher.hash_one(receipt(n)) >> 57).collect();
        assert_eq!(marks.len(), 128, "the upper bits, by which a table tells neighbours apart");
    }
}
