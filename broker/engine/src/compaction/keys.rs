//! The newest offset of each key.

use std::hash::Hasher;

use dure_proto::Offset;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::already_hashed::HashedTable;

/// Knows keys by their 128-bit SipHash under a secret of the data directory: nobody outside can make two keys that meet,
/// and by chance two of 2^30 keys do in one of 2^69 passes. Its bound is the number of keys.
pub(crate) struct KeyMap {
    secret: (u64, u64),
    keys_max: usize,
    newest: HashedTable<u128, u64>,
}

impl KeyMap {
    pub(crate) fn new(secret: u64, keys_max: usize) -> KeyMap {
        KeyMap { secret: (secret, !secret.rotate_left(32)), keys_max, newest: HashedTable::default() }
    }

    /// Takes note that a key is at this offset, above all that came before. Not if there is no room.
    #[must_use]
    pub(crate) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        if self.newest.len() >= self.keys_max && !self.newest.contains_key(&hash) {
            return false;
        }
        self.newest.insert(hash, offset.0);
        true
    }

    /// Whether the key is at a newer offset too.
    pub(crate) fn supersedes(&self, key: &[u8], offset: Offset) -> bool {
        self.newest.get(&self.hash(key)).is_some_and(|newest| *newest > offset.0)
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(key);
        hasher.finish128().as_u128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_of_a_key_counts_and_room_is_bounded() {
        let mut keys = KeyMap::new(7, 2);
        assert!(keys.note(b"a", Offset(1)) && keys.note(b"", Offset(2)) && keys.note(b"a", Offset(3)));
        assert!(!keys.note(b"b", Offset(4)), "there is no room for a third key");
        assert!(keys.note(b"a", Offset(5)));
        assert!(keys.supersedes(b"a", Offset(3)) && !keys.supersedes(b"a", Offset(5)));
        assert!(!keys.supersedes(b"", Offset(2)) && !keys.supersedes(b"b", Offset(0)));
    }

    #[test]
    fn keys_meet_under_no_secret_that_is_not_known() {
        let hash = |secret, key: &[u8]| KeyMap::new(secret, 1).hash(key);
        assert_ne!(hash(1, b"a"), hash(2, b"a"));
        assert_ne!(hash(1, b"a"), hash(1, b"b"));
        assert_eq!(hash(1, b"a"), hash(1, b"a"));
    }
}
