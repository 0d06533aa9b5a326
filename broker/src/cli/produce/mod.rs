//! `produce`: stdin or files into a topic.
//!
//! Three run at once, joined by bounded channels: a thread reads stdin in large blocks ([`input`]), a task cuts them
//! into messages and enqueues them ([`feed`]), and the verb itself waits for the acknowledgements in the order sent
//! and prints them.

mod feed;
mod input;

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use dure_client::{Compression, Delivery, Error};
use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::args::{self, OutputArgs, ServerArgs};
use super::failure::{Failure, Outcome, explain};
use super::out::{Format, Out};
use super::units;
use feed::{Fed, Feed};

/// Pieces of work between the task that enqueues and the acknowledgements; each has up to [`feed::PIECE_MAX`]
/// messages, so that the client's own bound of bytes in flight is reached first.
const PIECES_MAX: usize = 1024;

/// Send messages: each line of stdin is one, or each --file.
///
/// Lines are sent as they come; exit code 0 says that all of them are acknowledged, which by default means on disk.
/// With -o json each message is printed when it is acknowledged, in the order sent; at the first failure nothing later
/// is printed. A message that waits (--delay, --at) is acknowledged as durably as any other; it is printed with the offset
/// null, since it gets one when it is due.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    echo hello | dure produce greetings\n  \
    printf 'user-7:login\\nuser-8:logout\\n' | dure produce events --key-separator : -o json\n  \
    printf 'user-7:\\n' | dure produce profiles --key-separator : -Z     # deletes the key of a compacted topic\n  \
    echo offer | dure produce offers --ttl 15m\n  \
    echo 'smoke in hall 2' | dure produce alarms --priority 9     # for groups made with --ordering priority\n  \
    echo '2 loaves' | dure produce orders --message-id order-4711 -o json    # sent twice, it is there once\n  \
    printf 'order-1:a\\norder-2:b\\n' | dure produce orders --key-separator : --id-from-key\n  \
    dure produce photos --file cat.jpg --file dog.jpg --header type=image/jpeg\n  \
    echo 'has it arrived?' | dure produce reminders --delay 3d\n  \
    echo 'happy new year' | dure produce greetings --at 2027-01-01T00:00:00Z")]
pub(super) struct ProduceArgs {
    /// The topic; producing never creates one.
    topic: String,
    /// The key of every message. Messages of one key go to one partition.
    #[arg(long, value_name = "KEY", conflicts_with = "key_separator")]
    key: Option<String>,
    /// Each line is KEY, this, VALUE; a line without it is an error.
    #[arg(long, value_name = "TEXT", conflicts_with = "file", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Send an empty message as one without a value, a tombstone: in a compacted topic it deletes its key.
    #[arg(short = 'Z', long)]
    empty_as_null: bool,
    /// A header of every message; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = args::pair)]
    headers: Vec<(String, String)>,
    /// Each message is good for this long: queue groups deliver it in this time or not at all, see `dure group create
    /// --expired`. Streams deliver it all the same.
    #[arg(long, value_name = "DURATION", value_parser = args::some_duration)]
    ttl: Option<Duration>,
    /// How urgent each message is, from 0 to 9; without it a message counts as 4. Queue groups made with `dure group
    /// create --ordering priority` go by it.
    #[arg(long, value_name = "0..9", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// The id of the message. Of messages with one id that the topic is sent within its `dedup-window` (2m by default) only
    /// the first is appended; the others are acknowledged with its offset, and -o json says `"duplicate":true`.
    #[arg(long, value_name = "ID", conflicts_with = "id_from_key")]
    message_id: Option<String>,
    /// The key of each message is its id, too; see --message-id.
    #[arg(long)]
    id_from_key: bool,
    /// Send everything to this partition.
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Send this whole file as one message instead of reading stdin; may be repeated.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Messages enter the topic so long after they are sent, such as 30s or 7d; 366 days at most.
    #[arg(long, value_name = "DURATION", value_parser = args::duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Messages enter the topic at this time, by the broker's clock; a time that is past means now.
    #[arg(long, value_name = "RFC3339", value_parser = args::time)]
    at: Option<SystemTime>,
    /// How batches are compressed.
    #[arg(long, value_name = "none|lz4|zstd", default_value = "none")]
    compression: Compression,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ProduceArgs) -> Outcome {
    if args.id_from_key && args.key.is_none() && args.key_separator.is_none() {
        let text = "--id-from-key needs keys: give --key-separator, or --key";
        return Err(Failure::Usage(text.to_owned()));
    }
    let client = args.server.connect().await?;
    let producer = client.producer(&args.topic).compression(args.compression).build().await;
    let producer = producer.map_err(|error| cannot(&args.topic, &error))?;
    let (sink, fed) = mpsc::channel(PIECES_MAX);
    let feed = Feed {
        producer,
        sink,
        key: args.key.map(Into::into),
        separator: args.key_separator.map(String::into_bytes),
        headers: args.headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        partition: args.partition,
        empty_as_null: args.empty_as_null,
        ttl: args.ttl,
        priority: args.priority,
        message_id: args.message_id.map(Into::into),
        id_from_key: args.id_from_key,
        delay: args.delay,
        at: args.at,
    };
    if args.file.is_empty() {
        tokio::spawn(feed.lines(input::read_stdin()));
    } else {
        tokio::spawn(feed.files(args.file));
    }
    Printer::new(&args.topic, args.output.format).run(fed).await
}

