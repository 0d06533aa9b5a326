//! Topics.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dure_proto::wire::{self, envelope::Body};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::Admin;
use crate::client::{Retries, unexpected};
use crate::error::{Error, Result};
use crate::stream::{Start, locate};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Of a topic that was made before there were ids of messages, too.
const DEDUP_WINDOW: Duration = Duration::from_secs(120);

/// When a message counts as acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced to disk.
    #[default]
    Sync,
    /// Once it is written; it is synced this often. A power cut loses what came since.
    Interval(Duration),
    /// Once it is written; it is synced when the system does. A power cut loses what was not.
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Sync => f.write_str("sync"),
            Durability::Interval(interval) => write!(f, "interval:{}ms", interval.as_millis()),
            Durability::Os => f.write_str("os"),
        }
    }
}

/// What happens to old messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleanup {
    /// Retention by time and size deletes them.
    #[default]
    Delete,
    /// They go as soon as every queue group has settled them.
    DeleteWhenSettled,
    /// The newest of each key stays.
    Compact,
}

impl Cleanup {
    const NAMES: [(&'static str, Cleanup); 3] = [
        ("delete", Cleanup::Delete),
        ("delete-when-settled", Cleanup::DeleteWhenSettled),
        ("compact", Cleanup::Compact),
    ];
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Cleanup::NAMES.iter().find(|(_, cleanup)| cleanup == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// A name that is none of those expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not one of {expected}")]
pub struct UnknownName {
    /// What was given.
    pub found: String,
    /// What there is.
    pub expected: &'static str,
}

impl FromStr for Cleanup {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Cleanup::NAMES.iter().find(|(name, _)| *name == text);
        let unknown =
            || UnknownName { found: text.to_owned(), expected: "delete, delete-when-settled, compact" };
        found.map(|(_, cleanup)| *cleanup).ok_or_else(unknown)
    }
}

/// Settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// How long messages are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// How many bytes of messages each partition keeps; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// The size at which a segment is full.
    pub segment_bytes: u64,
    /// When a message counts as acknowledged.
    pub durability: Durability,
    /// What happens to old messages.
    pub cleanup: Cleanup,
    /// The largest message: key, value and headers.
    pub message_bytes_max: u32,
    /// Of a compacted topic: how long a null value is kept once it is all that is left of its key.
    pub tombstone_retention: Duration,
    /// Of a compacted topic: how long a message waits at most, about, until compaction looks at it.
    pub compact_after: Duration,
    /// How long the [id of a message](crate::Message::id) is remembered, from 1 s to 24 h; zero: not at all.
    pub dedup_window: Duration,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            retention: Some(7 * DAY),
            retention_bytes: None,
            segment_bytes: 64 << 20,
            durability: Durability::Sync,
            cleanup: Cleanup::Delete,
            message_bytes_max: 1 << 20,
            tombstone_retention: DAY,
            compact_after: Duration::from_secs(600),
            dedup_window: DEDUP_WINDOW,
        }
    }
}

