//! What becomes of a record on its way to the dead letters and back.

use bytes::Bytes;
use dure_engine::letter_batch;
use dure_proto::{BatchLimits, Compression, Record, Records};

use super::input::Input;
use super::seal::batch_of;

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let count = i32::from(input.byte() % 8) + 1;
    let body = input.rest();
    let batch = Bytes::from(batch_of(0, count, body));
    match Records::decode(&batch, &BatchLimits::default()) {
        Ok(records) => records.iter().for_each(|record| kept_as_it_was(&record)),
        Err(_) => unreadable(&String::from_utf8_lossy(body)),
    }
}

fn kept_as_it_was(record: &Record) {
    let letter = Records::decode(&letter_batch(Ok(record)), &BatchLimits::default()).expect("a batch");
    assert_eq!(letter.header().compression, Compression::None);
    assert_eq!(letter.get(0), Some(Record { offset_delta: 0, ..record.clone() }));
    assert_eq!(letter.len(), 1);
}

fn unreadable(why: &str) {
    let letter = Records::decode(&letter_batch(Err(why)), &BatchLimits::default()).expect("a batch");
    let record = letter.get(0).expect("one record");
    let [(name, Some(kept))] = &record.headers[..] else { panic!("one header says why") };
    assert_eq!(name, "dure-unreadable");
    assert!(why.as_bytes().starts_with(kept), "the reason is cut, not changed");
    assert_eq!((record.key, record.value), (None, None));
}
