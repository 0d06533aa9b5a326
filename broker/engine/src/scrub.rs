//! The scrubber: reads what is sealed again and again at a bounded rate, so that a bit that flipped on the disk is known
//! before somebody needs it. Here is only what comes next and what was found; the reading is a job of its own.
//!
//! A pass goes through all logs in the order of their numbers. It may be broken off anywhere: the next start begins anew.

use std::collections::BTreeMap;
use std::ops::Range;

use dure_proto::{Offset, TopicPartition};

use crate::log::{Cursor, SegmentId};

/// What one job reads, unless a single entry is larger. Between these a job is a quarter of a second's worth.
const STEP_BYTES_MIN: u64 = 64 << 10;
const STEP_BYTES_MAX: u64 = 4 << 20;
const STEPS_PER_S: u64 = 4;
/// What is small is not read over and over without a pause.
const PASS_PAUSE_MS: u64 = 1_000;

/// Damage that was found, by log; ranges ascend and do not meet.
pub(crate) type Damage = BTreeMap<TopicPartition, Vec<Range<Offset>>>;

/// Which sealed segment is read next, and where in it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) partition: TopicPartition,
    /// The segment that the cursor stands in.
    pub(crate) segment: SegmentId,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) bytes_max: usize,
}

/// The state of the scrubber.
#[derive(Debug)]
pub(crate) struct Scrubber {
    bytes_per_s: u64,
    /// A job is out.
    running: bool,
    /// On the monotonic clock.
    next_at_ms: u64,
    /// Behind what was read in this pass: the log, the first offset wanted, and a cursor if a segment is half read.
    at: Option<(TopicPartition, Offset, Option<Cursor>)>,
    /// Found in this pass, and in the one before: what mended itself (or was removed) is forgotten a pass later.
    found: Damage,
    before: Damage,
}

impl Scrubber {
    /// 0 bytes per second: it never reads anything.
    pub(crate) fn new(bytes_per_s: u64, now_ms: u64) -> Scrubber {
        Scrubber {
            bytes_per_s,
            running: false,
            next_at_ms: now_ms.saturating_add(PASS_PAUSE_MS),
            at: None,
            found: Damage::new(),
            before: Damage::new(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        (self.bytes_per_s > 0 && !self.running).then_some(self.next_at_ms)
    }

    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.poll_timeout().is_some_and(|at| at <= now_ms)
    }

    /// What to read next. `sealed` names the first sealed segment of a log that ends behind an offset, by its base and its
    /// end; the logs follow each other by `next_log`. `None`: this pass is over.
    pub(crate) fn next(
        &mut self,
        mut next_log: impl FnMut(Option<TopicPartition>) -> Option<TopicPartition>,
        mut sealed: impl FnMut(TopicPartition, Offset) -> Option<SegmentId>,
    ) -> Option<Step> {
        let (mut partition, mut from, mut cursor) = match self.at.take() {
            Some((partition, from, cursor)) => (partition, from, cursor),
            None => (next_log(None)?, Offset::ZERO, None),
        };
        let segment = loop {
            if let Some(segment) = sealed(partition, from) {
                break segment;
            }
            (partition, from, cursor) = (next_log(Some(partition))?, Offset::ZERO, None);
        };
        // A cursor stands in the segment that it was made for; that one may be gone.
        let cursor = cursor.filter(|cursor| cursor.segment() == Some(segment));
        self.running = true;
        let bytes_max = (self.bytes_per_s / STEPS_PER_S).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX) as usize;
        Some(Step { partition, segment, cursor, bytes_max })
    }

    /// A job read so many bytes, and goes on where the cursor stands.
    pub(crate) fn handle_read(&mut self, now_ms: u64, partition: TopicPartition, cursor: Cursor, bytes: u64) {
        self.running = false;
        self.at = Some((partition, cursor.offset(), Some(cursor)));
        self.next_at_ms = now_ms.saturating_add(bytes.saturating_mul(1000) / self.bytes_per_s.max(1));
    }

    /// These offsets cannot be read. Says whether that is news.
    pub(crate) fn handle_damage(&mut self, partition: TopicPartition, lost: Range<Offset>) -> bool {
        let known = |damage: &Damage| {
            damage.get(&partition).is_some_and(|ranges| {
                ranges.iter().any(|range| range.start <= lost.start && lost.end <= range.end)
            })
        };
        let news = !known(&self.found) && !known(&self.before);
        if !known(&self.found) {
            self.found.entry(partition).or_default().push(lost);
        }
        news
    }

    /// The pass went through everything. Says whether there is less damage than after the one before.
    pub(crate) fn handle_pass_done(&mut self, now_ms: u64) -> bool {
        self.next_at_ms = now_ms.saturating_add(PASS_PAUSE_MS);
        let found = std::mem::take(&mut self.found);
        let before = std::mem::replace(&mut self.before, found);
        before != self.before
    }

    /// All that is known to be damaged in a log.
    pub(crate) fn damage_of(&self, partition: TopicPartition) -> Vec<Range<Offset>> {
        let ranges = [&self.before, &self.found].into_iter().filter_map(|damage| damage.get(&partition));
        merged(ranges.flatten().cloned().collect())
    }

