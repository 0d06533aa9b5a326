//! `bench consume`.

use std::time::Duration;

use clap::Args;
use dure_client::{Error, MessageStream};
use tokio::time::{Instant, timeout_at};

use super::super::args::{self, From, OutputArgs, ServerArgs};
use super::super::failure::{Failure, Outcome};
use super::report::{Length, Progress, Report, beside};

/// Messages between two looks at the clock.
const LOOK_EVERY: u64 = 1024;

/// Measure reading a topic in order.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure bench consume --topic clicks -o json\n  \
    dure bench consume --topic clicks --seconds 30 --from latest")]
pub(crate) struct ConsumeArgs {
    #[arg(long, value_name = "T", default_value = "bench")]
    topic: String,
    /// Stop after so many [default: at the end of the topic].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Stop after so long; at the end of the topic, wait for more.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Where to begin: earliest, latest, offset:N, time:RFC3339 or ago:1h.
    #[arg(long, value_name = "PLACE", default_value = "earliest", value_parser = args::from)]
    from: From,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ConsumeArgs) -> Outcome {
    let failed = |error: Error| Failure::cannot(format!("bench reading `{}`", args.topic), &error);
    let client = args.server.connect().await?;
    let mut stream = client.stream(&args.topic).from(args.from.start());
    if args.seconds.is_none() {
        stream = stream.until_high_watermark();
    }
    let started = Instant::now();
    let stream = stream.subscribe().await.map_err(failed)?;
    let time = args.seconds.map(Duration::from_secs);
    let progress = Progress::default();
    let length = match (args.messages, time) {
        (Some(messages), _) => Length::Messages(messages),
        (None, Some(time)) => Length::Time(time),
        (None, None) => Length::Unknown,
    };
    let until = time.map(|time| started + time);
    let reading = read(stream, args.messages.unwrap_or(u64::MAX), until, &progress);
    let (messages, bytes) = beside(&progress, length, reading).await.map_err(failed)?;
    Report::new(messages, bytes, started.elapsed()).print(args.output.format)
}

/// How many messages were read, and how many bytes of them.
async fn read(
    mut stream: MessageStream,
    messages_max: u64,
    until: Option<Instant>,
    progress: &Progress,
) -> Result<(u64, u64), Error> {
    let (mut messages, mut bytes) = (0, 0);
    let mut told = 0;
    while messages < messages_max {
        let next = match until {
            None => stream.next().await,
            Some(until) => match timeout_at(until, stream.next()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        let Some(message) = next else { break };
        bytes += message?.value.map_or(0, |value| value.len() as u64);
        messages += 1;
        if messages - told >= LOOK_EVERY {
            progress.add(messages - told);
            told = messages;
            // The progress bar is drawn, and Ctrl-C noticed, in a flood too.
            tokio::task::yield_now().await;
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
    }
    Ok((messages, bytes))
}
