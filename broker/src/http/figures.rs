//! What is asked for when somebody looks: figures of topics, groups and the disk, as Prometheus' text. Bounded in rows,
//! and groups are asked at most every few seconds, so that a scraper cannot keep the shard busy.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use dure_engine::{Disk, RealDisk, Request, Response};
use dure_proto::{ShardId, wire};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::broker::Broker;
use crate::clock::Clock;

const PARTITIONS_SHOWN_MAX: usize = 10_000;
const GROUPS_SHOWN_MAX: usize = 200;
const TOPICS_SHOWN_MAX: usize = 200;
const GROUPS_REFRESH: Duration = Duration::from_secs(5);
const GROUPS_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Figures {
    asked: Mutex<Option<(Instant, Arc<Asked>)>>,
}

/// What the shard was asked for.
#[derive(Default)]
struct Asked {
    groups: Vec<GroupFigures>,
    /// Topics, and how many messages of each wait for their time.
    scheduled: Vec<(String, u64)>,
}

struct GroupFigures {
    name: String,
    /// Sums over its partitions.
    ready: u64,
    leased: u64,
    delayed: u64,
    dead: u64,
    expired: u64,
    uncopied: u64,
    /// Partitions in which it is at one of its bounds.
    full: u64,
    lag: u64,
    oldest_age_ms: u64,
    held_bytes: u64,
    held_age_ms: u64,
}

impl Figures {
    pub(super) async fn append(&self, broker: &Arc<Broker>, text: &mut String) {
        append_logs(broker, text);
        let asked = self.asked(broker).await;
        append_scheduled(&asked.scheduled, text);
        append_groups(&asked.groups, text);
        append_disk(broker, text).await;
    }

    async fn asked(&self, broker: &Arc<Broker>) -> Arc<Asked> {
        let mut last = self.asked.lock().await;
        if let Some((at, figures)) = &*last
            && at.elapsed() < GROUPS_REFRESH
        {
            return figures.clone();
        }
        let groups = timeout(GROUPS_TIMEOUT, ask_groups(broker)).await.unwrap_or_default();
        let scheduled = timeout(GROUPS_TIMEOUT, ask_scheduled(broker)).await.unwrap_or_default();
        let figures = Arc::new(Asked { groups, scheduled });
        *last = Some((Instant::now(), figures.clone()));
        figures
    }
}

async fn ask_groups(broker: &Broker) -> Vec<GroupFigures> {
    let Ok(Response::Groups(groups)) = broker.shards.call(Request::ListGroups).await else {
        return Vec::new();
    };
    let mut figures = Vec::new();
    for group in groups.into_iter().take(GROUPS_SHOWN_MAX) {
        let describe = Request::DescribeGroup(wire::DescribeGroup { name: group.name });
        if let Ok(Response::Groups(groups)) = broker.shards.call(describe).await {
            figures.extend(groups.into_iter().map(figures_of));
        }
    }
    figures
}

/// Of topics to which a message was ever sent to wait.
async fn ask_scheduled(broker: &Broker) -> Vec<(String, u64)> {
    let topics = broker.shards.topics();
    let delayed = topics.iter().filter_map(|topic| topics.by_id(topic.delayed_of?.0));
    let names: BTreeSet<String> = delayed.map(|topic| topic.name.clone()).take(TOPICS_SHOWN_MAX).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let describe = Request::DescribeTopics(wire::DescribeTopics { names: names.into_iter().collect() });
    let Ok(Response::Topics(topics)) = broker.shards.call(describe).await else { return Vec::new() };
    topics.into_iter().map(|topic| (topic.name, topic.scheduled)).collect()
}

fn figures_of(group: wire::GroupDescription) -> GroupFigures {
    let sum = |field: fn(&wire::GroupPartition) -> u64| group.partitions.iter().map(field).sum();
    let held_since_ms = group.partitions.iter().filter_map(|p| p.held_since_ms).min();
    let now_ms = Clock::new().now().wall_ms;
    GroupFigures {
        ready: sum(|p| p.ready),
        leased: sum(|p| p.leased),
        delayed: sum(|p| p.delayed),
        dead: sum(|p| p.dead),
        expired: sum(|p| p.expired),
        uncopied: sum(|p| p.uncopied),
        full: sum(|p| u64::from(!p.full.is_empty())),
        lag: sum(|p| p.lag),
        oldest_age_ms: group.partitions.iter().map(|p| p.oldest_age_ms).max().unwrap_or(0),
        held_bytes: sum(|p| p.held_bytes),
        held_age_ms: held_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms)),
        name: group.name,
    }
}

