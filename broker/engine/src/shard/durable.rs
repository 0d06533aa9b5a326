//! What happens when a commit is durable, and when one can never be.

use dure_proto::journal::Checkpoint;
use dure_proto::{CommitSeq, TopicId, TopicPartition};

use super::commit_path::{DurableCommit, Step};
use super::{Shard, ShardConfig};
use crate::backup::BackupContent;
use crate::checkpoint::CheckpointFile;
use crate::effect::Effect;
use crate::job::{DiskJob, Job};
use crate::log::{DirtyFile, EntryRun, LogWriter, Nameless, PlacedEntry, Removal, log_dir};
use crate::mutant::{self, Mutant};
use crate::request::RequestError;
use crate::time::Now;

/// A shard that decided nothing for so long makes a checkpoint,
const IDLE_AFTER_MS: u64 = 1_000;
/// if it has come this part of the way to the next one.
const IDLE_FRACTION: u64 = 64;

impl Shard {
    pub(super) fn handle_durable(&mut self, now: Now, seq: CommitSeq) {
        self.commit_path.handle_written(seq).into_iter().for_each(|commit| self.carry_out(commit));
        self.stamp_at_ms = self.commit_path.wants_stamp().then_some(now.mono_ms + super::STAMP_AFTER_MS);
        let worth_it =
            self.commit_path.bytes_since_checkpoint() >= self.config.checkpoint_bytes / IDLE_FRACTION;
        self.checkpoint.idle_at_ms = worth_it.then_some(now.mono_ms + IDLE_AFTER_MS);
    }

    /// Closes commits and sends them out while flights are free.
    pub(super) fn send_commits(&mut self, now: Now) {
        let stamp_due =
            self.stamp_at_ms.is_some_and(|at| at <= now.mono_ms) && self.commit_path.wants_stamp();
        self.checkpoint.handle_timeouts(now);
        let checkpoint_due = self.checkpoint_due();
        let stamp = stamp_due || (checkpoint_due && self.commit_path.is_quiet());
        while let Some(job) = self.commit_path.send(stamp && self.commit_path.is_quiet()) {
            (self.stamp_at_ms, self.checkpoint.idle_at_ms) = (None, None);
            self.effects.push(Effect::Job(job));
            if self.checkpoint_due() && self.commit_path.can_attach_checkpoint() {
                self.checkpoint.running = true;
                self.checkpoint.wanted = false;
                let retention_ms = Some(self.retention.at(now));
                let id_clock_ms = self.id_clock.at(now);
                let checkpoint = Checkpoint { retention_ms, id_clock_ms, ..self.state.snapshot(now) };
                self.commit_path.attach_checkpoint(checkpoint);
                self.backup_taken();
            }
        }
        let steps = self.commit_path.take_idle_steps();
        if !steps.is_empty() {
            self.carry_out_now(steps);
        }
    }

    /// Steps that no entry of a commit goes with.
    pub(super) fn carry_out_now(&mut self, steps: Vec<Step>) {
        let nothing_to_write = DurableCommit { steps, bytes: Default::default(), checkpoint: None };
        self.carry_out(nothing_to_write);
    }

    /// The last checkpoint of all comes behind whatever is still to be done.
    fn more_to_come(&self) -> bool {
        self.shutting_down && !self.requests.is_empty()
    }

    fn checkpoint_due(&self) -> bool {
        let ShardConfig { checkpoint_bytes, journal_piece_bytes, .. } = self.config;
        let apart = match self.is_short_of_room() {
            true => checkpoint_bytes.min(journal_piece_bytes),
            false => checkpoint_bytes,
        };
        let grown = self.commit_path.bytes_since_checkpoint() >= apart;
        let possible = !self.checkpoint.running && !self.is_late() && !self.more_to_come();
        possible && (grown || self.checkpoint.wanted)
    }

