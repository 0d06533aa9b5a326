//! Delayed messages: they are taken into a delay log, and enter the log that they were sent to when they are due.
//!
//! Entering is an append to the one log and an event that settles the batch in the other, in one commit. Due batches are
//! read by a job, one at a time and so many of them at most: a clock that jumps over a million due times fills commits
//! no faster than producers could.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use dure_proto::journal::{DelaySettled, event};
use dure_proto::{BatchHeader, Offset, TopicPartition};

use super::Shard;
use super::delay_reader::{DelayRead, DelayScan, DueBatch, Found};
use super::ids::{ProducedAt, known_response};
use super::produce::parse;
use crate::delay::{DelayIndex, Due, Horizon, Waiting};
use crate::effect::{Effect, Scrubbed};
use crate::job::{DiskJob, Job};
use crate::log::Cursor;
use crate::mutant::{self, Mutant};
use crate::request::{Produce, ReplyTo, RequestError, Response};
use crate::time::Now;

/// Batches that one job reads at most.
const READ_BATCHES_MAX: usize = 512;
/// And bytes, but for one batch more.
const READ_BYTES_MAX: usize = 256 << 10;
/// What one step of the search after a restart reads.
const SCAN_BYTES: usize = 512 << 10;
/// After the disk refused a read.
const RETRY_MS: u64 = 1_000;

/// What the shard keeps of delayed messages beside what is durable: of this run of the broker only.
#[derive(Debug, Default)]
pub(super) struct Delays {
    index: DelayIndex,
    /// Messages that wait, in all topics.
    messages: u64,
    /// A job reads what is due.
    is_reading: bool,
    /// Delay logs that were there at the start and may hold something that is not in the index, the nearest first.
    scans: VecDeque<Scan>,
    is_scanning: bool,
    scan_at_ms: u64,
    wake_at_ms: Option<u64>,
}

/// How far the search through a delay log is.
#[derive(Clone, Debug)]
struct Scan {
    log: TopicPartition,
    /// Where its messages were sent to.
    partition: TopicPartition,
    horizon: Horizon,
    cursor: Cursor,
    /// What was appended since is in the index.
    upto: Offset,
}

impl Delays {
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.wake_at_ms
    }

    /// Nothing of a partition waits any more.
    pub(super) fn forget(&mut self, partition: TopicPartition) {
        self.index.forget(partition);
    }

    pub(super) fn forget_topic(&mut self, topic: dure_proto::TopicId) {
        self.index.forget_topic(topic);
    }
}

impl Shard {
    /// A batch that waits until it is due. One that is due goes the way of any other.
    pub(super) fn produce_later(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        produce: &Produce,
        due: Due,
    ) -> Result<(), RequestError> {
        self.check_produce(produce)?;
        let partition = produce.partition;
        let topic = self.state.catalogue.table().by_id(partition.topic).expect("just checked").clone();
        let too_long = || RequestError::DelayTooLong { topic: topic.name.clone() };
        let due_ms = due.at(now.wall_ms).ok_or_else(too_long)?;
        if due_ms <= now.wall_ms {
            return self.produce(now, reply_to, produce);
        }
        let sent = parse(&produce.batch)?;
        if let Some(known) = self.admit(partition, &sent)? {
            let append_time_ms = self.retention.append_ms(now);
            self.reply_durably(reply_to, known_response(known, append_time_ms, due_ms));
            return Ok(());
        }
        let sifted = self.sift(now, produce, None)?;
        let offset = match &sifted.batch {
            Some(bytes) => self.append_delayed(now, produce, bytes, due_ms)?,
            // Of a batch of duplicates only.
            None => Offset::ZERO,
        };
        let at = ProducedAt::DelayLog(offset);
        if sifted.duplicates.is_empty() {
            self.note_session(now, partition, &sent, at, Vec::new());
        }
        self.note_sifted(now, produce, &sent, &sifted, at);
        self.reply_durably(reply_to, Response::Scheduled { due_ms, duplicates: sifted.duplicates });
        Ok(())
    }

