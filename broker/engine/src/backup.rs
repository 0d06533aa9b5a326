//! What a backup of a running shard is made of: a checkpoint, and the segments up to the lengths that it names.
//!
//! A checkpoint says the state after one commit, and whatever it counts on is synced when it is written: messages and
//! what became of them agree in it, and the journal is not needed. A segment never changes below a length that was
//! once synced, so that it can be read while the shard goes on appending; what the shard has to do is to keep the
//! segments from being removed meanwhile ([`BackupPlan::is_given_up`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dure_proto::journal::Checkpoint;
use dure_proto::{CommitSeq, Epoch, PartitionId, ShardId, TopicId, TopicPartition};

use crate::checkpoint;
use crate::log::{SegmentMeta, log_dir, segment_path, written};
use crate::shard::shard_dir;

/// The epoch of what was restored lies at least this far above that of the backup: the original would have to be started
/// as often before it came to an epoch that the copy has given tokens, producer ids or generations under.
pub const RESTORED_EPOCHS_MIN: u64 = 1 << 16;
/// And less than this far, so that epochs last for many restores, one on top of the other.
pub const RESTORED_EPOCHS_MAX: u64 = 1 << 26;
/// Producer ids carry the epoch in 31 bits.
const EPOCH_MAX: u64 = (1 << 31) - 1;

const _: () = assert!(RESTORED_EPOCHS_MIN < RESTORED_EPOCHS_MAX && 16 * RESTORED_EPOCHS_MAX <= EPOCH_MAX);

/// One point in time of one shard, and the files that hold it.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// The shard.
    pub shard: ShardId,
    /// The last commit in it.
    pub seq: CommitSeq,
    /// The epoch of that commit.
    pub epoch: Epoch,
    /// The content of the checkpoint file.
    pub checkpoint: Bytes,
    /// In the order of topic, partition and offset.
    pub segments: Vec<BackupFile>,
    pub(crate) given_up: Arc<AtomicBool>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFile {
    /// Its path in the data directory, and in one that is restored.
    pub path: String,
    /// How much of it counts; by now it may be longer.
    pub bytes: u64,
}

/// The part of a plan that is made along with the checkpoint.
#[derive(Debug)]
pub(crate) struct BackupContent {
    pub(crate) epoch: Epoch,
    pub(crate) checkpoint: Bytes,
    pub(crate) segments: Vec<BackupFile>,
}

impl BackupPlan {
    /// The shard keeps the files no longer: what was read of them before this turned true is good, and nothing after.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Length of everything in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.checkpoint.len() as u64 + self.segments.iter().map(|file| file.bytes).sum::<u64>()
    }
}

impl BackupContent {
    /// `encoded` is the file that `checkpoint` was written as, in the shard's directory `shard_dir`.
    pub(crate) fn of(shard_dir: &str, checkpoint: &Checkpoint, encoded: Vec<u8>) -> BackupContent {
        let mut segments = Vec::new();
        for log in &checkpoint.logs {
            let partition =
                TopicPartition { topic: TopicId(log.topic), partition: PartitionId(log.partition) };
            let dir = log_dir(shard_dir, partition);
            segments.extend(written(log).segments.iter().map(|segment| BackupFile {
                path: segment_path(&dir, SegmentMeta::restore(segment).id()),
                bytes: segment.bytes,
            }));
        }
        BackupContent { epoch: Epoch(checkpoint.epoch), checkpoint: encoded.into(), segments }
    }
}

/// A checkpoint file made ready for a copy of the shard: where it goes in the data directory, and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredCheckpoint {
    /// Its path.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// The segments that it names, as in [`BackupPlan::segments`].
    pub segments: Vec<BackupFile>,
    /// The last commit in it.
    pub seq: CommitSeq,
    /// The epoch under which the copy begins, less one: the next start opens the one behind it.
    pub epoch: Epoch,
}

/// Turns the checkpoint of a backup into that of a copy. The copy has no journal, so that its pieces begin anew, and its
/// epochs lie `epochs` above those of the original: between [`RESTORED_EPOCHS_MIN`] and [`RESTORED_EPOCHS_MAX`], chosen
/// at random, so that two copies of one backup do not meet either.
///
/// The error says what is wrong with the bytes.
pub fn restored_checkpoint(shard: ShardId, bytes: &[u8], epochs: u64) -> Result<RestoredCheckpoint, String> {
    assert!((RESTORED_EPOCHS_MIN..RESTORED_EPOCHS_MAX).contains(&epochs), "a step of {epochs} epochs");
    let mut checkpoint = checkpoint::decode(bytes)?;
    checkpoint.epoch += epochs;
    if checkpoint.epoch > EPOCH_MAX {
        return Err(format!(
            "it was restored too often: epoch {} is the last one",
            checkpoint.epoch - epochs
        ));
    }
    (checkpoint.piece, checkpoint.position) = (0, None);
    let (dir, seq) = (shard_dir(shard), checkpoint.seq);
    let encoded = checkpoint::encode(&checkpoint);
    let content = BackupContent::of(&dir, &checkpoint, encoded.clone());
    Ok(RestoredCheckpoint {
        path: checkpoint::checkpoint_path(&format!("{dir}/checkpoint"), seq),
        bytes: encoded,
        segments: content.segments,
        seq: CommitSeq(seq),
        epoch: Epoch(checkpoint.epoch),
    })
}