fn append_logs(broker: &Broker, text: &mut String) {
    let mut rows = Vec::new();
    for shard in broker.shards.iter() {
        for (partition, view) in shard.logs().all().iter().take(PARTITIONS_SHOWN_MAX - rows.len()) {
            let view = view.borrow();
            let name = escaped(&broker.shards.topic_name(partition.topic));
            let labels = format!("topic=\"{name}\",partition=\"{}\"", partition.partition);
            rows.push((labels, view.high_watermark.0, view.log_start.0, view.bytes));
        }
    }
    rows.sort();
    family(text, "dure_high_watermark", "Offset behind the last durable message.", &rows, |row| {
        (&row.0, row.1)
    });
    family(text, "dure_log_start_offset", "First offset that is still there.", &rows, |row| (&row.0, row.2));
    family(text, "dure_log_bytes", "Bytes in the segments.", &rows, |row| (&row.0, row.3));
}

fn append_scheduled(topics: &[(String, u64)], text: &mut String) {
    let rows: Vec<_> =
        topics.iter().map(|(name, count)| (format!("topic=\"{}\"", escaped(name)), *count)).collect();
    family(text, "dure_scheduled", "Messages that are not due yet.", &rows, |row| (&row.0, row.1));
}

fn append_groups(groups: &[GroupFigures], text: &mut String) {
    let rows: Vec<_> =
        groups.iter().map(|group| (format!("group=\"{}\"", escaped(&group.name)), group)).collect();
    let rows = &rows[..];
    family(text, "dure_group_ready", "Messages ready to be leased.", rows, |row| (&row.0, row.1.ready));
    family(text, "dure_group_leased", "Messages leased.", rows, |row| (&row.0, row.1.leased));
    family(text, "dure_group_delayed", "Messages that wait.", rows, |row| (&row.0, row.1.delayed));
    family(text, "dure_group_dead", "Dead letters.", rows, |row| (&row.0, row.1.dead));
    family(text, "dure_group_dead_uncopied", "Dead letters not in their topic yet.", rows, |row| {
        (&row.0, row.1.uncopied)
    });
    family(text, "dure_group_expired", "Messages expired since the start.", rows, |row| {
        (&row.0, row.1.expired)
    });
    family(text, "dure_group_full", "Partitions in which nothing fresh is granted.", rows, |row| {
        (&row.0, row.1.full)
    });
    family(text, "dure_group_lag", "Messages not settled or read.", rows, |row| (&row.0, row.1.lag));
    family(text, "dure_group_oldest_age_ms", "Age of the oldest of them.", rows, |row| {
        (&row.0, row.1.oldest_age_ms)
    });
    family(text, "dure_group_held_bytes", "Bytes kept only because not settled.", rows, |row| {
        (&row.0, row.1.held_bytes)
    });
    family(text, "dure_group_held_age_ms", "How long the oldest of them is overdue.", rows, |row| {
        (&row.0, row.1.held_age_ms)
    });
}

async fn append_disk(broker: &Arc<Broker>, text: &mut String) {
    let (data, shards) =
        (broker.options.data.clone(), broker.shards.iter().map(|s| s.id()).collect::<Vec<_>>());
    let measured = tokio::task::spawn_blocking(move || {
        let disk = RealDisk::open(&data).ok()?;
        let available = disk.available_bytes().ok()?;
        let journal = |shard: ShardId| disk.list(&format!("shard-{:04}/journal", shard.0)).ok();
        let entries = shards.into_iter().filter_map(journal).flatten();
        Some((entries.map(|entry| entry.bytes).sum::<u64>(), available))
    });
    if let Ok(Some((journal_bytes, available_bytes))) = measured.await {
        let none = String::new();
        let rows = [(none, journal_bytes, available_bytes)];
        family(text, "dure_journal_bytes", "Bytes in journal pieces.", &rows, |row| (&row.0, row.1));
        family(text, "dure_disk_available_bytes", "Bytes that can still be written.", &rows, |row| {
            (&row.0, row.2)
        });
    }
    let full = u64::from(!broker.health.now().short.is_empty());
    let help = "1 while producing is refused for lack of room on the disk.";
    family(text, "dure_disk_full", help, &[(String::new(), full)], |row| (&row.0, row.1));
    let unwritable = broker.health.now().unwritable.values().map(Vec::len).sum::<usize>() as u64;
    let help = "Partitions that take no messages, since the disk refuses to write them.";
    family(text, "dure_partitions_unwritable", help, &[(String::new(), unwritable)], |row| (&row.0, row.1));
}

fn family<R>(text: &mut String, name: &str, help: &str, rows: &[R], value: impl Fn(&R) -> (&String, u64)) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for row in rows {
        let (labels, value) = value(row);
        let _ = match labels.is_empty() {
            true => writeln!(text, "{name} {value}"),
            false => writeln!(text, "{name}{{{labels}}} {value}"),
        };
    }
    text.push('\n');
}

/// As the text format wants label values.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