    /// Puts a batch into the delay log of its topic that reaches as far.
    fn append_delayed(
        &mut self,
        now: Now,
        produce: &Produce,
        bytes: &[u8],
        due_ms: u64,
    ) -> Result<Offset, RequestError> {
        let partition = produce.partition;
        let topic = self.state.catalogue.table().by_id(partition.topic).expect("it was checked").clone();
        let batch = parse(bytes)?;
        self.check_room(bytes.len())?;
        let messages = u64::from(batch.offset_count);
        if self.delays.messages + messages > self.config.scheduled_max {
            let waiting = self.delays.messages;
            return Err(RequestError::Busy(format!(
                "{waiting} messages wait for their time, which is the most"
            )));
        }
        let horizon = Horizon::of(due_ms - now.wall_ms);
        let log = match self.state.catalogue.delay_log(topic.id, horizon) {
            Some(log) => log,
            None => {
                let created = self.state.catalogue.decide_delay_log(now, &topic, horizon)?;
                let log = dure_proto::TopicId(created.topic);
                self.commit_event(now, event::Event::TopicCreated(created));
                log
            }
        };
        let log = TopicPartition { topic: log, ..partition };
        self.check_writable(log)?;
        self.note_content(now, produce);
        let offset = self.append_at(log, &batch, bytes, due_ms);
        self.delays.index.note(partition, Waiting::new(due_ms, horizon, offset));
        self.delays.messages += messages;
        Ok(offset)
    }

    /// After a start: what waits is looked for in the background, and enters as it is found.
    pub(super) fn begin_delays(&mut self, now: Now) {
        let delay_logs = self.state.logs.keys().filter_map(|log| {
            let (topic, horizon) = self.state.catalogue.delayed_of(log.topic)?;
            let lost = self.state.logs[log].layout.lost().to_vec();
            Some((*log, TopicPartition { topic, ..*log }, horizon, lost))
        });
        let mut scans = Vec::new();
        for (log, partition, horizon, lost) in delay_logs.collect::<Vec<_>>() {
            lost.into_iter().for_each(|lost| self.settle_delayed(now, log, lost));
            if let Some(first) = self.state.next_waiting(log, Offset::ZERO) {
                let upto = self.state.logs[&log].layout.log_end();
                scans.push(Scan { log, partition, horizon, cursor: Cursor::at(first), upto });
            }
        }
        scans.sort_by_key(|scan| scan.horizon);
        self.delays.scans = scans.into();
        self.count_delayed();
    }

    /// After more than single batches came or went.
    pub(super) fn count_delayed(&mut self) {
        self.delays.messages = self.state.scheduled_total();
    }

    /// Sends for what is due, if it is time.
    pub(super) fn serve_delays(&mut self, now: Now) {
        self.delays.wake_at_ms = None;
        if self.shutting_down || self.stopped.is_some() {
            return;
        }
        self.scan_delay_logs(now);
        if self.delays.is_reading {
            return;
        }
        let wall_ms = now.wall_ms + u64::from(mutant::is(Mutant::DueTooEarly));
        match self.delays.index.next_due() {
            Some(due_ms) if due_ms > wall_ms => {
                let wake_at_ms = now.mono_ms.saturating_add(due_ms - wall_ms);
                self.delays.wake_at_ms =
                    Some(self.delays.wake_at_ms.map_or(wake_at_ms, |at| at.min(wake_at_ms)));
            }
            // What has to wait for commits is woken by their end, what waits for room by the next look at it. A commit
            // that producers have filled is no reason to wait: it always is, under load.
            Some(_) if !self.commit_path.is_crowded() && self.has_room_to_enter() => {
                let (due, views) = self.take_due(wall_ms);
                if !due.is_empty() {
                    self.delays.is_reading = true;
                    let read = DelayRead::new(due, views, READ_BYTES_MAX);
                    self.effects.push(Effect::Job(DiskJob(Job::ReadDelayed(read))));
                }
            }
            _ => {}
        }
    }

    fn has_room_to_enter(&self) -> bool {
        !self.is_short_of_room() && self.has_room_for(self.config.reserve_bytes + READ_BYTES_MAX as u64)
    }

    /// What is due, durable and there, with the views to read it from.
    fn take_due(&mut self, wall_ms: u64) -> (Vec<DueBatch>, BTreeMap<TopicPartition, crate::log::LogView>) {
        let (mut due, mut not_durable, mut views) = (Vec::new(), Vec::new(), BTreeMap::new());
        while due.len() + not_durable.len() < READ_BATCHES_MAX
            && let Some((partition, waiting)) = self.delays.index.take_due(wall_ms)
        {
            let log = self.state.catalogue.delay_log(partition.topic, waiting.horizon());
            let Some(topic) = log else { continue };
            let log = TopicPartition { topic, ..partition };
            let is_durable = |writer: &crate::log::LogWriter| waiting.offset() < writer.high_watermark();
            if !self.writers.get(&log).is_some_and(is_durable) {
                not_durable.push((partition, waiting));
                continue;
            }
            views.entry(log).or_insert_with(|| self.writers[&log].view());
            due.push(DueBatch { partition, log, waiting });
        }
        not_durable.into_iter().for_each(|(partition, waiting)| self.delays.index.note(partition, waiting));
        (due, views)
    }

