//! `consume`: messages of a topic to stdout, alone or as a member of a stream group.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dure_client::{Error, MessageStream, StreamMessage};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::args::{self, From, MessageOutputArgs, ServerArgs};
use super::failure::{Failure, Outcome, explain, warn};
use super::out::{Format, Out};
use super::signals::Signals;
use super::table::shown;
use super::units;

/// A member commits what is flushed at most this often; the end of a pause and the end of all do not wait.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How often a member commits how far it is when nothing that it reads matches.
const IDLE_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Leaving the group is a courtesy.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Print the messages of a topic.
///
/// Without --group: from the earliest on, to the end found at the start, or with --follow on and on; nothing is
/// committed. With --group: as a member of that stream group, from where it left off, until --count or interrupted;
/// what is on stdout and flushed is committed, never more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure consume greetings\n  \
    dure consume clicks --from ago:1h --follow -o json | jq .value\n  \
    dure consume clicks --group audit --count 100\n  \
    dure consume clicks --group audit --member audit-1 --session 30s\n  \
    dure consume 'photos.*' --follow --filter country=fr --filter kind=raw -o json")]
pub(super) struct ConsumeArgs {
    /// The topic; consuming never creates one. Or a pattern of topics' names, in quotes: `*` is any one part between dots,
    /// and a last `>` the rest. With --group or --follow it also reads what appears later.
    topic: String,
    /// Read as a member of this stream group.
    #[arg(long, short, value_name = "G")]
    group: Option<String>,
    /// Take part under this name, which outlives the process: started again within the session, it goes on with the same
    /// partitions at once; a process that is still there under the name is told to end. What ends keeps its place until
    /// the session is over.
    #[arg(long, value_name = "NAME", requires = "group")]
    member: Option<String>,
    /// How long the group waits for a member of whom nothing is heard, from 100ms to 30m [default: 6s].
    #[arg(long, value_name = "TIME", requires = "group", value_parser = args::some_duration)]
    session: Option<Duration>,
    /// Where to begin: earliest, latest, offset:N, time:RFC3339 or ago:1h. With --group only where nothing is
    /// committed yet.
    #[arg(long, value_name = "PLACE", default_value = "earliest", value_parser = args::from)]
    from: From,
    /// Read this partition only.
    #[arg(long, value_name = "P", conflicts_with = "group")]
    partition: Option<u32>,
    /// Print only messages that have this header; of several, those that have all. The broker sends no others.
    #[arg(long = "filter", value_name = "NAME=VALUE", value_parser = args::pair)]
    filters: Vec<(String, String)>,
    /// Stop after so many messages.
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Go on at the end of the topic and wait for more.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: MessageOutputArgs,
}

pub(super) async fn run(args: ConsumeArgs) -> Outcome {
    let mut signals = Signals::listen(|| ())?;
    let what = format!("consume `{}`", args.topic);
    let starting = async {
        let client = args.server.connect().await?;
        let mut stream = client.stream(&args.topic).from(args.from.start());
        if let Some(partition) = args.partition {
            stream = stream.partition(partition);
        }
        if let Some(member) = &args.member {
            stream = stream.member(member);
        }
        if let Some(session) = args.session {
            stream = stream.session(session);
        }
        for (name, value) in &args.filters {
            stream = stream.filter(name, value.clone().into_bytes());
        }
        stream = match &args.group {
            Some(group) => stream.group(group),
            None if args.follow => stream,
            None => stream.until_high_watermark(),
        };
        stream.subscribe().await.map_err(|error| Failure::cannot(&what, &error))
    };
    let stream = tokio::select! {
        started = starting => started?,
        _ = signals.asked() => return Err(Failure::Interrupted),
    };
    let several_topics = args.topic.contains(['*', '>']);
    let format = Format::for_messages(args.output.format);
    let printer = Printer { format, out: Out::default(), several_topics };
    let idle = (!args.filters.is_empty()).then_some(IDLE_COMMIT_INTERVAL);
    let reader = Reader {
        stream,
        printer,
        commits: args.group.is_some().then(|| Commits { idle, ..Commits::default() }),
        patient: args.follow || args.group.is_some(),
        damaged: false,
        what,
    };
    reader.run(args.count, signals).await
}

/// What is on stdout and not committed yet, by topic and partition: the last offset.
#[derive(Debug, Default)]
struct Commits {
    printed: BTreeMap<(Arc<str>, u32), u64>,
    flushed: BTreeMap<(Arc<str>, u32), u64>,
    last: Option<Instant>,
    /// How often to commit without having printed anything: what is filtered out is passed, too.
    idle: Option<Duration>,
}

impl Commits {
    fn due(&self) -> Option<Instant> {
        let interval = if self.flushed.is_empty() { self.idle? } else { COMMIT_INTERVAL };
        Some(self.last.map_or_else(Instant::now, |last| last + interval))
    }
}

struct Reader {
    stream: MessageStream,
    printer: Printer,
    commits: Option<Commits>,
    /// A broker that is away is waited for.
    patient: bool,
    /// Some of it could not be read.
    damaged: bool,
    what: String,
}

