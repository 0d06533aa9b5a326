//! Compaction of the shard's logs: one pass at a time, a step of it at a time, no faster than the configured rate.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::journal::{LogCompacted, SegmentSealed, SegmentsCompacted, event};
use dure_proto::{CommitSeq, Epoch, TopicPartition, wire};

use super::Shard;
use crate::compaction::{KeyMap, Pass, PassEnd, PassError, Stepped, Task};
use crate::effect::{CompactionFailed, Effect};
use crate::job::{DiskJob, Job};
use crate::log::{Removal, SegmentId, SegmentMeta, index_path, log_dir, segment_of, segment_path};
use crate::time::Now;

/// A log whose pass failed is left alone for this long.
const RETRY_MS: u64 = 60_000;
/// A checkpoint is made when so much was replaced and may go with it.
const RETIRED_BYTES_MAX: u64 = 256 << 20;

/// Where compaction is.
pub(super) struct Compaction {
    running: Running,
    /// Above that of every file there is, and of every one that there was.
    generation_next: u64,
    /// No pass begins before.
    begin_at_ms: u64,
    /// The log of the last pass; those behind it are looked at first.
    last: Option<TopicPartition>,
    /// Logs whose last pass failed.
    failed: BTreeMap<TopicPartition, FailedPass>,
    /// Files that were replaced, until a checkpoint covers the commit that did it: should that commit be damaged, they
    /// are what there is.
    retired: Vec<(CommitSeq, Vec<String>)>,
    retired_bytes: u64,
}

/// Why a pass failed, and when the next one may begin.
struct FailedPass {
    what: String,
    until_ms: u64,
}

enum Running {
    No,
    /// Its next step may be taken from then on.
    Paused {
        pass: Box<Pass>,
        until_ms: u64,
    },
    /// A step is on its way.
    Out,
}

impl Compaction {
    pub(super) fn new(now: Now, epoch: Epoch, housekeeping_ms: u64) -> Compaction {
        Compaction {
            running: Running::No,
            // The epoch is durable and never repeated.
            generation_next: (epoch.0 << 32) + 1,
            begin_at_ms: now.mono_ms.saturating_add(housekeeping_ms),
            last: None,
            failed: BTreeMap::new(),
            retired: Vec::new(),
            retired_bytes: 0,
        }
    }

    pub(super) fn retire(&mut self, seq: CommitSeq, paths: Vec<String>) {
        self.retired.push((seq, paths));
    }

    /// What a checkpoint of the state after `seq` makes superfluous.
    pub(super) fn take_retired(&mut self, seq: CommitSeq) -> Vec<String> {
        let (gone, kept) = std::mem::take(&mut self.retired).into_iter().partition(|(at, _)| *at <= seq);
        self.retired = kept;
        let gone: Vec<(CommitSeq, Vec<String>)> = gone;
        gone.into_iter().flat_map(|(_, paths)| paths).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        match &self.running {
            Running::Paused { until_ms, .. } => Some(*until_ms),
            Running::No | Running::Out => None,
        }
    }
}

impl Shard {
    /// Starts a pass through the next log that needs one, and seals segments that have been active for too long.
    pub(super) fn begin_compaction(&mut self, now: Now) {
        if self.shutting_down || now.mono_ms < self.compaction.begin_at_ms {
            return;
        }
        self.seal_old_segments(now);
        if !matches!(self.compaction.running, Running::No) {
            return;
        }
        self.compaction.failed.retain(|partition, _| self.state.logs.contains_key(partition));
        let begin =
            |last: Option<TopicPartition>| self.state.logs.keys().copied().filter(move |p| Some(*p) > last);
        let last = self.compaction.last;
        let next = begin(last).chain(begin(None)).find_map(|partition| self.task(now, partition));
        let Some(task) = next else { return };
        self.compaction.last = Some(task.partition);
        let keys = KeyMap::new(self.config.salt, self.config.compaction_keys_max);
        self.compaction.running =
            Running::Paused { pass: Box::new(Pass::new(task, keys)), until_ms: now.mono_ms };
    }

