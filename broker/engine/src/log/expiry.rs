//! What retention lets go of a log, and what of that queue groups hold. Plain arithmetic over its segments.

use dure_proto::Offset;
use dure_proto::wire::TopicConfig;

use super::layout::{LogLayout, SegmentMeta};
use crate::mutant::{self, Mutant};
use crate::retention::SeenAhead;

/// Segments that one pass removes because of their age: so many, or this fraction of all that there are.
const EXPIRED_PER_PASS_MAX: usize = 8;
const EXPIRED_PER_PASS_FRACTION: usize = 16;

/// By what a log is judged.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    /// What time it is for retention, milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    pub(crate) config: &'a TopicConfig,
    pub(crate) seen: &'a SeenAhead,
}

/// A segment that retention would remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue<'a> {
    pub(crate) segment: &'a SegmentMeta,
    /// Since when, milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    /// Because of its age, and not of the log's size.
    pub(crate) by_age: bool,
}

/// What is kept although retention would remove it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    /// Since when the oldest of it is; `None` if nothing is held.
    pub(crate) since_ms: Option<u64>,
}

impl LogLayout {
    /// What retention would remove, from the oldest segment on. The active one is removed for its age alone.
    pub(crate) fn overdue<'a>(&'a self, judge: Judge<'a>) -> impl Iterator<Item = Overdue<'a>> {
        let Judge { at_ms, config, seen } = judge;
        let newest =
            |s: &SegmentMeta| if mutant::is(Mutant::RetentionTooEarly) { s.first_ms } else { s.last_ms };
        let believed = move |s: &SegmentMeta| seen.believed_ms(s.end, newest(s), at_ms);
        // `upto` segments together have `sum` bytes, from the one looked at on.
        let (mut upto, mut sum) = (0, 0);
        let (mut left, segments) = (self.bytes(), self.segments().len());
        self.segments().enumerate().map_while(move |(i, segment)| {
            let by_age = config.retention_ms.and_then(|retention_ms| {
                let due_ms = believed(segment).saturating_add(retention_ms);
                (due_ms < at_ms).then_some(due_ms)
            });
            let bytes_max = config.retention_bytes.filter(|bytes_max| i + 1 < segments && left > *bytes_max);
            let by_size = bytes_max.map(|bytes_max| {
                while sum <= bytes_max {
                    sum += self.segment(upto).bytes;
                    upto += 1;
                }
                believed(self.segment(upto - 1))
            });
            left -= segment.bytes;
            sum = sum.saturating_sub(segment.bytes);
            upto = upto.max(i + 1);
            let since_ms = by_age.into_iter().chain(by_size).min()?;
            Some(Overdue { segment, since_ms, by_age: by_size.is_none() })
        })
    }

    /// Where one pass of retention moves the log's start: behind whole segments only, never behind `hold`.
    pub(crate) fn expired_upto(&self, judge: Judge<'_>, hold: Option<Offset>) -> Option<Offset> {
        let aged_max = EXPIRED_PER_PASS_MAX.max(self.segments().len() / EXPIRED_PER_PASS_FRACTION);
        let mut aged = 0;
        let free = self.overdue(judge).take_while(|overdue| {
            aged += usize::from(overdue.by_age);
            aged <= aged_max && hold.is_none_or(|hold| overdue.segment.end <= hold)
        });
        let upto = free.last()?.segment.end;
        (upto > self.log_start()).then_some(upto)
    }

    /// What would be gone if everything were settled that is not settled from `floor` on.
    pub(crate) fn held(&self, judge: Judge<'_>, floor: Offset) -> Held {
        let mut held = Held::default();
        for Overdue { segment, since_ms, .. } in self.overdue(judge).filter(|o| o.segment.end > floor) {
            held.bytes += segment.bytes;
            held.since_ms = Some(held.since_ms.map_or(since_ms, |since| since.min(since_ms)));
        }
        held
    }

