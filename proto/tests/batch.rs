//! The record batch: round trips, the bytes that Kafka's clients write, and everything that must be refused.

mod common;

use bytes::Bytes;
use common::{STAMP, build, fixture, raw_batch, sample_records, seal, small_batch};
use dure_proto::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, BatchLimits, Compression,
    LEADER_EPOCH_NONE, Offset, ProducerId, ProducerStamp, Record, RecordFault, Records, Sequence, patch_base,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const CODECS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn decode(batch: &[u8]) -> Result<Records, BatchError> {
    Records::decode(&Bytes::copy_from_slice(batch), &BatchLimits::default())
}

fn field() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..20), (any::<u8>(), 0..3000usize).prop_map(|(b, n)| vec![b; n])]
        .prop_map(Bytes::from)
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let timestamp = prop_oneof![1_700_000_000_000..1_700_000_100_000i64, any::<i64>()];
    let headers = vec((field(), option::of(field())), 0..4);
    let record = (timestamp, option::of(field()), option::of(field()), headers);
    vec(record, 1..40).prop_map(|records| {
        let number = |(index, (timestamp_ms, key, value, headers))| Record {
            offset_delta: index as u32,
            timestamp_ms,
            key,
            value,
            headers,
        };
        records.into_iter().enumerate().map(number).collect()
    })
}

fn payload(record: &Record) -> usize {
    let size = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + size(value)).sum();
    size(&record.key) + size(&record.value) + headers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_decodes_to_the_same(
        records in records(),
        codec in 0..3usize,
        stamp in option::of((0..=i64::MAX as u64, 0..=i16::MAX as u16, 0..=i32::MAX as u32)),
    ) {
        let stamp = stamp.map(|(producer, epoch, sequence)| ProducerStamp {
            producer: ProducerId(producer), epoch, sequence: Sequence(sequence),
        });
        let mut builder = BatchBuilder::new(CODECS[codec]);
        for record in &records {
            builder.push_owned(
                record.key.as_deref(), record.value.as_deref(), &record.headers, record.timestamp_ms,
            ).unwrap();
        }
        let largest = records.iter().map(payload).max().unwrap();
        let keyed = records.iter().any(|record| record.key.is_some());
        prop_assert_eq!(builder.len(), records.len());
        prop_assert_eq!(builder.record_bytes_max() as usize, largest);
        prop_assert_eq!(builder.keyed(), keyed);
        let bytes = builder.bytes();
        let batch = builder.build(stamp);
        prop_assert!(batch.len() <= bytes);

        let decoded = Records::decode(&batch, &BatchLimits::default()).unwrap();
        prop_assert_eq!(decoded.iter().collect::<Vec<_>>(), records.clone());
        prop_assert_eq!(decoded.record_bytes_max() as usize, largest);
        prop_assert_eq!(decoded.keyed(), keyed);
        for (index, record) in records.iter().enumerate().rev() {
            prop_assert_eq!(decoded.get(index), Some(record.clone()));
            prop_assert_eq!(decoded.key(index), record.key.clone());
            prop_assert_eq!(decoded.value(index), record.value.clone());
            prop_assert_eq!(decoded.timestamp_ms(index), Some(record.timestamp_ms));
        }
        prop_assert_eq!(decoded.get(records.len()), None);

        let header = decoded.header();
        prop_assert_eq!(header.producer, stamp);
        prop_assert_eq!(header.batch_bytes as usize, batch.len());
        prop_assert_eq!(header.leader_epoch, LEADER_EPOCH_NONE);
        prop_assert_eq!(header.max_timestamp_ms, records.iter().map(|r| r.timestamp_ms).max().unwrap());
        if batch.len() == bytes {
            prop_assert_eq!(header.compression, Compression::None);
        } else {
            prop_assert_eq!(header.compression, CODECS[codec]);
        }
    }

    #[test]
    fn garbage_behind_a_valid_header_never_panics(
        attributes in prop_oneof![Just(0u16), Just(3), Just(4), 0..16u16],
        count in 1..20i32,
        body in vec(any::<u8>(), 7..300),
    ) {
        let _ = decode(&raw_batch(attributes, count, &body));
    }

    #[test]
    fn a_damaged_record_under_a_valid_checksum_never_panics(
        codec in 0..3usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0..8usize,
    ) {
        let mut batch = build(CODECS[codec], &sample_records(), None).to_vec();
        let at = BATCH_HEADER_BYTES + at.index(batch.len() - BATCH_HEADER_BYTES);
        batch[at] = byte;
        batch.truncate(batch.len() - cut);
        seal(&mut batch);
        if let Ok(records) = decode(&batch) {
            prop_assert_eq!(records.iter().count(), 4);
        }
    }

    #[test]
    fn noise_is_refused(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn batches_of_another_kafka_client_decode() {
    for (name, compression) in
        [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)]
    {
        let batch = fixture(&format!("kafka-python-{name}"));
        let decoded = decode(&batch).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decoded.header().compression, compression);
        assert_eq!(decoded.iter().collect::<Vec<_>>(), sample_records(), "{name}");
    }
    let refused = decode(&fixture("kafka-python-gzip")).expect_err("gzip");
    assert_eq!(refused, BatchError::UnsupportedCompression { name: "gzip" });
}

