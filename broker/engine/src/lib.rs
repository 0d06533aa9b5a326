//! Floor 1 of DureMQ: the deterministic core. It decides what becomes of requests, keeps journal and
//! segments, and recovers them. No clock, no socket and no thread in it: time comes in as an argument, disks
//! through [`disk::Disk`], and what is to happen outside goes out as [`Effect`]s, so that a seeded simulator
//! drives the very code that ships.

mod already_hashed;
mod backup;
mod catalogue;
mod checkpoint;
mod compaction;
mod dedup;
mod delay;
mod disk;
mod effect;
mod finding;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod format_document;
mod inspect;
mod job;
mod journal;
mod letter;
mod log;
mod mutant;
mod producers;
mod queue_group;
mod request;
mod retention;
mod scrub;
mod settled_set;
mod shard;
mod stream_group;
mod time;
mod topic_pattern;

pub use backup::{
    BackupFile, BackupPlan, RESTORED_EPOCHS_MAX, RESTORED_EPOCHS_MIN, RestoredCheckpoint, restored_checkpoint,
};
pub use catalogue::{
    MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PARTITIONS_MAX, TopicInfo, TopicTable, default_topic_config,
};
pub use delay::{DELAY_MS_MAX, Due};
pub use disk::{
    CrashReport, DirEntry, Disk, DiskError, DiskErrorKind, DiskFile, DiskOp, DiskRef, DiskResult, FailedSync,
    FaultRule, FileRef, InjectedCounts, IoCounts, Latency, OpenMode, PastCache, RealDisk, SECTOR_BYTES,
    SimDisk, SimFaults, Survival, Unsynced, UnsyncedPart,
};
pub use effect::*;
pub use finding::Finding;
pub use inspect::{DumpError, DumpLine, KafkaDump, VerifyReport, dump, dump_kafka, rebuild_indexes, verify};
pub use job::{DiskJob, JobDone, JobKind};
pub use letter::{
    DEAD_ATTEMPTS_HEADER, DEAD_GROUP_HEADER, DEAD_OFFSET_HEADER, DEAD_PARTITION_HEADER, DEAD_REASON_HEADER,
    DEAD_TIME_HEADER, DEAD_TOPIC_HEADER, LetterError, letter_batch,
};
pub use log::{Cursor, LogView, ReadError, ReadOutcome, Wait};
#[cfg(feature = "mutants")]
pub use mutant::{Mutant, activate};
pub use producers::PRODUCER_SESSIONS_MAX;
pub use queue_group::*;
pub use request::*;
pub use shard::{
    JOURNAL_PIECE_BYTES_MIN, OpenError, RecoveryReport, Shard, ShardConfig, default_queue_settings,
};
pub use stream_group::*;
pub use time::Now;
pub use topic_pattern::{PatternError, TopicPattern};

/// Whether this build can be told to be wrong. Nothing that ships may be.
pub const HAS_MUTANTS: bool = cfg!(feature = "mutants");
