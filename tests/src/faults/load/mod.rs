//! Users of the broker, all at once: producers, members of a stream group, workers of a queue group. What they do and
//! what they are told goes into the history.

mod consume;
mod produce;
mod work;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dure_client::{Client, QueueSettings, TopicConfig};
use fastrand::Rng;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::check::Rules;
use super::history::History;
pub(super) use work::acknowledge_all;

/// What is read in order.
pub(super) const EVENTS: &str = "events";
/// What is worked through.
pub(super) const JOBS: &str = "jobs";
/// Who reads.
pub(super) const READERS: &str = "readers";
/// Who works.
pub(super) const WORKERS: &str = "workers";
/// How a reason begins for which a message is rejected.
pub(super) const REJECTED: &str = "no good";

const ATTEMPTS_MAX: u32 = 4;
/// Short, so that what a dead worker held is soon back.
pub(super) const LEASE: Duration = Duration::from_millis(1200);
const SESSION: Duration = Duration::from_secs(2);
/// Longer than a broker is away in any fault.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// After something failed.
const PAUSE: Duration = Duration::from_millis(30);

/// What the history of this load is judged by.
pub(crate) const RULES: Rules = Rules { jobs: JOBS, attempts_max: ATTEMPTS_MAX };

/// How many of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// To the topic that is read, and to the one that is worked through.
    pub(crate) producers: (u32, u32),
    /// Of the stream group.
    pub(crate) members: u32,
    /// With a subscription; one more receives without.
    pub(crate) workers: u32,
    /// How long a producer waits after a burst, at most.
    pub(crate) pause_max: Duration,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { producers: (3, 2), members: 2, workers: 3, pause_max: Duration::from_millis(12) }
    }
}

/// What every user has at hand.
#[derive(Clone, Debug)]
struct Common {
    servers: String,
    history: History,
    numbers: Arc<Numbers>,
    stop: CancellationToken,
    pause_max: Duration,
}

/// Names that are not used again.
#[derive(Debug, Default)]
struct Numbers {
    producer_next: AtomicU32,
    reader_next: AtomicU32,
    worker_next: AtomicU32,
}

impl Common {
    /// A connection of one's own, tried for until there is one. `None`: it is time to stop.
    async fn client(&self) -> Option<Client> {
        while !self.stop.is_cancelled() {
            let builder = Client::builder().servers(&self.servers).request_timeout(REQUEST_TIMEOUT);
            match builder.connect().await {
                Ok(client) => return Some(client),
                Err(_) => self.pause().await,
            }
        }
        None
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }

    /// What the future gives, or `None` when it is time to stop.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = self.stop.cancelled() => None,
        }
    }
}

/// Makes users, starts them and stops them.
#[derive(Debug)]
pub(crate) struct Load {
    runtime: Runtime,
    history: History,
    numbers: Arc<Numbers>,
    shape: Shape,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// A load that is at rest.
    ///
    /// # Panics
    /// If the system has no threads left.
    #[must_use]
    pub(crate) fn new(history: History, shape: Shape) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads for the load");
        Load { runtime, history, numbers: Arc::default(), shape, running: None }
    }

    /// Where other clients of the test can run.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Creates topics and groups.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) fn set_up(&self, servers: &str) -> dure_client::Result<()> {
        self.block_on(async {
            let admin = Client::connect(servers).await?.admin();
            // Small, so that segments are sealed.
            let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
            admin.create_topic(EVENTS, 3, &config).await?;
            admin.create_topic(JOBS, 2, &config).await?;
            admin.create_stream_group(READERS, &[EVENTS]).await?;
            let settings = QueueSettings {
                lease: LEASE,
                attempts_max: ATTEMPTS_MAX,
                backoff_first: Duration::from_millis(10),
                backoff_max: Duration::from_millis(80),
                ..QueueSettings::default()
            };
            admin.create_queue_group(WORKERS, &[JOBS], &settings).await
        })
    }

    /// Everybody begins.
    ///
    /// # Panics
    /// If they run already.
    pub(crate) fn start(&mut self, servers: &str, rng: &mut Rng) {
        assert!(self.running.is_none(), "the load runs");
        let common = Common {
            servers: servers.to_owned(),
            history: self.history.clone(),
            numbers: Arc::clone(&self.numbers),
            stop: CancellationToken::new(),
            pause_max: self.shape.pause_max,
        };
        let (mut tasks, mut threads) = (Vec::new(), Vec::new());
        let Shape { producers: (to_events, to_jobs), members, workers, .. } = self.shape;
        for (topic, count) in [(EVENTS, to_events), (JOBS, to_jobs)] {
            for _ in 0..count {
                tasks.push(self.runtime.spawn(produce::run(common.clone(), topic, rng.fork())));
            }
        }
        for _ in 0..members {
            tasks.push(self.runtime.spawn(consume::member(common.clone(), rng.fork())));
        }
        tasks.push(self.runtime.spawn(consume::follower(common.clone())));
        tasks.push(self.runtime.spawn(consume::observer(common.clone())));
        tasks.push(self.runtime.spawn(work::receiver(common.clone(), rng.fork())));
        for _ in 0..workers {
            let (common, rng) = (common.clone(), rng.fork());
            threads.push(thread::spawn(move || work::worker(&common, rng)));
        }
        self.running = Some(Running { stop: common.stop, tasks, threads });
    }

    /// Everybody finishes what is in hand.
    ///
    /// # Panics
    /// If one of them did.
    pub(crate) fn stop(&mut self) {
        let Some(Running { stop, tasks, threads }) = self.running.take() else { return };
        stop.cancel();
        for task in tasks {
            self.runtime.block_on(task).expect("no user panics");
        }
        for thread in threads {
            thread.join().expect("no worker panics");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a panic nobody waits for what they are doing; they see it at their next step.
        let _ = self.running.take().map(|running| running.stop.cancel());
    }
}

fn next(counter: &AtomicU32) -> u32 {
    counter.fetch_add(1, Ordering::Relaxed)
}