#[test]
fn what_is_built_is_what_another_kafka_client_writes() {
    for (name, stamp) in [("none", None), ("producer", Some(STAMP))] {
        let mut theirs = fixture(&format!("kafka-python-{name}")).to_vec();
        // It leaves the leader epoch 0; Kafka's own producer writes -1, as we do.
        theirs[12..16].fill(0xff);
        assert_eq!(build(Compression::None, &sample_records(), stamp), theirs, "{name}");
    }
}

#[test]
fn the_format_of_our_own_batches_stays() {
    for codec in CODECS {
        let batch = fixture(&format!("batch-{codec}"));
        let decoded = decode(&batch).unwrap_or_else(|error| panic!("{codec}: {error}"));
        assert_eq!(decoded.header().compression, codec);
        assert_eq!(decoded.header().producer, Some(STAMP));
        assert_eq!(decoded.iter().collect::<Vec<_>>(), sample_records(), "{codec}");
    }
    assert_eq!(build(Compression::None, &sample_records(), Some(STAMP)), fixture("batch-none"));
}

#[test]
fn patching_offset_and_epoch_keeps_the_checksum() {
    let mut batch = small_batch(Compression::None).to_vec();
    patch_base(&mut batch, Offset(1 << 40), 7);
    let header = BatchHeader::validate(&batch, &BatchLimits::default()).expect("still valid");
    assert_eq!((header.base_offset, header.leader_epoch), (Offset(1 << 40), 7));
    assert_eq!(header.end_offset(), Offset((1 << 40) + 2));
    assert_eq!(decode(&batch).expect("still valid").offset(1), Offset((1 << 40) + 1));
}

#[test]
fn every_flipped_bit_is_refused_or_lies_in_the_patched_fields() {
    for codec in CODECS {
        let batch = small_batch(codec);
        for bit in 0..batch.len() * 8 {
            let mut flipped = batch.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let patched = matches!(bit / 8, 0..8 | 12..16);
            // The sign bit of the base offset is refused although it lies in a patched field.
            assert_eq!(decode(&flipped).is_ok(), patched && bit != 7, "{codec}, bit {bit}");
        }
    }
}

#[test]
fn every_shorter_or_longer_input_is_refused() {
    for codec in CODECS {
        let batch = small_batch(codec);
        for length in 0..batch.len() {
            let error = decode(&batch[..length]).expect_err("cut off");
            assert!(matches!(error, BatchError::Truncated { have, .. } if have == length), "{error}");
        }
        let mut longer = batch.to_vec();
        longer.push(0);
        let error = decode(&longer).expect_err("too long");
        assert_eq!(error, BatchError::TrailingBytes { position: batch.len(), bytes: 1 });
    }
}

