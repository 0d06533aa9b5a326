//! `dlq list|show|redrive|purge`.

use std::time::Duration;

use clap::{Args, Subcommand};
use dure_client::{Admin, DeadLetter};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::args::{self, OutputArgs, ServerArgs};
use super::confirm::YesArgs;
use super::failure::{Failure, Outcome};
use super::out::{Format, Out, print_one};
use super::table::{Side, Table, fields, shown};
use super::units;

/// Dead letters that one request asks for.
const PAGE: u32 = 500;
/// With a rate, redriving goes in steps of this length.
const STEP: Duration = Duration::from_millis(100);

/// Look at the dead letters of a queue group, give them back or delete them.
#[derive(Debug, Subcommand)]
pub(super) enum DlqVerb {
    List(ListArgs),
    Show(ShowArgs),
    Redrive(RedriveArgs),
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
struct Place {
    /// The source topic.
    topic: String,
    /// The queue group that gave them up.
    #[arg(long, short, value_name = "G")]
    group: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Place {
    fn cannot(&self, what: &str) -> impl Fn(dure_client::Error) -> Failure {
        let what = format!("{what} dead letters of `{}` for group `{}`", self.topic, self.group);
        move |error| Failure::cannot(&what, &error)
    }

    async fn admin(&self) -> Outcome<Admin> {
        Ok(self.server.connect().await?.admin())
    }
}

/// List dead letters: which message, why, after how many attempts.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dure dlq list photos --group resize -o json | jq -r .reason | sort | uniq -c"
)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

/// Show one dead letter with its message.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure dlq show photos --group resize 0-17")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// As in `dure dlq list`.
    id: String,
}

/// Give dead letters back to the group, as the same messages, from attempt 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure dlq redrive photos --group resize\n  \
    dure dlq redrive photos --group resize --count 1000 --rate 100/s")]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    place: Place,
    /// At most so many [default: all].
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// No faster than this [default: at once].
    #[arg(long, value_name = "N/s", value_parser = args::rate)]
    rate: Option<f64>,
}

/// Delete all dead letters of a group.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure dlq purge photos --group resize --yes")]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    yes: YesArgs,
}

pub(super) async fn run(verb: DlqVerb) -> Outcome {
    match verb {
        DlqVerb::List(args) => list(args.place).await,
        DlqVerb::Show(args) => show(args).await,
        DlqVerb::Redrive(args) => redrive(args).await,
        DlqVerb::Purge(args) => purge(args).await,
    }
}

async fn list(place: Place) -> Outcome {
    let admin = place.admin().await?;
    let mut out = Out::default();
    let mut after: Option<String> = None;
    loop {
        let page = admin.list_dead_letters(&place.topic, &place.group, after.as_deref(), PAGE).await;
        let page = page.map_err(place.cannot("list"))?;
        match place.output.format {
            Format::Json => page.letters.iter().for_each(|letter| out.json(letter)),
            Format::Raw => page.letters.iter().for_each(|letter| out.line(&letter.id)),
            // Each page is aligned on its own.
            Format::Table if page.letters.is_empty() && after.is_some() => {}
            Format::Table => out.buffer().extend_from_slice(table(&page.letters).as_bytes()),
        }
        out.flush()?;
        match page.letters.last() {
            Some(last) if page.more => after = Some(last.id.clone()),
            _ => return Ok(()),
        }
    }
}

fn table(letters: &[DeadLetter]) -> String {
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("DEAD SINCE", Side::Left),
        ("ATTEMPTS", Side::Right),
        ("KEY", Side::Left),
        ("REASON", Side::Left),
    ]);
    for letter in letters {
        table.row(vec![
            letter.id.clone(),
            units::time(letter.dead_time_ms),
            letter.attempts.to_string(),
            shown(letter.key.as_deref()),
            shown(Some(letter.reason.as_bytes())),
        ]);
    }
    table.render("no dead letters")
}