/// What came first.
enum Next {
    Message(Option<Result<StreamMessage, Error>>),
    CommitDue,
    Interrupted,
}

impl Reader {
    async fn run(mut self, count: Option<u64>, mut signals: Signals) -> Outcome {
        let outcome = self.read(count.unwrap_or(u64::MAX), &mut signals).await;
        // An error in between must not hide what is on stdout from the group.
        let flushed = if matches!(outcome, Err(Failure::NobodyListens)) { Ok(()) } else { self.flush() };
        let committed = self.commit().await;
        if self.commits.is_some() {
            // The group notices the absence by itself.
            let _ = timeout(LEAVE_MAX, self.stream.close()).await;
        }
        outcome.and(flushed).and(committed)?;
        if self.damaged { Err(Failure::Reported) } else { Ok(()) }
    }

    async fn read(&mut self, count: u64, signals: &mut Signals) -> Outcome {
        let mut printed = 0;
        while printed < count {
            let message = match self.next(signals).await? {
                Next::Message(None) => return Ok(()),
                Next::Message(Some(Err(error))) => {
                    self.flush()?;
                    self.failed(&error)?;
                    continue;
                }
                Next::Message(Some(Ok(message))) => message,
                Next::CommitDue => {
                    self.commit().await?;
                    continue;
                }
                Next::Interrupted => return Err(Failure::Interrupted),
            };
            self.printer.print(&message);
            printed += 1;
            if let Some(commits) = &mut self.commits {
                commits.printed.insert((Arc::clone(&message.topic), message.partition), message.offset);
            }
            if self.printer.out.is_full() {
                self.flush()?;
                if self.commits.as_ref().and_then(Commits::due).is_some_and(|due| due <= Instant::now()) {
                    self.commit().await?;
                }
            }
        }
        Ok(())
    }

    /// The next message; before it is waited for, what there is is flushed.
    async fn next(&mut self, signals: &mut Signals) -> Outcome<Next> {
        if let Some(message) = self.stream.next().now_or_never() {
            // A signal is noticed in a flood too, between two writes.
            let interrupted = self.printer.out.is_empty() && signals.asked().now_or_never().is_some();
            return Ok(if interrupted { Next::Interrupted } else { Next::Message(message) });
        }
        self.flush()?;
        let due = self.commits.as_ref().and_then(Commits::due);
        Ok(tokio::select! {
            message = self.stream.next() => Next::Message(message),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Next::CommitDue,
            _ = signals.asked() => Next::Interrupted,
        })
    }

    fn flush(&mut self) -> Outcome {
        self.printer.out.flush()?;
        if let Some(commits) = &mut self.commits {
            commits.flushed.append(&mut commits.printed);
        }
        Ok(())
    }

    /// Commits what is flushed. A partition that went to another member is read again there.
    async fn commit(&mut self) -> Outcome {
        let Some(commits) = &mut self.commits else { return Ok(()) };
        if commits.flushed.is_empty() && commits.idle.is_none() {
            return Ok(());
        }
        commits.last = Some(Instant::now());
        // With nothing waiting to be flushed, all that was yielded is on stdout: one request for all partitions.
        if commits.printed.is_empty() {
            match self.stream.commit_yielded().await {
                Ok(()) => commits.flushed.clear(),
                Err(error) if self.patient && error.is_retriable() => {
                    warn(format!("cannot commit yet: {}", explain(&error)));
                }
                Err(error) => {
                    commits.flushed.clear();
                    warn(format!("not committed: {}", explain(&error)));
                }
            }
            return Ok(());
        }
        for ((topic, partition), offset) in std::mem::take(&mut commits.flushed) {
            if let Err(error) = self.stream.commit_through(&topic, partition, offset).await {
                warn(format!("not committed: {}", explain(&error)));
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: &Error) -> Outcome {
        match error {
            Error::Corrupt { .. } => {
                self.damaged = true;
                warn(explain(error));
                Ok(())
            }
            error if self.patient && error.is_retriable() => {
                warn(format!("{}; still trying", explain(error)));
                Ok(())
            }
            error => Err(Failure::cannot(&self.what, error)),
        }
    }
}

/// Shows messages in one of the formats.
struct Printer {
    format: Format,
    out: Out,
    /// Lines for people say of which topic they are.
    several_topics: bool,
}

impl Printer {
    fn print(&mut self, message: &StreamMessage) {
        match self.format {
            Format::Json => self.out.json(message),
            Format::Raw => self.out.raw(message.value.as_deref().unwrap_or_default()),
            Format::Table => {
                let StreamMessage { topic, partition, offset, timestamp_ms, key, value, .. } = message;
                let topic = if self.several_topics { format!("{topic}/") } else { String::new() };
                let (time, key, value) =
                    (units::time(*timestamp_ms), shown(key.as_deref()), shown(value.as_deref()));
                let line = format_args!("{topic}{partition}/{offset}  {time}  {key}  {value}");
                writeln!(self.out.buffer(), "{line}").expect("memory takes it");
            }
        }
    }
}
