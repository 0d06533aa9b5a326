//! How far compaction is in a log, and whether another pass is due. Plain arithmetic; part of the checkpoint.

use std::collections::VecDeque;

use dure_proto::Offset;
use dure_proto::journal::{CompactionMark, CompactionSnapshot};
use dure_proto::wire::TopicConfig;

use crate::log::LogLayout;

/// Kept of the past; thinned out by half when there are more, which only keeps tombstones longer.
const MARKS_MAX: usize = 64;
/// A pass is due when this fraction of what is compacted has come on top of it.
const DIRTY_FRACTION: u64 = 2;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Below, nothing is left that something else below supersedes.
    upto: Offset,
    /// Old tombstones below this were taken out by the last pass.
    tombstones_gone: Offset,
    /// Tombstones that the last pass left below `upto`.
    tombstones: u64,
    /// Since when nothing older than its tombstone is left of any key below an offset. Both ascend.
    marks: VecDeque<(Offset, u64)>,
}

/// What the next pass is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Keys are not looked at below this.
    pub(crate) from: Offset,
    /// End of the last sealed segment.
    pub(crate) sealed_end: Offset,
    /// Tombstones below this go.
    pub(crate) tombstones_below: Offset,
}

impl Progress {
    pub(crate) fn restore(snapshot: &CompactionSnapshot) -> Progress {
        Progress {
            upto: Offset(snapshot.upto),
            tombstones_gone: Offset(snapshot.tombstones_gone),
            tombstones: snapshot.tombstones,
            marks: snapshot.marks.iter().map(|mark| (Offset(mark.upto), mark.at_ms)).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> CompactionSnapshot {
        CompactionSnapshot {
            upto: self.upto.0,
            tombstones_gone: self.tombstones_gone.0,
            tombstones: self.tombstones,
            marks: self
                .marks
                .iter()
                .map(|(upto, at_ms)| CompactionMark { upto: upto.0, at_ms: *at_ms })
                .collect(),
        }
    }

    /// The next pass, if there is a reason for one.
    pub(crate) fn due(&self, layout: &LogLayout, at_ms: u64, config: &TopicConfig) -> Option<Due> {
        let sealed_end = layout.sealed().last()?.end;
        let (mut clean_bytes, mut dirty_bytes, mut dirty_since_ms) = (0, 0, None);
        for segment in layout.sealed() {
            match segment.end <= self.upto {
                true => clean_bytes += segment.bytes,
                false => {
                    dirty_bytes += segment.bytes;
                    dirty_since_ms.get_or_insert(segment.first_ms);
                }
            }
        }
        let waited_ms = dirty_since_ms.map(|since_ms: u64| at_ms.saturating_sub(since_ms));
        let much = dirty_bytes > 0 && dirty_bytes >= clean_bytes / DIRTY_FRACTION;
        let old = waited_ms.is_some_and(|waited_ms| waited_ms >= config.compact_after_ms);
        let tombstones_below = self.tombstones_below(at_ms, config.tombstone_retention_ms);
        let tombstones = self.tombstones > 0 && tombstones_below > self.tombstones_gone;
        let from = self.upto.max(layout.log_start()).min(sealed_end);
        (much || old || tombstones).then_some(Due { from, sealed_end, tombstones_below })
    }

    /// Tombstones below this have been alone for long enough.
    fn tombstones_below(&self, at_ms: u64, retention_ms: u64) -> Offset {
        let old =
            self.marks.iter().take_while(|(_, since_ms)| since_ms.saturating_add(retention_ms) <= at_ms);
        old.last().map_or(Offset::ZERO, |(upto, _)| *upto)
    }

    /// After a pass that looked at all keys below `upto` and left so many tombstones there.
    pub(crate) fn after(&self, due: &Due, upto: Offset, tombstones: u64, at_ms: u64) -> Progress {
        let upto = upto.max(self.upto);
        let mut marks = self.marks.clone();
        // Of those that count already the last one says it all.
        while marks.get(1).is_some_and(|(next, _)| *next <= due.tombstones_below) {
            marks.pop_front();
        }
        if marks.back().is_none_or(|(last, _)| *last < upto) {
            let at_ms = marks.back().map_or(at_ms, |(_, last_ms)| at_ms.max(*last_ms));
            marks.push_back((upto, at_ms));
        }
        if marks.len() > MARKS_MAX {
            let mut keep = false;
            marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        Progress { upto, tombstones_gone: due.tombstones_below, tombstones, marks }
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::EntryHeader;

    use super::*;

    fn config() -> TopicConfig {
        TopicConfig {
            segment_bytes: 64 + 140,
            compact_after_ms: 1_000,
            tombstone_retention_ms: 10_000,
            ..TopicConfig::default()
        }
    }

    /// One segment for each, the last one active.
    fn log(segments: u64) -> LogLayout {
        let mut layout = LogLayout::new();
        for i in 0..segments {
            let (base_offset, append_time_ms) = (Offset(i * 10), i * 10);
            let entry = EntryHeader {
                batch_bytes: 100,
                record_count: 10,
                base_offset,
                append_time_ms,
                epoch: 1,
                batch_checksum: 0,
            };
            layout.append(&entry, &config());
        }
        layout
    }

    #[test]
    fn a_pass_is_due_when_much_has_come_or_it_has_waited() {
        let nothing = Progress::default();
        assert_eq!(nothing.due(&log(1), 0, &config()), None, "the active segment is never touched");
        let due = nothing.due(&log(2), 0, &config()).expect("a sealed segment");
        assert_eq!((due.from, due.sealed_end), (Offset(0), Offset(10)));
        let done = nothing.after(&nothing.due(&log(9), 0, &config()).expect("due"), Offset(80), 0, 50);
        assert_eq!(done.due(&log(9), 5_000, &config()), None);
        assert_eq!(done.due(&log(12), 100, &config()), None, "three on eight");
        let old = done.due(&log(12), 1_080, &config()).expect("the first of them waited for a second");
        assert_eq!((old.from, old.sealed_end), (Offset(80), Offset(110)));
        assert!(done.due(&log(13), 100, &config()).is_some(), "four on eight");
        assert_eq!(Progress::restore(&done.snapshot()), done);
    }

    #[test]
    fn tombstones_go_when_they_have_been_alone_for_their_time() {
        let first = Progress::default();
        let one = first.after(&first.due(&log(9), 0, &config()).expect("due"), Offset(80), 3, 1_000);
        assert_eq!(one.due(&log(9), 10_999, &config()), None);
        let due = one.due(&log(9), 11_000, &config()).expect("due");
        assert_eq!(due.tombstones_below, Offset(80));
        let none_left = one.after(&due, Offset(80), 0, 11_000);
        assert_eq!(none_left.due(&log(9), 90_000, &config()), None);
        // One that came later waits for its own time, and the pass is not done again for nothing.
        let more = one.after(&due, Offset(90), 1, 11_000);
        assert_eq!(more.due(&log(10), 20_999, &config()), None);
        assert_eq!(more.due(&log(10), 21_000, &config()).map(|due| due.tombstones_below), Some(Offset(90)));
    }

    #[test]
    fn the_past_is_bounded() {
        let mut progress = Progress::default();
        for i in 1..1_000 {
            let due = Due { from: Offset(0), sealed_end: Offset(i), tombstones_below: Offset(0) };
            progress = progress.after(&due, Offset(i), 1, i);
            assert!(progress.marks.len() <= MARKS_MAX);
        }
    }
}
