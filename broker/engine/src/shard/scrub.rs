//! The scrubber as the shard runs it: one job at a time, which nothing waits for.

use std::ops::{Bound, Range};

use dure_proto::{Offset, TopicPartition};

use super::Shard;
use crate::effect::{Effect, Scrubbed};
use crate::finding::Finding;
use crate::job::{DiskJob, Job, ScrubRead};
use crate::log::ReadOutcome;
use crate::scrub::{Step, merged};
use crate::time::Now;

impl Shard {
    /// Sends the next job out if it is time.
    pub(super) fn scrub(&mut self, now: Now) {
        if !self.scrubber.is_due(now.mono_ms) || self.shutting_down {
            return;
        }
        let writers = &self.writers;
        let next_log = |after: Option<TopicPartition>| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            writers.range((from, Bound::Unbounded)).next().map(|(partition, _)| *partition)
        };
        let sealed = |partition, from| writers.get(&partition)?.sealed_behind(from);
        match self.scrubber.next(next_log, sealed) {
            Some(Step { partition, segment, cursor, bytes_max }) => {
                let writer = &self.writers[&partition];
                let (view, first, wait) = writer.sealed_view(segment).expect("just named");
                let cursor = cursor.filter(|cursor| cursor.offset() >= view.log_start).unwrap_or(first);
                self.effects.push(Effect::Job(DiskJob(Job::Scrub { view, cursor, bytes_max, wait })));
            }
            None => {
                let writers = &self.writers;
                let forgot = self.scrubber.forget(|partition| Some(writers.get(&partition)?.log_start()));
                let changed = self.scrubber.handle_pass_done(now.mono_ms) || forgot;
                let damage = changed.then(|| self.known_damage());
                self.effects.push(Effect::Scrubbed(Scrubbed {
                    pass_done: true,
                    damage,
                    ..Scrubbed::default()
                }));
            }
        }
    }

    pub(super) fn handle_scrubbed(&mut self, now: Now, read: ScrubRead) {
        let ScrubRead { partition, segment_end, from, mut cursor, bytes, outcome } = read;
        let damage = match outcome {
            Ok(ReadOutcome::Lost(lost)) => Some((lost, None)),
            Ok(_) => None,
            // It may be the disk's answer for the whole segment: the rest of it is left to the next pass.
            Err(error) => {
                cursor = crate::log::Cursor::at(segment_end);
                Some((from..segment_end, Some(error.to_string())))
            }
        };
        self.scrubber.handle_read(now.mono_ms, partition, cursor, bytes);
        self.report_damage(partition, damage, Scrubbed { bytes, ..Scrubbed::default() });
    }

    /// Tells of these offsets, and why they cannot be read where the disk said so, unless it was told before.
    pub(super) fn report_damage(
        &mut self,
        partition: TopicPartition,
        damage: Option<(Range<Offset>, Option<String>)>,
        mut scrubbed: Scrubbed,
    ) {
        if let Some((lost, why)) = damage
            && self.is_news(partition, &lost)
            && self.scrubber.handle_damage(partition, lost.clone())
        {
            scrubbed.findings.push(match why {
                None => Finding::EntriesLost {
                    partition,
                    offsets: lost,
                    what: "the scrubber found damage on the disk".to_owned(),
                },
                Some(what) => Finding::ReadFailed { partition, offsets: lost, what },
            });
            scrubbed.damage = Some(self.known_damage());
        }
        self.effects.push(Effect::Scrubbed(scrubbed));
    }

    /// Not of a log, or a part of one, that was removed meanwhile, nor what recovery named lost already.
    fn is_news(&self, partition: TopicPartition, lost: &Range<Offset>) -> bool {
        let there = self.writers.get(&partition).is_some_and(|writer| lost.end > writer.log_start());
        let named = self.state.logs.get(&partition).is_some_and(|log| {
            log.layout.lost().iter().any(|range| range.start <= lost.start && lost.end <= range.end)
        });
        there && !named
    }

    fn known_damage(&self) -> Vec<Finding> {
        let of_log = |partition: TopicPartition| {
            self.scrubber.damage_of(partition).into_iter().map(move |offsets| Finding::EntriesLost {
                partition,
                offsets,
                what: "the scrubber found damage on the disk".to_owned(),
            })
        };
        self.scrubber.damaged().into_iter().flat_map(of_log).collect()
    }

    /// Ranges of a log that cannot be read: those that recovery lost, and those that the scrubber found.
    pub(super) fn lost_ranges(&self, partition: TopicPartition) -> Vec<Range<Offset>> {
        let Some(log) = self.state.logs.get(&partition) else { return Vec::new() };
        let mut ranges = log.layout.lost().to_vec();
        let found = self.scrubber.damage_of(partition);
        ranges.extend(found.into_iter().filter(|range| range.end > log.layout.log_start()));
        merged(ranges)
    }
}
