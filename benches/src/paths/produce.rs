//! Producing through a whole shard, until it is durable: on a disk that takes no time.

use std::sync::Arc;

use super::driven_shard::DrivenShard;
use super::null_disk::NullDisk;
use super::payload;
use super::{Path, Round};

const RECORD_BYTES: usize = 1024;

const OF_BATCHES: Path = Path {
    name: "produce-batch",
    operation: "batch of 64 x 1 KiB, a commit each",
    operations: 16,
    bytes: 16 * 64 * RECORD_BYTES as u64,
    prepare: || produce(16, 1, 64),
    only: None,
};

pub(super) const PATHS: &[Path] = &[
    OF_BATCHES,
    Path {
        name: "produce-one-by-one",
        operation: "message of 1 KiB, a commit each",
        operations: 16,
        bytes: 16 * RECORD_BYTES as u64,
        prepare: || produce(16, 1, 1),
        ..OF_BATCHES
    },
    Path {
        name: "produce-together",
        operation: "message of 1 KiB, 64 of them to a commit",
        operations: 256,
        bytes: 256 * RECORD_BYTES as u64,
        prepare: || produce(4, 64, 1),
        ..OF_BATCHES
    },
    Path {
        name: "log-append",
        operation: "entry of 64 KiB handed to its segment and index",
        only: Some("dure_engine::log::writer::LogWriter::write"),
        ..OF_BATCHES
    },
];

/// So many commits, each of so many batches of so many records.
fn produce(commits: usize, batches: usize, records: usize) -> Round {
    let mut shard = DrivenShard::new(Arc::new(NullDisk::default()), None);
    let batch = payload::records(records, &payload::bytes(RECORD_BYTES)).build(None);
    Box::new(move || {
        for _ in 0..commits {
            (0..batches).for_each(|_| shard.produce(batch.clone(), RECORD_BYTES as u32, Vec::new()));
            shard.run();
        }
        shard.check_answers();
    })
}
