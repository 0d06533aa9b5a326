//! Messages that wait for their time: none is lost, none enters early, and none twice.

use std::collections::BTreeMap;

use dure_engine::{Due, LogView, Request, Response};
use dure_proto::{EntryHeader, Offset, TopicId, TopicPartition, wire};

use super::check::is_it;
use super::model::{Delay, Fate};
use super::world::World;
use super::{Checked, Violation, ensure};

/// Longest delays, of which each batch that waits gets one: within a few steps, within the story, beyond what waits in
/// the nearest delay log, and beyond the next.
const DELAYS_MS_MAX: [u64; 6] = [30, 30, 500, 5_000, 300_000, 8_000_000];
/// Rounds in which everything that waited has to be in its log.
const DRAIN_ROUNDS_MAX: u32 = 20;

impl World {
    /// Some batches are to wait.
    pub(crate) fn choose_delay(&mut self, batch: u64) {
        let percent = self.knobs.delay_percent;
        if percent == 0 || self.rng.u32(0..100) >= percent {
            return;
        }
        // What compaction leaves of a batch does not show that it was there once. Nor do messages with ids wait here.
        let identified = self.model.batches[&batch].ids.iter().any(Option::is_some);
        if identified || self.is_compacted(self.model.batches[&batch].partition) {
            return;
        }
        let delay_ms_max = DELAYS_MS_MAX[self.rng.usize(0..DELAYS_MS_MAX.len())];
        let delay_ms = self.rng.u64(0..=delay_ms_max);
        let due = if self.rng.bool() { Due::After(delay_ms) } else { Due::At(self.now.wall_ms + delay_ms) };
        self.delay(batch, due);
    }

    /// The batch, which is sent next, is to wait.
    pub(crate) fn delay(&mut self, batch: u64, due: Due) {
        let due_ms = match due {
            Due::After(delay_ms) => self.now.wall_ms + delay_ms,
            Due::At(due_ms) => due_ms,
        };
        let batch = self.model.batches.get_mut(&batch).expect("it was just made");
        let log_end = self.model.logs.get(&batch.partition).map(|log| log.end).unwrap_or_default();
        let of_it = |topic: &&super::model::TopicModel| topic.id == Some(batch.partition.topic);
        let purged = self.model.topics.values().find(of_it).is_some_and(|topic| topic.purging);
        batch.delay = Some(Delay { due, due_ms, log_end, purged });
    }

    /// What has entered since the log was read last, before retention can take it away.
    pub(crate) fn see_what_entered(&mut self, view: &LogView) -> Checked {
        let partition = view.partition;
        let hidden = [&self.delays_of, &self.letters_of].iter().any(|of| of.contains_key(&partition.topic));
        let nothing_enters = self.model.waiting(partition).next().is_none() && !self.takes_copies(partition);
        if hidden || nothing_enters {
            return Ok(());
        }
        let from = self.model.logs[&partition].read_upto.max(view.log_start);
        if from < view.high_watermark { self.check_log_from(view, from) } else { Ok(()) }
    }

    /// What a delay log holds was sent to wait, and stands under its due time.
    pub(crate) fn check_waiting(
        &mut self,
        log: TopicPartition,
        topic: TopicId,
        header: &EntryHeader,
        bytes: &[u8],
    ) -> Checked {
        let partition = TopicPartition { topic, ..log };
        let parsed = dure_proto::BatchHeader::parse(bytes);
        let id = parsed.map_err(|error| Violation(format!("{log}: {error}")))?.base_timestamp_ms as u64;
        let base = header.base_offset;
        let sent = self.model.batches.get(&id).filter(|batch| batch.partition == partition);
        let Some((batch, delay)) = sent.and_then(|batch| Some((batch, batch.delay?))) else {
            return Err(Violation(format!(
                "{log}: nobody sent what waits at {base} to wait for {partition}"
            )));
        };
        ensure!(is_it(bytes, &batch.bytes, false), "batch {id} at {base} of {log} is not what was produced");
        ensure!(
            batch.fate != Fate::Refused && header.append_time_ms >= delay.due_ms,
            "batch {id}, {:?} and due at {}, waits at {base} of {log} until {}",
            batch.fate,
            delay.due_ms,
            header.append_time_ms
        );
        Ok(())
    }