#[test]
fn zeros_never_decode() {
    for length in 0..300 {
        assert!(decode(&vec![0; length]).is_err());
        assert!(BatchHeader::parse(&vec![0; length]).is_err());
    }
}

#[test]
fn a_batch_that_does_not_compress_is_stored_as_it_is() {
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let noise: Vec<u8> = noise.take(2000).collect();
    for codec in [Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.push(None, Some(&noise), &[], 0).expect("fits");
        let header = BatchHeader::parse(&builder.build(None)).expect("valid");
        assert_eq!(header.compression, Compression::None, "{codec}");
    }
}

#[test]
fn a_builder_refuses_what_would_be_too_large_and_stays_usable() {
    let mut builder = BatchBuilder::new(Compression::None);
    let half = vec![b'x'; BATCH_BYTES_MAX / 2];
    builder.push(None, Some(&half), &[], 0).expect("fits");
    let before = builder.bytes();
    let error = builder.push(None, Some(&half), &[], 0).expect_err("too large");
    assert!(matches!(error, BatchError::TooLarge { max: BATCH_BYTES_MAX, .. }), "{error}");
    assert_eq!((builder.len(), builder.bytes()), (1, before));
    let room = BATCH_BYTES_MAX - before - 13;
    builder.push(None, Some(&half[..room]), &[], 0).expect("fits exactly");
    assert_eq!(builder.bytes(), BATCH_BYTES_MAX);
    let batch = builder.build(None);
    assert_eq!(decode(&batch).expect("valid").len(), 2);
}