impl Serialize for TopicConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut config = serializer.serialize_struct("TopicConfig", 10)?;
        config.serialize_field("retention_ms", &self.retention.map(ms))?;
        config.serialize_field("retention_bytes", &self.retention_bytes)?;
        config.serialize_field("segment_bytes", &self.segment_bytes)?;
        let (durability, interval_ms) = match self.durability {
            Durability::Sync => ("sync", None),
            Durability::Interval(interval) => ("interval", Some(ms(interval))),
            Durability::Os => ("os", None),
        };
        config.serialize_field("durability", durability)?;
        config.serialize_field("interval_ms", &interval_ms)?;
        config.serialize_field("cleanup", &self.cleanup.to_string())?;
        config.serialize_field("message_bytes_max", &self.message_bytes_max)?;
        config.serialize_field("tombstone_retention_ms", &ms(self.tombstone_retention))?;
        config.serialize_field("compact_after_ms", &ms(self.compact_after))?;
        config.serialize_field("dedup_window_ms", &ms(self.dedup_window))?;
        config.end()
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TopicConfig {
    fn to_wire(&self) -> wire::TopicConfig {
        let (durability, interval_ms) = match self.durability {
            Durability::Sync => (wire::Durability::Sync, 0),
            Durability::Interval(interval) => (wire::Durability::Interval, ms(interval)),
            Durability::Os => (wire::Durability::Os, 0),
        };
        let cleanup = match self.cleanup {
            Cleanup::Delete => wire::Cleanup::Delete,
            Cleanup::DeleteWhenSettled => wire::Cleanup::DeleteWhenSettled,
            Cleanup::Compact => wire::Cleanup::Compact,
        };
        wire::TopicConfig {
            retention_ms: self.retention.map(ms),
            retention_bytes: self.retention_bytes,
            segment_bytes: self.segment_bytes,
            durability: durability.into(),
            interval_ms,
            cleanup: cleanup.into(),
            message_bytes_max: self.message_bytes_max,
            tombstone_retention_ms: ms(self.tombstone_retention),
            compact_after_ms: ms(self.compact_after),
            dedup_window_ms: Some(ms(self.dedup_window)),
        }
    }

    fn from_wire(config: &wire::TopicConfig) -> TopicConfig {
        TopicConfig {
            retention: config.retention_ms.map(Duration::from_millis),
            retention_bytes: config.retention_bytes,
            segment_bytes: config.segment_bytes,
            durability: match config.durability() {
                wire::Durability::Sync => Durability::Sync,
                wire::Durability::Interval => Durability::Interval(Duration::from_millis(config.interval_ms)),
                wire::Durability::Os => Durability::Os,
            },
            cleanup: match config.cleanup() {
                wire::Cleanup::Delete => Cleanup::Delete,
                wire::Cleanup::DeleteWhenSettled => Cleanup::DeleteWhenSettled,
                wire::Cleanup::Compact => Cleanup::Compact,
            },
            message_bytes_max: config.message_bytes_max,
            tombstone_retention: Duration::from_millis(config.tombstone_retention_ms),
            compact_after: Duration::from_millis(config.compact_after_ms),
            dedup_window: config.dedup_window_ms.map_or(DEDUP_WINDOW, Duration::from_millis),
        }
    }
}

/// A change of a topic; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// More partitions than now. Refused once the topic holds keyed messages, unless forced: messages of one
    /// key may then be in two partitions, out of order to each other.
    pub partitions: Option<u32>,
    /// The whole new configuration.
    pub config: Option<TopicConfig>,
    /// Adds partitions all the same.
    pub force: bool,
}

/// A range of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OffsetRange {
    /// The first one.
    pub from: u64,
    /// The one behind the last.
    pub to: u64,
}

/// A topic as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its number, never used again.
    pub id: u32,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
    /// Its settings.
    pub config: TopicConfig,
    /// Messages in all partitions: high watermark less log start.
    pub messages: u64,
    /// Delayed messages that are not due yet, and in no partition.
    pub scheduled: u64,
    /// Bytes in all partitions.
    pub bytes: u64,
}

/// A partition as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PartitionDescription {
    /// Its number, from 0.
    pub partition: u32,
    /// The offset of its first message.
    pub log_start_offset: u64,
    /// The offset behind its last readable message.
    pub high_watermark: u64,
    /// Its size on disk.
    pub bytes: u64,
    /// How many files that is.
    pub segments: u32,
    /// Ranges that were damaged and cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<OffsetRange>,
    /// Bytes that retention would remove if queue groups had settled them.
    pub held_bytes: u64,
    /// When the oldest of them was due to be removed, milliseconds since 1970; `None` if nothing is held.
    pub held_since: Option<u64>,
    /// The groups that hold them.
    pub held_by: Vec<String>,
    /// Why the last pass of compaction through it failed; `None` as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction_failed: Option<String>,
    /// Why the disk refuses to write it, so that producing to it is refused; `None` as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwritable: Option<String>,
}

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Located {
    /// The offset that was asked for.
    pub offset: u64,
    /// The offset behind the last readable message.
    pub high_watermark: u64,
}