    /// Messages of each topic that may wait now.
    pub(crate) fn waiting_at_most(&self) -> BTreeMap<TopicId, u64> {
        let mut waiting = BTreeMap::new();
        for partition in self.views.keys() {
            let records = self.model.waiting(*partition).map(|(batch, _)| batch.values.len() as u64);
            *waiting.entry(partition.topic).or_default() += records.sum::<u64>();
        }
        waiting
    }

    /// As many are said to wait as do: at least those that are acknowledged and not due yet, at most those that were sent
    /// and had not entered when it was asked.
    pub(crate) fn check_scheduled(
        &mut self,
        described: &[wire::TopicDescription],
        at_most: &BTreeMap<TopicId, u64>,
    ) -> Checked {
        for topic in described {
            let mut low = 0;
            let high = at_most.get(&TopicId(topic.id)).copied().unwrap_or(0);
            for row in &topic.partitions {
                let partition = dure_proto::PartitionId(row.partition);
                let partition = TopicPartition { topic: TopicId(topic.id), partition };
                let surely = self.model.waiting(partition).filter(|(batch, delay)| {
                    batch.fate == Fate::Scheduled && !delay.purged && delay.due_ms > self.now.wall_ms
                });
                low += surely.map(|(batch, _)| batch.values.len() as u64).sum::<u64>();
            }
            ensure!(
                (low..=high).contains(&topic.scheduled),
                "topic `{}`: {} messages are said to wait, and {low} to {high} do",
                topic.name,
                topic.scheduled
            );
        }
        Ok(())
    }

    /// The time comes for everything that waits.
    pub(crate) fn drain_delays(&mut self) -> Checked {
        let due_ms = |batch: &super::model::Batch| Some(batch.delay?.due_ms);
        // A session that sends again what it sent to wait may have it wait anew.
        let latest_ms =
            self.model.batches.values().filter_map(due_ms).max().map(|due_ms| due_ms + 10_000_000);
        self.advance(latest_ms.map_or(0, |latest_ms| latest_ms.saturating_sub(self.now.wall_ms)));
        for _ in 0..DRAIN_ROUNDS_MAX {
            self.settle_down()?;
            let described = match self.ask(Request::DescribeTopics(wire::DescribeTopics::default()))? {
                Response::Topics(topics) => topics,
                other => return Err(Violation(format!("{other:?}"))),
            };
            if described.iter().all(|topic| topic.scheduled == 0) {
                return self.check_entered();
            }
            self.advance(1_000);
        }
        Err(Violation(format!("messages still wait after {DRAIN_ROUNDS_MAX} rounds")))
    }

    fn check_entered(&mut self) -> Checked {
        let views: Vec<LogView> = self.views.values().cloned().collect();
        for view in &views {
            self.check_log_from(view, view.log_start)?;
            let unread_upto =
                self.model.logs.get(&view.partition).map_or(Offset::ZERO, |log| log.unread_upto);
            for (batch, delay) in self.model.waiting(view.partition) {
                let may_be_gone = delay.purged || unread_upto > delay.log_end;
                ensure!(
                    batch.fate != Fate::Scheduled || may_be_gone,
                    "a batch that was to wait until {} is not in {}",
                    delay.due_ms,
                    view.partition
                );
            }
        }
        let entered = |batch: &&super::model::Batch| batch.fate == Fate::Scheduled;
        let entered = self.model.batches.values().filter(entered).count() as u64;
        *self.totals.checks.entry("batches that waited").or_default() += entered;
        Ok(())
    }
}
