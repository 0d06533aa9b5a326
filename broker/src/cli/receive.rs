//! `receive`, and `ack|release|reject|extend` by receipt.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use dure_client::{Action, Client, Receipt, ReceivedJob};
use dure_proto::{LeaseToken, Offset, PartitionId};
use serde::Serialize;

use super::args::{self, MessageOutputArgs, OutputArgs, ServerArgs};
use super::failure::{Failure, Outcome, explain};
use super::out::{Format, Out};
use super::table::{Side, Table, shown};
use super::units;

/// What one request may lease; more takes more requests.
const REQUEST_MAX: u32 = 1000;

/// Lease messages of a queue group and print them.
///
/// Returns as soon as there is one, up to --count; none within --wait: nothing is printed and the exit code is 0.
/// Each message belongs to the receiver until its lease ends; settle it with `dure ack`, `release` or `reject`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure receive jobs --group resize -o json\n  \
    dure receive jobs --group resize --count 10 --wait 1m --ack\n  \
    dure ack jobs --group resize $(dure receive jobs --group resize -o json | jq -r .receipt)")]
pub(super) struct ReceiveArgs {
    topic: String,
    /// The queue group; made with its defaults if there is none.
    #[arg(long, short, value_name = "G")]
    group: String,
    /// At most so many messages.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long to wait for the first one.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = args::duration)]
    wait: Duration,
    /// How long the leases run [default: as the group says, 30s unless set].
    #[arg(long, value_name = "DURATION", value_parser = args::some_duration)]
    lease: Option<Duration>,
    /// Acknowledge what was printed.
    #[arg(long)]
    ack: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: MessageOutputArgs,
}

pub(super) async fn run(args: ReceiveArgs) -> Outcome {
    let client = args.server.connect().await?;
    let mut out = Out::default();
    let mut left = args.count;
    let mut wait = args.wait;
    loop {
        let asked = left.min(REQUEST_MAX);
        let received = client.receive(&args.topic, &args.group, asked, wait, args.lease).await;
        let jobs =
            received.map_err(|error| Failure::cannot(format!("receive from `{}`", args.topic), &error))?;
        print(Format::for_messages(args.output.format), &jobs, &mut out);
        out.flush()?;
        if args.ack {
            acknowledge(&client, &args, &jobs).await?;
        }
        let got = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        left = left.saturating_sub(got);
        if got < asked || left == 0 {
            return Ok(());
        }
        wait = Duration::ZERO;
    }
}

fn print(format: Format, jobs: &[ReceivedJob], out: &mut Out) {
    match format {
        Format::Json => jobs.iter().for_each(|job| out.json(job)),
        Format::Raw => jobs.iter().for_each(|job| out.raw(job.value.as_deref().unwrap_or_default())),
        Format::Table if jobs.is_empty() => {}
        Format::Table => {
            let mut table = Table::new(&[
                ("RECEIPT", Side::Left),
                ("ATTEMPT", Side::Right),
                ("LEASE", Side::Right),
                ("KEY", Side::Left),
                ("VALUE", Side::Left),
            ]);
            for job in jobs {
                table.row(vec![
                    job.receipt.to_string(),
                    job.attempt.to_string(),
                    units::span(job.lease),
                    shown(job.key.as_deref()),
                    shown(job.value.as_deref()),
                ]);
            }
            out.buffer().extend_from_slice(table.render("").as_bytes());
        }
    }
}

async fn acknowledge(client: &Client, args: &ReceiveArgs, jobs: &[ReceivedJob]) -> Outcome {
    if jobs.is_empty() {
        return Ok(());
    }
    let items = jobs.iter().map(|job| (job.receipt, Action::Ack)).collect();
    let failed = |error| Failure::cannot("acknowledge what was received", &error);
    let settled = client.settle(&args.topic, &args.group, items).await.map_err(failed)?;
    settled.into_iter().try_for_each(|outcome| outcome.map(drop)).map_err(failed)
}

/// Whose messages, and which.
#[derive(Debug, Args)]
struct Receipts {
    topic: String,
    /// The queue group.
    #[arg(long, short, value_name = "G")]
    group: String,
    /// As printed by `dure receive`.
    #[arg(required_unless_present = "up_to", value_name = "RECEIPT")]
    receipts: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Acknowledge leased messages: they are done and never come back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure ack jobs --group resize 0-17-1-42\n  \
    dure ack jobs --group resize --up-to 0:17")]
pub(super) struct AckArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// Every message of a partition up to and including this offset, whoever holds it; may repeat.
    #[arg(long, id = "up_to", value_name = "PARTITION:OFFSET", value_parser = place)]
    up_to: Vec<Receipt>,
}

