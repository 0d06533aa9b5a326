//! Disk work that runs off the shard's thread: it goes out as an effect and its outcome comes back as an input.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fmt, io};

use dure_proto::{CommitSeq, Offset, TopicPartition};

use crate::backup::BackupContent;
use crate::checkpoint::CheckpointFile;
use crate::compaction::{Pass, PassError, Stepped};
use crate::disk::{AlignedBytes, Disk, DiskError, DiskOp, DiskResult, FileRef, SyncFailed};
use crate::journal::OpenPiece;
use crate::log::{Cursor, LogView, Nameless, ReadError, ReadOutcome, Removal, Wait};
use crate::mutant::{self, Mutant};
use crate::shard::{DelayRead, DelayScan, LetterRead, Sweep};

/// A piece of disk work.
pub struct DiskJob(pub(crate) Job);

/// The outcome of a [`DiskJob`].
pub struct JobDone(pub(crate) Done);

/// What a job is, for whoever chooses a thread for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Somebody waits for it: at most two are out at a time, and they should run side by side.
    Commit,
    /// Nobody waits for it yet.
    Background,
    /// Messages are due, and it only reads: it belongs beside those that write.
    Read,
    /// Nobody ever waits for it: it belongs on a thread of its own.
    Idle,
}

pub(crate) enum Job {
    WriteCommit {
        seq: CommitSeq,
        file: FileRef,
        position: u64,
        bytes: Arc<AlignedBytes>,
        /// Of all commits of this opening.
        failed: SyncFailed,
    },
    PreparePiece {
        dir: String,
        number: u64,
        bytes: u64,
        recycle: Option<String>,
    },
    WriteCheckpoint(Box<CheckpointFile>),
    Remove(Removal),
    /// What a removal left without a name.
    Free {
        nameless: Vec<Nameless>,
        /// Else as fast as it goes.
        gently: bool,
    },
    Sweep(Sweep),
    Scrub {
        view: LogView,
        cursor: Cursor,
        bytes_max: usize,
        wait: Wait,
    },
    ReadDelayed(DelayRead),
    FindDelayed(DelayScan),
    ReadLetters(LetterRead),
    CheckSpace,
    /// One step of a pass, which comes back with its outcome. A sync of a directory that fails in it is noted at once:
    /// whoever syncs it next is not told.
    Compact(Box<Pass>, SyncFailed),
}

pub(crate) enum Done {
    CommitWritten {
        seq: CommitSeq,
        result: DiskResult<()>,
    },
    PiecePrepared(DiskResult<OpenPiece>),
    CheckpointWritten {
        seq: CommitSeq,
        result: DiskResult<Option<BackupContent>>,
    },
    Removed(DiskResult<Vec<Nameless>>),
    Freed {
        segments: usize,
    },
    Space(DiskResult<u64>),
    Compacted {
        pass: Box<Pass>,
        result: Result<Stepped, PassError>,
    },
    Scrubbed(ScrubRead),
    DelayedRead(DelayRead),
    DelayedFound(DelayScan),
    LettersRead(LetterRead),
    /// The disk had no room: nothing of it counts, and it can be run again as it is.
    NoRoom {
        job: Job,
        error: DiskError,
    },
}

impl Job {
    fn kind(&self) -> JobKind {
        match self {
            Job::WriteCommit { .. } => JobKind::Commit,
            Job::ReadDelayed(_) | Job::FindDelayed(_) | Job::ReadLetters(_) => JobKind::Read,
            Job::Scrub { .. } | Job::Free { .. } => JobKind::Idle,
            _ => JobKind::Background,
        }
    }
}

/// What the scrubber read of one sealed segment.
pub(crate) struct ScrubRead {
    pub(crate) partition: TopicPartition,
    pub(crate) segment_end: Offset,
    /// Where it began to read, and where it goes on.
    pub(crate) from: Offset,
    pub(crate) cursor: Cursor,
    /// What it cost.
    pub(crate) bytes: u64,
    pub(crate) outcome: Result<ReadOutcome, ReadError>,
}

