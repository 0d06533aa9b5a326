//! A backup as the shard sees it: a checkpoint on request, and after it no segment is removed until whoever reads them
//! is done, gone, too slow, or in the way of a disk that fills up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dure_proto::{CommitSeq, ShardId};

use super::Shard;
use crate::backup::{BackupContent, BackupPlan};
use crate::log::Removal;
use crate::request::{ConnectionId, ReplyTo, RequestError, Response};
use crate::time::Now;

/// The one backup that may be under way.
#[derive(Debug)]
pub(super) struct Backup {
    owner: ReplyTo,
    phase: Phase,
    /// On the monotonic clock: it is given up then.
    until_ms: u64,
    /// Shared with the plan.
    given_up: Arc<AtomicBool>,
    /// Waits until then.
    removal: Removal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No checkpoint was taken for it yet.
    Wanted,
    /// One was: from here on its segments stay.
    Taken,
    /// It is written and the plan handed out.
    Read,
}

impl Shard {
    /// Answered with [`Response::Backup`] once a checkpoint is written that holds everything decided up to now.
    pub(super) fn begin_backup(&mut self, now: Now, reply_to: ReplyTo) -> Result<(), RequestError> {
        if self.backup.is_some() {
            return Err(RequestError::Busy("another backup is being made".to_owned()));
        }
        self.backup = Some(Backup {
            owner: reply_to,
            phase: Phase::Wanted,
            until_ms: now.mono_ms.saturating_add(self.config.backup_ms_max),
            given_up: Arc::default(),
            removal: Removal::default(),
        });
        self.checkpoint.wanted = true;
        Ok(())
    }

    /// A checkpoint is taken of the state as it is now.
    pub(super) fn backup_taken(&mut self) {
        if let Some(backup) = self.backup.as_mut().filter(|backup| backup.phase == Phase::Wanted) {
            backup.phase = Phase::Taken;
        }
    }

    /// Whether the checkpoint that is about to be written is one for a backup.
    pub(super) fn backup_wants_content(&self) -> bool {
        self.backup.as_ref().is_some_and(|backup| backup.phase == Phase::Taken)
    }

    /// The checkpoint is written, with what a backup needs to know of it.
    pub(super) fn backup_written(&mut self, seq: CommitSeq, content: BackupContent) {
        let Some(backup) = self.backup.as_mut().filter(|backup| backup.phase == Phase::Taken) else { return };
        backup.phase = Phase::Read;
        let BackupContent { epoch, checkpoint, segments } = content;
        let given_up = backup.given_up.clone();
        let shard = ShardId(self.dir.trim_start_matches("shard-").parse().expect("a shard's directory"));
        let plan = BackupPlan { shard, seq, epoch, checkpoint, segments, given_up };
        let owner = backup.owner;
        self.reply(owner, Ok(Response::Backup(plan)));
    }

    /// Its owner is done, or gone.
    pub(super) fn end_backup_of(&mut self, connection: ConnectionId) {
        if self.backup.as_ref().is_some_and(|backup| backup.owner.connection == connection) {
            self.end_backup(None);
        }
    }

    /// What waited is removed now. Whoever still waits for the plan is told `error`.
    pub(super) fn end_backup(&mut self, error: Option<RequestError>) {
        let Some(backup) = self.backup.take() else { return };
        // Before the first file goes: a reader that does not see it has read what was there.
        backup.given_up.store(true, Ordering::Release);
        if let (Some(error), Phase::Wanted | Phase::Taken) = (error, backup.phase) {
            self.reply(backup.owner, Err(error));
        }
        self.remove(backup.removal);
    }

    /// Nobody may keep a disk full: neither by being slow for ever, nor while there is no room left.
    pub(super) fn look_after_backup(&mut self, now: Now) {
        let Some(backup) = &self.backup else { return };
        let waiting = !backup.removal.is_empty();
        let full = self.is_short_of_room();
        if now.mono_ms >= backup.until_ms {
            let limit_s = self.config.backup_ms_max / 1000;
            self.end_backup(Some(RequestError::Busy(format!("no checkpoint within {limit_s} s"))));
        } else if full && waiting {
            self.end_backup(Some(RequestError::Busy("the disk is full".to_owned())));
        }
    }

    /// Removes files of logs, or has them wait for a backup that may read them.
    pub(super) fn remove_of_log(&mut self, removal: Removal) {
        match self.backup.as_mut().filter(|backup| backup.phase != Phase::Wanted) {
            Some(backup) => backup.removal.append(removal),
            None => self.remove(removal),
        }
    }
}