#[test]
fn limits_are_kept() {
    let batch = build(Compression::Zstd, &sample_records(), None);
    let refused = |limits| Records::decode(&batch, &limits).expect_err("beyond a limit");
    let limits = BatchLimits::default();
    let max = batch.len() - 1;
    assert_eq!(
        refused(BatchLimits { batch_bytes_max: max, ..limits }),
        BatchError::TooLarge { bytes: batch.len(), max }
    );
    assert_eq!(
        refused(BatchLimits { records_max: 3, ..limits }),
        BatchError::TooManyRecords { records: 4, max: 3 }
    );
    for codec in CODECS {
        let unpacked = build(Compression::None, &sample_records(), None).len() - BATCH_HEADER_BYTES;
        let batch = build(codec, &sample_records(), None);
        let exact = BatchLimits { decompressed_bytes_max: unpacked, ..limits };
        assert_eq!(Records::decode(&batch, &exact).map(|records| records.len()), Ok(4), "{codec}");
        let max = unpacked - 1;
        let error = Records::decode(&batch, &BatchLimits { decompressed_bytes_max: max, ..limits })
            .expect_err("too large");
        assert_eq!(error, BatchError::DecompressedTooLarge { max }, "{codec}");
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let sound = small_batch(Compression::None);
    let refused = |at: usize, bytes: &[u8]| {
        let mut batch = sound.to_vec();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
        decode(&batch).expect_err("contradicts itself")
    };
    assert_eq!(refused(0, &(-1i64).to_be_bytes()), BatchError::BaseOffset { base: -1, records: 2 });
    let base = i64::MAX - 1;
    assert_eq!(refused(0, &base.to_be_bytes()), BatchError::BaseOffset { base, records: 2 });
    for length in [0, -1, 48, 55, i32::MIN] {
        assert_eq!(refused(8, &length.to_be_bytes()), BatchError::Length { length });
    }
    assert!(matches!(refused(8, &i32::MAX.to_be_bytes()), BatchError::TooLarge { .. }));
    assert_eq!(refused(16, &[1]), BatchError::Magic { found: 1 });
    assert_eq!(refused(21, &[0, 2]), BatchError::UnsupportedCompression { name: "snappy" });
    assert_eq!(refused(21, &[0, 7]), BatchError::UnknownCompression { code: 7 });
    for attributes in [0x10, 0x20, 0x40, 0x8000] {
        let expected = BatchError::UnsupportedAttributes { attributes };
        assert_eq!(refused(21, &attributes.to_be_bytes()), expected);
    }
    let expected = BatchError::Counts { records: 2, last_offset_delta: 2 };
    assert_eq!(refused(23, &2i32.to_be_bytes()), expected);
    for records in [0, -1, i32::MIN, i32::MAX] {
        assert_eq!(refused(57, &records.to_be_bytes()), BatchError::Counts { records, last_offset_delta: 1 });
    }
    let expected = BatchError::Producer { producer: -1, epoch: 3, sequence: 99 };
    assert_eq!(refused(43, &[0xff; 8]), expected);
    let expected = BatchError::Producer { producer: 4711, epoch: 3, sequence: -1 };
    assert_eq!(refused(53, &[0xff; 4]), expected);
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let records = 1 << 20;
    let expected = |bytes| BatchError::CountBeyondBytes { records: records as u32, bytes };
    assert_eq!(decode(&raw_batch(0, records, &[0; 70])).expect_err("too few bytes"), expected(70));
    let packed = zstd::bulk::compress(&[0; 700], 3).expect("compresses");
    assert_eq!(decode(&raw_batch(4, records, &packed)).expect_err("too few bytes"), expected(700));
}

#[test]
fn damaged_records_are_named() {
    let refused = |body: &[u8]| decode(&raw_batch(0, 1, body)).expect_err("damaged");
    let fault = |fault| BatchError::Record { index: 0, position: 0, fault };
    // length 6: attributes, timestamp delta, offset delta, null key, null value, no headers
    let sound = [12, 0, 0, 0, 1, 1, 0];
    assert!(decode(&raw_batch(0, 1, &sound)).is_ok());
    assert_eq!(refused(&[14, 0, 0, 0, 1, 1, 0]), fault(RecordFault::Truncated));
    assert_eq!(refused(&[14, 0, 0, 0, 1, 1, 0, 0]), fault(RecordFault::TrailingBytes(1)));
    assert_eq!(refused(&[12, 0, 0, 0, 1, 1, 0, 9]), BatchError::TrailingBytes { position: 7, bytes: 1 });
    assert_eq!(refused(&[1, 0, 0, 0, 1, 1, 0]), fault(RecordFault::Length(-1)));
    assert_eq!(refused(&[12, 0, 0, 2, 1, 1, 0]), fault(RecordFault::OffsetDelta(1)));
    assert_eq!(refused(&[12, 0, 0, 1, 1, 1, 0]), fault(RecordFault::OffsetDelta(-1)));
    assert_eq!(refused(&[12, 0, 0, 0, 3, 1, 0]), fault(RecordFault::Length(-2)));
    assert_eq!(refused(&[12, 0, 0, 0, 1, 3, 0]), fault(RecordFault::Length(-2)));
    assert_eq!(refused(&[12, 0, 0, 0, 8, 1, 0]), fault(RecordFault::Truncated));
    assert_eq!(refused(&[12, 0, 0, 0, 1, 1, 1]), fault(RecordFault::Length(-1)));
    assert_eq!(refused(&[12, 0, 0, 0, 1, 1, 2]), fault(RecordFault::Truncated));
    assert_eq!(refused(&[16, 0, 0, 0, 1, 1, 2, 1, 1]), fault(RecordFault::Length(-1)), "null name");
    assert_eq!(refused(&[0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]), fault(RecordFault::Varint));
    assert_eq!(refused(&[0xff, 0xff, 0xff, 0xff, 0x1f, 1, 0]), fault(RecordFault::Varint));
}

#[test]
fn append_time_overrides_the_producers_timestamps() {
    let mut batch = build(Compression::None, &sample_records(), None).to_vec();
    batch[22] |= 1 << 3;
    batch[35..43].copy_from_slice(&42i64.to_be_bytes());
    seal(&mut batch);
    let records = decode(&batch).expect("valid");
    assert!(records.iter().all(|record| record.timestamp_ms == 42));
}

#[test]
fn compression_reads_back_as_printed() {
    for codec in CODECS {
        assert_eq!(codec.to_string().parse(), Ok(codec));
    }
    assert!("gzip".parse::<Compression>().is_err());
}