    /// What is appended to a log that is compacted would otherwise be looked at only when more follows.
    fn seal_old_segments(&mut self, now: Now) {
        let at_ms = self.retention.at(now);
        let old = |partition: &&TopicPartition| {
            let topic = self.state.catalogue.table().by_id(partition.topic);
            let config = topic.map(|topic| topic.config).filter(|c| c.cleanup() == wire::Cleanup::Compact);
            let active = self.state.logs[*partition].layout.active();
            config.zip(active).is_some_and(|(config, active)| {
                at_ms.saturating_sub(active.first_ms) >= config.compact_after_ms
            })
        };
        let old: Vec<TopicPartition> = self.state.logs.keys().filter(old).copied().collect();
        for partition in old {
            let sealed = SegmentSealed { topic: partition.topic.0, partition: partition.partition.0 };
            self.commit_event(now, event::Event::SegmentSealed(sealed));
        }
    }

    /// A pass through a log, if it is due, its view shows all of the sealed segments, and there is room for one more.
    /// A view that does not show yet what the last pass put in place would bring back what that one took.
    fn task(&self, now: Now, partition: TopicPartition) -> Option<Task> {
        let topic = self.state.catalogue.table().by_id(partition.topic)?;
        let failed = self.compaction.failed.get(&partition);
        let waits = failed.is_some_and(|failed| failed.until_ms > now.mono_ms);
        if topic.config.cleanup() != wire::Cleanup::Compact || waits {
            return None;
        }
        let log = self.state.logs.get(&partition)?;
        let due = log.compaction.due(&log.layout, self.retention.at(now), &topic.config)?;
        let writer = self.writers.get(&partition).filter(|writer| !writer.is_late())?;
        let view = writer.view();
        let room_bytes = topic.config.segment_bytes.saturating_add(self.config.reserve_bytes / 2);
        let has_room = self.has_room_for(room_bytes);
        let is_shown = view.high_watermark >= due.sealed_end
            && log.layout.sealed().all(|segment| view.has_segment(segment.id()));
        (is_shown && has_room).then(|| Task {
            partition,
            dir: log_dir(&self.dir, partition),
            view,
            segments: log.layout.sealed().cloned().collect(),
            due,
            segment_bytes: topic.config.segment_bytes,
            epoch: self.commit_path.epoch_low(),
            generation: self.compaction.generation_next,
        })
    }

    /// Sends the next step out if its time has come.
    pub(super) fn step_compaction(&mut self, now: Now) {
        match std::mem::replace(&mut self.compaction.running, Running::No) {
            Running::Paused { pass, .. } if self.shutting_down => self.give_up_pass(&pass),
            Running::Paused { pass, until_ms } if until_ms <= now.mono_ms => {
                self.compaction.running = Running::Out;
                let failed = self.checkpoint.dir_sync_failed.clone();
                self.effects.push(Effect::Job(DiskJob(Job::Compact(pass, failed))));
            }
            other => self.compaction.running = other,
        }
    }

    pub(super) fn handle_compacted(&mut self, now: Now, pass: Box<Pass>, result: Result<Stepped, PassError>) {
        self.compaction.running = Running::No;
        self.compaction.generation_next = pass.next_generation().max(self.compaction.generation_next);
        let partition = pass.partition();
        // Names of other files may have been lost with it, and another sync would not say so.
        if let Err(error) = &result
            && error.lost_names()
        {
            return self.stop(format!("a directory could not be synced: {error}"));
        }
        if self.stopped.is_some() || self.shutting_down {
            // The last checkpoint may be made already: nothing is decided any more.
            if let Ok(Stepped::Replace(by)) = &result {
                self.remove_segment(partition, by.id());
            }
            return self.give_up_pass(&pass);
        }
        let pause_ms = pass.bytes() * 1_000 / self.config.compaction_bytes_per_s.max(1);
        let goes_on = match result {
            Ok(Stepped::More) => true,
            Ok(Stepped::Replace(by)) => self.put_in_place(now, partition, by),
            Ok(Stepped::Done(end)) => return self.pass_is_done(now, partition, end),
            Err(error) => {
                // Not if the rest of what it went through was purged, or the topic deleted.
                if self.state.logs.get(&partition).is_some_and(|log| pass.goes_through(&log.layout)) {
                    self.pass_failed(now, partition, error.to_string());
                }
                false
            }
        };
        match goes_on {
            true => {
                self.compaction.running = Running::Paused { pass, until_ms: now.mono_ms + pause_ms };
            }
            false => self.give_up_pass(&pass),
        }
    }

