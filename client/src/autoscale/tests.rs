//! A queue and its workers, simulated second by second, under the policy.

use super::*;

/// Workers start a second after they are asked for and each does `speed` messages per second.
struct World {
    autoscaler: Autoscaler,
    now: Duration,
    sample: Sample,
    speed: f64,
    done: f64,
    oldest: Duration,
    history: Vec<u32>,
}

impl World {
    fn new(policy: Policy, speed: f64) -> World {
        World {
            autoscaler: Autoscaler::new(policy),
            now: Duration::from_secs(1000),
            sample: Sample::default(),
            speed,
            done: 0.0,
            oldest: Duration::ZERO,
            history: Vec::new(),
        }
    }

    fn second(&mut self, arriving: u64) -> Decision {
        self.now += Duration::from_secs(1);
        self.sample.ready += arriving;
        self.sample.arrived_total += arriving;
        self.done += self.speed * f64::from(self.sample.workers_running);
        let done = (self.done as u64).min(self.sample.backlog());
        self.done = if self.sample.backlog() == done { 0.0 } else { self.done - done as f64 };
        self.sample.serviced_total += done;
        let backlog = self.sample.backlog() - done;
        self.sample.leased = backlog.min(u64::from(self.sample.workers_running));
        self.sample.ready = backlog - self.sample.leased;
        self.oldest = if backlog == 0 { Duration::ZERO } else { self.oldest + Duration::from_secs(1) };
        self.sample.oldest_age = self.oldest;
        let decision = self.autoscaler.decide(self.now, self.sample);
        self.sample.workers_running = decision.desired;
        self.history.push(decision.desired);
        decision
    }

    fn seconds(&mut self, count: u32, arriving: u64) -> Decision {
        (0..count).map(|_| self.second(arriving)).last().expect("at least one")
    }
}

fn policy(min: u32, max: u32) -> Policy {
    Policy { min, max, ..Policy::default() }
}

#[test]
fn with_nothing_to_do_there_is_the_minimum() {
    for min in [0, 2] {
        let mut world = World::new(policy(min, 8), 1.0);
        assert_eq!(world.seconds(60, 0).desired, min);
        assert!(world.history.iter().all(|desired| *desired == min));
    }
}

#[test]
fn from_zero_to_one_as_soon_as_something_is_ready() {
    let mut world = World::new(policy(0, 8), 1.0);
    world.seconds(5, 0);
    let decision = world.second(1);
    assert_eq!((decision.desired, decision.why), (1, Why::FirstWork));
}

#[test]
fn a_burst_is_met_with_more_workers_and_they_go_again() {
    let mut world = World::new(policy(0, 8), 2.0);
    world.second(600);
    world.seconds(59, 0);
    assert!(*world.history.iter().max().expect("some") >= 5, "{:?}", world.history);
    assert!(world.sample.backlog() < 120, "{}", world.sample.backlog());
    world.seconds(60, 0);
    assert_eq!(world.sample.backlog(), 0);
    assert_eq!(world.history.last(), Some(&0), "{:?}", world.history);
}

#[test]
fn while_nothing_is_finished_the_number_doubles_up_to_the_maximum() {
    let mut world = World::new(policy(0, 8), 0.0);
    world.second(1000);
    world.seconds(6, 0);
    assert_eq!(world.history, [1, 2, 4, 8, 8, 8, 8]);
}

#[test]
fn never_more_workers_than_messages() {
    let mut world = World::new(policy(0, 8), 0.0);
    world.second(3);
    assert_eq!(world.seconds(10, 0).desired, 3);
}

#[test]
fn a_trickle_keeps_one_worker_without_flapping() {
    let mut world = World::new(policy(0, 8), 5.0);
    world.seconds(20, 1);
    let settled = world.history.len();
    world.seconds(120, 1);
    assert!(world.history[settled..].iter().all(|desired| *desired == 1), "{:?}", world.history);
}

#[test]
fn steady_load_gets_as_many_as_keep_up() {
    let mut world = World::new(policy(1, 20), 2.0);
    world.seconds(180, 10);
    let late = &world.history[120..];
    assert!(late.iter().all(|desired| (5..=8).contains(desired)), "{late:?}");
    assert!(world.sample.backlog() < 10 * 30, "{}", world.sample.backlog());
}

#[test]
fn a_crashed_worker_changes_nothing_about_how_many_are_wanted() {
    let mut world = World::new(policy(0, 4), 1.0);
    world.second(500);
    world.seconds(30, 0);
    assert_eq!(world.history.last(), Some(&4));
    world.sample.workers_running = 1;
    assert_eq!(world.second(0).desired, 4);
    world.sample.workers_running = 0;
    assert_eq!(world.second(0).desired, 4);
}

#[test]
fn leases_of_a_crashed_worker_alone_do_not_take_the_pool_beyond_its_need() {
    let mut autoscaler = Autoscaler::new(policy(0, 8));
    let sample = Sample { leased: 3, arrived_total: 3, ..Sample::default() };
    for second in 0..30 {
        assert!(autoscaler.decide(Duration::from_secs(second), sample).desired <= 3);
    }
}

#[test]
fn a_clock_that_jumps_does_no_harm() {
    let mut world = World::new(policy(0, 8), 2.0);
    world.second(100);
    world.seconds(5, 0);
    let before = *world.history.last().expect("some");
    let sample = world.sample;
    let back = world.autoscaler.decide(Duration::from_secs(3), sample);
    assert!(back.desired >= before.min(1));
    let ahead = world.autoscaler.decide(world.now + Duration::from_secs(86_400), sample);
    assert!((1..=8).contains(&ahead.desired));
    assert!(ahead.arrival_rate.is_finite() && ahead.service_rate.is_none_or(f64::is_finite));
}

#[test]
fn a_restarted_broker_counts_from_zero_again() {
    let mut world = World::new(policy(0, 8), 2.0);
    world.second(300);
    world.seconds(10, 0);
    world.sample.arrived_total = 0;
    world.sample.serviced_total = 0;
    let decision = world.second(0);
    assert!((1..=8).contains(&decision.desired) && decision.arrival_rate < 300.0);
}

#[test]
fn a_maximum_of_zero_is_obeyed() {
    let mut world = World::new(policy(0, 0), 1.0);
    assert_eq!(world.seconds(20, 100).desired, 0);
}

#[test]
fn delayed_messages_need_nobody_yet() {
    let mut autoscaler = Autoscaler::new(policy(0, 8));
    let sample = Sample { delayed: 50, arrived_total: 50, ..Sample::default() };
    for second in 0..120 {
        assert_eq!(autoscaler.decide(Duration::from_secs(second), sample).desired, 0);
    }
}

#[test]
fn workers_stay_through_a_pause_shorter_than_the_cooldown() {
    let mut world = World::new(policy(0, 8), 1.0);
    world.second(120);
    world.seconds(20, 0);
    let working = *world.history.last().expect("some");
    assert!(working >= 3, "{:?}", world.history);
    world.sample.ready = 0;
    world.sample.leased = 0;
    assert_eq!(world.seconds(5, 0).desired, working);
}
