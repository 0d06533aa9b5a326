//! `autoscale`: as many copies of a command as the backlog of a queue group needs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use dure_client::{Autoscaler, Client, Decision, Error, ErrorCode, Policy, Sample};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::args::{self, ServerArgs};
use super::failure::{Failure, Outcome, explain, note, warn};
use super::signals::{Asked, Signals};
use super::units;
use super::work::{Children, Registered, ending, find_program, kill_group, terminate};

/// How often the broker is asked for its figures.
const TICK: Duration = Duration::from_secs(1);
/// A copy that ends of its own accord sooner than this is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const RESTART_DELAY_FIRST: Duration = Duration::from_millis(500);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);

/// Keep as many copies of a command running as the backlog of a queue group needs.
///
/// More are started when the backlog would take longer than --target to drain. When fewer do, the newest are told to
/// finish (SIGTERM) and waited for; one that has not ended after --grace is killed. SIGTERM or Ctrl-C tells all of them
/// and waits. A copy's environment has DURE_SERVER set to the broker.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    dure autoscale photos --group resize --min 0 --max 8 -- dure work photos --group resize -- ./resize")]
pub(super) struct AutoscaleArgs {
    topic: String,
    /// The queue group; made with its defaults if there is none.
    #[arg(long, short, value_name = "G")]
    group: String,
    /// Never fewer copies.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min: u32,
    /// Never more copies.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// In what time the backlog should drain.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = args::some_duration)]
    target: Duration,
    /// How long fewer must do before one is told to end.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = args::duration)]
    cooldown: Duration,
    /// A copy that was told to end is killed after this long.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = args::duration)]
    grace: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) async fn run(args: AutoscaleArgs) -> Outcome {
    if args.min > args.max {
        return Err(Failure::Usage(format!("--min {} is more than --max {}", args.min, args.max)));
    }
    let program = find_program(&args.command[0]).map_err(Failure::Failed)?;
    let children = Children::default();
    let mut signals = Signals::listen({
        let children = children.clone();
        move || children.terminate_groups()
    })?;
    let starting = async {
        let client = args.server.connect().await?;
        ensure_group(&client, &args).await?;
        Ok(client)
    };
    let client: Client = tokio::select! {
        started = starting => started?,
        _ = signals.asked() => return Err(Failure::Interrupted),
    };
    let mut pool = Pool::new(program, &args, children);
    let outcome = scale(&client, &args, &mut pool, &mut signals).await;
    pool.end_all().await;
    outcome
}

/// Without the group nobody counts the backlog, and without a worker nobody would make it.
async fn ensure_group(client: &Client, args: &AutoscaleArgs) -> Outcome {
    let counted = match client.admin().describe_group(&args.group).await {
        Ok(group) => group.partitions.iter().any(|row| row.topic == args.topic),
        Err(error) if error.code() == Some(ErrorCode::UnknownGroup) => false,
        Err(error) => return Err(failed(args, &error)),
    };
    if counted {
        return Ok(());
    }
    // Subscribing makes the group, or adds the topic; nothing is started, so no attempt counts.
    let subscribed = client.queue(&args.topic, &args.group).prefetch(1).subscribe().await;
    subscribed.map(drop).map_err(|error| failed(args, &error))
}

fn failed(args: &AutoscaleArgs, error: &Error) -> Failure {
    Failure::cannot(format!("scale for group `{}` of `{}`", args.group, args.topic), error)
}

async fn scale(client: &Client, args: &AutoscaleArgs, pool: &mut Pool, signals: &mut Signals) -> Outcome {
    let started = Instant::now();
    let mut autoscaler = Autoscaler::new(Policy {
        min: args.min,
        max: args.max,
        target_drain: args.target,
        cooldown: args.cooldown,
        ..Policy::default()
    });
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        tokio::select! {
            asked = signals.asked() => {
                return if asked == Asked::Interrupt { Err(Failure::Interrupted) } else { Ok(()) };
            }
            Some(ended) = pool.waits.join_next() => pool.ended(ended),
            _ = ticks.tick() => {
                let sample = tokio::select! {
                    sample = sample(client, args, pool.serving()) => sample,
                    asked = signals.asked() => {
                        return if asked == Asked::Interrupt { Err(Failure::Interrupted) } else { Ok(()) };
                    }
                };
                match sample {
                    Ok(sample) => {
                        away = false;
                        let decision = autoscaler.decide(started.elapsed(), sample);
                        pool.adjust(&decision, &sample)?;
                    }
                    Err(error) if error.is_retriable() => {
                        if !std::mem::replace(&mut away, true) {
                            warn(format!("{}; still trying, the pool stays as it is", explain(&error)));
                        }
                        pool.kill_overdue();
                    }
                    Err(error) => return Err(failed(args, &error)),
                }
            }
        }
    }
}

