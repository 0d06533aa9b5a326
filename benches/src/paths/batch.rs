//! The record batch: encoded by whoever produces, validated by the broker, decoded by whoever consumes.

use std::hint::black_box;

use bytes::Bytes;
use dure_proto::{BatchHeader, BatchLimits, Records};

use super::payload;
use super::{Path, Round};

const LARGE: Shape = Shape { records: 64, bytes: 1024 };
const SMALL: Shape = Shape { records: 1_000, bytes: 100 };

pub(super) const PATHS: &[Path] = &[
    LARGE.path("batch-encode-1k", "record", || encode(LARGE)),
    SMALL.path("batch-encode-100", "record", || encode(SMALL)),
    LARGE.path("batch-validate-1k", "record", || validate(LARGE)),
    SMALL.path("batch-validate-100", "record", || validate(SMALL)),
    LARGE.path("batch-decode-1k", "record", || decode(LARGE)),
    SMALL.path("batch-decode-100", "record", || decode(SMALL)),
];

/// How many records of which payload.
#[derive(Clone, Copy)]
struct Shape {
    records: usize,
    bytes: usize,
}

impl Shape {
    const fn path(self, name: &'static str, operation: &'static str, prepare: fn() -> Round) -> Path {
        let (operations, bytes) = (self.records as u64, (self.records * self.bytes) as u64);
        Path { name, operation, operations, bytes, prepare, only: None }
    }

    fn batch(self) -> Bytes {
        payload::records(self.records, &payload::bytes(self.bytes)).build(None)
    }
}

fn encode(shape: Shape) -> Round {
    let payload = payload::bytes(shape.bytes);
    Box::new(move || _ = black_box(payload::records(shape.records, black_box(&payload)).build(None)))
}

fn validate(shape: Shape) -> Round {
    let batch = shape.batch();
    Box::new(move || {
        _ = black_box(BatchHeader::validate(black_box(&batch), &BatchLimits::default()).expect("a batch"));
    })
}

fn decode(shape: Shape) -> Round {
    let batch = shape.batch();
    Box::new(move || {
        let records = Records::decode(black_box(&batch), &BatchLimits::default()).expect("a batch");
        records.iter().for_each(|record| drop(black_box(record)));
    })
}
