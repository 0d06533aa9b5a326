//! Room on the disk: when producing is refused, and how what found no room goes on by itself.
//!
//! Between two looks at the disk the bytes that were admitted since are counted, so that a fast producer does not run
//! into the reserve. Producing is refused at its edge. What goes on lives on the reserve: journal pieces (checkpoints
//! are made a piece apart then, so that four of them are enough), checkpoints, and dead letters down to three quarters
//! of it. What finds no room all the same loses nothing: a job is run again, an entry that is durable in the journal
//! is late for its segment. One that is late because the disk refuses to write it is a case of its own: `unwritable`.

use std::collections::BTreeSet;

use dure_proto::TopicPartition;

use super::Shard;
use crate::disk::{DiskError, DiskResult};
use crate::effect::{Effect, Shortage};
use crate::job::{DiskJob, Job};
use crate::request::RequestError;

/// Producing resumes when this fraction of the reserve is free above it, so that it does not flutter at the edge.
const RESUME_FRACTION: u64 = 16;
/// So little is admitted without another look, however near the edge is.
const LOOK_BYTES_MIN: u64 = 1 << 20;

/// What is known of the room on the disk.
#[derive(Debug, Default)]
pub(super) struct Space {
    reserve_bytes: u64,
    /// What the last look found; before the first one there is room for everything.
    available_bytes: Option<u64>,
    /// Bytes of entries that were given a place in a segment.
    admitted: u64,
    /// Of them, those that the last look has certainly seen.
    seen: u64,
    /// Of them, those that lie in their segments. Not above `admitted`.
    written: u64,
    /// A look is under way, and `written` when it was asked for.
    looking: Option<u64>,
    /// Producing is refused until there is enough room again.
    full: bool,
    /// Nobody buried what died.
    letters_held: bool,
    /// Jobs that found no room.
    waiting: Vec<DiskJob>,
    /// Logs with entries that found none.
    pub(super) late: BTreeSet<TopicPartition>,
    /// What the outside was last told.
    told: Option<Vec<&'static str>>,
}

impl Space {
    pub(super) fn new(reserve_bytes: u64, available_bytes: Option<u64>) -> Space {
        Space { reserve_bytes, available_bytes, ..Space::default() }
    }

    /// What is left when everything admitted is written.
    fn left(&self) -> u64 {
        self.available_bytes.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.admitted - self.seen))
    }

    /// Whether `bytes` more of a producer's may come.
    fn admits(&mut self, bytes: u64) -> bool {
        self.full |= self.left() < self.reserve_bytes.saturating_add(bytes);
        !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.full || self.something_waits()
    }

    fn something_waits(&self) -> bool {
        !self.waiting.is_empty() || !self.late.is_empty()
    }

    /// Whether even dead letters have to wait.
    fn is_tight(&self) -> bool {
        self.something_waits() || self.left() < self.reserve_bytes / 4 * 3
    }

    pub(super) fn admit(&mut self, bytes: u64) {
        self.admitted += bytes;
    }

    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written = self.admitted.min(self.written + bytes);
    }

    /// Half of what was left above the reserve may be gone since the last look.
    fn wants_look(&self) -> bool {
        let Some(available_bytes) = self.available_bytes else { return false };
        let margin = available_bytes.saturating_sub(self.reserve_bytes);
        self.looking.is_none() && self.admitted - self.seen > (margin / 2).max(LOOK_BYTES_MIN)
    }

    fn handle_look(&mut self, available: DiskResult<u64>) {
        let written = self.looking.take().unwrap_or(self.seen);
        let Ok(available_bytes) = available else { return };
        (self.available_bytes, self.seen) = (Some(available_bytes), written);
        self.full |= self.left() < self.reserve_bytes;
        self.full &= self.left() < self.reserve_bytes.saturating_add(self.reserve_bytes / RESUME_FRACTION);
    }

    fn refusal(&self) -> RequestError {
        RequestError::DiskFull { available_bytes: self.left(), reserve_bytes: self.reserve_bytes }
    }

    /// What could not be done, in words.
    fn waits(&self) -> Vec<&'static str> {
        let name = |job: &DiskJob| match job.0 {
            Job::WriteCommit { .. } => "a commit",
            Job::PreparePiece { .. } => "a journal piece",
            _ => "a checkpoint",
        };
        let segment = (!self.late.is_empty()).then_some("a segment");
        self.waiting.iter().map(name).chain(segment).collect()
    }
}

impl Shard {
    /// Refuses a batch of this length if it would touch the reserve.
    pub(super) fn check_room(&mut self, bytes: usize) -> Result<(), RequestError> {
        if self.space.admits(bytes as u64) { Ok(()) } else { Err(self.space.refusal()) }
    }

