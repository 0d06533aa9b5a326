//! By what two messages are known to be the same one: an id that a producer gives, in a header of the record, so that it
//! passes through every batch format and client.

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};

use std::hash::Hasher;

use crate::KeySeed;

/// The header that carries it.
pub const MESSAGE_ID_HEADER: &str = "dure-message-id";
/// Longest id in bytes. The shortest has one.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;

/// What tells this use of a data directory's secret from others.
const PURPOSE: u64 = u64::from_le_bytes(*b"msg id\0\0");

/// An id by its number: SipHash-2-4 of 128 bits (Aumasson and Bernstein, 2012) under a secret of the data directory, so
/// that nobody outside can make two ids that meet. It stands in journals and checkpoints, so it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub u128);

/// Why an id is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message id of {bytes} bytes: 1 to {MESSAGE_ID_BYTES_MAX} are taken")]
pub struct MessageIdError {
    /// How long it is.
    pub bytes: usize,
}

impl IdHash {
    /// The number of `id`.
    #[must_use]
    pub fn of(id: &[u8], seed: KeySeed) -> IdHash {
        let mut hasher = SipHasher24::new_with_keys(seed.0, PURPOSE);
        hasher.write(id);
        IdHash(hasher.finish128().as_u128())
    }
}

/// The id of a record with these headers, if it has one.
///
/// # Errors
/// [`MessageIdError`] if it is empty, without a value, or too long.
pub fn message_id(headers: &[(Bytes, Option<Bytes>)]) -> Result<Option<&Bytes>, MessageIdError> {
    let Some((_, id)) = headers.iter().find(|(name, _)| name == MESSAGE_ID_HEADER) else { return Ok(None) };
    match id {
        Some(id) if (1..=MESSAGE_ID_BYTES_MAX).contains(&id.len()) => Ok(Some(id)),
        id => Err(MessageIdError { bytes: id.as_ref().map_or(0, Bytes::len) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_256_bytes() {
        let with = |id: Option<Bytes>| message_id(&[(MESSAGE_ID_HEADER.into(), id)]).map(|id| id.cloned());
        assert_eq!(with(Some("order-7".into())), Ok(Some("order-7".into())));
        assert_eq!(with(None), Err(MessageIdError { bytes: 0 }));
        assert_eq!(with(Some("".into())), Err(MessageIdError { bytes: 0 }));
        assert!(with(Some(vec![b'x'; MESSAGE_ID_BYTES_MAX].into())).is_ok());
        assert_eq!(with(Some(vec![b'x'; 257].into())), Err(MessageIdError { bytes: 257 }));
        assert_eq!(message_id(&[("a".into(), None)]), Ok(None));
    }

    #[test]
    fn what_lies_on_disks_does_not_drift() {
        assert_eq!(IdHash::of(b"order-7", KeySeed(1)), IdHash(DRIFT));
        assert_ne!(IdHash::of(b"order-7", KeySeed(2)), IdHash(DRIFT));
    }

    const DRIFT: u128 = 0xd1bc_4071_5d30_c866_11bd_b9aa_5726_686d;
}