impl DiskJob {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        self.0.kind()
    }

    /// For a commit: its number.
    #[must_use]
    pub fn commit_seq(&self) -> Option<CommitSeq> {
        match &self.0 {
            Job::WriteCommit { seq, .. } => Some(*seq),
            _ => None,
        }
    }

    /// For a commit: its bytes on disk. For statistics.
    #[must_use]
    pub fn commit_bytes(&self) -> Option<usize> {
        match &self.0 {
            Job::WriteCommit { bytes, .. } => Some(bytes.len()),
            _ => None,
        }
    }

    /// Does the work; may take as long as the disk takes.
    #[must_use]
    pub fn run(self, disk: &dyn Disk) -> JobDone {
        let job = match self.0 {
            Job::Compact(mut pass, dir_sync_failed) => {
                let result = pass.step(disk).inspect_err(|error| {
                    dir_sync_failed.fetch_or(error.lost_names(), Ordering::AcqRel);
                    pass.abandon(disk);
                });
                return JobDone(Done::Compacted { pass, result });
            }
            Job::Free { nameless, gently } => {
                let segments = nameless.len();
                if gently {
                    nameless.into_iter().for_each(Nameless::free_gently);
                }
                return JobDone(Done::Freed { segments });
            }
            Job::ReadDelayed(read) => return JobDone(Done::DelayedRead(read.run())),
            Job::FindDelayed(scan) => return JobDone(Done::DelayedFound(scan.run())),
            Job::ReadLetters(read) => return JobDone(Done::LettersRead(read.run())),
            job => job,
        };
        let done = job.run(disk);
        let error = match &done {
            Done::CommitWritten { result: Err(error), .. }
            | Done::PiecePrepared(Err(error))
            | Done::CheckpointWritten { result: Err(error), .. } => error.clone(),
            _ => return JobDone(done),
        };
        JobDone(if error.waits_for_room() { Done::NoRoom { job, error } } else { done })
    }
}

impl Job {
    fn run(&self, disk: &dyn Disk) -> Done {
        match self {
            Job::WriteCommit { seq, file, position, bytes, failed } => {
                Done::CommitWritten { seq: *seq, result: write_commit(file, *position, bytes, failed) }
            }
            Job::PreparePiece { dir, number, bytes, recycle } => {
                Done::PiecePrepared(OpenPiece::prepare(disk, dir, *number, *bytes, recycle.as_deref()))
            }
            Job::WriteCheckpoint(file) => {
                Done::CheckpointWritten { seq: file.seq(), result: file.write(disk) }
            }
            Job::Remove(removal) => Done::Removed(removal.run(disk)),
            Job::Sweep(sweep) => Done::Removed(sweep.run(disk).map(|()| Vec::new())),
            Job::Scrub { view, cursor, bytes_max, wait } => {
                Done::Scrubbed(scrub(view, cursor.clone(), *bytes_max, *wait))
            }
            Job::CheckSpace => Done::Space(disk.available_bytes()),
            Job::Compact(..)
            | Job::Free { .. }
            | Job::ReadDelayed(_)
            | Job::FindDelayed(_)
            | Job::ReadLetters(_) => {
                unreachable!("what is taken along by value")
            }
        }
    }
}

impl JobDone {
    /// Which kind of job it was.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match &self.0 {
            Done::CommitWritten { .. } => JobKind::Commit,
            Done::NoRoom { job, .. } => job.kind(),
            Done::DelayedRead(_) | Done::DelayedFound(_) | Done::LettersRead(_) => JobKind::Read,
            Done::Scrubbed(_) | Done::Freed { .. } => JobKind::Idle,
            _ => JobKind::Background,
        }
    }

    /// For a commit that is durable now: its number.
    #[must_use]
    pub fn durable_seq(&self) -> Option<CommitSeq> {
        match &self.0 {
            Done::CommitWritten { seq, result: Ok(()) } => Some(*seq),
            _ => None,
        }
    }
}