    /// The logs that have some.
    pub(crate) fn damaged(&self) -> Vec<TopicPartition> {
        let mut logs: Vec<_> = self.before.keys().chain(self.found.keys()).copied().collect();
        logs.sort_unstable();
        logs.dedup();
        logs
    }

    /// What lies below a log's start is nobody's concern any more, nor is a log that is gone.
    pub(crate) fn forget(&mut self, mut log_start: impl FnMut(TopicPartition) -> Option<Offset>) -> bool {
        let mut forgot = false;
        for damage in [&mut self.found, &mut self.before] {
            damage.retain(|partition, ranges| {
                let ranges_before = ranges.len();
                match log_start(*partition) {
                    Some(start) => ranges.retain(|range| range.end > start),
                    None => ranges.clear(),
                }
                forgot |= ranges.len() < ranges_before;
                !ranges.is_empty()
            });
        }
        forgot
    }
}

/// Sorts ranges and makes one of those that meet.
pub(crate) fn merged(mut ranges: Vec<Range<Offset>>) -> Vec<Range<Offset>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<Offset>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use dure_proto::{PartitionId, TopicId};

    use super::*;

    const LOGS: [TopicPartition; 2] = [log(1), log(2)];

    const fn log(topic: u32) -> TopicPartition {
        TopicPartition { topic: TopicId(topic), partition: PartitionId(0) }
    }

    fn segment(base: u64) -> SegmentId {
        SegmentId::appended(Offset(base))
    }

    /// Every log has the sealed segments 0..10 and 10..20.
    fn step(scrubber: &mut Scrubber) -> Option<(u32, u64)> {
        let next_log = |after: Option<TopicPartition>| LOGS.into_iter().find(|log| Some(*log) > after);
        let sealed = |_, from: Offset| [0, 10].into_iter().find(|base| from.0 < base + 10).map(segment);
        let step = scrubber.next(next_log, sealed)?;
        scrubber.handle_read(0, step.partition, Cursor::at(step.segment.base.plus(10)), 1_000);
        Some((step.partition.topic.0, step.segment.base.0))
    }

    #[test]
    fn a_pass_goes_through_every_sealed_segment_and_the_next_one_begins_anew() {
        let mut scrubber = Scrubber::new(1_000, 0);
        for _ in 0..2 {
            let pass: Vec<_> = std::iter::from_fn(|| step(&mut scrubber)).collect();
            assert_eq!(pass, [(1, 0), (1, 10), (2, 0), (2, 10)]);
            scrubber.handle_pass_done(0);
        }
    }

    #[test]
    fn a_place_in_one_log_is_not_taken_for_one_in_the_next() {
        let mut scrubber = Scrubber::new(1_000, 0);
        let next_log = |after: Option<TopicPartition>| LOGS.into_iter().find(|log| Some(*log) > after);
        let sealed = |_, from: Offset| (from < Offset(10)).then_some(segment(0));
        let first = scrubber.next(next_log, sealed).expect("something to read");
        assert_eq!(first.partition, log(1));
        scrubber.handle_read(0, log(1), Cursor::at_segment(segment(0), Offset(10)), 1_000);
        let second = scrubber.next(next_log, sealed).expect("something to read");
        assert_eq!((second.partition, second.segment), (log(2), segment(0)));
        assert!(second.cursor.is_none(), "its position is one in another file");
    }

    #[test]
    fn it_reads_no_faster_than_told() {
        let mut scrubber = Scrubber::new(1_000_000, 0);
        assert!(!scrubber.is_due(0) && scrubber.is_due(PASS_PAUSE_MS));
        step(&mut scrubber).expect("something to read");
        scrubber.handle_read(7_000, log(1), Cursor::at(Offset(0)), 250_000);
        assert_eq!(scrubber.poll_timeout(), Some(7_250));
        assert_eq!(Scrubber::new(0, 0).poll_timeout(), None);
    }

    #[test]
    fn damage_is_news_once_and_forgotten_when_it_is_gone() {
        let mut scrubber = Scrubber::new(1_000, 0);
        let range = Offset(3)..Offset(5);
        assert!(scrubber.handle_damage(log(1), range.clone()));
        assert!(!scrubber.handle_damage(log(1), range.clone()));
        assert!(scrubber.handle_pass_done(0));
        assert!(!scrubber.handle_damage(log(1), range.clone()));
        assert_eq!(scrubber.damage_of(log(1)), [range]);
        assert!(!scrubber.handle_pass_done(0));
        assert_eq!(scrubber.damaged(), [log(1)]);
        // A pass that does not find it any more.
        assert!(scrubber.handle_pass_done(0));
        assert!(scrubber.damaged().is_empty());
        scrubber.handle_damage(log(2), Offset(0)..Offset(9));
        assert!(!scrubber.forget(|_| Some(Offset(8))));
        assert!(scrubber.forget(|_| Some(Offset(9))));
        assert!(scrubber.damaged().is_empty());
    }
}
