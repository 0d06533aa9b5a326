//! What a seed decides before anything happens: sizes, and how much of what. Seeds differ widely on purpose, so that
//! among them are some that do little else but roll pieces, or die in every recovery.

use dure_engine::{Latency, ShardConfig};
use fastrand::Rng;

/// Secret of the simulated data directory.
pub(crate) const SALT: u64 = 7;

/// How one seed goes about it.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    pub(crate) shard: ShardConfig,
    /// Steps until the last shutdown.
    pub(crate) steps: u32,
    /// Of 1,000 steps: a crash or a restart.
    pub(crate) crash_per_mille: u32,
    /// Of 1,000 steps: a fault of the disk is armed.
    pub(crate) fault_per_mille: u32,
    /// Of 100 recoveries: one that meets a fault or a crash itself.
    pub(crate) bad_recovery_percent: u32,
    /// Of 100 recoveries: one that is compared with that from the checkpoint before.
    pub(crate) fork_percent: u32,
    /// How often a step is that of a client, against those of disk and clock.
    pub(crate) clients_percent: u32,
    /// Weights of what clients do, in the order of `workload::Kind`.
    pub(crate) weights: [u32; crate::sim::workload::KINDS],
    pub(crate) value_bytes_max: usize,
    /// Of 100 batches: those that are to wait.
    pub(crate) delay_percent: u32,
    /// Of 100 records: those that are good for a while only.
    pub(crate) ttl_percent: u32,
    /// Of 100 others: those whose records have ids.
    pub(crate) id_percent: u32,
    /// A group's dead letters are copied to a topic.
    pub(crate) copies_letters: bool,
    /// How long the disk takes.
    pub(crate) latency: Latency,
    /// The story ends with a write that goes to the wrong place.
    pub(crate) goes_astray: bool,
}

/// As if nothing took time, a busy disk, and one that hangs for longer than leases and sessions run.
const LATENCIES: [Latency; 3] = [
    Latency {
        read_ms_max: 0,
        write_ms_max: 0,
        sync_ms_max: 0,
        entry_ms_max: 0,
        hang_per_million: 0,
        hang_ms_max: 0,
    },
    Latency {
        read_ms_max: 1,
        write_ms_max: 2,
        sync_ms_max: 30,
        entry_ms_max: 5,
        hang_per_million: 0,
        hang_ms_max: 0,
    },
    Latency {
        read_ms_max: 1,
        write_ms_max: 1,
        sync_ms_max: 8,
        entry_ms_max: 1,
        hang_per_million: 10_000,
        hang_ms_max: 15_000,
    },
];

impl Knobs {
    pub(crate) fn of(seed: u64) -> Knobs {
        // Not the stream of numbers that the world draws from.
        let mut rng = Rng::with_seed(seed ^ 0x006b_6e6f_6273);
        let mut weights = [0; crate::sim::workload::KINDS];
        for weight in &mut weights {
            *weight = [0, 1, 4, 4, 8][rng.usize(0..5)];
        }
        // Without topics, messages and groups there is nothing to see.
        for kind in crate::sim::workload::ALWAYS {
            weights[kind] = weights[kind].max(4);
        }
        let commit_bytes_soft = [4 << 10, 8 << 10, 16 << 10][rng.usize(0..3)];
        Knobs {
            shard: ShardConfig {
                journal_piece_bytes: [96 << 10, 128 << 10, 192 << 10][rng.usize(0..3)],
                checkpoint_bytes: [24 << 10, 64 << 10, 160 << 10, 1 << 20][rng.usize(0..4)],
                flights_max: if rng.u8(0..4) == 0 { 1 } else { 2 },
                reserve_bytes: [0, 128 << 10][rng.usize(0..2)],
                scheduled_max: [6, 1 << 20][(seed / 3) as usize % 2],
                message_ids_max: [8, 1 << 20][(seed / 7) as usize % 2],
                housekeeping_ms: 200,
                backup_ms_max: ShardConfig::default().backup_ms_max,
                compaction_bytes_per_s: 1 << 20,
                // A log has at most five keys: with fewer it takes several passes.
                compaction_keys_max: [2, 100][seed as usize % 2],
                page_cache_bytes: 8 << 10,
                scrub_bytes_per_s: if seed.is_multiple_of(2) { 1 << 20 } else { 0 },
                salt: SALT,
                seed,
                commit_bytes_soft,
                commit_bytes_max: 80 << 10,
            },
            steps: rng.u32(100..700),
            crash_per_mille: [2, 8, 25][rng.usize(0..3)],
            fault_per_mille: [0, 2, 10][rng.usize(0..3)],
            bad_recovery_percent: [0, 10, 40][rng.usize(0..3)],
            fork_percent: 20,
            clients_percent: rng.u32(30..70),
            weights,
            value_bytes_max: [40, 400, 3000][rng.usize(0..3)],
            latency: LATENCIES[[0, 0, 1, 2][rng.usize(0..4)]],
            goes_astray: rng.u8(0..8) == 0,
            delay_percent: [0, 10, 50][rng.usize(0..3)],
            ttl_percent: [0, 0, 10, 60][rng.usize(0..4)],
            copies_letters: seed.is_multiple_of(3),
            id_percent: [0, 30, 80][(seed / 5) as usize % 3],
        }
    }

    /// Nothing left to chance: for a story that is told step by step. Pieces hold few commits, and checkpoints come
    /// often, so that a short story has some of each.
    pub(crate) fn of_a_story() -> Knobs {
        let knobs = Knobs::of(0);
        let shard = ShardConfig {
            journal_piece_bytes: 16 << 10,
            commit_bytes_soft: 4 << 10,
            commit_bytes_max: 16 << 10,
            checkpoint_bytes: 12 << 10,
            flights_max: 2,
            reserve_bytes: 0,
            ..knobs.shard
        };
        let latency = LATENCIES[0];
        Knobs { shard, bad_recovery_percent: 0, fork_percent: 0, value_bytes_max: 600, latency, ..knobs }
    }
}
