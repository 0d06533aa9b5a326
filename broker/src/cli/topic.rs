//! `topic create|list|describe|alter|delete|purge`.

use std::fmt::Write;

use clap::{Args, Subcommand};
use dure_client::{Error, TopicChange, TopicConfig, TopicDescription};
use serde_json::json;

use super::args::{OutputArgs, ServerArgs};
use super::confirm::YesArgs;
use super::failure::{Failure, Outcome};
use super::out::{print_list, print_one};
use super::table::{Side, Table, fields};
use super::topic_config::{TopicConfigArgs, shown};
use super::units;

/// Create topics, look at them, change and delete them.
#[derive(Debug, Subcommand)]
pub(super) enum TopicVerb {
    Create(CreateArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Alter(AlterArgs),
    Delete(DeleteArgs),
    Purge(PurgeArgs),
}

/// Create a topic.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure topic create photos --partitions 4\n  \
    dure topic create clicks --retention-time 2d --durability interval:100ms")]
pub(super) struct CreateArgs {
    /// 1 to 249 of letters, digits, `.`, `_`, `-`.
    name: String,
    /// Into how many partitions it is divided.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    #[command(flatten)]
    config: TopicConfigArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// List all topics.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure topic list -o json | jq .name")]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show a topic, its partitions and its settings.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure topic describe photos -o json | jq .messages")]
pub(super) struct DescribeArgs {
    name: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Change a topic; what is not given stays.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure topic alter photos --retention-time 30d\n  \
    dure topic alter photos --partitions 8")]
pub(super) struct AlterArgs {
    name: String,
    /// More partitions than now. Refused once the topic holds messages with keys.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Add partitions all the same: from then on a key's messages may lie in two partitions, the old ones and the
    /// new ones in no order to each other.
    #[arg(long, requires = "partitions")]
    force: bool,
    #[command(flatten)]
    config: TopicConfigArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete a topic with all its messages.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure topic delete photos --yes")]
pub(super) struct DeleteArgs {
    name: String,
    #[command(flatten)]
    yes: YesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete the messages of a topic; the topic stays and its offsets go on.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dure topic purge photos --yes")]
pub(super) struct PurgeArgs {
    name: String,
    #[command(flatten)]
    yes: YesArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(verb: TopicVerb) -> Outcome {
    match verb {
        TopicVerb::Create(args) => create(args).await,
        TopicVerb::List(args) => list(args).await,
        TopicVerb::Describe(args) => describe(args).await,
        TopicVerb::Alter(args) => alter(args).await,
        TopicVerb::Delete(args) => delete(args).await,
        TopicVerb::Purge(args) => purge(args).await,
    }
}

async fn create(args: CreateArgs) -> Outcome {
    let name = &args.name;
    let mut config = TopicConfig::default();
    args.config.apply(&mut config)?;
    let admin = args.server.connect().await?.admin();
    let created = admin.create_topic(name, args.partitions, &config).await;
    created.map_err(|error| failed("create", name, &error))?;
    let partitions = units::counted(args.partitions.into(), "partition");
    print_one(args.output.format, &json!({"name": name, "created": true}), || {
        format!("topic `{name}` created with {partitions}\n")
    })
}

async fn list(args: ListArgs) -> Outcome {
    let admin = args.server.connect().await?.admin();
    let listed = admin.describe_topics(&[]).await;
    let mut topics = listed.map_err(|error| Failure::cannot("list topics", &error))?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    print_list(args.output.format, &topics, |topic| &topic.name, || table(&topics))
}

fn table(topics: &[TopicDescription]) -> String {
    let mut table = Table::new(&[
        ("TOPIC", Side::Left),
        ("PARTITIONS", Side::Right),
        ("MESSAGES", Side::Right),
        ("SIZE", Side::Right),
        ("RETENTION", Side::Right),
        ("DURABILITY", Side::Left),
        ("CLEANUP", Side::Left),
    ]);
    for topic in topics {
        let [(_, retention), _, _, (_, durability), (_, cleanup), ..] = shown(&topic.config);
        table.row(vec![
            topic.name.clone(),
            topic.partitions.len().to_string(),
            units::count(topic.messages),
            units::bytes(topic.bytes),
            retention,
            durability,
            cleanup,
        ]);
    }
    table.render("no topics: `dure topic create NAME` makes one")
}

async fn describe(args: DescribeArgs) -> Outcome {
    let name = &args.name;
    let admin = args.server.connect().await?.admin();
    let topic = admin.describe_topic(name).await.map_err(|error| failed("describe", name, &error))?;
    print_one(args.output.format, &topic, || description(&topic))
}

fn description(topic: &TopicDescription) -> String {
    let mut rows = vec![
        ("topic", topic.name.clone()),
        ("id", topic.id.to_string()),
        ("messages", units::count(topic.messages)),
        ("scheduled", units::count(topic.scheduled)),
        ("size", units::bytes(topic.bytes)),
    ];
    rows.extend(shown(&topic.config));
    let mut table = Table::new(&[
        ("PARTITION", Side::Right),
        ("FROM", Side::Right),
        ("TO", Side::Right),
        ("MESSAGES", Side::Right),
        ("SIZE", Side::Right),
        ("SEGMENTS", Side::Right),
    ]);
    for partition in &topic.partitions {
        table.row(vec![
            partition.partition.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            units::count(partition.high_watermark.saturating_sub(partition.log_start_offset)),
            units::bytes(partition.bytes),
            partition.segments.to_string(),
        ]);
    }
    let mut text = format!("{}\n{}", fields(&rows), table.render("no partitions"));
    for partition in &topic.partitions {
        for lost in &partition.lost {
            let number = partition.partition;
            writeln!(
                text,
                "partition {number}: offsets {} to {} (exclusive) are damaged and cannot be read",
                lost.from, lost.to
            )
            .expect("a string takes it");
        }
        if let Some(why) = &partition.compaction_failed {
            let number = partition.partition;
            writeln!(text, "partition {number}: compaction failed, and is tried again: {why}")
                .expect("a string takes it");
        }
        if let Some(why) = &partition.unwritable {
            let number = partition.partition;
            writeln!(
                text,
                "partition {number}: takes no messages, since the disk refuses to write it: {why}"
            )
            .expect("a string takes it");
        }
        if partition.held_bytes > 0 {
            let (number, bytes) = (partition.partition, units::bytes(partition.held_bytes));
            let groups = partition.held_by.join(", ");
            writeln!(text, "partition {number}: {bytes} are kept only because not settled by: {groups}")
                .expect("a string takes it");
        }
    }
    text
}

async fn alter(args: AlterArgs) -> Outcome {
    let name = &args.name;
    if args.config.is_empty() && args.partitions.is_none() {
        return Err(Failure::Usage("nothing to change: give what the topic should have".into()));
    }
    let admin = args.server.connect().await?.admin();
    let failed = |error| failed("alter", name, &error);
    let config = if args.config.is_empty() {
        None
    } else {
        let mut config = admin.describe_topic(name).await.map_err(failed)?.config;
        args.config.apply(&mut config)?;
        Some(config)
    };
    let change = TopicChange { partitions: args.partitions, config, force: args.force };
    admin.alter_topic(name, &change).await.map_err(failed)?;
    print_one(args.output.format, &json!({"name": name, "altered": true}), || {
        format!("topic `{name}` altered\n")
    })
}

async fn delete(args: DeleteArgs) -> Outcome {
    let name = &args.name;
    args.yes.confirm(&format!("deleting topic `{name}` with all its messages")).await?;
    let admin = args.server.connect().await?.admin();
    admin.delete_topic(name).await.map_err(|error| failed("delete", name, &error))?;
    print_one(args.output.format, &json!({"name": name, "deleted": true}), || {
        format!("topic `{name}` deleted\n")
    })
}

async fn purge(args: PurgeArgs) -> Outcome {
    let name = &args.name;
    args.yes.confirm_at_a_terminal(&format!("deleting all messages of topic `{name}`")).await?;
    let admin = args.server.connect().await?.admin();
    admin.purge_topic(name).await.map_err(|error| failed("purge", name, &error))?;
    print_one(args.output.format, &json!({"name": name, "purged": true}), || {
        format!("topic `{name}` purged: it has no messages\n")
    })
}

fn failed(what: &str, topic: &str, error: &Error) -> Failure {
    Failure::cannot(format!("{what} topic `{topic}`"), error)
}