    /// Where the log's start goes if nobody needs what lies below `settled`: behind whole sealed segments, and behind
    /// the active one only if all of it is settled.
    pub(crate) fn settled_upto(&self, settled: Offset) -> Option<Offset> {
        let upto = self.segments().take_while(|segment| segment.end <= settled).last()?.end;
        (upto > self.log_start()).then_some(upto)
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::EntryHeader;

    use super::*;

    fn entry(base: u64, append_time_ms: u64) -> EntryHeader {
        EntryHeader {
            batch_bytes: 100,
            record_count: 10,
            base_offset: Offset(base),
            append_time_ms,
            epoch: 1,
            batch_checksum: 0,
        }
    }

    /// Two entries for each segment; over its age after 8 seconds.
    fn config() -> TopicConfig {
        TopicConfig { segment_bytes: 64 + 2 * 140, retention_ms: Some(8_000), ..TopicConfig::default() }
    }

    fn log(entries: impl IntoIterator<Item = (u64, u64)>) -> LogLayout {
        let mut layout = LogLayout::new();
        for (base, ms) in entries {
            layout.append(&entry(base, ms), &config());
        }
        layout
    }

    fn expired(layout: &LogLayout, config: &TopicConfig, at_ms: u64, hold: Option<u64>) -> Option<u64> {
        let judge = Judge { at_ms, config, seen: &SeenAhead::default() };
        layout.expired_upto(judge, hold.map(Offset)).map(|offset| offset.0)
    }

    #[test]
    fn retention_takes_whole_segments_and_respects_the_hold() {
        let mut layout = log([(0, 0), (10, 0), (20, 5_000), (30, 5_000), (40, 20_000)]);
        assert_eq!(expired(&layout, &config(), 8_000, None), None);
        assert_eq!(expired(&layout, &config(), 8_001, None), Some(20));
        assert_eq!(expired(&layout, &config(), 13_001, Some(39)), Some(20));
        assert_eq!(expired(&layout, &config(), 90_000, None), Some(50));
        assert_eq!(layout.move_start(Offset(40)), [Offset(0), Offset(20)]);
        assert_eq!((layout.log_start(), layout.log_end()), (Offset(40), Offset(50)));
    }

    #[test]
    fn size_counts_the_active_segment_and_never_takes_it() {
        let layout = log([(0, 0), (10, 0), (20, 100), (30, 100), (40, 200)]);
        let of = |bytes| TopicConfig { retention_ms: None, retention_bytes: Some(bytes), ..config() };
        assert_eq!(layout.bytes(), 344 + 344 + 204);
        assert_eq!(expired(&layout, &of(344 + 344 + 204), 0, None), None);
        assert_eq!(expired(&layout, &of(344 + 204), 0, None), Some(20));
        assert_eq!(expired(&layout, &of(1), 0, None), Some(40));
    }

    #[test]
    fn what_is_held_is_said_in_bytes_and_since_when() {
        let layout = log([(0, 0), (10, 0), (20, 5_000), (30, 5_000), (40, 20_000)]);
        let held = |config: &TopicConfig, floor| {
            let held =
                layout.held(Judge { at_ms: 20_000, config, seen: &SeenAhead::default() }, Offset(floor));
            (held.bytes, held.since_ms)
        };
        assert_eq!(held(&config(), 0), (344 + 344, Some(8_000)));
        assert_eq!(held(&config(), 25), (344, Some(13_000)));
        assert_eq!(held(&config(), 40), (0, None));
        let by_size = TopicConfig { retention_ms: None, retention_bytes: Some(344), ..config() };
        // The second segment took the log over its size, the third the log without the first.
        assert_eq!(held(&by_size, 0), (344 + 344, Some(5_000)));
        assert_eq!(held(&by_size, 20), (344, Some(20_000)));
    }

    #[test]
    fn one_pass_does_not_delete_everything_that_a_clock_calls_old() {
        let layout = log((0..400).map(|i| (i * 10, 0)));
        let mut left = layout.clone();
        let mut passes = 0;
        while let Some(upto) = expired(&left, &config(), 1 << 40, None) {
            let before = left.segments().len();
            left.move_start(Offset(upto));
            let removed = before - left.segments().len();
            assert!(removed <= 8.max(before / 16), "{removed} of {before} in one pass");
            passes += 1;
        }
        assert!(left.segments().len() == 0 && passes >= 20, "{passes}");
    }

    #[test]
    fn an_append_time_ahead_of_the_clock_does_not_keep_a_segment_for_ever() {
        let layout = log([(0, 1 << 41), (10, 1 << 41)]);
        let mut seen = SeenAhead::default();
        let judge =
            |at_ms, seen: &SeenAhead| layout.expired_upto(Judge { at_ms, config: &config(), seen }, None);
        assert_eq!(judge(1_000_000, &seen), None);
        seen.note(layout.log_end(), 1_000_000);
        assert_eq!(judge(1_008_000, &seen), None);
        assert_eq!(judge(1_008_001, &seen), Some(Offset(20)));
    }
}
