//! How fast messages come in and are done, over about the last minute.

use std::collections::VecDeque;

use crate::Now;

/// How far back a rate looks.
const WINDOW_MS: u64 = 60_000;
/// Samples are no closer together, and no rate is over a shorter time.
const STEP_MS: u64 = 5_000;

/// Totals at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    mono_ms: u64,
    arrived: u64,
    serviced: u64,
}

/// What the totals of a table were; it is told of every change of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    /// When it was first told of anything.
    begun_mono_ms: Option<u64>,
    /// Totals just before a time, ascending; at most as many as fit into the window.
    samples: VecDeque<Sample>,
    /// As they have been since that time.
    last: Sample,
}

impl Rates {
    /// The totals may have changed just now.
    pub(crate) fn observe(&mut self, now: Now, arrived: u64, serviced: u64) {
        let mono_ms = now.mono_ms;
        self.begun_mono_ms.get_or_insert(mono_ms);
        if self.samples.back().is_none_or(|newest| newest.mono_ms + STEP_MS <= mono_ms) {
            self.samples.push_back(Sample { mono_ms, ..self.last });
        }
        while self.samples.front().is_some_and(|oldest| oldest.mono_ms + WINDOW_MS < mono_ms) {
            self.samples.pop_front();
        }
        self.last = Sample { mono_ms, arrived, serviced };
    }

    /// Messages per second that came in and that were done, over the last minute or since there were any.
    pub(crate) fn per_s(&self, now: Now, arrived: u64, serviced: u64) -> (f64, f64) {
        let Some(begun_mono_ms) = self.begun_mono_ms else { return (0.0, 0.0) };
        let from_ms = now.mono_ms.saturating_sub(WINDOW_MS);
        let within = self.samples.iter().find(|sample| sample.mono_ms >= from_ms);
        let base = within.unwrap_or(&self.last);
        let elapsed_ms = now.mono_ms.saturating_sub(begun_mono_ms).clamp(STEP_MS, WINDOW_MS);
        let per_s = |count: u64| count as f64 * 1_000.0 / elapsed_ms as f64;
        (per_s(arrived.saturating_sub(base.arrived)), per_s(serviced.saturating_sub(base.serviced)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, wall_ms: 0 }
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_a_pause_ends_it() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_s(at(0), 0, 0), (0.0, 0.0));
        for second in 0..300 {
            rates.observe(at(second * 1_000), (second + 1) * 20, second * 10);
            assert!(rates.samples.len() <= (WINDOW_MS / STEP_MS) as usize + 2);
        }
        let (arrival, service) = rates.per_s(at(299_000), 6_000, 2_990);
        assert!((19.0..=22.0).contains(&arrival) && (9.0..=11.0).contains(&service), "{arrival}, {service}");
        let (arrival, _) = rates.per_s(at(329_000), 6_000, 2_990);
        assert!((9.0..=11.0).contains(&arrival), "half a minute of quiet: {arrival}");
        assert_eq!(rates.per_s(at(400_000), 6_000, 2_990), (0.0, 0.0));
    }

    #[test]
    fn a_burst_after_a_long_pause_is_neither_nothing_nor_without_end() {
        let mut rates = Rates::default();
        rates.observe(at(1_000_000), 500, 0);
        assert_eq!(rates.per_s(at(1_000_001), 500, 0), (100.0, 0.0));
        rates.observe(at(1_040_000), 500, 500);
        assert_eq!(rates.per_s(at(1_050_000), 500, 500), (10.0, 10.0));
        rates.observe(at(2_000_000), 1_100, 500);
        assert_eq!(rates.per_s(at(2_010_000), 1_100, 500), (10.0, 0.0));
    }
}
