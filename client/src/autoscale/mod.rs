//! How many workers a queue group needs: a policy that is told the broker's figures and decides. It asks no
//! clock and starts nothing; whoever runs the workers follows its decisions.

mod rates;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use rates::Rates;

/// Bounds and temper of an [`Autoscaler`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Never fewer workers.
    pub min: u32,
    /// Never more workers.
    pub max: u32,
    /// The backlog should be worked off within this time.
    pub target_drain: Duration,
    /// Workers are taken away only once fewer were enough for this long.
    pub cooldown: Duration,
    /// After workers were added they get this long to show an effect before more are added for want of one.
    pub ramp: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            min: 0,
            max: 8,
            target_drain: Duration::from_secs(30),
            cooldown: Duration::from_secs(10),
            ramp: Duration::from_secs(1),
        }
    }
}

/// The broker's figures for the group, as in
/// [`GroupDescription`](crate::GroupDescription), and how many workers run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Messages that can be leased.
    pub ready: u64,
    /// Messages that are leased.
    pub leased: u64,
    /// Messages that wait after a release or for backoff. They need nobody yet.
    pub delayed: u64,
    /// Age of the oldest unsettled message.
    pub oldest_age: Duration,
    /// Messages that came in, counted from any point on.
    pub arrived_total: u64,
    /// Messages that were settled, counted from any point on.
    pub serviced_total: u64,
    /// Workers that run, those that are draining not counted.
    pub workers_running: u32,
}

impl Sample {
    /// The figures of a group, for so many workers.
    #[must_use]
    pub fn of(group: &crate::GroupDescription, workers_running: u32) -> Sample {
        Sample {
            ready: group.ready,
            leased: group.leased,
            delayed: group.delayed,
            oldest_age: Duration::from_millis(group.oldest_age_ms),
            arrived_total: group.arrived,
            serviced_total: group.serviced,
            workers_running,
        }
    }

    fn backlog(&self) -> u64 {
        self.ready.saturating_add(self.leased)
    }
}

/// How many workers there should be, and what speaks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How many there should be. Fewer than run: let that many finish what they hold and end.
    pub desired: u32,
    /// What speaks for it.
    pub why: Why,
    /// Estimated arrivals, in messages per second.
    pub arrival_rate: f64,
    /// Estimated work of one busy worker, in messages per second; `None`: not known yet.
    pub service_rate: Option<f64>,
}

/// What speaks for a [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing is ready or leased.
    Idle,
    /// Something is ready and nobody works.
    FirstWork,
    /// How fast a worker is, is not known yet, and the backlog does not fall.
    Ramp,
    /// So many work off the backlog within the target.
    Backlog,
    /// The oldest message waits longer than the target allows, and the backlog does not fall.
    Late,
    /// Fewer would do, but not for long enough yet.
    Cooldown,
    /// As many as needed run.
    Steady,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Idle => "nothing to do",
            Why::FirstWork => "work has come and nobody is there",
            Why::Ramp => "the backlog does not fall, and how fast a worker is has yet to show",
            Why::Backlog => "the backlog is to be worked off within the target",
            Why::Late => "the oldest message waits too long and the backlog does not fall",
            Why::Cooldown => "fewer would do; waiting whether that lasts",
            Why::Steady => "as many as needed",
        })
    }
}

/// The policy with its memory.
///
/// ```
/// use std::time::Duration;
/// use dure_client::{Autoscaler, Policy, Sample};
///
/// let mut autoscaler = Autoscaler::new(Policy { min: 0, max: 4, ..Policy::default() });
/// let sample = Sample { ready: 100, arrived_total: 100, ..Sample::default() };
/// assert_eq!(autoscaler.decide(Duration::from_secs(1), sample).desired, 1);
/// ```
#[derive(Clone, Debug)]
pub struct Autoscaler {
    /// `min ≤ max`.
    policy: Policy,
    rates: Rates,
    /// What was decided last.
    desired: u32,
    /// When workers were added last.
    raised_at: Option<Duration>,
    /// The backlog when workers were added last, or was looked at for whether it falls.
    backlog_mark: u64,
    /// What would have been enough, with when; covers the cooldown.
    wishes: VecDeque<(Duration, u32)>,
    /// The largest time seen.
    now: Duration,
}

/// Wishes kept at most, however often it is asked.
const WISHES_MAX: usize = 1024;

