//! The end of a story in which a write went astray: it was reported done, and lies somewhere else in its file.
//!
//! No recovery can put that right. What holds all the same: nothing that was not produced is ever shown, nothing is
//! shown at two places, and whatever is missing is named, unless it was in the very last commits (which then look
//! torn).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dure_engine::{
    Cursor, FaultRule, Finding, Latency, LogView, PastCache, ReadOutcome, RecoveryReport, Shard, SimFaults,
    verify,
};
use dure_proto::{Offset, ShardId, TopicPartition, split_entries};

use super::model::{Fate, read_as_a_broker};
use super::world::World;
use super::{Checked, Violation, ensure};

/// Steps that are taken with the fault armed, at most.
const STEPS_MAX: u32 = 60;
/// The write that goes astray is one of so many.
const WRITES_MAX: u64 = 24;

/// What one log shows of itself.
#[derive(Default)]
struct Shown {
    /// Offsets that it names lost.
    lost: Vec<Range<Offset>>,
    /// Batches, by number.
    batches: Vec<u64>,
}

impl World {
    pub(crate) fn end_damaged(&mut self) -> Checked {
        if self.stopped || self.disk.is_off() || self.armed_crash.is_some() || self.fault_armed {
            self.crash_and_recover()?;
        }
        self.settle_down()?;
        self.disk.set_latency(Latency::default());
        let before = self.disk.injected();
        let misdirect_write = FaultRule::Nth(self.rng.u64(1..=WRITES_MAX));
        self.note(format_args!("a write goes astray: {misdirect_write:?}"));
        self.disk.set_faults(SimFaults { misdirect_write, ..SimFaults::default() });
        self.damaged = true;
        for _ in 0..STEPS_MAX {
            self.client_or_machine_step()?;
            if self.stopped {
                break;
            }
        }
        ensure!(!self.stopped, "the shard stopped, and no call to the disk failed");
        if self.rng.bool() {
            self.settle_down()?;
        }
        self.crash_damaged();
        let strayed = self.disk.injected().misdirected_writes - before.misdirected_writes;
        self.check_damaged(strayed)
    }

    fn crash_damaged(&mut self) {
        self.forget_life();
        self.disk.set_faults(SimFaults { past_cache: PastCache::AfterWriteBack, ..SimFaults::default() });
        if self.rng.bool() {
            self.disk.crash_process();
        } else {
            self.disk.crash(&mut self.rng);
        }
    }

    fn check_damaged(&mut self, strayed: u64) -> Checked {
        let verified = verify(&self.disk.fork(), ShardId(0), self.knobs.shard.salt);
        let verified = verified.map_err(|error| Violation(format!("verifying failed: {error}")))?;
        let config = self.knobs.shard.clone();
        let opened = Shard::open(Arc::new(self.disk.clone()), ShardId(0), config, self.now);
        let (shard, report) = opened.map_err(|error| Violation(format!("opening failed: {error}")))?;
        self.note(format_args!("opened damaged: {report:?}"));
        self.shard = Some(shard);
        self.settle_down()?;
        ensure!(!self.stopped, "the shard stopped, and the disk no longer fails");
        let mut shown = BTreeMap::new();
        for view in self.views.values().cloned().collect::<Vec<_>>() {
            shown.insert(view.partition, self.read_damaged(&view)?);
        }
        let missing = self.check_missing(&shown, &report)?;
        ensure!(
            missing == 0 || !verified.is_ok(),
            "{missing} batches are missing, and verifying finds nothing"
        );
        let kind = match missing {
            _ if strayed == 0 => "stories in which no write went astray after all",
            0 if verified.is_ok() => "misdirected writes that did no harm",
            0 => "misdirected writes found, with nothing lost",
            _ => "misdirected writes that took something, which is named",
        };
        *self.totals.checks.entry(kind).or_default() += 1;
        Ok(())
    }

    /// Everything that a reader gets is what was produced, at its one place.
    fn read_damaged(&mut self, view: &LogView) -> Result<Shown, Violation> {
        let partition = view.partition;
        let mut shown = Shown::default();
        let mut cursor = Cursor::at(view.log_start);
        loop {
            let before = cursor.offset();
            match read_as_a_broker(view, &mut cursor) {
                Ok(ReadOutcome::Entries(entries)) => {
                    for entry in split_entries(entries) {
                        let (header, batch) = entry.map_err(|error| Violation(error.to_string()))?;
                        if self.is_compacted(partition) {
                            self.check_compacted_entry(view, &header, &batch)?;
                        } else if let Some(topic) = self.delays_of.get(&partition.topic).copied() {
                            self.check_waiting(partition, topic, &header, &batch)?;
                        } else if !self.letters_of.contains_key(&partition.topic) {
                            self.check_batch(partition, &header, &batch)?;
                            let log = self.model.logs.get(&partition);
                            shown
                                .batches
                                .extend(log.and_then(|log| log.batch_at(header.base_offset)).map(|b| b.1));
                        }
                    }
                }
                Ok(ReadOutcome::Lost(range)) => shown.lost.push(range),
                Ok(ReadOutcome::AtEnd) => return Ok(shown),
                other => return Err(Violation(format!("{partition}: reading at {before}: {other:?}"))),
            }
            ensure!(cursor.offset() > before, "{partition}: reading stands still at {before}");
        }
    }

    /// Counts the acknowledged batches that are not shown. Each is in a range that is named lost, or a commit was
    /// lost and is named, or its commit may have been behind the last one found: then it looked torn.
    fn check_missing(
        &mut self,
        shown: &BTreeMap<TopicPartition, Shown>,
        report: &RecoveryReport,
    ) -> Result<u64, Violation> {
        let commits_lost = report.findings.iter().any(Finding::is_damage);
        let (mut missing, mut torn) = (0, 0);
        for (id, batch) in &self.model.batches {
            let Fate::Acked(base) = batch.fate else { continue };
            if batch.values.is_empty() {
                continue;
            }
            let partition = batch.partition;
            let is_there = |known: &super::model::TopicModel| known.id == Some(partition.topic);
            let Some(topic) = self.model.topics.values().find(|topic| is_there(topic)) else { continue };
            // What compaction took is gone by right.
            if topic.purging || topic.shape.pending.is_some() || self.is_compacted(partition) {
                continue;
            }
            let log_start = self.views.get(&partition).map(|view| view.log_start);
            let log = shown.get(&partition);
            let found = log.is_some_and(|log| log.batches.contains(id));
            if found || log_start.is_some_and(|start| base < start) {
                continue;
            }
            let named = log.is_some_and(|log| log.lost.iter().any(|range| range.contains(&base)));
            let looked_torn = batch.acked_with.is_some_and(|seq| seq > report.last_commit.0);
            ensure!(
                named || commits_lost || looked_torn,
                "batch {id} at {base} of {partition}, acknowledged with commit {:?}, is gone and nothing says so",
                batch.acked_with
            );
            missing += u64::from(named || commits_lost);
            torn += u64::from(!(named || commits_lost));
        }
        *self.totals.checks.entry("acked batches lost that looked torn (residual)").or_default() += torn;
        Ok(missing)
    }
}
