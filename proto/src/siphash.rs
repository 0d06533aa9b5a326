//! The number under which a queue group that keeps the order of keys knows a key: SipHash-2-4 (Aumasson and Bernstein,
//! "SipHash: a fast short-input PRF", 2012). It stands in journals and checkpoints, so it never changes; its seed is
//! secret to the data directory, so that nobody can choose keys that share a number.

use std::num::NonZeroU64;

use siphasher::sip::SipHasher24;

/// A key by its number. Two keys that share one are only kept in order with each other, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub NonZeroU64);

/// The secret under which keys are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySeed(pub u64);

/// The other half of the hash's key: what tells this use of a data directory's secret from others.
const PURPOSE: u64 = u64::from_le_bytes(*b"key line");

impl KeyHash {
    /// The number of `key`, never 0.
    #[must_use]
    pub fn of(key: &[u8], seed: KeySeed) -> KeyHash {
        KeyHash(NonZeroU64::new(siphash24([seed.0, PURPOSE], key)).unwrap_or(NonZeroU64::MIN))
    }

    /// As it stands in a journal, where 0 is no key.
    #[must_use]
    pub fn from_stored(stored: u64) -> Option<KeyHash> {
        NonZeroU64::new(stored).map(KeyHash)
    }

    /// What stands in a journal for a key or for none.
    #[must_use]
    pub fn to_stored(key: Option<KeyHash>) -> u64 {
        key.map_or(0, |key| key.0.get())
    }
}

fn siphash24(key: [u64; 2], data: &[u8]) -> u64 {
    SipHasher24::new_with_keys(key[0], key[1]).hash(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hash_of_the_paper() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let data: Vec<u8> = (0..15).collect();
        assert_eq!(siphash24(key, &data), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash24(key, &[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn a_seed_gives_a_key_a_number_of_its_own_and_no_key_has_none() {
        let of = |seed| KeyHash::of(b"user-7", KeySeed(seed));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(KeyHash::from_stored(KeyHash::to_stored(Some(of(1)))), Some(of(1)));
        assert_eq!(KeyHash::from_stored(KeyHash::to_stored(None)), None);
        // What lies on disks: it may not drift.
        assert_eq!(of(1).0.get(), DRIFT);
    }

    const DRIFT: u64 = 0x6301_4daf_6c6a_25ed;
}
