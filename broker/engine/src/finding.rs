//! What recovery and `log verify` find.

use std::fmt;
use std::ops::Range;

use dure_proto::{CommitSeq, Offset, TopicPartition};

/// One thing found wrong, or worth a note, in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The journal ends in a write that was never acknowledged: what a kill or a power cut leaves. A note.
    JournalTorn {
        /// The last commit kept.
        after: CommitSeq,
    },
    /// Acknowledged commits cannot be read.
    JournalLost {
        /// The first of them.
        from: CommitSeq,
        /// The first behind them.
        to: CommitSeq,
        /// Where the journal goes on; 0 if it does not.
        piece: u64,
    },
    /// A commit whose checksum is right holds something that this version cannot read or apply.
    Unapplied {
        /// The commit.
        seq: CommitSeq,
        /// What and why.
        what: String,
    },
    /// A checkpoint cannot be read; the one before it stands in.
    CheckpointDamaged {
        /// Its file.
        path: String,
        /// Why.
        what: String,
    },
    /// A segment is shorter than its checkpoint says, or missing.
    SegmentShort {
        /// Its log.
        partition: TopicPartition,
        /// Its base offset.
        base: Offset,
        /// Its length in bytes.
        bytes: u64,
        /// What it should be.
        expected: u64,
    },
    /// The disk refuses to list a log's directory: whether its segments are whole is not known.
    LogUnlisted {
        /// The log.
        partition: TopicPartition,
        /// What the disk said.
        what: String,
    },
    /// Entries of a segment cannot be read.
    EntriesLost {
        /// The log.
        partition: TopicPartition,
        /// The offsets lost, the end exclusive.
        offsets: Range<Offset>,
        /// Why.
        what: String,
    },
    /// The disk refuses to read a part of a segment.
    ReadFailed {
        /// The log.
        partition: TopicPartition,
        /// The offsets from where it failed to the end of the segment, exclusive.
        offsets: Range<Offset>,
        /// What the disk said.
        what: String,
    },
    /// An index that does not agree with its segment; it is only a hint and can be rebuilt. A note.
    IndexDamaged {
        /// Its file.
        path: String,
        /// Why.
        what: String,
    },
    /// A file that belongs to nothing. A note.
    Foreign {
        /// Its path.
        path: String,
    },
}

impl Finding {
    /// Whether anything that was acknowledged is damaged; else it is a note.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Finding::JournalTorn { .. } | Finding::IndexDamaged { .. } | Finding::Foreign { .. })
    }

    /// The last commit that is known to have been there.
    pub(crate) fn lost_upto(&self) -> Option<CommitSeq> {
        match self {
            Finding::JournalLost { to, .. } => Some(CommitSeq(to.0 - 1)),
            _ => None,
        }
    }

    /// A short name for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Finding::JournalTorn { .. } => "journal_torn",
            Finding::JournalLost { .. } => "journal_lost",
            Finding::Unapplied { .. } => "unapplied",
            Finding::CheckpointDamaged { .. } => "checkpoint_damaged",
            Finding::SegmentShort { .. } => "segment_short",
            Finding::LogUnlisted { .. } => "log_unlisted",
            Finding::EntriesLost { .. } => "entries_lost",
            Finding::ReadFailed { .. } => "read_failed",
            Finding::IndexDamaged { .. } => "index_damaged",
            Finding::Foreign { .. } => "foreign_file",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::JournalTorn { after } => {
                write!(
                    f,
                    "the journal ends in a torn write behind commit {after}; nothing in it was acknowledged"
                )
            }
            Finding::JournalLost { from, to, .. } => {
                write!(f, "commits {from} to {} of the journal are damaged", to.0 - 1)
            }
            Finding::Unapplied { seq, what } => write!(f, "commit {seq} could not be applied whole: {what}"),
            Finding::CheckpointDamaged { path, what } => write!(f, "checkpoint {path} is damaged: {what}"),
            Finding::SegmentShort { partition, base, bytes, expected } => write!(
                f,
                "segment {base} of {partition} has {bytes} bytes where the checkpoint says {expected}"
            ),
            Finding::LogUnlisted { partition, what } => {
                write!(f, "whether the segments of {partition} are whole is not known: {what}")
            }
            Finding::EntriesLost { partition, offsets, what } if offsets.is_empty() => {
                write!(f, "segment {} of {partition}: {what}", offsets.start)
            }
            Finding::ReadFailed { partition, offsets, what } => {
                write!(f, "{partition} cannot be read from offset {} on: {what}", offsets.start)
            }
            Finding::EntriesLost { partition, offsets, what } => {
                write!(
                    f,
                    "offsets {} to {} of {partition} are lost: {what}",
                    offsets.start,
                    offsets.end.0 - 1
                )
            }
            Finding::IndexDamaged { path, what } => write!(f, "index {path} is damaged: {what}"),
            Finding::Foreign { path } => write!(f, "{path} belongs to nothing"),
        }
    }
}
