//! The two checksums: CRC-32C over what a batch holds, CRC-32 over what a commit does.

use std::hint::black_box;

use super::payload;
use super::{Path, Round};

const BYTES: usize = 64 << 10;
const OF_64_KIB: Path =
    Path { name: "", operation: "64 KiB", operations: 1, bytes: BYTES as u64, prepare: crc32c, only: None };

pub(super) const PATHS: &[Path] =
    &[Path { name: "crc32c", ..OF_64_KIB }, Path { name: "crc32", prepare: crc32, ..OF_64_KIB }];

fn crc32c() -> Round {
    let bytes = payload::bytes(BYTES);
    Box::new(move || _ = black_box(dure_proto::crc32c(black_box(&bytes))))
}

fn crc32() -> Round {
    let bytes = payload::bytes(BYTES);
    Box::new(move || _ = black_box(crc32fast::hash(black_box(&bytes))))
}
