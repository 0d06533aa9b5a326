//! Seeded faults: each variant of [`Mutant`] is a way in which this engine could be wrong, and the checkers have to see
//! every one of them. `cargo run --release -p dure-tests --features mutants --bin mutants` shows that they do.
//!
//! Without the feature `mutants` [`is`] is a constant, and nothing of this is in the binary; `dure` does not compile with
//! it. With the feature the fault is chosen per thread.

use crate::disk::{Disk, DiskResult, OpenMode};

macro_rules! mutants {
    ($($area:literal { $(#[doc = $what:literal] $name:ident,)+ })+) => {
        /// A fault of the engine that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "mutants"), allow(dead_code, unreachable_pub))]
        pub enum Mutant {
            $($(#[doc = $what] $name,)+)+
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$($(Mutant::$name,)+)+];

            /// The part of the engine that is wrong, and how.
            #[must_use]
            pub fn describe(self) -> (&'static str, &'static str) {
                match self {
                    $($(Mutant::$name => ($area, $what.trim_ascii()),)+)+
                }
            }
        }
    };
}

mutants! {
    "journal" {
        /// a commit is not synced
        SkipCommitSync,
        /// answers leave when the commit is decided
        AnswerBeforeSync,
        /// the sync of a later commit counts for one before it
        LaterSyncCountsForEarlier,
        /// a failed sync is called again
        RetryFailedSync,
        /// a write that failed half way counts as done
        FailedWriteTakenAsDone,
        /// the journal's directory is not synced for a new piece
        SkipPieceDirSync,
        /// a piece that a kill left half made is used as it is
        HalfMadePieceUsed,
        /// a commit names itself durable before it is
        DurableUptoTooHigh,
    }
    "recovery" {
        /// the journal's end is not synced before it is acted upon
        SkipRecoveredSync,
        /// the journal is read from the page cache
        PageCacheBelieved,
        /// a torn end is reported as damage
        TornTakenForCorrupt,
        /// the journal is cut off at the first damaged commit
        TruncateAtBadChecksum,
        /// a piece counts as read where the first block without a commit is
        PieceEndsAtFirstGap,
        /// the checksum of a commit's body is not checked
        BodyChecksumIgnored,
        /// the first commit of an epoch is not synced
        SkipEpochSync,
        /// the pieces that the checkpoint before needs are free after a restart
        NeededPieceReused,
        /// files are removed before the commit that says so is durable
        RemovesBeforeDurable,
    }
    "checkpoint" {
        /// it is written before its segments are synced
        SegmentsNotSynced,
        /// it is written before the directories of new segments are synced
        SegmentDirsNotSynced,
        /// it is renamed before it is synced
        CheckpointNotSynced,
        /// its name is not synced before the older ones go
        CheckpointDirNotSynced,
        /// only the newest is kept
        OlderCheckpointRemoved,
        /// pieces are released that the one before it needs
        PieceReleasedTooEarly,
        /// the producers' sessions are missing in it
        ProducersNotKept,
        /// what is settled above the floor is missing in it
        SettledNotKept,
        /// leases are missing in it
        LeasesNotKept,
        /// committed offsets are missing in it
        OffsetsNotKept,
        /// what is in no segment is missing in it
        LateNotKept,
        /// the next number of a topic is missing in it
        TopicIdsReused,
    }
    "log" {
        /// what the index names is not checked
        IndexTrusted,
        /// an entry's checksum is not checked when it is read
        EntryChecksumIgnored,
        /// a read that returned less than was asked for counts as whole
        ShortReadTakenAsWhole,
        /// a segment begins one offset late after a roll
        BaseOffByOneAfterRoll,
        /// the log's start takes the segment behind it along
        StartDropsNextSegment,
        /// retention goes by the oldest record of a segment
        RetentionTooEarly,
        /// retention removes what a queue group holds
        RetentionIgnoresHold,
        /// dead letters are removed that are still listed
        LetterTrimmed,
    }
    "producers" {
        /// a gap in the sequence is accepted
        SequenceNotChecked,
        /// sessions are not replayed
        ProducersNotReplayed,
        /// one batch less is remembered than may be in flight
        DedupeWindowOffByOne,
        /// the numbers of sessions begin anew after a restart
        ProducerIdsRepeat,
    }
    "queue group" {
        /// a lease ends a millisecond early
        LeaseDeadlineOffByOne,
        /// what came back is granted again before that is durable
        RegrantBeforeDurable,
        /// tokens begin anew after a restart
        TokensRepeat,
        /// a grant is not journaled
        GrantNotJournaled,
        /// an attempt is not counted
        AttemptNotCounted,
        /// the limit of attempts is one too high
        DeadLetterOneTooLate,
        /// a dead letter and its settling are two commits
        DeadLetterInTwoCommits,
        /// the copy of a dead letter and its note are two commits
        CopiedInTwoCommits,
        /// how far dead letters are copied is missing in a checkpoint
        CopiedNotKept,
        /// a gap below what was settled last is settled too
        SettledSetLosesGap,
        /// a receipt counts though its message was leased anew
        StaleLeaseAccepted,
        /// a release without its delay
        ReleaseIgnoresDelay,
        /// of a run of acks only the first is replayed
        RunReplayedAsOne,
        /// acks are journaled as one run though there is a gap between them
        RunsJoinedOverGap,
        /// a redriven message keeps no letter
        RedriveForgetsLetter,
        /// messages of one key are given out side by side
        KeyOrderIgnored,
        /// the keys of what is leased are missing in a checkpoint
        KeysNotKept,
        /// messages are given out in the order in which they came, however urgent they are
        PriorityIgnored,
        /// as long as there are urgent messages, nobody gets another one
        LowPriorityStarves,
        /// why a worker gave a message back is not kept
        ReleaseReasonLost,
        /// what a subscription is given is not taken off its credit
        CreditNotTaken,
        /// a message is given out though it expired
        ExpiredDelivered,
        /// what comes behind the offset up to which is acknowledged is settled, too
        AckUpToOneTooFar,
    }
    "delay" {
        /// a message enters a millisecond before it is due
        DueTooEarly,
        /// entering the log and leaving the delay log are two commits
        EntersInTwoCommits,
        /// what has left a delay log is missing in the checkpoint
        EnteredNotKept,
        /// a session forgets what it sent to wait
        DelayedNotRemembered,
    }
    "message ids" {
        /// ids are missing in the checkpoint
        IdsNotKept,
        /// an id is known by another commit than its message
        IdsInTwoCommits,
        /// windows go by the wall clock
        IdsByWallClock,
    }
    "stream group" {
        /// a committed offset goes back
        CommittedOffsetGoesBack,
        /// the commit of a generation that lost the partition is accepted
        OldGenerationCommits,
        /// a partition is given away before its owner has given it up
        TwoOwners,
    }
}

#[cfg(feature = "mutants")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Chooses the fault of everything that this thread does from now on.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// Whether this fault is to happen.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// Whether this fault is to happen: never in what ships.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

/// What the page cache has: read by [`Mutant::PageCacheBelieved`] instead of the device.
pub(crate) fn read_cached_at(
    disk: &dyn Disk,
    path: &str,
    position: u64,
    buf: &mut [u8],
) -> DiskResult<usize> {
    let file = disk.open(path, OpenMode::Read)?;
    let bytes = file.len()?.saturating_sub(position).min(buf.len() as u64) as usize;
    file.read_exact_at(position, &mut buf[..bytes])?;
    Ok(bytes)
}