/// The sync is called once, whatever it says: a second one would have nothing left to report.
fn write_commit(file: &FileRef, position: u64, bytes: &[u8], failed: &SyncFailed) -> DiskResult<()> {
    let written = file.write_all_at(position, bytes);
    if !mutant::is(Mutant::FailedWriteTakenAsDone) {
        written?;
    }
    if mutant::is(Mutant::SkipCommitSync) {
        return Ok(());
    }
    if failed.load(Ordering::Acquire) {
        let why = io::Error::other("not tried, since the sync of another commit failed");
        return Err(DiskError::new(DiskOp::Sync, file.path(), why));
    }
    let synced = file.sync().inspect_err(|_| failed.store(true, Ordering::Release));
    if mutant::is(Mutant::RetryFailedSync) { synced.or_else(|_| file.sync()) } else { synced }
}

/// Damage is looked for well beyond the bytes asked for: it is counted as if they had been read.
fn scrub(view: &LogView, mut cursor: Cursor, bytes_max: usize, wait: Wait) -> ScrubRead {
    let from = cursor.offset();
    let outcome = view.read(&mut cursor, bytes_max, wait);
    let bytes = match &outcome {
        Ok(ReadOutcome::Entries(entries)) => entries.len(),
        _ => bytes_max,
    };
    ScrubRead {
        partition: view.partition,
        segment_end: view.high_watermark,
        from,
        cursor,
        bytes: bytes as u64,
        outcome,
    }
}

impl fmt::Debug for DiskJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Job::WriteCommit { seq, bytes, .. } => write!(f, "WriteCommit({seq}, {} bytes)", bytes.len()),
            Job::PreparePiece { number, .. } => write!(f, "PreparePiece({number})"),
            Job::WriteCheckpoint(file) => write!(f, "WriteCheckpoint({})", file.seq()),
            Job::Remove(removal) => write!(f, "Remove({removal:?})"),
            Job::Free { nameless, gently } => {
                write!(f, "Free({} segments, gently: {gently})", nameless.len())
            }
            Job::Sweep(_) => write!(f, "Sweep"),
            Job::Scrub { view, cursor, .. } => write!(f, "Scrub({}, {})", view.partition, cursor.offset()),
            Job::CheckSpace => write!(f, "CheckSpace"),
            Job::Compact(pass, _) => write!(f, "Compact({pass:?})"),
            Job::ReadDelayed(read) => write!(f, "ReadDelayed({read:?})"),
            Job::FindDelayed(scan) => write!(f, "FindDelayed({scan:?})"),
            Job::ReadLetters(read) => write!(f, "ReadLetters({read:?})"),
        }
    }
}

impl fmt::Debug for JobDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Done::CommitWritten { seq, result } => write!(f, "CommitWritten({seq}, {result:?})"),
            Done::PiecePrepared(result) => write!(f, "PiecePrepared(ok: {})", result.is_ok()),
            Done::CheckpointWritten { seq, result } => {
                write!(f, "CheckpointWritten({seq}, {:?})", result.as_ref().map(drop))
            }
            Done::Removed(result) => write!(f, "Removed({:?})", result.as_ref().map(Vec::len)),
            Done::Freed { segments } => write!(f, "Freed({segments} segments)"),
            Done::Space(result) => write!(f, "Space({result:?})"),
            Done::Compacted { pass, result } => write!(f, "Compacted({pass:?}, {result:?})"),
            Done::Scrubbed(read) => write!(f, "Scrubbed({}, {} bytes)", read.partition, read.bytes),
            Done::DelayedRead(read) => write!(f, "DelayedRead({read:?})"),
            Done::DelayedFound(scan) => write!(f, "DelayedFound({scan:?})"),
            Done::LettersRead(read) => write!(f, "LettersRead({read:?})"),
            Done::NoRoom { error, .. } => write!(f, "NoRoom({error})"),
        }
    }
}
