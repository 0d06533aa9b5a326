//! The clock that retention goes by. The wall clock may jump; what is deleted because of it does not come back.

use std::collections::VecDeque;

use dure_proto::Offset;

use crate::time::Now;

/// How many times as fast as time itself the clock may run, in either direction, to come back to the wall clock: a jump
/// by a day is caught up in 24 minutes, one by ten years in two months, and until then nothing is deleted for it.
const RATE_MAX: u64 = 60;
/// Kept of a log whose append times lie ahead; thinned out by half when there are more.
const MARKS_MAX: usize = 64;

/// Follows the wall clock, but never faster than [`RATE_MAX`] allows.
#[derive(Clone, Debug)]
pub(crate) struct RetentionClock {
    ms: u64,
    mono_ms: u64,
}

impl RetentionClock {
    /// Goes on from where an earlier run left it, or begins with the wall clock.
    pub(crate) fn new(now: Now, left_ms: Option<u64>) -> RetentionClock {
        RetentionClock { ms: left_ms.unwrap_or(now.wall_ms), mono_ms: now.mono_ms }
    }

    /// What time it is for retention, in milliseconds since the Unix epoch.
    pub(crate) fn at(&self, now: Now) -> u64 {
        let passed_ms = now.mono_ms.saturating_sub(self.mono_ms);
        let correction_ms_max = passed_ms.saturating_mul(RATE_MAX - 1);
        let (low, high) = (
            (self.ms + passed_ms).saturating_sub(correction_ms_max),
            (self.ms + passed_ms).saturating_add(correction_ms_max),
        );
        now.wall_ms.clamp(low, high)
    }

    /// Returns by how much it ran faster (or slower) than time itself, to come nearer to the wall clock.
    pub(crate) fn advance(&mut self, now: Now) -> i64 {
        let passed_ms = now.mono_ms.saturating_sub(self.mono_ms);
        let after = RetentionClock { ms: self.at(now), mono_ms: now.mono_ms.max(self.mono_ms) };
        let corrected_ms = after.ms.wrapping_sub(self.ms.saturating_add(passed_ms)) as i64;
        *self = after;
        corrected_ms
    }

    /// The append time of what is written now: the wall clock's, but for one that was just set far back. What is
    /// written under that must not look older than it is, since retention would take it at once.
    pub(crate) fn append_ms(&self, now: Now) -> u64 {
        now.wall_ms.max(self.at(now))
    }
}

/// When retention first met what was appended under a wall clock that ran ahead. Such an append time says nothing, and
/// would keep its segment until it comes true; the time of this meeting counts instead. Of this run of the broker only.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenAhead {
    /// Everything below the offset was there at that time. Both ascend.
    marks: VecDeque<(Offset, u64)>,
}

impl SeenAhead {
    /// The log's last append time is ahead of `at_ms`.
    pub(crate) fn note(&mut self, log_end: Offset, at_ms: u64) {
        if self.marks.back().is_some_and(|(end, _)| *end >= log_end) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut keep = true;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.marks.push_back((log_end, at_ms));
    }

    /// The clock was corrected: what was met at some time has since become no older by that.
    pub(crate) fn shift(&mut self, corrected_ms: i64) {
        for (_, seen_ms) in &mut self.marks {
            *seen_ms = seen_ms.saturating_add_signed(corrected_ms);
        }
    }

    /// The time that counts for a segment that ends at `end`.
    pub(crate) fn believed_ms(&self, end: Offset, last_ms: u64, at_ms: u64) -> u64 {
        if last_ms <= at_ms {
            return last_ms;
        }
        let i = self.marks.partition_point(|(seen, _)| *seen < end);
        self.marks.get(i).map_or(at_ms, |(_, seen_ms)| (*seen_ms).min(at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3_600_000;
    const START: u64 = 20_000 * DAY_MS;

    fn at(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono_ms, wall_ms }
    }

    #[test]
    fn a_jump_is_believed_slowly_in_both_directions() {
        for jumped in [START + 3650 * DAY_MS, START - 3650 * DAY_MS] {
            let mut clock = RetentionClock::new(at(0, START), None);
            for second in 1..=3_600 {
                clock.advance(at(second * 1_000, jumped));
            }
            let moved_ms = clock.at(at(3_600_000, jumped)).abs_diff(START + 3_600_000);
            assert!((2 * DAY_MS..3 * DAY_MS).contains(&moved_ms), "{moved_ms} ms in an hour");
            // Right again, it comes back as fast.
            let right = at(3_600_000 + 3_600_000, START + 2 * 3_600_000);
            assert_eq!(clock.at(right), right.wall_ms);
        }
    }

    #[test]
    fn while_nothing_jumps_it_is_the_wall_clock() {
        let mut clock = RetentionClock::new(at(5, START), None);
        for ms in [1, 50, 1_000, 90_000, 80 * DAY_MS] {
            clock.advance(at(5 + ms, START + ms));
            assert_eq!(clock.at(at(5 + ms, START + ms)), START + ms);
            assert_eq!(clock.append_ms(at(5 + ms, START + ms)), START + ms);
        }
    }

    #[test]
    fn what_is_written_under_a_clock_set_back_does_not_look_old() {
        let clock = RetentionClock::new(at(0, START), None);
        assert!(clock.append_ms(at(1_000, 0)) > START - 60_000);
        assert_eq!(clock.append_ms(at(1_000, START + DAY_MS)), START + DAY_MS);
    }

    #[test]
    fn a_segment_from_the_future_counts_from_when_it_was_first_seen() {
        let mut seen = SeenAhead::default();
        seen.note(Offset(10), 1_000);
        seen.note(Offset(10), 1_500);
        seen.note(Offset(20), 2_000);
        assert_eq!(seen.believed_ms(Offset(10), 900_000, 5_000), 1_000);
        assert_eq!(seen.believed_ms(Offset(15), 900_000, 5_000), 2_000);
        assert_eq!(seen.believed_ms(Offset(30), 900_000, 5_000), 5_000);
        assert_eq!(seen.believed_ms(Offset(10), 700, 5_000), 700);
        for offset in 21..1_000 {
            seen.note(Offset(offset), offset);
        }
        assert!(seen.marks.len() <= MARKS_MAX);
    }
}