/// A place in a partition, as a receipt of nobody.
fn place(text: &str) -> Result<Receipt, String> {
    let parsed = text.split_once(':').and_then(|(partition, offset)| {
        Some((PartitionId(partition.parse().ok()?), Offset(offset.parse().ok()?)))
    });
    let (partition, offset) = parsed.ok_or_else(|| "expected PARTITION:OFFSET, such as 0:17".to_owned())?;
    Ok(Receipt { partition, offset, token: LeaseToken::NONE })
}

/// Put leased messages back into the queue.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure release jobs --group resize 0-17-1-42 --delay 5s")]
pub(super) struct ReleaseArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// How long until they show again [default: the group's backoff].
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    delay: Option<Duration>,
    /// Kept with the dead letter if that was the last attempt.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Move leased messages straight to the dead letters.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure reject jobs --group resize 0-17-1-42 --reason 'not a picture'")]
pub(super) struct RejectArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// Kept with the dead letters.
    #[arg(long, value_name = "TEXT", default_value = "rejected by `dure reject`")]
    reason: String,
}

/// Make leases run longer, from now on.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure extend jobs --group resize 0-17-1-42 --lease 60s")]
pub(super) struct ExtendArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// How long [default: as the group says].
    #[arg(long, value_name = "DURATION", value_parser = args::some_duration)]
    lease: Option<Duration>,
}

pub(super) async fn ack(args: AckArgs) -> Outcome {
    let up_to = args.up_to.iter().map(|place| (format!("{}:{}", place.partition, place.offset), *place));
    args.receipts.settle(&Action::Ack, "acknowledged", up_to.collect()).await
}

pub(super) async fn release(args: ReleaseArgs) -> Outcome {
    let release = Action::Release { delay: args.delay, reason: args.reason };
    args.receipts.settle(&release, "released", Vec::new()).await
}

pub(super) async fn reject(args: RejectArgs) -> Outcome {
    args.receipts.settle(&Action::Reject { reason: args.reason }, "rejected", Vec::new()).await
}

pub(super) async fn extend(args: ExtendArgs) -> Outcome {
    args.receipts.settle(&Action::Extend { lease: args.lease }, "extended", Vec::new()).await
}

/// What became of one receipt.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Settling<'a> {
    receipt: &'a str,
    ok: bool,
    already_settled: bool,
    error: Option<String>,
}

impl Receipts {
    /// The receipts, and then everything up to some places, as they were written.
    async fn settle(&self, action: &Action, done: &str, up_to: Vec<(String, Receipt)>) -> Outcome {
        let receipts = self.receipts.iter().map(|text| (text.clone(), text.parse(), action));
        let up_to = up_to.into_iter().map(|(text, place)| (text, Ok(place), &Action::AckUpTo));
        let wanted: Vec<(String, Result<Receipt, _>, &Action)> = receipts.chain(up_to).collect();
        let good =
            wanted.iter().filter_map(|(_, parsed, action)| Some((*parsed.as_ref().ok()?, (*action).clone())));
        let items: Vec<_> = good.collect();
        let outcomes = if items.is_empty() {
            Vec::new()
        } else {
            let client = self.server.connect().await?;
            let what = format!("settle messages of `{}` for group `{}`", self.topic, self.group);
            let settled = client.settle(&self.topic, &self.group, items).await;
            settled.map_err(|error| Failure::cannot(what, &error))?
        };
        let mut outcomes = outcomes.into_iter();
        let settled: Vec<_> = wanted
            .iter()
            .map(|(receipt, parsed, _)| {
                let outcome = match parsed {
                    Ok(_) => outcomes.next().expect("one for each").map_err(|error| explain(&error)),
                    Err(error) => Err(error.to_string()),
                };
                Settling {
                    receipt,
                    ok: outcome.is_ok(),
                    already_settled: outcome.as_ref().is_ok_and(|settled| settled.already_settled),
                    error: outcome.err(),
                }
            })
            .collect();
        report(self.output.format, &settled, done)?;
        if settled.iter().all(|settling| settling.ok) { Ok(()) } else { Err(Failure::Reported) }
    }
}

fn report(format: Format, settled: &[Settling<'_>], done: &str) -> Outcome {
    let mut out = Out::default();
    for settling in settled {
        let Settling { receipt, already_settled, error, .. } = settling;
        match (format, error) {
            (Format::Json, _) => out.json(settling),
            (_, Some(error)) => super::failure::warn(format!("{receipt}: {error}")),
            (Format::Raw, None) => out.line(receipt),
            (Format::Table, None) => {
                let note = if *already_settled { "settled before" } else { done };
                writeln!(out.buffer(), "{receipt}  {note}").expect("memory takes it");
            }
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_receipt_has_all_four_fields() {
        let settling = Settling { receipt: "0-1-2-3", ok: true, already_settled: false, error: None };
        let expected = r#"{"receipt":"0-1-2-3","ok":true,"already_settled":false,"error":null}"#;
        assert_eq!(serde_json::to_string(&settling).unwrap(), expected);
    }
}
