//! `demo`: a broker, photos, a pool that follows the backlog up and down, and what became of it all.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dure_client::{Client, Policy, QueueSettings};
use photo_pipeline::job::remove_temps;
use photo_pipeline::report::ScaleSample;
use photo_pipeline::results::forget_records;
use photo_pipeline::sample::{PHOTOS, SAMPLE_JOBS_DEFAULT, sample_jobs};
use photo_pipeline::{FileError, Job, JobId, Ops, Store};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::args::{DemoArgs, OPS_DEFAULT, PlaceArgs, QueueArgs};
use super::broker::BrokerProcess;
use super::failure::Failure;
use super::fleet::WorkerCommand;
use super::folder::{photos_in, store_photos};
use super::outcome::{Outcome, write_plot};
use super::pool::{Pool, View};
use super::progress::{Progress, counting};
use super::queue::{Position, connect, deaths, ensure};
use super::scale_log::ScaleLog;
use super::stop::Stop;
use super::submit::send;

/// How often the pool is looked at: often, so that short runs give a smooth plot.
const STEP: Duration = Duration::from_millis(50);
const RAMP: Duration = Duration::from_millis(50);
/// Short, so that one sees the workers go.
const COOLDOWN: Duration = Duration::from_secs(3);
/// How soon the job of a killed worker goes to another.
const LEASE: Duration = Duration::from_secs(5);
/// How long it waits then, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long the plot goes on once the pool is at its minimum.
const TAIL: Duration = Duration::from_secs(1);
/// How long the pool may take to get there.
const FALL_TIME: Duration = Duration::from_secs(60);
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long workers may take to finish what they hold when the demo ends early.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const ABANDONED_TIME: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: DemoArgs, stop: &Stop) -> Result<(), Failure> {
    let workers = args.workers()?;
    let source = Source::of(&args)?;
    let ground = Ground::take(&args.out)?;
    let events = ScaleLog::create(&ground.out.join(".scale.jsonl"))?;
    let jobs = tokio::select! {
        jobs = source.jobs(&ground) => jobs?,
        _ = stop.asked() => return Err(Failure::Interrupted(": nothing was submitted".into())),
    };
    let broker_log = ground.log("broker");
    let broker = tokio::select! {
        broker = BrokerProcess::start(ground.broker_data(), &broker_log, events.clone()) => broker?,
        _ = stop.asked() => return Err(Failure::Interrupted(": nothing was submitted".into())),
    };
    let ran = with_broker(&args, workers, &ground, &jobs, &broker, events, stop).await;
    broker.stop().await;
    let text = ran?;
    ground.clear();
    print!("{text}");
    if let Source::Sample { .. } = source {
        println!("photos        {}", PHOTOS.map(|photo| photo.attribution).join("; "));
    }
    Ok(())
}

/// What is worked on.
#[derive(Debug, Clone)]
enum Source {
    Folder { folder: PathBuf, photos: Vec<PathBuf>, ops: Ops },
    Sample { count: usize, ops: Option<Ops> },
}

impl Source {
    fn of(args: &DemoArgs) -> Result<Self, Failure> {
        let Some(folder) = args.photos.clone() else {
            let count = args.jobs.map_or(SAMPLE_JOBS_DEFAULT, |jobs| jobs as usize);
            return Ok(Self::Sample { count, ops: args.ops.clone() });
        };
        let ops = args.ops.clone().unwrap_or_else(|| OPS_DEFAULT.parse().expect("a test parses it"));
        Ok(Self::Folder { photos: photos_in(&folder, &args.out)?, folder, ops })
    }

    /// Stores the photos and makes the jobs; what an earlier run left of these jobs no longer counts.
    async fn jobs(&self, ground: &Ground) -> Result<Vec<Job>, Failure> {
        let (source, store, out) = (self.clone(), ground.store.clone(), ground.out.clone());
        let prepared = spawn_blocking(move || {
            let jobs = source.store_into(&store)?;
            forget_records(&out, &jobs)?;
            Ok(jobs)
        });
        prepared.await.map_err(Failure::during("storing photos"))?
    }

