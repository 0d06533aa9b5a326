//! The records of a batch that is not compressed: the input is what stands behind the header.

use bytes::Bytes;
use dure_proto::{BatchBuilder, BatchLimits, Compression, Record, Records};

use super::input::Input;
use super::seal::batch_of;

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let count = i32::from(input.byte());
    let append_time = u16::from(input.byte() & 1) << 3;
    let batch = Bytes::from(batch_of(append_time, count, input.rest()));
    if let Ok(records) = Records::decode(&batch, &BatchLimits::default()) {
        check_records(&records);
    }
}

/// Every way to look at the records shows the same, and a batch built of them holds them again.
pub(super) fn check_records(records: &Records) {
    let all: Vec<Record> = records.iter().collect();
    assert_eq!(all.len(), records.len());
    let mut builder = BatchBuilder::new(Compression::None);
    let mut largest = 0;
    for (index, record) in all.iter().enumerate() {
        assert_eq!(records.get(index).as_ref(), Some(record));
        assert_eq!((records.key(index), records.value(index)), (record.key.clone(), record.value.clone()));
        assert_eq!(records.timestamp_ms(index), Some(record.timestamp_ms));
        assert_eq!(records.offset(index), records.header().base_offset.plus(index as u64));
        largest = largest.max(payload_bytes(record));
        let pushed = builder.push_owned(
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
            record.timestamp_ms,
        );
        pushed.expect("what fitted into a batch fits into one");
    }
    assert_eq!(records.get(all.len()), None);
    assert_eq!(records.record_bytes_max() as usize, largest);
    assert_eq!(records.keyed(), all.iter().any(|record| record.key.is_some()));
    let again = Records::decode(&builder.build(None), &BatchLimits::default()).expect("just built");
    assert!(again.iter().eq(all), "built anew they differ");
}

fn payload_bytes(record: &Record) -> usize {
    let size = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + size(value)).sum();
    size(&record.key) + size(&record.value) + headers
}