    /// Whether so much is left, what producers sent counted off.
    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.space.left() >= bytes
    }

    /// Whether checkpoints have to release the journal early.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.space.is_full()
    }

    /// Whether a checkpoint would cover what is in no segment yet.
    pub(super) fn is_late(&self) -> bool {
        !self.space.late.is_empty() || !self.tails.is_empty()
    }

    /// A log has entries that found no room in their segments.
    pub(super) fn lacks_room(&mut self, partition: TopicPartition) {
        self.space.late.insert(partition);
    }

    pub(super) fn look_at_space(&mut self) {
        if self.space.looking.is_some() {
            return;
        }
        // What was dropped together with its topic is in no segment and takes no room.
        if self.commit_path.is_quiet() && !self.is_late() {
            self.space.written = self.space.admitted;
        }
        self.space.looking = Some(self.space.written);
        self.effects.push(Effect::Job(DiskJob(Job::CheckSpace)));
    }

    pub(super) fn handle_look(&mut self, available: DiskResult<u64>) {
        let before = self.space.available_bytes;
        self.space.handle_look(available);
        if self.space.something_waits() && self.space.available_bytes > before {
            self.retry_for_room();
        }
        if self.space.letters_held && !self.space.is_tight() {
            self.space.letters_held = false;
            let keys = self.state.queue_keys();
            self.queues.touch(keys);
        }
    }

    /// A job found no room. Its commit, checkpoint or piece is under way until it does.
    pub(super) fn handle_no_room(&mut self, job: Job, error: &DiskError) {
        match job {
            Job::WriteCommit { seq, .. } if self.shutting_down => {
                self.stop(format!("commit {seq} could not be written and synced: {error}"));
            }
            // The journal holds everything, and the next start makes one.
            Job::WriteCheckpoint(_) if self.shutting_down => self.checkpoint.running = false,
            job => self.space.waiting.push(DiskJob(job)),
        }
    }

    /// Tries again what found no room.
    pub(super) fn retry_for_room(&mut self) {
        for mut job in std::mem::take(&mut self.space.waiting) {
            if let Job::PreparePiece { recycle, .. } = &mut job.0 {
                match recycle.is_none().then(|| self.commit_path.free_piece()).flatten() {
                    Some(path) => *recycle = Some(path),
                    // Two checkpoints from now all but the piece in use is free.
                    None => self.checkpoint.wanted |= self.commit_path.pieces().holds_full(),
                }
            }
            self.effects.push(Effect::Job(job));
        }
        self.write_what_is_late();
    }

    /// At the end of a turn: looks again if much was admitted, and says what changed.
    pub(super) fn tend_space(&mut self) {
        if self.space.wants_look() {
            self.look_at_space();
        }
        if self.shutting_down && self.space.something_waits() {
            self.give_up_waiting();
        }
        let waits = self.space.is_full().then(|| self.space.waits());
        if waits != self.space.told {
            self.space.told.clone_from(&waits);
            let Space { reserve_bytes, .. } = self.space;
            let available_bytes = self.space.left();
            let shortage = waits.map(|waits| Shortage { available_bytes, reserve_bytes, waits });
            self.effects.push(Effect::Shortage(shortage));
        }
    }

    /// A shutdown does not wait for room: the journal holds what is decided, and what can be in no journal fails.
    fn give_up_waiting(&mut self) {
        let stuck = self.commit_path.lacks_piece();
        if self.is_late() || stuck {
            self.checkpoint.wanted = false;
        }
        if stuck && !self.commit_path.is_quiet() {
            self.stop("no room for the journal".to_owned());
        }
    }

    /// Dead letters take room as messages do, and what is left of the reserve is for the journal.
    pub(super) fn holds_letters(&mut self) -> bool {
        if !self.space.is_tight() {
            return false;
        }
        self.space.letters_held = true;
        for (reply_to, response) in self.queues.rejects.give_up(&self.space.refusal()) {
            self.reply_durably(reply_to, response);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_was_admitted_since_the_last_look_counts() {
        let mut space = Space::new(100 * MIB, Some(200 * MIB));
        assert!(space.admits(MIB) && !space.wants_look());
        space.admit(60 * MIB);
        assert!(space.wants_look() && space.admits(40 * MIB));
        space.admit(40 * MIB);
        assert!(!space.admits(1));
        // The look may have come before the last of them was written.
        space.wrote(70 * MIB);
        space.looking = Some(space.written);
        assert!(!space.wants_look(), "one at a time");
        space.wrote(30 * MIB);
        space.handle_look(Ok(130 * MIB));
        assert_eq!(space.left(), 100 * MIB);
        assert!(!space.admits(0), "it is full until there is a margin again");
        space.looking = Some(space.written);
        space.handle_look(Ok(120 * MIB));
        assert!(space.admits(20 * MIB));
    }

    #[test]
    fn a_look_that_fails_changes_nothing() {
        let mut space = Space::new(100 * MIB, Some(101 * MIB));
        assert!(!space.admits(2 * MIB));
        let error = DiskError::new(crate::DiskOp::AvailableBytes, "", std::io::ErrorKind::Other.into());
        space.handle_look(Err(error));
        assert!(!space.admits(1));
    }
}