    /// What is due was read, and enters.
    pub(super) fn enter_due(&mut self, now: Now, read: DelayRead) {
        self.delays.is_reading = false;
        if self.shutting_down {
            return;
        }
        for (DueBatch { partition, log, waiting }, found) in read.batches {
            // Purged or deleted while it was read; or damage took the log that it was sent to.
            let is_wanted = self.state.is_waiting(log, waiting.offset());
            if !is_wanted || !self.state.logs.contains_key(&partition) {
                continue;
            }
            // A log that the disk refuses to write takes nothing more for now.
            let found = match self.check_writable(partition) {
                Ok(()) => found,
                Err(_) => Found::Failed,
            };
            match found {
                Found::Batch(bytes) => self.enter(now, partition, log, waiting.offset(), &bytes),
                Found::Lost(lost) => self.lose_delayed(now, log, lost),
                Found::Unread => self.delays.index.note(partition, waiting),
                Found::Failed => self.delays.index.note(partition, waiting.again_at(now.wall_ms + RETRY_MS)),
            }
        }
    }

    fn enter(
        &mut self,
        now: Now,
        partition: TopicPartition,
        log: TopicPartition,
        offset: Offset,
        bytes: &[u8],
    ) {
        self.commit_path.make_room();
        let batch = BatchHeader::parse(bytes).expect("it was checked when it was read");
        self.append(now, partition, &batch, bytes);
        if mutant::is(Mutant::EntersInTwoCommits) {
            self.commit_path.make_room();
        }
        self.settle_delayed(now, log, offset..offset.plus(u64::from(batch.offset_count)));
    }

    /// These offsets are damaged, and are nobody's any more.
    fn lose_delayed(&mut self, now: Now, log: TopicPartition, lost: Range<Offset>) {
        self.commit_path.make_room();
        self.report_damage(log, Some((lost.clone(), None)), Scrubbed::default());
        self.settle_delayed(now, log, lost);
        self.count_delayed();
    }

    fn settle_delayed(&mut self, now: Now, log: TopicPartition, offsets: Range<Offset>) {
        let Some(first) = self.state.next_waiting(log, offsets.start) else { return };
        let end = offsets.end.min(self.state.logs[&log].layout.log_end());
        if first >= end {
            return;
        }
        let count = end.since(offsets.start);
        self.delays.messages = self.delays.messages.saturating_sub(count);
        let settled =
            DelaySettled { topic: log.topic.0, partition: log.partition.0, offset: offsets.start.0, count };
        self.commit_event(now, event::Event::DelaySettled(settled));
    }

    /// One step at a time through what was there at the start.
    fn scan_delay_logs(&mut self, now: Now) {
        if self.delays.is_scanning || self.delays.scans.is_empty() {
            return;
        }
        if now.mono_ms < self.delays.scan_at_ms {
            self.delays.wake_at_ms = Some(self.delays.scan_at_ms);
            return;
        }
        while let Some(scan) = self.delays.scans.front_mut() {
            let next =
                self.state.next_waiting(scan.log, scan.cursor.offset()).filter(|next| *next < scan.upto);
            let (Some(next), Some(writer)) = (next, self.writers.get(&scan.log)) else {
                self.delays.scans.pop_front();
                continue;
            };
            if next > scan.cursor.offset() {
                scan.cursor = Cursor::at(next);
            }
            let step = DelayScan::new(writer.view(), scan.cursor.clone(), SCAN_BYTES);
            self.delays.is_scanning = true;
            return self.effects.push(Effect::Job(DiskJob(Job::FindDelayed(step))));
        }
    }

    /// A step of the search is done.
    pub(super) fn note_found(&mut self, now: Now, step: DelayScan) {
        self.delays.is_scanning = false;
        let Some(scan) = self.delays.scans.front_mut() else { return };
        if step.failed {
            self.delays.scan_at_ms = now.mono_ms + RETRY_MS;
            return;
        }
        scan.cursor = step.cursor;
        let Scan { log, partition, horizon, upto, .. } = *scan;
        for (offset, due_ms) in step.found {
            if offset < upto && self.state.is_waiting(log, offset) {
                self.delays.index.note(partition, Waiting::new(due_ms, horizon, offset));
            }
        }
        if let Some(lost) = step.lost {
            self.lose_delayed(now, log, lost);
        }
    }
}