    fn carry_out(&mut self, commit: DurableCommit) {
        let mut touched: Vec<TopicPartition> = Vec::new();
        let mut answers: Vec<Effect> = Vec::new();
        let mut run: Option<EntryRun<'_>> = None;
        for step in commit.steps {
            // Whatever else concerns a log finds its entries written. Effects come behind all of them anyway.
            if !matches!(step, Step::Append { .. } | Step::Effect(_)) {
                touched.extend(self.write_entries(run.take()));
            }
            match step {
                Step::Append { partition, placement, header, range } => {
                    let entry = PlacedEntry { placement, header, bytes: &commit.bytes[range] };
                    let alone = run.as_mut().map_or(Err(entry), |run| run.push(partition, entry));
                    if let Err(entry) = alone {
                        let before = run.replace(EntryRun::of(partition, entry));
                        touched.extend(self.write_entries(before));
                    }
                }
                Step::OpenLog(partition) => {
                    let layout = crate::log::LogLayout::new();
                    let writer = LogWriter::restore(self.disk.clone(), &self.dir, partition, &layout);
                    self.writers.insert(partition, writer);
                    touched.push(partition);
                }
                Step::MoveStart { partition, log_start, dropped } => {
                    if let Some(writer) = self.writers.get_mut(&partition) {
                        let removal = writer.move_start(log_start, &dropped);
                        self.remove_of_log(removal);
                        touched.push(partition);
                    }
                }
                Step::Replace { partition, by } => {
                    if let Some(writer) = self.writers.get_mut(&partition) {
                        let paths = writer.replace(&by);
                        self.compaction.retire(self.commit_path.durable_upto(), paths);
                        touched.push(partition);
                    }
                }
                Step::DropTopic { topic, partitions } => self.drop_topic(topic, partitions),
                Step::TopicsChanged(table) => {
                    self.effects.push(Effect::TopicsChanged(table));
                    self.topics_to_tell = true;
                }
                Step::ReleaseHeld { group, partition, upto } => {
                    if let Some(table) = self.state.table(group, partition) {
                        table.release_held(upto);
                        self.queues.touch([(group, partition.topic)]);
                    }
                }
                Step::Effect(effect) => answers.push(effect),
            }
        }
        touched.extend(self.write_entries(run));
        // Whoever is told that something is done finds it when they look.
        self.publish(touched);
        self.effects.extend(answers);
        self.commit_path.recycle(commit.bytes);
        if let Some(checkpoint) = commit.checkpoint {
            self.write_checkpoint(*checkpoint);
        }
    }

    /// Returns the log that they were written to, unless its topic was deleted in the same commit.
    fn write_entries(&mut self, run: Option<EntryRun<'_>>) -> Option<TopicPartition> {
        let run = run?;
        self.writers.get_mut(&run.partition)?.write(&run);
        self.space.wrote(run.len());
        self.note_late(run.partition);
        Some(run.partition)
    }

    fn publish(&mut self, mut touched: Vec<TopicPartition>) {
        touched.sort_unstable();
        touched.dedup();
        for partition in touched {
            let Some(writer) = self.writers.get(&partition) else { continue };
            self.effects.push(Effect::Publish(writer.view()));
            let high_watermark = writer.high_watermark();
            self.touch_copies_of(partition);
            for group in self.state.queue_groups_of(partition.topic) {
                if let Some(table) = self.state.table(group, partition) {
                    table.handle_high_watermark(high_watermark);
                    self.queues.touch([(group, partition.topic)]);
                }
            }
        }
    }

    fn drop_topic(&mut self, topic: TopicId, partitions: u32) {
        let mut segments = Vec::new();
        for partition in
            (0..partitions).map(|p| TopicPartition { topic, partition: dure_proto::PartitionId(p) })
        {
            segments.extend(self.writers.remove(&partition).into_iter().flat_map(LogWriter::into_segments));
            self.effects.push(Effect::Unpublish(partition));
        }
        let dir = log_dir(&self.dir, TopicPartition { topic, partition: dure_proto::PartitionId(0) });
        let topic_dir = dir.rsplit_once('/').expect("a log lies in its topic's directory").0.to_owned();
        self.remove_of_log(Removal { segments, paths: Vec::new(), dirs: vec![topic_dir] });
    }

