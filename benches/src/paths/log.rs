//! Reading: the entry that holds an offset is found by the index of its segment, read and verified.

use std::hint::black_box;
use std::sync::Arc;

use dure_engine::{Cursor, LogView, ReadOutcome, RealDisk, Wait, default_topic_config};
use dure_proto::{Offset, wire};
use tempfile::TempDir;

use super::driven_shard::DrivenShard;
use super::payload;
use super::{Path, Round};

const RECORD_BYTES: usize = 100;
const RECORDS: u64 = 20_000;
/// Sealed segments have an index that is mapped.
const SEGMENT_BYTES: u64 = 1 << 20;
const LOOKUPS: u64 = 256;

pub(super) const PATHS: &[Path] = &[Path {
    name: "index-lookup",
    operation: "entry of 100 B found by its offset and read",
    operations: LOOKUPS,
    bytes: 0,
    prepare,
    only: None,
}];

fn prepare() -> Round {
    let (dir, view) = written();
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move || {
        let _there_while_it_is_read = &dir;
        for _ in 0..LOOKUPS {
            let mut cursor = Cursor::at(Offset(random.u64(..RECORDS)));
            let found = view.read(&mut cursor, 1, Wait::MayWait).expect("the disk reads");
            assert!(matches!(black_box(found), ReadOutcome::Entries(_)));
        }
    })
}

/// A log of single records: every one of them is an entry.
fn written() -> (TempDir, LogView) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(dir.path()).expect("a disk");
    let config = wire::TopicConfig { segment_bytes: SEGMENT_BYTES, ..default_topic_config() };
    let mut shard = DrivenShard::new(Arc::new(disk), Some(config));
    let batch = payload::records(1, &payload::bytes(RECORD_BYTES)).build(None);
    for _ in 0..20 {
        (0..RECORDS / 20).for_each(|_| shard.produce(batch.clone(), RECORD_BYTES as u32, Vec::new()));
        shard.run();
    }
    (dir, shard.view.clone().expect("something was published"))
}
