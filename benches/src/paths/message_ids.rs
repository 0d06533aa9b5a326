//! Message ids: each is looked up and noted with its message, and forgotten when the topic's window is over.

use std::sync::Arc;

use dure_engine::default_topic_config;
use dure_proto::{IdHash, wire};

use super::driven_shard::DrivenShard;
use super::null_disk::NullDisk;
use super::payload;
use super::{Path, Round};

/// Of one batch.
const MESSAGES: u32 = 1_000;
const WINDOW_MS: u64 = 1_000;
/// What passes between two batches: some are in the window at a time, however many rounds there are.
const ROUND_MS: u64 = 100;

pub(super) const PATHS: &[Path] = &[Path {
    name: "message-ids",
    operation: "message of 8 B, 1,000 of them to a batch",
    operations: MESSAGES as u64,
    bytes: 0,
    prepare,
    only: None,
}];

fn prepare() -> Round {
    let config = wire::TopicConfig { dedup_window_ms: Some(WINDOW_MS), ..default_topic_config() };
    let mut shard = DrivenShard::new(Arc::new(NullDisk::default()), Some(config));
    let batch = payload::records(MESSAGES as usize, &[7; 8]).build(None);
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move || {
        shard.now.mono_ms += ROUND_MS;
        shard.now.wall_ms += ROUND_MS;
        let ids = (0..MESSAGES).map(|_| Some(IdHash(random.u128(..)))).collect();
        shard.produce(batch.clone(), 8, ids);
        shard.run();
        shard.check_answers();
    })
}
