//! Estimates of how fast messages come and how fast one worker is.

use std::time::Duration;

use super::Sample;

/// How far back an estimate looks, about.
const MEMORY: Duration = Duration::from_secs(10);
/// Two samples that are further apart than this say nothing about now.
const GAP_MAX: Duration = Duration::from_secs(120);
/// Arrivals below this are none; an average never gets to zero by itself.
const ARRIVAL_MIN: f64 = 0.01;

/// An average that forgets exponentially with time, whatever the distance of the samples.
#[derive(Clone, Copy, Debug, Default)]
struct Average(Option<f64>);

impl Average {
    fn observe(&mut self, value: f64, over: Duration) {
        let weight = 1.0 - (-over.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.0 = Some(self.0.map_or(value, |old| old + (value - old) * weight));
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    last: Option<(Duration, Sample)>,
    arrival: Average,
    service: Average,
    /// Nothing came between the last two samples.
    quiet: bool,
}

impl Rates {
    /// Messages per second.
    pub(super) fn arrival(&self) -> f64 {
        self.arrival.0.filter(|rate| *rate >= ARRIVAL_MIN).unwrap_or(0.0)
    }

    /// Nothing has come lately, whatever the average still remembers.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet || self.arrival() == 0.0
    }

    /// Messages per second and busy worker; above 0.
    pub(super) fn service(&self) -> Option<f64> {
        self.service.0.filter(|rate| *rate > 0.0)
    }

    pub(super) fn observe(&mut self, now: Duration, sample: &Sample) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, *sample));
            return;
        };
        let elapsed = now.saturating_sub(then);
        if elapsed.is_zero() {
            return;
        }
        self.last = Some((now, *sample));
        // Totals that shrink are those of a broker that was restarted.
        let restarted =
            sample.arrived_total < before.arrived_total || sample.serviced_total < before.serviced_total;
        if restarted || elapsed > GAP_MAX {
            return;
        }
        self.quiet = sample.arrived_total == before.arrived_total;
        let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
        self.arrival.observe(per_second(sample.arrived_total - before.arrived_total), elapsed);

        let workers = before.workers_running.min(sample.workers_running);
        if workers == 0 {
            return;
        }
        let each = per_second(sample.serviced_total - before.serviced_total) / f64::from(workers);
        let busy = before.ready > 0 && sample.ready > 0;
        match self.service() {
            // All were busy all the time: this is how fast they are. Nothing yet may mean that the first
            // messages are still being worked on.
            Some(_) if busy => self.service.observe(each, elapsed),
            // Some may have been idle: they are at least as fast as this.
            Some(known) if each > known => self.service.observe(each, elapsed),
            None if each > 0.0 => self.service.observe(each, elapsed),
            _ => {}
        }
    }
}