    fn store_into(&self, store: &Store) -> Result<Vec<Job>, Failure> {
        match self {
            Self::Folder { folder, photos, ops } => {
                let bar = counting("storing photos", photos.len());
                store_photos(store, folder, photos, ops, || bar.inc(1))
            }
            Self::Sample { count, ops: None } => Ok(sample_jobs(store, *count)?),
            Self::Sample { count, ops: Some(ops) } => Ok(repeated(sample_jobs(store, *count)?, ops)),
        }
    }
}

/// The same operations for all of them: told apart by their names, or they would be one job.
fn repeated(jobs: Vec<Job>, ops: &Ops) -> Vec<Job> {
    let renamed = jobs.into_iter().enumerate().map(|(number, job)| {
        let stem = job.input.strip_suffix(".jpg").unwrap_or(&job.input);
        let input = format!("{stem}-{:03}.jpg", number + 1);
        Job { input, ops: ops.clone(), ..job }
    });
    renamed.collect()
}

/// The out directory, for this demo alone.
#[derive(Debug)]
struct Ground {
    out: PathBuf,
    store: Store,
    /// Locked until this process ends, however it does.
    _lock: File,
}

impl Ground {
    fn take(out: &Path) -> Result<Self, Failure> {
        let fail = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| FileError { action, path, source }
        };
        let store = Store::open(out.join(".store"))?;
        let lock_path = out.join(".lock");
        let lock = File::create(&lock_path).map_err(fail("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::failed(format!(
                    "another demo is running in {}: wait for it, or name another directory with --out",
                    out.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(fail("lock", &lock_path)(error).into()),
        }
        let ground = Self { out: out.to_path_buf(), store, _lock: lock };
        // Whatever a killed demo left: its broker and workers ended with it.
        remove_temps(&ground.out)?;
        ground.store.remove_temps()?;
        let data = ground.broker_data();
        match fs::remove_dir_all(&data) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(fail("remove", &data)(e))?,
            _ => Ok(ground),
        }
    }

    fn broker_data(&self) -> PathBuf {
        self.out.join(".broker")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.out.join(format!(".{name}.log"))
    }

    /// Takes away what nobody needs once all is done.
    fn clear(&self) {
        // The next demo would do it as well.
        let _ = fs::remove_dir_all(self.broker_data());
    }
}

/// All that happens while there is a broker. Returns what is printed at the end.
async fn with_broker(
    args: &DemoArgs,
    (min, max): (u32, u32),
    ground: &Ground,
    jobs: &[Job],
    broker: &BrokerProcess,
    events: ScaleLog,
    stop: &Stop,
) -> Result<String, Failure> {
    let server = broker.native().to_string();
    let queue = QueueArgs { server, topic: "photos".into(), group: "photo-workers".into() };
    let client = connect(&queue, "photo-demo", CONNECT_WAIT).await?;
    let (backoff_first, backoff_max) = BACKOFF;
    let settings = QueueSettings { lease: LEASE, backoff_first, backoff_max, ..QueueSettings::default() };
    ensure(&client, &queue, &settings).await?;

    let log_path = ground.log("workers");
    let log =
        File::create(&log_path).map_err(Failure::during(format!("cannot create {}", log_path.display())))?;
    let place = PlaceArgs::of(ground.out.clone());
    let command = WorkerCommand { queue: queue.clone(), place, log: Some((log_path, log)) };
    let policy = Policy { min, max, target_drain: args.target, cooldown: COOLDOWN, ramp: RAMP };
    let pool = Pool::new(client.admin(), &queue.group, policy, command, events);
    eprintln!(
        "{} photos; broker {} (http://{}/metrics), {min} to {max} workers, results in {}",
        jobs.len(),
        broker.native(),
        broker.http(),
        ground.out.display()
    );
    let progress = Progress::of_photos(jobs.len() as u64);
    let mut run = Run { pool, broker, progress, samples: Vec::new(), peak: 0, stop };
    let ended = run.all(ground, &client, &queue, jobs, min).await;
    run.progress.finish();
    if ended.is_err() {
        run.end_early().await;
    } else {
        run.pool.drain().await;
    }
    ended
}

