//! `worker`: takes jobs from the queue, does them, settles them.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dure_client::{Error, QueueSettings};
use photo_pipeline::{Job, JobError, Record, Store, run_and_record};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::args::WorkerArgs;
use super::failure::Failure;
use super::queue::{connect, ensure};
use super::stop::Stop;

/// A broker that is being restarted is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(30);
/// How soon a job is tried again after an error that may pass, at first; it doubles with each attempt.
const RETRY_DELAY_FIRST: Duration = Duration::from_millis(500);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// What a worker may still take to finish once whoever started it is gone.
const ORPHANED_TIME: Duration = Duration::from_secs(3);
/// For what is still to be written on the connection at the end.
const CLOSING_TIME: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: WorkerArgs, stop: &Stop) -> Result<(), Failure> {
    log_to_stderr();
    if args.until_stdin_ends {
        stop.when_stdin_ends();
    }
    tokio::select! {
        worked = work(&args, stop) => worked?,
        () = async { stop.orphaned().await; sleep(ORPHANED_TIME).await } => {
            // What was under way is leased anew by others.
            say(format_args!("whoever started this worker is gone; ending"));
        }
    }
    stop.end()
}

async fn work(args: &WorkerArgs, stop: &Stop) -> Result<(), Failure> {
    let store = Store::open(args.place.store())?;
    let hands = Arc::new(Hands { store, out: args.place.out.clone() });
    let client = tokio::select! {
        connected = connect(&args.queue, "photo-worker", CONNECT_WAIT) => connected?,
        _ = stop.asked() => return Ok(()),
    };
    ensure(&client, &args.queue, &QueueSettings::default()).await?;
    let concurrency = args.concurrency as usize;
    // No more than it works on: what waited here could be worked on elsewhere.
    let subscribing =
        client.queue(&args.queue.topic, &args.queue.group).prefetch(args.concurrency).subscribe();
    let mut jobs = subscribing.await.map_err(Failure::during("cannot take jobs"))?;
    let mut busy = JoinSet::new();
    let ended = loop {
        tokio::select! {
            biased;
            _ = stop.asked() => break Ok(()),
            Some(_) = busy.join_next() => {}
            job = jobs.next(), if busy.len() < concurrency => match job {
                Some(Ok(job)) => {
                    busy.spawn(handle(Arc::clone(&hands), job));
                }
                Some(Err(error)) if error.is_retriable() => say(format_args!("{error}; trying on")),
                Some(Err(error)) => break Err(Failure::failed(format!("cannot take jobs: {error}"))),
                None => break Err(Failure::failed("the queue has ended")),
            },
        }
    };
    drop(jobs);
    while busy.join_next().await.is_some() {}
    let _ = timeout(CLOSING_TIME, client.close()).await;
    ended
}

/// What a worker needs to do a job.
#[derive(Debug)]
struct Hands {
    store: Store,
    out: PathBuf,
}

impl Hands {
    fn run(&self, message: &[u8], attempt: u32) -> Result<Record, JobError> {
        run_and_record(&self.store, &Job::from_json(message)?, &self.out, attempt)
    }
}

/// Does a job and settles it. Its lease is renewed meanwhile, by the client.
async fn handle(hands: Arc<Hands>, job: dure_client::Job) {
    let (partition, offset, attempt) = (job.partition(), job.offset(), job.attempt());
    let message = job.value_bytes().unwrap_or_default();
    let done = spawn_blocking(move || hands.run(&message, attempt)).await;
    let (text, settled) = match done {
        Ok(Ok(record)) => (done_text(&record), job.ack().await),
        Ok(Err(error)) if error.is_passing() => {
            let delay = retry_delay(attempt);
            (format!("{error}; tried again in {} ms", delay.as_millis()), job.release_after(delay).await)
        }
        Ok(Err(error)) => (format!("rejected: {error}"), job.reject(error.to_string()).await),
        Err(error) => (format!("the work ended early: {error}"), job.release().await),
    };
    say(format_args!("{partition}/{offset} attempt {attempt}: {text}"));
    if let Err(error) = settled {
        // The result is there all the same; done once more, the job changes nothing.
        let stale = matches!(error, Error::Broker { .. });
        let then = if stale { "somebody else has it" } else { "it may come back" };
        say(format_args!("{partition}/{offset} attempt {attempt}: not settled, {then}: {error}"));
    }
}

/// A line at once: workers of a pool share a file, and pieces of their lines would mix.
fn say(line: impl std::fmt::Display) {
    // There is nobody else to tell that this failed.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn done_text(record: &Record) -> String {
    let output = record.output.as_deref().unwrap_or_default();
    format!("{} -> {output} in {} ms", record.input, record.ms.unwrap_or_default())
}

fn retry_delay(attempt: u32) -> Duration {
    let doubled = 2u32.saturating_pow(attempt.saturating_sub(1).min(16));
    RETRY_DELAY_FIRST.saturating_mul(doubled).min(RETRY_DELAY_MAX)
}

/// What the libraries have to say; `RUST_LOG` says how much of it.
pub(crate) fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later_within_bounds() {
        let delays = [1, 2, 3, 40].map(|attempt| retry_delay(attempt).as_millis());
        assert_eq!(delays, [500, 1000, 2000, 30_000]);
    }
}