    pub(super) fn remove(&mut self, removal: Removal) {
        if !removal.is_empty() {
            self.effects.push(Effect::Job(DiskJob(Job::Remove(removal))));
        }
    }

    /// The names are gone; what stood behind them is given back once readers have their new views.
    pub(super) fn handle_removed(&mut self, nameless: Vec<Nameless>) {
        if nameless.is_empty() {
            return self.look_at_space();
        }
        let gently = self.freeing.begin(nameless.len(), self.is_short_of_room());
        self.effects.push(Effect::Job(DiskJob(Job::Free { nameless, gently })));
    }

    pub(super) fn handle_freed(&mut self, segments: usize) {
        self.freeing.end(segments);
        self.look_at_space();
    }

    fn write_checkpoint(&mut self, mut checkpoint: Checkpoint) {
        if self.is_late() {
            // It would let go of a journal that holds what is nowhere else.
            (self.checkpoint.running, self.checkpoint.wanted) = (false, !self.shutting_down);
            return;
        }
        self.add_what_is_unwritten(&mut checkpoint);
        let (mut files, mut written) = (Vec::new(), Vec::new());
        let mut dirs = std::collections::BTreeSet::new();
        for writer in self.writers.values_mut() {
            let (dirty, dir) = writer.take_dirty();
            written.extend(dirty.iter().map(DirtyFile::part));
            files.extend(dirty.into_iter().map(|dirty| dirty.file));
            if let Some(dir) = dir {
                // A new log's directory is itself a new name in the one above, up to the shard's own.
                let above = dir
                    .match_indices('/')
                    .map(|(at, _)| dir[..at].to_owned())
                    .filter(|d| d.len() >= self.dir.len());
                dirs.extend(above);
                dirs.insert(dir);
            }
        }
        let checkpoints = format!("{}/checkpoint", self.dir);
        let dirs = dirs.into_iter().rev().collect();
        let uncached = self.cached.advance(written);
        let (for_backup, failed) = (self.backup_wants_content(), self.checkpoint.dir_sync_failed.clone());
        let file = CheckpointFile::new(checkpoints, checkpoint, files, dirs, for_backup, failed, uncached);
        self.effects.push(Effect::Job(DiskJob(Job::WriteCheckpoint(Box::new(file)))));
    }

    /// Journal pieces are kept back to the checkpoint before the last, so that a damaged one can be replayed around.
    pub(super) fn handle_checkpoint(&mut self, seq: CommitSeq, backup: Option<BackupContent>) {
        self.checkpoint.running = false;
        self.writers.values_mut().for_each(LogWriter::handle_checkpoint);
        self.checkpoint.before = self.checkpoint.last.replace(seq);
        let retired = self.compaction.take_retired(seq);
        self.remove_of_log(Removal::of_paths(retired));
        if let Some(before) = self.checkpoint.before {
            let upto = if mutant::is(Mutant::PieceReleasedTooEarly) { seq } else { before };
            let paths = self.commit_path.release_pieces(upto);
            self.remove(Removal::of_paths(paths));
        }
        if let Some(content) = backup {
            self.backup_written(seq, content);
        }
    }

    /// Ends everything: what waited for a commit is told that its outcome is unknown.
    pub(super) fn stop(&mut self, why: String) {
        if self.stopped.is_some() {
            return;
        }
        let error = RequestError::ShardStopped(why.clone());
        for step in self.commit_path.abandon() {
            if let Step::Effect(Effect::Reply { to, .. }) = step {
                self.reply(to, Err(error.clone()));
            }
        }
        for (reply_to, _) in std::mem::take(&mut self.requests) {
            self.reply(reply_to, Err(error.clone()));
        }
        self.queue_stopped(&error);
        self.end_backup(Some(error));
        self.stopped = Some(why.clone());
        self.effects.push(Effect::Stopped(why));
    }
}
