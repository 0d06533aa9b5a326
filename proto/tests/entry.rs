//! The entry: its bytes, and that nothing in it or in its batch can change unseen.

mod common;

use bytes::Bytes;
use common::{STAMP, build, fixture, sample_records, small_batch};
use dure_proto::{
    BatchError, BatchHeader, Compression, ENTRY_HEADER_BYTES, EntryError, EntryHeader, Offset, patch_base,
    split_entries, verify_entry,
};
use proptest::prelude::*;

/// An entry as the broker makes it.
fn entry(batch: &[u8], base: Offset, append_time_ms: u64, epoch: u32) -> Vec<u8> {
    let mut batch = batch.to_vec();
    let header = BatchHeader::parse(&batch).expect("valid");
    let header = EntryHeader::for_batch(&header, base, append_time_ms, epoch);
    patch_base(&mut batch, base, epoch);
    [&header.encode()[..], &batch].concat()
}

fn check(entry: &[u8]) -> Result<EntryHeader, EntryError> {
    let header = EntryHeader::parse(entry)?;
    verify_entry(&header, &entry[ENTRY_HEADER_BYTES..])?;
    Ok(header)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_header_reads_back_as_written(
        batch_bytes in 68..8_000_000u32, record_count in 1..u32::MAX, base in 0..i64::MAX as u64 - u64::from(u32::MAX),
        append_time_ms in any::<u64>(), epoch in any::<u32>(), batch_checksum in any::<u32>(),
    ) {
        let base_offset = Offset(base);
        let header = EntryHeader { batch_bytes, record_count, base_offset, append_time_ms, epoch, batch_checksum };
        prop_assert_eq!(EntryHeader::parse(&header.encode()), Ok(header));
        prop_assert_eq!(header.end_offset(), Offset(base + u64::from(record_count)));
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(EntryHeader::parse(&bytes).is_err());
        prop_assert!(split_entries(bytes.into()).all(|item| item.is_err()));
    }
}

#[test]
fn the_format_stays() {
    let batch = build(Compression::None, &sample_records(), Some(STAMP));
    let bytes = entry(&batch, Offset(123_456_789_012), 1_700_000_099_999, 5);
    assert_eq!(bytes, fixture("entry"));
    let header = check(&bytes).expect("valid");
    assert_eq!((header.epoch, header.record_count), (5, 4));
    assert_eq!(header.end_offset(), Offset(123_456_789_016));
}

#[test]
fn every_flipped_bit_is_refused() {
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let sound = entry(&small_batch(codec), Offset(1000), 77, 5);
        check(&sound).expect("valid");
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&flipped).is_err(), "{codec}, bit {bit}");
        }
    }
}

#[test]
fn every_shorter_input_is_refused() {
    let sound = entry(&small_batch(Compression::None), Offset(1000), 77, 5);
    for length in 0..sound.len() {
        assert!(matches!(
            check(&sound[..length]),
            Err(EntryError::Truncated { .. } | EntryError::Batch(BatchError::Truncated { .. }))
        ));
        let items: Vec<_> = split_entries(Bytes::copy_from_slice(&sound[..length])).collect();
        assert_eq!(items.len(), usize::from(length > 0));
        assert!(items.iter().all(Result::is_err), "{length}");
    }
}

#[test]
fn zeros_never_decode() {
    for length in 0..200 {
        assert!(EntryHeader::parse(&vec![0; length]).is_err());
    }
    let mut magic_only = [0; 200];
    magic_only[..4].copy_from_slice(b"DuEn");
    assert!(matches!(EntryHeader::parse(&magic_only), Err(EntryError::Checksum { .. })));
}

#[test]
fn a_batch_of_another_entry_is_refused() {
    let batch = small_batch(Compression::None);
    let here = entry(&batch, Offset(1000), 77, 5);
    let header = EntryHeader::parse(&here).expect("valid");
    let disagreement = |other: &[u8]| match verify_entry(&header, &other[ENTRY_HEADER_BYTES..]) {
        Err(EntryError::Disagrees { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(disagreement(&entry(&batch, Offset(1001), 77, 5)), "base offset");
    assert_eq!(disagreement(&entry(&batch, Offset(1000), 77, 6)), "epoch");
    let longer = build(Compression::None, &sample_records(), None);
    assert_eq!(disagreement(&entry(&longer, Offset(1000), 77, 5)), "batch bytes");
    let same_size = build(Compression::None, &sample_records(), Some(STAMP));
    let header = EntryHeader::parse(&entry(&longer, Offset(1000), 77, 5)).expect("valid");
    let error = verify_entry(&header, &entry(&same_size, Offset(1000), 77, 5)[ENTRY_HEADER_BYTES..]);
    assert!(matches!(error, Err(EntryError::Disagrees { field: "batch checksum", .. })), "{error:?}");
}

#[test]
fn impossible_fields_under_a_valid_checksum_are_refused() {
    let sound = entry(&small_batch(Compression::None), Offset(1000), 77, 5);
    let refused = |at: usize, bytes: &[u8]| {
        let mut entry = sound.clone();
        entry[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32fast::hash(&entry[8..40]);
        entry[4..8].copy_from_slice(&checksum.to_le_bytes());
        match EntryHeader::parse(&entry) {
            Err(EntryError::Impossible { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    for batch_bytes in [0u32, 61, 8 * 1024 * 1024 + 1, u32::MAX] {
        assert_eq!(refused(8, &batch_bytes.to_le_bytes()), "batch bytes");
    }
    assert_eq!(refused(12, &[0; 4]), "record count");
    assert_eq!(refused(16, &[0xff; 8]), "base offset");
    assert_eq!(refused(16, &(i64::MAX as u64).to_le_bytes()), "base offset");
}

#[test]
fn entries_split_without_copying_and_end_at_the_first_bad_one() {
    let first = entry(&small_batch(Compression::Lz4), Offset(10), 1, 5);
    let second = entry(&small_batch(Compression::None), Offset(12), 2, 5);
    let whole = Bytes::from([&first[..], &second, &first].concat());
    let items: Vec<_> = split_entries(whole.clone()).collect::<Result<_, _>>().expect("valid");
    assert_eq!(items.len(), 3);
    assert_eq!(items[1].0.base_offset, Offset(12));
    for (header, batch) in &items {
        verify_entry(header, batch).expect("valid");
        assert!(whole.as_ptr_range().contains(&batch.as_ptr()), "a slice, not a copy");
    }

    let mut damaged = whole.to_vec();
    damaged[first.len() + 20] ^= 1;
    let items: Vec<_> = split_entries(damaged.into()).collect();
    assert_eq!(items.len(), 2);
    assert!(items[0].is_ok() && matches!(items[1], Err(EntryError::Checksum { .. })));
}

#[test]
#[should_panic(expected = "an entry cannot have record count 0")]
fn an_entry_that_could_not_be_read_is_not_written() {
    let header = BatchHeader::parse(&small_batch(Compression::None)).expect("valid");
    let _ = EntryHeader { record_count: 0, ..EntryHeader::for_batch(&header, Offset(0), 0, 0) }.encode();
}
