//! What the tests of this crate share: fixtures, batches made by hand, one batch with everything in it.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use bytes::Bytes;
use dure_proto::{BatchBuilder, Compression, ProducerId, ProducerStamp, Record, Sequence};

pub const STAMP: ProducerStamp =
    ProducerStamp { producer: ProducerId(4711), epoch: 3, sequence: Sequence(99) };

/// Reads `tests/fixtures/{name}.hex`.
pub fn fixture(name: &str) -> Bytes {
    let path = format!("{}/tests/fixtures/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// The records that every fixture holds.
pub fn sample_records() -> Vec<Record> {
    let bytes = Bytes::from_static;
    let record = |offset_delta, timestamp_ms, key, value, headers| Record {
        offset_delta,
        timestamp_ms,
        key,
        value,
        headers,
    };
    let headers = vec![
        (bytes(b"trace"), Some(bytes(b"\x01\x02"))),
        (bytes(b"empty"), Some(bytes(b""))),
        (bytes(b"null"), None),
    ];
    vec![
        record(0, 1_700_000_000_000, Some(bytes(b"key")), Some(bytes(b"value")), vec![]),
        record(1, 1_700_000_000_001, None, Some(bytes(b"")), headers),
        record(2, 1_699_999_999_990, Some(bytes(b"")), None, vec![]),
        record(
            3,
            1_700_000_012_345,
            Some(bytes(b"key")),
            Some(Bytes::from(vec![b'a'; 300])),
            vec![(bytes(b"trace"), Some(bytes(b"z")))],
        ),
    ]
}

pub fn build(compression: Compression, records: &[Record], stamp: Option<ProducerStamp>) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        builder
            .push_owned(record.key.as_deref(), record.value.as_deref(), &record.headers, record.timestamp_ms)
            .expect("fits");
    }
    builder.build(stamp)
}

/// A batch of two records, small enough to flip every bit of it.
pub fn small_batch(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.push(Some(b"k"), Some(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), &[], 5).expect("fits");
    builder.push(None, Some(b"b"), &[(b"h", None)], 7).expect("fits");
    builder.build(Some(STAMP))
}

/// A batch with a valid length and checksum around whatever is given.
pub fn raw_batch(attributes: u16, records: i32, body: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; 61];
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&(records.wrapping_sub(1)).to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    batch.extend_from_slice(body);
    seal(&mut batch);
    batch
}

/// Makes length and checksum hold again after a change.
pub fn seal(batch: &mut [u8]) {
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
}