/// A run and what it has seen so far.
#[derive(Debug)]
struct Run<'a> {
    pool: Pool,
    broker: &'a BrokerProcess,
    progress: Progress,
    samples: Vec<ScaleSample>,
    /// Most workers at a time.
    peak: u32,
    stop: &'a Stop,
}

impl Run<'_> {
    async fn all(
        &mut self,
        ground: &Ground,
        client: &Client,
        queue: &QueueArgs,
        jobs: &[Job],
        min: u32,
    ) -> Result<String, Failure> {
        let began = Instant::now();
        let positions = self.work_off(client, queue, jobs).await?;
        let took = began.elapsed();
        self.progress.say("all settled; waiting for the pool to fall back to its minimum");
        let deaths = deaths(&client.admin(), queue, &positions).await?;
        let (store, out, jobs) = (ground.store.clone(), ground.out.clone(), jobs.to_vec());
        let writing = spawn_blocking(move || Outcome::write(&store, &out, &jobs, &deaths));
        self.fall_back(min).await?;
        let outcome = writing.await.map_err(Failure::during("writing the results"))??;
        let plot = write_plot(&ground.out, &self.samples)?;
        outcome.check()?;
        Ok(outcome.table(took, self.peak, &plot))
    }

    /// Submits the jobs and steps the pool until all of them are settled.
    async fn work_off(
        &mut self,
        client: &Client,
        queue: &QueueArgs,
        jobs: &[Job],
    ) -> Result<BTreeMap<Position, JobId>, Failure> {
        let mut sending = std::pin::pin!(send(client, queue, jobs, |_, _| Ok(())));
        let mut sent = None;
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One look at the pool before there is anything to do: the plot begins at its minimum.
        self.step().await?;
        loop {
            tokio::select! {
                positions = &mut sending, if sent.is_none() => sent = Some(positions?),
                _ = steps.tick() => {
                    let view = self.step().await?;
                    let all_there = view.submitted >= jobs.len() as u64;
                    if let Some(positions) = sent.take_if(|_| view.fresh && all_there && view.backlog == 0) {
                        return Ok(positions);
                    }
                }
            }
        }
    }

    /// Steps the pool until it is at its minimum, and a little longer.
    async fn fall_back(&mut self, min: u32) -> Result<(), Failure> {
        let deadline = Instant::now() + FALL_TIME;
        let mut fallen: Option<Instant> = None;
        let mut steps = interval(STEP);
        while Instant::now() < deadline && fallen.is_none_or(|at| at.elapsed() < TAIL) {
            steps.tick().await;
            let view = self.step().await?;
            let at_minimum = view.workers <= min && view.draining == 0;
            fallen = if at_minimum { fallen.or(Some(Instant::now())) } else { None };
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<View, Failure> {
        self.broker.check()?;
        let view = tokio::select! {
            biased;
            _ = self.stop.asked() => {
                let text = ": the pictures made so far are in the out directory";
                return Err(Failure::Interrupted(text.into()));
            }
            view = self.pool.step() => view?,
        };
        let sample = self.pool.scale_sample();
        self.peak = self.peak.max(sample.workers);
        self.samples.push(sample);
        self.progress.show(&view);
        Ok(view)
    }

    /// Workers finish what they hold; those that take too long are let go.
    async fn end_early(&mut self) {
        if timeout(DRAIN_TIME, self.pool.drain()).await.is_err() {
            self.pool.abandon();
            let _ = timeout(ABANDONED_TIME, self.pool.drain()).await;
        }
    }
}