impl Autoscaler {
    /// A policy without memory. A `max` below `min` counts as `min`.
    #[must_use]
    pub fn new(policy: Policy) -> Autoscaler {
        let policy = Policy { max: policy.max.max(policy.min), ..policy };
        Autoscaler {
            desired: policy.min,
            policy,
            rates: Rates::default(),
            raised_at: None,
            backlog_mark: 0,
            wishes: VecDeque::new(),
            now: Duration::ZERO,
        }
    }

    /// Decides, at best about once a second. `now` is a monotonic time from any point on; one that runs
    /// backwards counts as standing still.
    pub fn decide(&mut self, now: Duration, sample: Sample) -> Decision {
        self.now = self.now.max(now);
        let now = self.now;
        self.rates.observe(now, &sample);
        let (wish, why) = self.wish(now, &sample);
        let wish = wish.clamp(self.policy.min, self.policy.max);
        let (desired, why) = self.temper(now, wish, why);
        if desired > self.desired {
            self.raised_at = Some(now);
            self.backlog_mark = sample.backlog();
        }
        self.desired = desired;
        let (arrival_rate, service_rate) = (self.rates.arrival(), self.rates.service());
        Decision { desired, why, arrival_rate, service_rate }
    }

    /// What the moment asks for.
    fn wish(&mut self, now: Duration, sample: &Sample) -> (u32, Why) {
        let backlog = sample.backlog();
        if backlog == 0 && self.rates.is_quiet() {
            return (0, Why::Idle);
        }
        // More workers than messages would have nothing to do.
        let useful = u32::try_from(backlog).unwrap_or(u32::MAX);
        let Some(service) = self.rates.service() else {
            if self.desired == 0 || sample.workers_running == 0 {
                let first = self.desired.max(u32::from(sample.ready > 0)).min(useful);
                return (first, if first > 0 { Why::FirstWork } else { Why::Idle });
            }
            return match self.not_falling(now, backlog) {
                true => (self.desired.saturating_mul(2).min(useful.max(self.desired)), Why::Ramp),
                false => (self.desired.min(useful.max(1)), Why::Steady),
            };
        };
        let target = self.policy.target_drain.as_secs_f64().max(0.001);
        let needed = (backlog as f64 / target + self.rates.arrival()) / service;
        // A whisker above a whole number is rounding, not need.
        let needed = (needed - 0.01).ceil().clamp(0.0, f64::from(u32::MAX)) as u32;
        let keeping_up = (self.rates.arrival() / service).ceil().min(f64::from(u32::MAX)) as u32;
        let needed = needed.min(useful.max(keeping_up)).max(u32::from(sample.ready > 0));
        if needed == 0 {
            return (0, Why::Idle);
        }
        let late = sample.ready > 0 && sample.oldest_age > self.policy.target_drain.mul_f32(1.5);
        if late && needed <= self.desired && self.not_falling(now, backlog) {
            let more = self.desired.saturating_add((self.desired / 4).max(1)).min(useful.max(self.desired));
            return (more, Why::Late);
        }
        (needed, if self.desired == 0 { Why::FirstWork } else { Why::Backlog })
    }

    /// Whether the workers added last had their time and the backlog is not smaller for it.
    fn not_falling(&mut self, now: Duration, backlog: u64) -> bool {
        if self.raised_at.is_some_and(|at| now < at + self.policy.ramp) {
            return false;
        }
        let falling = backlog < self.backlog_mark;
        self.backlog_mark = backlog;
        !falling
    }

    /// Up at once, down only to what was enough during the whole cooldown.
    fn temper(&mut self, now: Duration, wish: u32, why: Why) -> (u32, Why) {
        while self.wishes.front().is_some_and(|(at, _)| *at + self.policy.cooldown < now)
            || self.wishes.len() >= WISHES_MAX
        {
            self.wishes.pop_front();
        }
        self.wishes.push_back((now, wish));
        if wish > self.desired {
            return (wish, why);
        }
        if wish == self.desired {
            return (wish, if why == Why::Idle { why } else { Why::Steady });
        }
        let since_raised = self.raised_at.is_none_or(|at| now >= at + self.policy.cooldown);
        let enough = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wish);
        if since_raised && enough < self.desired {
            return (enough, why);
        }
        (self.desired, Why::Cooldown)
    }
}
