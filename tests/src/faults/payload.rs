//! What the messages of the load hold: all of it follows from the message's name, so that it need not be remembered.

use bytes::Bytes;
use dure_client::{Header, Message};
use fastrand::Rng;

use super::history::{Found, Id};

/// The name of the header with producer, sequence and checksum. A header, so that bodies may be empty.
const NAME: &[u8] = b"who";
/// Producer, sequence, CRC-32C of key and value.
const NAME_BYTES: usize = 4 + 8 + 4;
/// The largest body.
const VALUE_BYTES_MAX: usize = 64 << 10;
const KEYS: u8 = 12;

/// How large bodies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// None to 300 bytes.
    Small,
    /// From nothing to 64 KiB, most of them small.
    Wide,
}

/// Producers with an even number send keys, those divisible by three send wide bodies.
fn shape(producer: u32) -> (bool, Sizes) {
    (producer.is_multiple_of(2), if producer.is_multiple_of(3) { Sizes::Wide } else { Sizes::Small })
}

/// Key and value of a message.
fn content(id: Id) -> (Option<Bytes>, Bytes) {
    let mut rng = Rng::with_seed(u64::from(id.producer) << 40 ^ id.sequence ^ 0x0070_6179);
    let (keyed, sizes) = shape(id.producer);
    let key = keyed.then(|| Bytes::from(format!("key-{}", rng.u8(0..KEYS))));
    let bytes = match (sizes, rng.u8(0..16)) {
        (_, 0) => 0,
        (Sizes::Wide, 1) => VALUE_BYTES_MAX,
        (Sizes::Wide, 2..4) => rng.usize(0..=VALUE_BYTES_MAX),
        _ => rng.usize(0..300),
    };
    // Half of it can be compressed.
    let mut value = vec![b'.'; bytes];
    rng.fill(&mut value[..bytes / 2]);
    (key, value.into())
}

fn name(id: Id, key: Option<&[u8]>, value: &[u8]) -> [u8; NAME_BYTES] {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key.unwrap_or_default()), value);
    let mut name = [0; NAME_BYTES];
    name[..4].copy_from_slice(&id.producer.to_le_bytes());
    name[4..12].copy_from_slice(&id.sequence.to_le_bytes());
    name[12..].copy_from_slice(&checksum.to_le_bytes());
    name
}

/// The message of this name.
#[must_use]
pub(crate) fn message(id: Id) -> Message {
    let (key, value) = content(id);
    let name = name(id, key.as_deref(), &value);
    let message = Message::new(value).header(NAME, name.to_vec());
    match key {
        Some(key) => message.key(key),
        None => message,
    }
}

/// What this is that came back.
#[must_use]
pub(crate) fn recognise(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> Found {
    let [(header, Some(said))] = headers else { return Found::Foreign };
    if header != NAME || said.len() != NAME_BYTES {
        return Found::Foreign;
    }
    let id = Id {
        producer: u32::from_le_bytes(said[..4].try_into().expect("four bytes")),
        sequence: u64::from_le_bytes(said[4..12].try_into().expect("eight bytes")),
    };
    let (sent_key, sent_value) = content(id);
    let same_name = said[..] == name(id, key, value.unwrap_or_default());
    let same = same_name && key == sent_key.as_deref() && value == Some(&sent_value[..]);
    if same { Found::Intact(id) } else { Found::Altered(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_recognised_and_a_changed_one_is_not() {
        for producer in 0..6 {
            for sequence in 0..40 {
                let id = Id { producer, sequence };
                let (key, value) = content(id);
                let header =
                    (Bytes::from_static(NAME), Some(name(id, key.as_deref(), &value).to_vec().into()));
                let headers = [header];
                assert_eq!(recognise(key.as_deref(), Some(&value), &headers), Found::Intact(id));
                assert_eq!(recognise(Some(b"other"), Some(&value), &headers), Found::Altered(id));
                assert_eq!(recognise(key.as_deref(), None, &headers), Found::Altered(id));
                assert_eq!(recognise(key.as_deref(), Some(&value), &[]), Found::Foreign);
                let mut changed = value.to_vec();
                changed.push(0);
                assert_eq!(recognise(key.as_deref(), Some(&changed), &headers), Found::Altered(id));
            }
        }
    }
}
