//! `group create|list|describe|seek|delete`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use dure_client::{Error, Expired, GroupDescription, GroupKind, Ordering, QueueSettings, Start};
use serde_json::json;

use super::args::{self, OutputArgs, ServerArgs};
use super::confirm::YesArgs;
use super::failure::{Failure, Outcome};
use super::out::{print_list, print_one};
use super::table::{Side, Table, fields};
use super::units;

/// Create groups, look at them, move and delete them.
#[derive(Debug, Subcommand)]
pub(super) enum GroupVerb {
    Create(Box<CreateArgs>),
    List(ListArgs),
    Describe(DescribeArgs),
    Seek(SeekArgs),
    Delete(DeleteArgs),
}

/// Create a group. One that is used without being created gets these defaults.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure group create resize --topic photos --kind queue --lease 1m --max-attempts 3\n  \
    dure group create billing --topic orders --kind queue --ordering key\n  \
    dure group create guards --topic alarms --kind queue --ordering priority\n  \
    dure group create audit --topic photos --topic clicks --kind stream")]
pub(super) struct CreateArgs {
    group: String,
    /// A topic that it reads; may be repeated.
    #[arg(long = "topic", value_name = "T", required = true)]
    topics: Vec<String>,
    /// Whether it divides partitions among members (stream) or shares out messages one by one (queue).
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Queue,
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    None,
    Key,
    Priority,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AfterLife {
    Drop,
    DeadLetter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Begin {
    Earliest,
    Latest,
}

/// Settings of queue groups only.
#[derive(Debug, Default, PartialEq, Eq, Args)]
struct QueueArgs {
    /// How long a lease runs [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = args::some_duration)]
    lease: Option<Duration>,
    /// After so many attempts a message goes to the dead letters [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// The first and the longest wait before a message is tried again [default: 1s..5m].
    #[arg(long, value_name = "FIRST..LONGEST", value_parser = args::backoff)]
    backoff: Option<(Duration, Duration)>,
    /// With `key`, messages of one key are handed out one at a time, in order; those without a key as they come. A
    /// message that is tried again or waits holds back its key only. With `priority`, urgent messages are handed out
    /// first (see `dure produce --priority`): of eight from a partition seven are the most urgent among those it sees,
    /// at least the next 4,096, and one is that which has waited longest [default: none].
    #[arg(long, value_name = "none|key|priority", hide_possible_values = true)]
    ordering: Option<Order>,
    /// Dead letters are copied to this topic, each once, with headers that say why it died, after how many attempts, in which
    /// group, where it is from and when (`dure-dead-reason`, `dure-dead-attempts`, …). They stay in `dure dlq`, too, the
    /// last 65,536 of a partition. It must be there, and not be one that the group works.
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// Whether what is not settled is held against retention [default: yes].
    #[arg(long, value_name = "yes|no", hide_possible_values = true)]
    hold: Option<YesNo>,
    /// What becomes of messages whose --ttl is over before somebody takes them: they are settled and counted, or go to
    /// the dead letters [default: drop].
    #[arg(long, value_name = "drop|dead-letter", hide_possible_values = true)]
    expired: Option<AfterLife>,
    /// Where work on a topic starts [default: earliest].
    #[arg(long, value_name = "earliest|latest", hide_possible_values = true)]
    start: Option<Begin>,
}

impl QueueArgs {
    fn settings(self) -> QueueSettings {
        let default = QueueSettings::default();
        let (backoff_first, backoff_max) =
            self.backoff.unwrap_or((default.backoff_first, default.backoff_max));
        QueueSettings {
            lease: self.lease.unwrap_or(default.lease),
            attempts_max: self.max_attempts.unwrap_or(default.attempts_max),
            backoff_first,
            backoff_max,
            ordering: self.ordering.map_or(default.ordering, |ordering| match ordering {
                Order::None => Ordering::None,
                Order::Key => Ordering::Key,
                Order::Priority => Ordering::Priority,
            }),
            dead_letter_topic: self.dead_letter,
            hold: self.hold.map_or(default.hold, |hold| hold == YesNo::Yes),
            start_latest: self.start.map_or(default.start_latest, |start| start == Begin::Latest),
            expired: self.expired.map_or(default.expired, |expired| match expired {
                AfterLife::Drop => Expired::Drop,
                AfterLife::DeadLetter => Expired::DeadLetter,
            }),
        }
    }
}

/// List all groups.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure group list -o json | jq '{group, lag}'")]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show a group: its members, and how far it is.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure group describe resize -o json | jq .lag")]
pub(super) struct DescribeArgs {
    group: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Move a group to another place in a topic.
///
/// A stream group must have no members. In a queue group everything from there on is unsettled again and leases are
/// revoked.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure group seek resize --topic photos --to time:2026-01-31T12:00:00Z")]
pub(super) struct SeekArgs {
    group: String,
    #[arg(long, value_name = "T")]
    topic: String,
    /// earliest, latest, offset:N or time:RFC3339.
    #[arg(long, value_name = "PLACE", value_parser = args::start)]
    to: Start,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete a group with all it knows. The messages of its topics stay.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure group delete resize --yes")]
pub(super) struct DeleteArgs {
    group: String,
    #[command(flatten)]
    yes: YesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(verb: GroupVerb) -> Outcome {
    match verb {
        GroupVerb::Create(args) => create(*args).await,
        GroupVerb::List(args) => list(args).await,
        GroupVerb::Describe(args) => describe(args).await,
        GroupVerb::Seek(args) => seek(args).await,
        GroupVerb::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> Outcome {
    let group = &args.group;
    if args.kind == Kind::Stream && args.queue != QueueArgs::default() {
        let text = "--lease, --max-attempts, --backoff, --ordering, --dead-letter, --hold, --expired and --start \
                    are settings of queue groups";
        return Err(Failure::Usage(text.into()));
    }
    let admin = args.server.connect().await?.admin();
    let topics: Vec<&str> = args.topics.iter().map(String::as_str).collect();
    let (kind, created) = match args.kind {
        Kind::Queue => {
            let settings = args.queue.settings();
            (GroupKind::Queue, admin.create_queue_group(group, &topics, &settings).await)
        }
        Kind::Stream => (GroupKind::Stream, admin.create_stream_group(group, &topics).await),
    };
    created.map_err(|error| failed("create", group, &error))?;
    print_one(args.output.format, &json!({"group": group, "kind": kind, "created": true}), || {
        format!("{kind} group `{group}` created for {}\n", topics.join(", "))
    })
}

async fn list(args: ListArgs) -> Outcome {
    let admin = args.server.connect().await?.admin();
    let listed = admin.list_groups().await;
    let mut groups = listed.map_err(|error| Failure::cannot("list groups", &error))?;
    groups.sort_by(|a, b| a.group.cmp(&b.group));
    print_list(args.output.format, &groups, |group| &group.group, || table(&groups))
}

fn table(groups: &[GroupDescription]) -> String {
    let mut table = Table::new(&[
        ("GROUP", Side::Left),
        ("KIND", Side::Left),
        ("STATE", Side::Left),
        ("MEMBERS", Side::Right),
        ("LAG", Side::Right),
        ("READY", Side::Right),
        ("LEASED", Side::Right),
        ("DELAYED", Side::Right),
        ("DEAD", Side::Right),
        ("OLDEST", Side::Right),
    ]);
    for group in groups {
        table.row(vec![
            group.group.clone(),
            group.kind.to_string(),
            group.state.to_string(),
            group.members.len().to_string(),
            units::count(group.lag),
            units::count(group.ready),
            units::count(group.leased),
            units::count(group.delayed),
            units::count(group.dead),
            units::age(group.oldest_age_ms),
        ]);
    }
    table.render("no groups: one is made when it is first used, or by `dure group create`")
}

async fn describe(args: DescribeArgs) -> Outcome {
    let admin = args.server.connect().await?.admin();
    let described = admin.describe_group(&args.group).await;
    let group = described.map_err(|error| failed("describe", &args.group, &error))?;
    print_one(args.output.format, &group, || description(&group))
}

fn description(group: &GroupDescription) -> String {
    let mut rows = vec![
        ("group", group.group.clone()),
        ("kind", group.kind.to_string()),
        ("state", group.state.to_string()),
        ("lag", units::count(group.lag)),
        ("oldest", units::age(group.oldest_age_ms)),
        ("backlog", units::bytes(group.bytes)),
    ];
    if let Some(settings) = &group.settings {
        let backoff =
            format!("{}..{}", units::span(settings.backoff_first), units::span(settings.backoff_max));
        rows.extend([
            ("arrival", format!("{:.1}/s", group.arrival_per_s)),
            ("service", format!("{:.1}/s", group.service_per_s)),
            ("lease", units::span(settings.lease)),
            ("max-attempts", settings.attempts_max.to_string()),
            ("backoff", backoff),
            ("ordering", settings.ordering.to_string()),
            ("dead-letter", settings.dead_letter_topic.clone().unwrap_or_else(|| "-".into())),
            ("expired", if settings.expired == Expired::Drop { "drop" } else { "dead-letter" }.to_owned()),
            ("hold", if settings.hold { "yes" } else { "no" }.to_owned()),
            ("held", units::bytes(group.held_bytes)),
        ]);
    }
    if group.topics_left_out > 0 {
        let text =
            format!("{} topics of its patterns, the newest: too many partitions", group.topics_left_out);
        rows.push(("left out", text));
    }
    let mut members =
        Table::new(&[("MEMBER", Side::Left), ("CLIENT", Side::Left), ("PARTITIONS", Side::Left)]);
    for member in &group.members {
        let partitions: Vec<_> =
            member.partitions.iter().map(|p| format!("{}/{}", p.topic, p.partition)).collect();
        members.row(vec![member.id.clone(), member.client.clone(), partitions.join(" ")]);
    }
    let members = members.render("no members");
    format!("{}\n{members}\n{}{}", fields(&rows), partitions(group), hottest_keys(group))
}

/// Nothing where no messages wait behind others of their key.
fn hottest_keys(group: &GroupDescription) -> String {
    if group.hottest_keys.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("KEY", Side::Left),
        ("WAITING", Side::Right),
        ("OUT", Side::Right),
        ("PARTITION", Side::Left),
    ]);
    for hot in &group.hottest_keys {
        table.row(vec![
            String::from_utf8_lossy(&hot.key).escape_debug().to_string(),
            units::count(hot.waiting),
            units::count(hot.out),
            format!("{}/{}", hot.topic, hot.partition),
        ]);
    }
    format!("\n{}", table.render(""))
}

fn partitions(group: &GroupDescription) -> String {
    let numbers = ["COMMITTED", "END", "LAG", "READY", "LEASED", "DELAYED", "DEAD", "OLDEST"];
    let mut head = vec![("PARTITION", Side::Left)];
    head.extend(numbers.map(|name| (name, Side::Right)));
    let mut table = Table::new(&head);
    for row in &group.partitions {
        table.row(vec![
            format!("{}/{}", row.topic, row.partition),
            row.committed.map_or("-".to_owned(), |offset| offset.to_string()),
            row.high_watermark.to_string(),
            units::count(row.lag),
            units::count(row.ready),
            units::count(row.leased),
            units::count(row.delayed),
            units::count(row.dead),
            units::age(row.oldest_age_ms),
        ]);
    }
    let full = group.partitions.iter().filter_map(|row| {
        let why = row.full.as_ref()?;
        Some(format!("\n{}/{} grants nothing fresh: {why}\n", row.topic, row.partition))
    });
    let waiting = group.partitions.iter().filter_map(|row| {
        let (why, letters) = (row.copies_wait.as_ref()?, units::counted(row.uncopied, "dead letter"));
        Some(format!(
            "\n{}/{}: {letters} not in the dead-letter topic yet: {why}\n",
            row.topic, row.partition
        ))
    });
    let notes: String = full.chain(waiting).collect();
    table.render("no partitions") + &notes
}

async fn seek(args: SeekArgs) -> Outcome {
    let (group, topic) = (&args.group, &args.topic);
    let admin = args.server.connect().await?.admin();
    let moved = admin.seek_group(group, topic, args.to).await;
    moved.map_err(|error| Failure::cannot(format!("seek group `{group}` in `{topic}`"), &error))?;
    print_one(args.output.format, &json!({"group": group, "topic": topic, "moved": true}), || {
        format!("group `{group}` moved in topic `{topic}`\n")
    })
}

async fn delete(args: DeleteArgs) -> Outcome {
    let group = &args.group;
    args.yes.confirm_at_a_terminal(&format!("deleting group `{group}` and how far it is")).await?;
    let admin = args.server.connect().await?.admin();
    admin.delete_group(group).await.map_err(|error| failed("delete", group, &error))?;
    print_one(args.output.format, &json!({"group": group, "deleted": true}), || {
        format!("group `{group}` deleted\n")
    })
}

fn failed(what: &str, group: &str, error: &Error) -> Failure {
    Failure::cannot(format!("{what} group `{group}`"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_not_given_are_the_clients_defaults() {
        assert_eq!(QueueArgs::default().settings(), QueueSettings::default());
        let args = QueueArgs { hold: Some(YesNo::No), start: Some(Begin::Latest), ..QueueArgs::default() };
        let expected = QueueSettings { hold: false, start_latest: true, ..QueueSettings::default() };
        assert_eq!(args.settings(), expected);
    }
}