async fn show(args: ShowArgs) -> Outcome {
    let ShowArgs { place, id } = args;
    let admin = place.admin().await?;
    let found = admin.dead_letter(&place.topic, &place.group, &id).await.map_err(place.cannot("show"))?;
    let Some(letter) = found else {
        let (topic, group) = (&place.topic, &place.group);
        return Err(Failure::failed(format!(
            "topic `{topic}` has no dead letter `{id}` for group `{group}`"
        )));
    };
    let mut out = Out::default();
    match place.output.format {
        Format::Json => out.json(&letter),
        Format::Raw => out.raw(letter.value.as_deref().unwrap_or_default()),
        Format::Table => out.buffer().extend_from_slice(description(&letter).as_bytes()),
    }
    out.flush()
}

fn description(letter: &DeadLetter) -> String {
    let mut rows = vec![
        ("id", letter.id.clone()),
        ("from", format!("{}/{} offset {}", letter.topic, letter.partition, letter.offset)),
        ("appended", units::time(letter.timestamp_ms)),
        ("dead since", units::time(letter.dead_time_ms)),
        ("attempts", letter.attempts.to_string()),
        ("reason", shown(Some(letter.reason.as_bytes()))),
        ("key", shown(letter.key.as_deref())),
    ];
    for (name, value) in &letter.headers {
        rows.push(("header", format!("{}={}", shown(Some(name)), shown(value.as_deref()))));
    }
    rows.push(("value", shown(letter.value.as_deref())));
    fields(&rows)
}

async fn redrive(args: RedriveArgs) -> Outcome {
    let RedriveArgs { place, count, rate } = args;
    let admin = place.admin().await?;
    let failed = place.cannot("redrive");
    let redriven = match rate {
        None => admin.redrive(&place.topic, &place.group, count).await.map_err(failed)?,
        Some(rate) => {
            let mut redriven = 0;
            for step in Steps::new(rate, count.unwrap_or(u64::MAX)) {
                sleep_until(step.at).await;
                let given = admin.redrive(&place.topic, &place.group, Some(step.count)).await;
                redriven += match given {
                    Ok(0) => break,
                    Ok(given) => given,
                    Err(error) if redriven == 0 => return Err(failed(error)),
                    Err(error) => {
                        super::failure::warn(format!("{redriven} were given back before it failed"));
                        return Err(failed(error));
                    }
                };
            }
            redriven
        }
    };
    print_one(place.output.format, &json!({"redriven": redriven}), || {
        format!("{} given back to group `{}`\n", units::counted(redriven, "dead letter"), place.group)
    })
}

/// When to give back how many.
struct Steps {
    start: Instant,
    rate: f64,
    left: u64,
    given: u64,
}

struct Step {
    at: Instant,
    count: u64,
}

impl Steps {
    fn new(rate: f64, left: u64) -> Steps {
        Steps { start: Instant::now(), rate, left, given: 0 }
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let count = ((self.rate * STEP.as_secs_f64()) as u64).clamp(1, self.left.max(1));
        if self.left == 0 {
            return None;
        }
        let at = self.start + Duration::from_secs_f64(self.given as f64 / self.rate);
        self.left -= count;
        self.given += count;
        Some(Step { at, count })
    }
}

async fn purge(args: PurgeArgs) -> Outcome {
    let PurgeArgs { place, yes } = args;
    yes.confirm_at_a_terminal(&format!(
        "deleting all dead letters of `{}` for group `{}`",
        place.topic, place.group
    ))
    .await?;
    let purged = place.admin().await?.purge_dead_letters(&place.topic, &place.group).await;
    let purged = purged.map_err(place.cannot("purge"))?;
    print_one(place.output.format, &json!({"purged": purged}), || {
        format!("{} deleted\n", units::counted(purged, "dead letter"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_back_evenly_and_no_more_than_asked() {
        let steps = Steps::new(100.0, 25);
        let start = steps.start;
        let steps: Vec<_> = steps.map(|step| ((step.at - start).as_millis(), step.count)).collect();
        assert_eq!(steps, [(0, 10), (100, 10), (200, 5)]);
        let slow: Vec<_> = Steps::new(0.5, 2).map(|step| step.count).collect();
        assert_eq!(slow, [1, 1]);
        assert_eq!(Steps::new(1.0, 0).count(), 0);
    }
}