fn cannot(topic: &str, error: &Error) -> Failure {
    Failure::cannot(format!("produce to `{topic}`"), error)
}

/// Waits for acknowledgements and prints them.
struct Printer<'a> {
    topic: &'a str,
    /// Everything of a line up to the partition; `None` if nothing is printed.
    line_start: Option<String>,
    out: Out,
    acknowledged: u64,
}

impl Printer<'_> {
    fn new(topic: &str, format: Format) -> Printer<'_> {
        let name = serde_json::Value::from(topic);
        let line_start = (format == Format::Json).then(|| format!("{{\"topic\":{name},\"partition\":"));
        Printer { topic, line_start, out: Out::default(), acknowledged: 0 }
    }

    async fn run(mut self, mut fed: mpsc::Receiver<Fed>) -> Outcome {
        let mut outcome = Ok(());
        loop {
            let piece = match fed.try_recv() {
                Ok(piece) => Some(piece),
                Err(_) => {
                    self.flush()?;
                    fed.recv().await
                }
            };
            outcome = match piece {
                None => break,
                Some(Fed::Sent { first, deliveries }) => self.settle(first, deliveries).await,
                Some(Fed::Refused(failure)) => Err(failure),
            };
            if outcome.is_err() {
                break;
            }
        }
        self.flush()?;
        match outcome {
            Err(Failure::Failed(text)) if self.acknowledged > 0 => {
                let before = units::counted(self.acknowledged, "message");
                Err(Failure::Failed(format!("{text} (acknowledged before it: {before})")))
            }
            outcome => outcome,
        }
    }

    /// `first` is the number of the first of these messages, from 1.
    async fn settle(&mut self, first: u64, deliveries: VecDeque<Delivery>) -> Outcome {
        for (number, mut delivery) in (first..).zip(deliveries) {
            let acknowledged = match (&mut delivery).now_or_never() {
                Some(ready) => ready,
                None => {
                    self.flush()?;
                    delivery.await
                }
            };
            let ack = acknowledged.map_err(|error| {
                Failure::failed(format!(
                    "cannot produce to `{}`: message {number}: {}",
                    self.topic,
                    explain(&error)
                ))
            })?;
            self.acknowledged += 1;
            if let Some(start) = &self.line_start {
                let (partition, buffer) = (ack.partition, self.out.buffer());
                let end = if ack.duplicate { ",\"duplicate\":true}" } else { "}" };
                let written = match ack.offset {
                    Some(offset) => writeln!(buffer, "{start}{partition},\"offset\":{offset}{end}"),
                    None => writeln!(buffer, "{start}{partition},\"offset\":null{end}"),
                };
                written.expect("memory takes it");
                if self.out.is_full() {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        self.out.flush().map_err(|failure| match failure {
            // Ending quietly would look as if all of stdin had been acknowledged.
            Failure::NobodyListens => {
                Failure::failed("stdout was closed: what became of the rest is not known")
            }
            failure => failure,
        })
    }
}