impl TopicDescription {
    fn from_wire(topic: wire::TopicDescription) -> TopicDescription {
        let partitions: Vec<_> = topic.partitions.into_iter().map(PartitionDescription::from_wire).collect();
        TopicDescription {
            name: topic.name,
            id: topic.id,
            messages: partitions.iter().map(|p| p.high_watermark.saturating_sub(p.log_start_offset)).sum(),
            scheduled: topic.scheduled,
            bytes: partitions.iter().map(|p| p.bytes).sum(),
            config: TopicConfig::from_wire(&topic.config.unwrap_or_default()),
            partitions,
        }
    }
}

impl PartitionDescription {
    fn from_wire(partition: wire::PartitionDescription) -> PartitionDescription {
        let lost = partition.lost.into_iter().map(|range| OffsetRange { from: range.from, to: range.to });
        PartitionDescription {
            partition: partition.partition,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            bytes: partition.bytes,
            segments: partition.segments,
            lost: lost.collect(),
            held_bytes: partition.held_bytes,
            held_since: partition.held_since_ms,
            held_by: partition.held_by,
            compaction_failed: Some(partition.compaction_failed).filter(|why| !why.is_empty()),
            unwritable: Some(partition.unwritable).filter(|why| !why.is_empty()),
        }
    }
}

impl Admin {
    /// Creates a topic. `TopicConfig::default()` keeps messages for 7 days, synced.
    ///
    /// # Errors
    /// `TOPIC_EXISTS`, or `INVALID_REQUEST` naming the field.
    pub async fn create_topic(&self, name: &str, partitions: u32, config: &TopicConfig) -> Result<()> {
        let config = Some(config.to_wire());
        let topic = wire::CreateTopic { name: name.to_owned(), partitions, config };
        self.change(Body::CreateTopic(topic)).await
    }

    /// Changes a topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`; `KEYED_MESSAGES` for partitions added to a topic that holds such.
    pub async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<()> {
        self.client.inner.metadata.forget(name);
        let config = change.config.as_ref().map(TopicConfig::to_wire);
        let TopicChange { partitions, force, .. } = *change;
        self.change(Body::AlterTopic(wire::AlterTopic { name: name.to_owned(), partitions, config, force }))
            .await
    }

    /// Deletes a topic with all its messages, and what groups know about it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        self.client.inner.metadata.forget(name);
        self.change(Body::DeleteTopic(wire::DeleteTopic { name: name.to_owned() })).await
    }

    /// Deletes the messages of a topic. Offsets go on.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn purge_topic(&self, name: &str) -> Result<()> {
        self.change(Body::PurgeTopic(wire::PurgeTopic { name: name.to_owned() })).await
    }

    /// Describes these topics; with none named, all of them.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC` if one of them does not exist.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<Vec<TopicDescription>> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let body = Body::DescribeTopics(wire::DescribeTopics { names });
        match self.client.call(body, Retries::Idempotent).await?.body {
            Body::TopicDescriptions(reply) => {
                Ok(reply.topics.into_iter().map(TopicDescription::from_wire).collect())
            }
            other => Err(unexpected("DescribeTopics", &other)),
        }
    }

    /// Describes one topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription> {
        let described = self.describe_topics(&[name]).await?;
        described.into_iter().find(|topic| topic.name == name).ok_or_else(|| Error::unknown_topic(name))
    }

    /// The offset in a partition that `start` means, and the partition's end. An offset is taken as it is.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`.
    pub async fn locate_offset(&self, topic: &str, partition: u32, start: Start) -> Result<Located> {
        let topic = self.client.topic(topic).await?;
        let located = locate(&self.client, topic.id, partition, start).await?;
        Ok(Located { offset: located.offset, high_watermark: located.high_watermark })
    }
}
