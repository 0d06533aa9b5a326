//! Batches that compaction wrote.

mod common;

use bytes::Bytes;
use common::{STAMP, build, fixture, sample_records};
use dure_proto::{
    BatchError, BatchHeader, BatchLimits, Compression, EntryHeader, Offset, Record, Records, empty_batch,
    extend_batch, patch_base, verify_entry,
};
use proptest::collection::vec;
use proptest::prelude::*;

const CODECS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn stored(batch: &[u8]) -> Result<Records, BatchError> {
    Records::decode(&Bytes::copy_from_slice(batch), &BatchLimits::stored())
}

/// At offset 100.
fn in_a_log(compression: Compression, records: &[Record]) -> Records {
    let mut batch = build(compression, records, Some(STAMP)).to_vec();
    patch_base(&mut batch, Offset(100), 5);
    stored(&batch).expect("valid")
}

proptest! {
    #[test]
    fn what_is_kept_is_as_it_was_and_takes_the_same_offsets(
        values in vec(vec(any::<u8>(), 0..80), 1..40), mask in any::<u64>(), codec in 0..3usize,
    ) {
        let template = sample_records().remove(0);
        let records: Vec<Record> = values
            .iter()
            .zip(0..)
            .map(|(value, i)| Record { offset_delta: i, value: Some(value.clone().into()), ..template.clone() })
            .collect();
        let before = in_a_log(CODECS[codec], &records);
        let batch = before.retain(|i| mask >> (i % 64) & 1 == 1);
        let after = stored(&batch).expect("valid");
        let kept: Vec<Record> = before.iter().filter(|r| mask >> (r.offset_delta % 64) & 1 == 1).collect();
        prop_assert_eq!(after.iter().collect::<Vec<_>>(), kept.clone());
        let offsets: Vec<Offset> = (0..after.len()).map(|i| after.offset(i)).collect();
        prop_assert_eq!(offsets, kept.iter().map(|r| Offset(100 + u64::from(r.offset_delta))).collect::<Vec<_>>());
        prop_assert_eq!(after.header().end_offset(), before.header().end_offset());
        prop_assert_eq!(after.header().producer, before.header().producer);
        prop_assert_eq!(after.is_empty(), kept.is_empty());
        // A producer may not send it.
        prop_assert_eq!(BatchHeader::parse(&batch).is_err(), kept.len() < records.len());
    }
}

#[test]
fn nothing_is_a_batch_too_and_any_batch_can_take_what_is_gone_behind_it() {
    let nothing = empty_batch(Offset(7), 3, 5);
    let records = stored(&nothing).expect("valid");
    assert!(records.is_empty());
    assert_eq!((records.header().base_offset, records.header().end_offset()), (Offset(7), Offset(10)));
    for codec in CODECS {
        let before = in_a_log(codec, &sample_records());
        let mut batch = before.retain(|i| i > 0);
        extend_batch(&mut batch, 1_000).expect("a batch");
        let after = stored(&batch).expect("valid");
        assert_eq!(after.iter().collect::<Vec<_>>(), before.iter().skip(1).collect::<Vec<_>>());
        assert_eq!(after.header().end_offset(), Offset(1_100));
        let header = EntryHeader::for_batch(after.header(), Offset(100), 77, 5);
        assert_eq!(header.end_offset(), Offset(1_100));
        verify_entry(&EntryHeader::parse(&header.encode()).expect("valid"), &batch)
            .expect("it belongs to it");
    }
}

#[test]
fn counts_that_cannot_be_are_refused() {
    let refused = |records: i32, last_offset_delta: i32| {
        let mut batch = empty_batch(Offset(7), 3, 5);
        batch[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
        batch[57..61].copy_from_slice(&records.to_be_bytes());
        BatchHeader::parse_stored(&batch).expect_err("refused")
    };
    for (records, last_offset_delta) in [(-1, 5), (0, -1), (3, 1), (1, i32::MAX), (i32::MAX, 0)] {
        assert_eq!(refused(records, last_offset_delta), BatchError::Counts { records, last_offset_delta });
    }
}

#[test]
fn the_format_of_a_compacted_batch_stays() {
    let batch = in_a_log(Compression::None, &sample_records()).retain(|i| i % 2 == 1);
    assert_eq!(Bytes::from(batch), fixture("compacted"));
    assert_eq!(Bytes::from(empty_batch(Offset(7), 3, 5)), fixture("compacted-empty"));
}
