//! Producers and takers at once, until everything that was sent has been taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dure_client::{Client, Error, JobStream, MessageStream, Start};
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::args::ServerArgs;
use super::super::failure::{Failure, Outcome};
use super::load::{Load, Plan};
use super::report::{Length, Progress, beside, histogram, micros};
use super::scratch::Scratch;
use super::stamp::Stamp;

/// After so long without a message, the rest does not come any more.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Who takes what is produced; each has a connection of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takers {
    /// Members of a stream group.
    Members(u32),
    /// Workers of a queue group, which acknowledge each message by itself.
    Workers { count: u32, prefetch: u32 },
}

impl Takers {
    /// A client for each.
    pub(super) async fn connect(self, server: &ServerArgs) -> Outcome<Vec<Client>> {
        let (Takers::Members(count) | Takers::Workers { count, .. }) = self;
        connect(server, count).await
    }
}

async fn connect(server: &ServerArgs, count: u32) -> Outcome<Vec<Client>> {
    try_join_all((0..count).map(|_| server.connect())).await
}

/// What was measured.
pub(super) struct Measured {
    /// Microseconds from when a message was to be sent until it was acknowledged to its producer.
    pub(super) acked: Histogram<u64>,
    /// Microseconds from when a message was to be sent until somebody had it.
    pub(super) arrived: Histogram<u64>,
    /// From the first message sent until the last one was taken (by a worker: and acknowledged).
    pub(super) elapsed: Duration,
}

/// Runs `plan` against the takers of `scratch`.
pub(super) async fn run(
    server: &ServerArgs,
    scratch: &Scratch,
    plan: Plan,
    takers: Takers,
) -> Outcome<Measured> {
    let stamp = Stamp::new();
    let taking = Taking::start(&takers.connect(server).await?, scratch, takers, Some(stamp)).await?;
    let clients = connect(server, plan.producers).await?;
    let length = plan.messages.map_or(Length::Time(plan.time), Length::Messages);
    let load = Load::new(plan, &scratch.topic, &clients).await;
    let load = load.map_err(|error| Failure::cannot("start producing", &error))?;
    let started = Instant::now();
    let taken = taking.taken.clone();
    let everything = async {
        let acked = load.run(Some(stamp), &Progress::default()).await?;
        taking.wait_for(acked.len()).await?;
        Ok(acked)
    };
    let acked = beside(&taken, length, everything).await?;
    let done = taking.finish().await?;
    Ok(Measured { acked, arrived: done.arrived, elapsed: done.last.saturating_duration_since(started) })
}

/// Takers at work.
pub(super) struct Taking {
    pub(super) taken: Progress,
    count: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: JoinSet<Result<Taken, Error>>,
}

/// What one taker, or all of them, took.
pub(super) struct Taken {
    pub(super) arrived: Histogram<u64>,
    /// Microseconds that acknowledging a message took.
    pub(super) acks: Histogram<u64>,
    /// Of the payloads.
    pub(super) bytes: u64,
    /// When the last one was through.
    pub(super) last: Instant,
}

impl Taking {
    /// One taker for each client. With a `stamp`, ages of messages are measured.
    pub(super) async fn start(
        clients: &[Client],
        scratch: &Scratch,
        takers: Takers,
        stamp: Option<Stamp>,
    ) -> Outcome<Taking> {
        let failed = |error: Error| Failure::cannot(format!("read `{}`", scratch.topic), &error);
        let (taken, count, stop) =
            (Progress::default(), Arc::<AtomicU64>::default(), CancellationToken::new());
        let taker = || Taker {
            stamp,
            progress: taken.clone(),
            count: count.clone(),
            stop: stop.clone(),
            taken: Taken { arrived: histogram(), acks: histogram(), bytes: 0, last: Instant::now() },
        };
        let mut tasks = JoinSet::new();
        match takers {
            Takers::Members(_) => {
                let members = clients.iter().map(|client| {
                    client.stream(&scratch.topic).group(&scratch.group).from(Start::Earliest).subscribe()
                });
                for stream in try_join_all(members).await.map_err(failed)? {
                    tasks.spawn(taker().read(stream));
                }
            }
            Takers::Workers { prefetch, .. } => {
                let workers = clients.iter().map(|client| {
                    client.queue(&scratch.topic, &scratch.group).prefetch(prefetch).subscribe()
                });
                for jobs in try_join_all(workers).await.map_err(failed)? {
                    tasks.spawn(taker().work(jobs));
                }
            }
        }
        Ok(Taking { taken, count, stop, tasks })
    }

    /// Until so many are taken.
    pub(super) async fn wait_for(&self, messages: u64) -> Outcome {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            // A count to compare; what was counted is handed over when the tasks end.
            let count = self.count.load(Ordering::Relaxed);
            if count >= messages {
                return Ok(());
            }
            if count > seen {
                (seen, since) = (count, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                let missing = messages - count;
                return Err(Failure::failed(format!(
                    "{missing} of {messages} acknowledged messages did not arrive within {PATIENCE:?}"
                )));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn finish(mut self) -> Outcome<Taken> {
        self.stop.cancel();
        let mut all = Taken { arrived: histogram(), acks: histogram(), bytes: 0, last: Instant::now() };
        let mut last = None;
        while let Some(done) = self.tasks.join_next().await {
            let part = done.map_err(|error| Failure::failed(format!("a consumer failed: {error}")))?;
            let part = part.map_err(|error| Failure::cannot("consume", &error))?;
            all.arrived.add(part.arrived).expect("they are of one kind");
            all.acks.add(part.acks).expect("they are of one kind");
            all.bytes += part.bytes;
            last = last.max(Some(part.last));
        }
        all.last = last.unwrap_or(all.last);
        Ok(all)
    }
}

struct Taker {
    stamp: Option<Stamp>,
    progress: Progress,
    count: Arc<AtomicU64>,
    stop: CancellationToken,
    taken: Taken,
}

impl Taker {
    async fn read(mut self, mut stream: MessageStream) -> Result<Taken, Error> {
        loop {
            let message = tokio::select! {
                biased;
                message = stream.next() => message,
                () = self.stop.cancelled() => break,
            };
            let Some(message) = message else { break };
            self.arrived(&message?.value.unwrap_or_default());
            self.through();
        }
        stream.close().await?;
        Ok(self.taken)
    }

    /// Acknowledges each message by itself, without waiting for that before it takes the next.
    async fn work(mut self, mut jobs: JobStream) -> Result<Taken, Error> {
        let mut acks = FuturesUnordered::new();
        loop {
            tokio::select! {
                job = jobs.next() => {
                    let Some(job) = job.transpose()? else { break };
                    self.arrived(job.value());
                    let asked = Instant::now();
                    acks.push(async move { job.ack().await.map(|()| asked.elapsed()) });
                }
                Some(acked) = acks.next() => {
                    self.taken.acks.record(micros(acked?)).expect("it grows with what is recorded");
                    self.through();
                }
                () = self.stop.cancelled() => break,
            }
        }
        Ok(self.taken)
    }

    fn arrived(&mut self, payload: &[u8]) {
        self.taken.bytes += payload.len() as u64;
        if let Some(age) = self.stamp.and_then(|stamp| stamp.age(payload)) {
            self.taken.arrived.record(micros(age)).expect("it grows with what is recorded");
        }
    }

    fn through(&mut self) {
        self.taken.last = Instant::now();
        self.progress.add(1);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}