/// The figures of this topic alone; the group may work on others too.
async fn sample(client: &Client, args: &AutoscaleArgs, workers_running: u32) -> Result<Sample, Error> {
    let group = client.admin().describe_group(&args.group).await?;
    let mut sample = Sample { workers_running, ..Sample::default() };
    for row in group.partitions.iter().filter(|row| row.topic == args.topic) {
        sample.ready += row.ready;
        sample.leased += row.leased;
        sample.delayed += row.delayed;
        sample.oldest_age = sample.oldest_age.max(Duration::from_millis(row.oldest_age_ms));
        sample.arrived_total += row.arrived;
        sample.serviced_total += row.serviced;
    }
    Ok(sample)
}

/// A copy that runs.
struct Copy {
    pid: u32,
    started: Instant,
    /// It was told to end, and is killed then.
    overdue: Option<Instant>,
    _registered: Registered,
}

struct Pool {
    program: PathBuf,
    args: Vec<OsString>,
    server: String,
    grace: Duration,
    children: Children,
    /// In the order in which they were started.
    copies: Vec<Copy>,
    waits: JoinSet<(u32, std::io::Result<ExitStatus>)>,
    not_before: Instant,
    restart_delay: Duration,
}

impl Pool {
    fn new(program: PathBuf, args: &AutoscaleArgs, children: Children) -> Pool {
        Pool {
            program,
            args: args.command[1..].to_vec(),
            server: args.server.addresses().to_owned(),
            grace: args.grace,
            children,
            copies: Vec::new(),
            waits: JoinSet::new(),
            not_before: Instant::now(),
            restart_delay: RESTART_DELAY_FIRST,
        }
    }

    /// Copies that were not told to end.
    fn serving(&self) -> u32 {
        self.copies.iter().filter(|copy| copy.overdue.is_none()).count() as u32
    }

    fn adjust(&mut self, decision: &Decision, sample: &Sample) -> Outcome {
        self.kill_overdue();
        let serving = self.serving();
        if decision.desired > serving && Instant::now() < self.not_before {
            return Ok(());
        }
        if decision.desired != serving {
            let Sample { ready, leased, oldest_age, .. } = sample;
            note(format!(
                "{} workers: {serving} -> {} ({}); ready {ready}, leased {leased}, oldest {}",
                units::time(units::now_ms()),
                decision.desired,
                decision.why,
                units::span(*oldest_age),
            ));
        }
        for _ in serving..decision.desired {
            self.start()?;
        }
        for _ in decision.desired..serving {
            let overdue = Instant::now() + self.grace;
            // The newest, so that the others keep what they have warmed up.
            let newest = self.copies.iter_mut().rev().find(|copy| copy.overdue.is_none());
            if let Some(copy) = newest {
                copy.overdue = Some(overdue);
                terminate(copy.pid);
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Outcome {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env("DURE_SERVER", &self.server).stdin(std::process::Stdio::null());
        // Ctrl-C at the terminal reaches this process alone, which then tells the others in order.
        command.process_group(0);
        let spawned = command.spawn();
        let mut child = spawned
            .map_err(|error| Failure::failed(format!("cannot start {}: {error}", self.program.display())))?;
        let Some(pid) = child.id() else { return Ok(()) };
        let registered = self.children.register(pid);
        self.copies.push(Copy { pid, started: Instant::now(), overdue: None, _registered: registered });
        self.waits.spawn(async move { (pid, child.wait().await) });
        Ok(())
    }

    fn ended(&mut self, ended: Result<(u32, std::io::Result<ExitStatus>), tokio::task::JoinError>) {
        let Ok((pid, status)) = ended else { return };
        let Some(at) = self.copies.iter().position(|copy| copy.pid == pid) else { return };
        let copy = self.copies.remove(at);
        let status = match status {
            Ok(status) => status,
            Err(error) => return warn(format!("cannot wait for process {pid}: {error}")),
        };
        if copy.overdue.is_some() {
            return;
        }
        if !status.success() {
            warn(format!("{} (process {pid}) {}", self.program.display(), ending(status)));
        }
        if copy.started.elapsed() < SHORT_LIFE {
            self.not_before = Instant::now() + self.restart_delay;
            self.restart_delay = (self.restart_delay * 2).min(RESTART_DELAY_MAX);
        } else {
            self.restart_delay = RESTART_DELAY_FIRST;
        }
    }

    fn kill_overdue(&mut self) {
        let now = Instant::now();
        for copy in self.copies.iter().filter(|copy| copy.overdue.is_some_and(|overdue| overdue <= now)) {
            let grace = units::span(self.grace);
            warn(format!("process {} did not end within {grace} and is killed", copy.pid));
            kill_group(copy.pid);
        }
    }

    /// Tells all copies to end and waits for them.
    async fn end_all(&mut self) {
        let overdue = Instant::now() + self.grace;
        for copy in self.copies.iter_mut().filter(|copy| copy.overdue.is_none()) {
            copy.overdue = Some(overdue);
            terminate(copy.pid);
        }
        while !self.waits.is_empty() {
            match timeout_at(Instant::now() + TICK, self.waits.join_next()).await {
                Ok(Some(ended)) => self.ended(ended),
                Ok(None) => return,
                Err(_) => self.kill_overdue(),
            }
        }
    }
}
