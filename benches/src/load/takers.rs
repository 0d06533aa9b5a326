//! Who takes messages: readers of a stream, and workers of a queue group that acknowledge each message by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dure_client::{JobStream, MessageStream};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Res;
use crate::ages::{Ages, Clock};

/// After so long without a message, the rest does not come any more.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Tasks that take what comes, and count it; they end when it is dropped.
#[derive(Debug)]
pub struct Takers {
    clock: Clock,
    count: Arc<AtomicU64>,
    ages: Vec<Arc<Mutex<Ages>>>,
    failed: Arc<Mutex<Option<String>>>,
    tasks: JoinSet<()>,
}

/// One of them.
struct Taker {
    clock: Clock,
    count: Arc<AtomicU64>,
    ages: Arc<Mutex<Ages>>,
}

impl Takers {
    /// Nobody yet.
    #[must_use]
    pub fn new(clock: Clock) -> Takers {
        Takers {
            clock,
            count: Arc::default(),
            ages: Vec::new(),
            failed: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// One more group, of one reader.
    pub fn read(&mut self, stream: MessageStream) {
        let taker = self.taker();
        self.spawn(taker.read(stream));
    }

    /// One more group, of one worker.
    pub fn work(&mut self, jobs: JobStream) {
        let taker = self.taker();
        self.spawn(taker.work(jobs));
    }

    fn taker(&mut self) -> Taker {
        let ages = Arc::<Mutex<Ages>>::default();
        self.ages.push(ages.clone());
        Taker { clock: self.clock, count: self.count.clone(), ages }
    }

    fn spawn(&mut self, taking: impl Future<Output = Res> + Send + 'static) {
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            if let Err(error) = taking.await {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        });
    }

    /// How many groups there are: each gets every message.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.ages.len() as u64
    }

    /// How many messages all of them have taken; a worker's count once they are acknowledged.
    #[must_use]
    pub fn count(&self) -> u64 {
        // A figure to compare; nothing is ordered by it.
        self.count.load(Ordering::Relaxed)
    }

    /// Returns once so many are taken.
    ///
    /// # Errors
    /// If a taker failed, or nothing comes any more.
    pub async fn wait_for(&self, messages: u64) -> Res {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let count = self.count();
            if count >= messages {
                return Ok(());
            }
            if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(error.into());
            }
            if count > seen {
                (seen, since) = (count, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("{} of {messages} did not arrive", messages - count).into());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Throws away the ages noted so far.
    pub fn forget(&self) {
        for ages in &self.ages {
            *ages.lock().unwrap_or_else(PoisonError::into_inner) = Ages::default();
        }
    }

    /// How old messages were when somebody had them.
    #[must_use]
    pub fn ages(&self) -> Ages {
        let mut all = Ages::default();
        for ages in &self.ages {
            all.add(&ages.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all
    }
}

impl Taker {
    async fn read(self, mut stream: MessageStream) -> Res {
        while let Some(message) = stream.next().await {
            self.arrived(message?.value.as_deref().unwrap_or_default());
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does not wait for an acknowledgement before it takes the next one.
    async fn work(self, mut jobs: JobStream) -> Res {
        let mut acks = FuturesUnordered::new();
        loop {
            tokio::select! {
                job = jobs.next() => {
                    let Some(job) = job.transpose()? else { return Ok(()) };
                    self.arrived(job.value());
                    acks.push(job.ack());
                }
                Some(acked) = acks.next() => {
                    acked?;
                    self.count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn arrived(&self, payload: &[u8]) {
        if let Some(age) = self.clock.age(payload, Instant::now()) {
            self.ages.lock().unwrap_or_else(PoisonError::into_inner).record(age);
        }
    }
}