    fn pass_failed(&mut self, now: Now, partition: TopicPartition, what: String) {
        let failed = FailedPass { what: what.clone(), until_ms: now.mono_ms + RETRY_MS };
        let again = self.compaction.failed.insert(partition, failed).is_some();
        if let Some(topic) = self.state.catalogue.table().by_id(partition.topic) {
            let topic = topic.name.clone();
            self.effects.push(Effect::CompactionFailed(CompactionFailed { partition, topic, what, again }));
        }
    }

    /// Why the last pass through a log failed, if it did.
    pub(super) fn compaction_failure(&self, partition: TopicPartition) -> Option<&str> {
        self.compaction.failed.get(&partition).map(|failed| &*failed.what)
    }

    /// Unless what it replaces is not all there any more.
    fn put_in_place(&mut self, now: Now, partition: TopicPartition, by: SegmentMeta) -> bool {
        let Some(log) = self.state.logs.get(&partition).filter(|log| log.layout.can_replace(&by)) else {
            self.remove_segment(partition, by.id());
            return false;
        };
        let inside = log.layout.segments().filter(|s| s.base >= by.base && s.end <= by.end);
        self.compaction.retired_bytes += inside.map(|segment| segment.bytes).sum::<u64>();
        if self.compaction.retired_bytes >= RETIRED_BYTES_MAX {
            self.want_checkpoint_for_retired();
        }
        let (topic, number) = (partition.topic.0, partition.partition.0);
        let compacted = SegmentsCompacted { topic, partition: number, by: Some(by.snapshot()) };
        self.commit_event(now, event::Event::SegmentsCompacted(compacted));
        true
    }

    fn pass_is_done(&mut self, now: Now, partition: TopicPartition, end: PassEnd) {
        self.compaction.failed.remove(&partition);
        let Some(log) = self.state.logs.get(&partition) else { return };
        let PassEnd { due, upto, tombstones } = end;
        let state = log.compaction.after(&due, upto, tombstones, self.retention.at(now)).snapshot();
        let (topic, number) = (partition.topic.0, partition.partition.0);
        let compacted = LogCompacted { topic, partition: number, state: Some(state) };
        self.commit_event(now, event::Event::LogCompacted(compacted));
        self.want_checkpoint_for_retired();
    }

    fn want_checkpoint_for_retired(&mut self) {
        if std::mem::take(&mut self.compaction.retired_bytes) > 0 {
            self.checkpoint.wanted = true;
        }
    }

    fn give_up_pass(&mut self, pass: &Pass) {
        if let Some(id) = pass.unfinished() {
            self.remove_segment(pass.partition(), id);
        }
    }

    fn remove_segment(&mut self, partition: TopicPartition, id: SegmentId) {
        let dir = log_dir(&self.dir, partition);
        self.remove(Removal::of_paths(vec![segment_path(&dir, id), index_path(&dir, id)]));
    }

    /// After a recovery without damage: files of compacted logs that belong to no segment, since a pass did not come to
    /// its end or its removals did not, go with the next checkpoint.
    pub(super) fn retire_what_was_replaced(&mut self) {
        let mut superfluous = Vec::new();
        for (partition, log) in &self.state.logs {
            let topic = self.state.catalogue.table().by_id(partition.topic);
            if topic.is_none_or(|topic| topic.config.cleanup() != wire::Cleanup::Compact) {
                continue;
            }
            let known: BTreeSet<SegmentId> = log.layout.segments().map(SegmentMeta::id).collect();
            let dir = log_dir(&self.dir, *partition);
            // Where it cannot be listed now, a later start finds them.
            let Ok(files) = self.disk.list(&dir) else { continue };
            for file in files {
                let belongs_to_nothing =
                    |id: SegmentId| id.base < log.layout.log_end() && !known.contains(&id);
                if segment_of(&file.name).is_some_and(belongs_to_nothing) {
                    superfluous.push(format!("{dir}/{}", file.name));
                }
            }
        }
        if !superfluous.is_empty() {
            self.compaction.retire(self.commit_path.durable_upto(), superfluous);
            self.checkpoint.wanted = true;
        }
    }
}
