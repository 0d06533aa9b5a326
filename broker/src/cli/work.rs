//! `work`: runs a command once for each message of a queue group.

mod child;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dure_client::{Client, Job, JobStream};
use tokio::task::JoinSet;

use super::args::{self, ServerArgs};
use super::failure::{Failure, Outcome, explain, warn};
use super::signals::{Asked, Signals};
use child::{Ended, Template};

pub(super) use child::{Children, Registered, ending, find_program, kill_group, terminate};

/// What can be handed to a process at a time is not worth bounding lower.
const CONCURRENCY_MAX: i64 = 10_000;
/// For acknowledgements on their way when all is done.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Run a command once for each message of a queue group.
///
/// The body is on the command's stdin; DURE_MSG_TOPIC, DURE_MSG_PARTITION, DURE_MSG_OFFSET, DURE_MSG_KEY,
/// DURE_MSG_ATTEMPT and DURE_MSG_RECEIPT are in its environment (a key that holds a NUL byte comes as
/// DURE_MSG_KEY_BASE64). Exit code 0 acknowledges, 100 rejects to the dead letters, anything else puts the message back
/// after the group's backoff. Leases are extended while the command runs. SIGTERM or Ctrl-C: takes no more and waits for
/// what runs; a second one ends that too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure work mails --group send --concurrency 4 -- ./send-mail\n  \
    dure work thumbnails --group resize -- sh -c 'convert - -resize 200 out/$DURE_MSG_OFFSET.jpg'")]
pub(super) struct WorkArgs {
    topic: String,
    /// The queue group; made with its defaults if there is none.
    #[arg(long, short, value_name = "G")]
    group: String,
    /// How many run at a time.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    concurrency: u32,
    /// How soon the messages of a worker that vanished go to others [default: as the group says, 30s unless set].
    #[arg(long, value_name = "DURATION", value_parser = args::some_duration)]
    lease: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<std::ffi::OsString>,
}

pub(super) async fn run(args: WorkArgs) -> Outcome {
    let program = find_program(&args.command[0]).map_err(Failure::Failed)?;
    let children = Children::default();
    let mut signals = Signals::listen({
        let children = children.clone();
        move || children.terminate_groups()
    })?;
    let starting = subscribe(&args);
    let (client, jobs) = tokio::select! {
        started = starting => started?,
        _ = signals.asked() => return Err(Failure::Interrupted),
    };
    let template = Template { program, args: args.command[1..].to_vec(), children };
    let outcome =
        Pool { template: Arc::new(template), running: JoinSet::new() }.run(jobs, &mut signals).await;
    let _ = tokio::time::timeout(CLOSE_MAX, client.close()).await;
    outcome
}

async fn subscribe(args: &WorkArgs) -> Outcome<(Client, JobStream)> {
    let client = args.server.connect().await?;
    let mut queue = client.queue(&args.topic, &args.group).prefetch(args.concurrency);
    if let Some(lease) = args.lease {
        queue = queue.lease(lease);
    }
    let jobs = queue.subscribe().await;
    let jobs = jobs.map_err(|error| Failure::cannot(format!("work on `{}`", args.topic), &error))?;
    Ok((client, jobs))
}

/// The commands that run.
struct Pool {
    template: Arc<Template>,
    /// Each ends with why no more can be started, if that is so.
    running: JoinSet<Outcome>,
}

impl Pool {
    /// Takes jobs, as many as the prefetch allows, until asked to stop.
    async fn run(mut self, mut jobs: JobStream, signals: &mut Signals) -> Outcome {
        let outcome = loop {
            tokio::select! {
                job = jobs.next() => match job {
                    Some(Ok(job)) => {
                        self.running.spawn(handle(job, Arc::clone(&self.template)));
                    }
                    Some(Err(error)) if error.is_retriable() => {
                        warn(format!("{}; still trying", explain(&error)));
                    }
                    Some(Err(error)) => break Err(Failure::cannot("go on working", &error)),
                    None => break Err(Failure::failed("the broker ended the subscription")),
                },
                Some(done) = self.running.join_next() => {
                    if let Err(failure) = flatten(done) {
                        break Err(failure);
                    }
                }
                asked = signals.asked() => {
                    break if asked == Asked::Interrupt { Err(Failure::Interrupted) } else { Ok(()) };
                }
            }
        };
        // What was leased and not started goes back at once.
        drop(jobs);
        while let Some(done) = self.running.join_next().await {
            if let Err(Failure::Failed(text)) = flatten(done) {
                warn(text);
            }
        }
        outcome
    }
}

fn flatten(done: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    done.unwrap_or_else(|error| Err(Failure::failed(format!("a task failed: {error}"))))
}

/// Runs the command for one message and settles it by what became of it.
async fn handle(job: Job, template: Arc<Template>) -> Outcome {
    let name = format!("message {}/{} of `{}`", job.partition(), job.offset(), job.topic());
    let settled = match template.run(job.message()).await {
        Ended::Done => job.ack().await,
        Ended::Rejected(reason) => job.reject(reason).await,
        Ended::Failed(why) => {
            warn(format!("{name}: {why}; it is tried again later"));
            job.release_because(why, None).await
        }
        Ended::CannotStart(why) => {
            // Not the message's fault: it goes back as it is.
            let released = job.release_after(Duration::ZERO).await;
            if let Err(error) = released {
                warn(format!("{name}: {}", explain(&error)));
            }
            return Err(Failure::Failed(why));
        }
    };
    if let Err(error) = settled {
        warn(format!("{name} may come back: {}", explain(&error)));
    }
    Ok(())
}
