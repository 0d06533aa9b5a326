//! The pool: figures from the broker, a decision by the client's policy, workers that follow it.

use std::collections::VecDeque;
use std::time::Duration;

use dure_client::{Admin, Autoscaler, GroupDescription, Policy, QueueSettings, Sample};
use photo_pipeline::report::ScaleSample;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::args::{PoolArgs, QueueArgs, bounds};
use super::failure::Failure;
use super::fleet::{Fleet, WorkerCommand};
use super::progress::Progress;
use super::queue::{connect, ensure};
use super::scale_log::{Event, ScaleLog};
use super::stop::Stop;

/// How long the broker may take to tell its figures; it is asked again at the next step.
const FIGURES_TIME: Duration = Duration::from_secs(2);
/// The rate that is shown is that of so much time.
const RATE_WINDOW: Duration = Duration::from_secs(3);
const POOL_STEP: Duration = Duration::from_secs(1);
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// What one step saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct View {
    /// The broker was there to be asked; otherwise its figures are those of the step before.
    pub(crate) fresh: bool,
    pub(crate) ready: u64,
    pub(crate) leased: u64,
    pub(crate) delayed: u64,
    pub(crate) dead: u64,
    /// All that is not settled.
    pub(crate) backlog: u64,
    /// Messages that were ever appended.
    pub(crate) submitted: u64,
    /// Messages settled per second, of late.
    pub(crate) rate: f64,
    pub(crate) workers: u32,
    pub(crate) draining: u32,
}

impl View {
    /// Messages that were done, or given up.
    pub(crate) fn settled(&self) -> u64 {
        self.submitted.saturating_sub(self.backlog)
    }
}

/// The pool, to be stepped about once a second or more often.
#[derive(Debug)]
pub(crate) struct Pool {
    admin: Admin,
    group: String,
    autoscaler: Autoscaler,
    workers_max: u32,
    desired: u32,
    fleet: Fleet,
    log: ScaleLog,
    began: Instant,
    view: View,
    /// When so many were settled.
    settled: VecDeque<(Instant, u64)>,
}

impl Pool {
    pub(crate) fn new(
        admin: Admin,
        group: &str,
        policy: Policy,
        command: WorkerCommand,
        log: ScaleLog,
    ) -> Self {
        Self {
            admin,
            group: group.to_owned(),
            desired: policy.min,
            workers_max: policy.max,
            autoscaler: Autoscaler::new(policy),
            fleet: Fleet::new(command, log.clone()),
            log,
            began: Instant::now(),
            view: View::default(),
            settled: VecDeque::new(),
        }
    }

    /// Asks, decides, follows. While the broker is away the workers stay as many as they were.
    pub(crate) async fn step(&mut self) -> Result<View, Failure> {
        self.fleet.reap()?;
        match timeout(FIGURES_TIME, self.admin.describe_group(&self.group)).await {
            Ok(Ok(group)) => self.take_in(&group),
            Ok(Err(error)) if !error.is_retriable() => {
                return Err(Failure::failed(format!(
                    "cannot ask for the backlog of group {}: {error}",
                    self.group
                )));
            }
            Ok(Err(_)) | Err(_) => self.view.fresh = false,
        }
        self.fleet.follow(self.desired, self.workers_max)?;
        (self.view.workers, self.view.draining) = (self.fleet.running(), self.fleet.draining());
        let View { ready, leased, delayed, dead, backlog, workers, draining, .. } = self.view;
        self.log.write(&Event::Sample { ready, leased, delayed, dead, backlog, workers, draining });
        Ok(self.view)
    }

    fn take_in(&mut self, group: &GroupDescription) {
        let now = Instant::now();
        let sample = Sample::of(group, self.fleet.running());
        let decision = self.autoscaler.decide(now - self.began, sample);
        if decision.desired != self.desired {
            self.desired = decision.desired;
            self.log.write(&Event::Decision { desired: decision.desired, why: decision.why.to_string() });
        }
        self.view = View {
            fresh: true,
            ready: group.ready,
            leased: group.leased,
            delayed: group.delayed,
            dead: group.dead,
            backlog: group.lag,
            submitted: group.partitions.iter().map(|partition| partition.high_watermark).sum(),
            ..self.view
        };
        self.view.rate = self.rate(now);
    }

    fn rate(&mut self, now: Instant) -> f64 {
        self.settled.push_back((now, self.view.settled()));
        while self.settled.front().is_some_and(|(at, _)| now - *at > RATE_WINDOW) {
            self.settled.pop_front();
        }
        let Some(&(then, before)) = self.settled.front() else { return 0.0 };
        let seconds = (now - then).as_secs_f64();
        if seconds > 0.0 { self.view.settled().saturating_sub(before) as f64 / seconds } else { 0.0 }
    }

    /// The moment of the last step, for the plot. Those that drain are workers too.
    pub(crate) fn scale_sample(&self) -> ScaleSample {
        let View { backlog, workers, draining, .. } = self.view;
        ScaleSample { at_ms: self.log.at_ms(), backlog, workers: workers + draining }
    }

    /// Lets all workers finish what they hold and end.
    pub(crate) async fn drain(&mut self) {
        self.fleet.drain().await;
    }

    /// Lets go of workers that did not end in time.
    pub(crate) fn abandon(&mut self) {
        self.fleet.abandon();
    }
}

/// `pool`: runs until it is asked to end, then drains.
pub(crate) async fn run(args: PoolArgs, stop: &Stop) -> Result<(), Failure> {
    let (min, max) = bounds(args.min, args.max)?;
    let QueueArgs { server, topic, group } = &args.queue;
    let client = tokio::select! {
        connected = connect(&args.queue, "photo-pool", CONNECT_WAIT) => connected?,
        _ = stop.asked() => return stop.end(),
    };
    ensure(&client, &args.queue, &QueueSettings::default()).await?;
    let log = args.scale_log.as_deref().map_or_else(|| Ok(ScaleLog::none()), ScaleLog::create)?;
    let policy = Policy { min, max, target_drain: args.target, cooldown: args.cooldown, ..Policy::default() };
    let command = WorkerCommand { queue: args.queue.clone(), place: args.place.clone(), log: None };
    let mut pool = Pool::new(client.admin(), group, policy, command, log);
    eprintln!("{min} to {max} workers for group {group} of topic {topic} at {server}");

    let mut progress = Progress::of_pool();
    let mut steps = interval(POOL_STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let failed = loop {
        tokio::select! {
            biased;
            _ = stop.asked() => break None,
            _ = steps.tick() => match pool.step().await {
                Ok(view) => progress.show(&view),
                Err(failure) => break Some(failure),
            }
        }
    };
    progress.finish();
    eprintln!("draining: workers finish what they hold");
    pool.drain().await;
    failed.map_or_else(|| stop.end(), Err)
}
