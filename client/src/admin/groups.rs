//! Consumer groups.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body, seek_group::Position};
use serde::{Serialize, Serializer};

use super::Admin;
use crate::client::{Retries, unexpected};
use crate::error::{Error, ErrorCode, Result, Retry};
use crate::stream::Start;

/// In which way a group reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Partitions are divided among members, which commit offsets.
    Stream,
    /// Every message is leased and settled on its own.
    Queue,
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupKind::Stream => "stream",
            GroupKind::Queue => "queue",
        })
    }
}

/// In which order a queue group hands messages out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// Whichever is ready.
    #[default]
    None,
    /// One of each key at a time, in order, however many workers there are; messages without a key are not ordered.
    /// Keys are told apart by a 64-bit number under a secret: two that share one are kept in order with each other,
    /// too. A redriven dead letter is the next of its key; those behind it that were done meanwhile stay done.
    Key,
    /// The most urgent one first, by [`Message::priority`](crate::Message::priority): of eight that a partition hands
    /// out seven are the most urgent it sees, which is at least the next 4,096, and the eighth is the one that has waited
    /// longest, so that every message is handed out in the end. Keys are not ordered. A redriven dead letter counts as
    /// one without a priority.
    Priority,
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ordering::None => "none",
            Ordering::Key => "key",
            Ordering::Priority => "priority",
        })
    }
}

/// What becomes of a message that expired before a queue group delivered it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expired {
    /// It is settled, and counted as expired.
    #[default]
    Drop,
    /// It goes to the dead letters.
    DeadLetter,
}

/// Settings of a queue group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueSettings {
    /// How long a lease runs unless a worker asks for another.
    #[serde(rename = "lease_ms", serialize_with = "as_ms")]
    pub lease: Duration,
    /// After so many attempts a message goes to the dead letters.
    #[serde(rename = "max_attempts")]
    pub attempts_max: u32,
    /// How long a message waits after its first failed attempt; twice as long after each one more.
    #[serde(rename = "backoff_first_ms", serialize_with = "as_ms")]
    pub backoff_first: Duration,
    /// It never waits longer.
    #[serde(rename = "backoff_max_ms", serialize_with = "as_ms")]
    pub backoff_max: Duration,
    /// In which order messages are handed out.
    pub ordering: Ordering,
    /// Dead letters are copied to this topic.
    pub dead_letter_topic: Option<String>,
    /// What is not settled is held against retention.
    pub hold: bool,
    /// A topic is worked from its end on, rather than from its start.
    pub start_latest: bool,
    /// What becomes of messages that expired.
    pub expired: Expired,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            lease: Duration::from_secs(30),
            attempts_max: 5,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            ordering: Ordering::None,
            dead_letter_topic: None,
            hold: true,
            start_latest: false,
            expired: Expired::Drop,
        }
    }
}

fn as_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(super::topics::ms(*duration))
}

/// What a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Every member has what it should.
    Stable,
    /// Partitions are on their way from one member to another.
    Rebalancing,
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupState::Empty => "empty",
            GroupState::Stable => "stable",
            GroupState::Rebalancing => "rebalancing",
        })
    }
}

/// A group as the broker has it. Totals are the sums of the rows, the age is their largest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// In which way it reads.
    pub kind: GroupKind,
    /// What it is doing.
    pub state: GroupState,
    /// Who takes part.
    pub members: Vec<MemberDescription>,
    /// Topics that a member's pattern means and that are not read, since the group would read too much.
    pub topics_left_out: u32,
    /// How far it is.
    pub partitions: Vec<GroupPartition>,
    /// Messages not read yet, or not settled yet.
    pub lag: u64,
    /// Messages that can be leased.
    pub ready: u64,
    /// Messages that are leased.
    pub leased: u64,
    /// Messages that wait after a release or for backoff.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest message that is not read or settled yet; 0 if there is none.
    pub oldest_age_ms: u64,
    /// Messages that came in since the broker started.
    pub arrived: u64,
    /// Messages that were settled since the broker started.
    pub serviced: u64,
    /// Of those: messages that expired.
    pub expired: u64,
    /// Messages that came in per second, over about the last minute; 0 for a stream group.
    pub arrival_per_s: f64,
    /// Messages that were settled per second, likewise.
    pub service_per_s: f64,
    /// Bytes of what is not read or settled yet, about.
    pub bytes: u64,
    /// Bytes that retention would remove if this group had settled them.
    pub held_bytes: u64,
    /// Settings of a queue group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<QueueSettings>,
    /// Of a queue group that keeps the order of keys: those behind which most messages wait, at most 10, the longest
    /// line first. Only of a group that was asked for by name.
    pub hottest_keys: Vec<HotKey>,
}

/// A key behind which messages of a queue group wait. Serializes as `{"key", "waiting", "out", "topic", "partition"}`, a
/// key that is not UTF-8 as `key_base64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// The key; of a longer one its first 1,024 bytes.
    pub key: Bytes,
    /// Messages that are neither out nor done, as far as the group has looked into the log.
    pub waiting: u64,
    /// Out with a worker, or on their way to the dead letters.
    pub out: u64,
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: u32,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberDescription {
    /// Given out by the broker, or the member's own name.
    pub id: String,
    /// What the client calls itself.
    pub client: String,
    /// It has a name of its own, which outlives its process.
    pub named: bool,
    /// What it reads.
    pub partitions: Vec<TopicPartitionName>,
}

/// A partition by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicPartitionName {
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: u32,
}

/// How far a group is in one partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupPartition {
    /// The topic.
    pub topic: String,
    /// The partition within it.
    pub partition: u32,
    /// The next offset to read, if one was committed; for a queue group: everything below is settled.
    pub committed: Option<u64>,
    /// The offset behind the last readable message.
    pub high_watermark: u64,
    /// Messages not read yet, or not settled yet.
    pub lag: u64,
    /// Messages that can be leased.
    pub ready: u64,
    /// Messages that are leased.
    pub leased: u64,
    /// Messages that wait after a release or for backoff.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest message that is not read or settled yet; 0 if there is none.
    pub oldest_age_ms: u64,
    /// Messages that came in since the broker started.
    pub arrived: u64,
    /// Messages that were settled since the broker started.
    pub serviced: u64,
    /// Of those: messages that expired.
    pub expired: u64,
    /// Messages that came in per second, over about the last minute; 0 for a stream group.
    pub arrival_per_s: f64,
    /// Messages that were settled per second, likewise.
    pub service_per_s: f64,
    /// Bytes of what is not read or settled yet, about.
    pub bytes: u64,
    /// Bytes that retention would remove if this group had settled them.
    pub held_bytes: u64,
    /// Why the group grants nothing fresh here though there is some: it is at one of its bounds. `None`: it does.
    pub full: Option<String>,
    /// When the oldest of them was due to be removed, milliseconds since 1970; `None` if nothing is held.
    pub held_since: Option<u64>,
    /// Of `dead`: those that are not in the group's dead-letter topic yet; 0 if it has none.
    pub uncopied: u64,
    /// Why they wait; `None`: they do not.
    pub copies_wait: Option<String>,
}

/// The sum, which of nothing is 0 and not the -0.0 that the standard library adds to.
fn total(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, |sum, rate| sum + rate)
}

impl GroupDescription {
    fn from_wire(group: wire::GroupDescription) -> Result<GroupDescription> {
        let kind = match group.kind() {
            wire::GroupKind::Stream => GroupKind::Stream,
            wire::GroupKind::Queue => GroupKind::Queue,
        };
        let state = match group.state.as_str() {
            "empty" => GroupState::Empty,
            "stable" => GroupState::Stable,
            "rebalancing" => GroupState::Rebalancing,
            other => return Err(Error::protocol(format!("a group is in the unknown state `{other}`"))),
        };
        let partitions: Vec<_> = group.partitions.into_iter().map(GroupPartition::from_wire).collect();
        let sum = |figure: fn(&GroupPartition) -> u64| partitions.iter().map(figure).sum();
        Ok(GroupDescription {
            group: group.name,
            kind,
            state,
            members: group.members.into_iter().map(MemberDescription::from_wire).collect(),
            topics_left_out: group.topics_left_out,
            lag: sum(|p| p.lag),
            ready: sum(|p| p.ready),
            leased: sum(|p| p.leased),
            delayed: sum(|p| p.delayed),
            dead: sum(|p| p.dead),
            oldest_age_ms: partitions.iter().map(|p| p.oldest_age_ms).max().unwrap_or(0),
            arrived: sum(|p| p.arrived),
            serviced: sum(|p| p.serviced),
            expired: sum(|p| p.expired),
            arrival_per_s: total(partitions.iter().map(|p| p.arrival_per_s)),
            service_per_s: total(partitions.iter().map(|p| p.service_per_s)),
            bytes: sum(|p| p.bytes),
            held_bytes: sum(|p| p.held_bytes),
            settings: group.queue.filter(|_| kind == GroupKind::Queue).map(QueueSettings::from_wire),
            hottest_keys: group.hottest_keys.into_iter().map(HotKey::from_wire).collect(),
            partitions,
        })
    }
}

impl HotKey {
    fn from_wire(hot: wire::HotKey) -> HotKey {
        let wire::HotKey { topic, partition, key, waiting, out, .. } = hot;
        HotKey { key: key.into(), waiting, out, topic, partition }
    }
}

impl MemberDescription {
    fn from_wire(member: wire::MemberDescription) -> MemberDescription {
        let partitions = member.partitions.into_iter();
        let partitions =
            partitions.map(|p| TopicPartitionName { topic: p.topic, partition: p.partition }).collect();
        MemberDescription { id: member.id, client: member.client, named: member.named, partitions }
    }
}

impl GroupPartition {
    fn from_wire(row: wire::GroupPartition) -> GroupPartition {
        GroupPartition {
            topic: row.topic,
            partition: row.partition,
            committed: row.committed,
            high_watermark: row.high_watermark,
            lag: row.lag,
            ready: row.ready,
            leased: row.leased,
            delayed: row.delayed,
            dead: row.dead,
            oldest_age_ms: row.oldest_age_ms,
            arrived: row.arrived,
            serviced: row.serviced,
            expired: row.expired,
            arrival_per_s: row.arrival_per_s,
            service_per_s: row.service_per_s,
            bytes: row.bytes,
            full: Some(row.full).filter(|why| !why.is_empty()),
            uncopied: row.uncopied,
            copies_wait: Some(row.copies_wait).filter(|why| !why.is_empty()),
            held_bytes: row.held_bytes,
            held_since: row.held_since_ms,
        }
    }
}

impl QueueSettings {
    fn to_wire(&self) -> wire::QueueSettings {
        let ordering = match self.ordering {
            Ordering::None => wire::Ordering::None,
            Ordering::Key => wire::Ordering::Key,
            Ordering::Priority => wire::Ordering::Priority,
        };
        wire::QueueSettings {
            lease_ms: super::topics::ms(self.lease),
            attempts_max: self.attempts_max,
            backoff_first_ms: super::topics::ms(self.backoff_first),
            backoff_max_ms: super::topics::ms(self.backoff_max),
            ordering: ordering.into(),
            dead_letter_topic: self.dead_letter_topic.clone().unwrap_or_default(),
            hold: self.hold,
            start_latest: self.start_latest,
            expired: match self.expired {
                Expired::Drop => wire::Expired::Drop,
                Expired::DeadLetter => wire::Expired::DeadLetter,
            }
            .into(),
        }
    }

    fn from_wire(settings: wire::QueueSettings) -> QueueSettings {
        let expired = match settings.expired() {
            wire::Expired::Drop => Expired::Drop,
            wire::Expired::DeadLetter => Expired::DeadLetter,
        };
        QueueSettings {
            lease: Duration::from_millis(settings.lease_ms),
            attempts_max: settings.attempts_max,
            backoff_first: Duration::from_millis(settings.backoff_first_ms),
            backoff_max: Duration::from_millis(settings.backoff_max_ms),
            ordering: match settings.ordering() {
                wire::Ordering::None => Ordering::None,
                wire::Ordering::Key => Ordering::Key,
                wire::Ordering::Priority => Ordering::Priority,
            },
            dead_letter_topic: Some(settings.dead_letter_topic).filter(|topic| !topic.is_empty()),
            hold: settings.hold,
            start_latest: settings.start_latest,
            expired,
        }
    }
}

impl Admin {
    /// Creates a queue group that works these topics.
    ///
    /// # Errors
    /// `GROUP_EXISTS`, `UNKNOWN_TOPIC`, or `INVALID_REQUEST` naming the field.
    pub async fn create_queue_group(
        &self,
        name: &str,
        topics: &[&str],
        settings: &QueueSettings,
    ) -> Result<()> {
        self.create_group(name, wire::GroupKind::Queue, topics, Some(settings.to_wire())).await
    }

    /// Creates a stream group.
    ///
    /// # Errors
    /// `GROUP_EXISTS`, `UNKNOWN_TOPIC`.
    pub async fn create_stream_group(&self, name: &str, topics: &[&str]) -> Result<()> {
        self.create_group(name, wire::GroupKind::Stream, topics, None).await
    }

    async fn create_group(
        &self,
        name: &str,
        kind: wire::GroupKind,
        topics: &[&str],
        queue: Option<wire::QueueSettings>,
    ) -> Result<()> {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let group = wire::CreateGroup { name: name.to_owned(), kind: kind.into(), topics, queue };
        self.change(Body::CreateGroup(group)).await
    }

    /// Describes all groups.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_groups(&self) -> Result<Vec<GroupDescription>> {
        self.describe(Body::ListGroups(wire::ListGroups {})).await
    }

    /// Describes one group.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`.
    pub async fn describe_group(&self, name: &str) -> Result<GroupDescription> {
        let body = Body::DescribeGroup(wire::DescribeGroup { name: name.to_owned() });
        let described = self.describe(body).await?;
        described.into_iter().find(|group| group.group == name).ok_or_else(|| Error::Broker {
            code: ErrorCode::UnknownGroup,
            message: format!("there is no group `{name}`"),
            retry: Retry::Never,
        })
    }

    async fn describe(&self, body: Body) -> Result<Vec<GroupDescription>> {
        match self.client.call(body, Retries::Idempotent).await?.body {
            Body::GroupDescriptions(reply) => {
                reply.groups.into_iter().map(GroupDescription::from_wire).collect()
            }
            other => Err(unexpected("DescribeGroup", &other)),
        }
    }

    /// Moves a group to another place in a topic. In a queue group everything from there on is unsettled again
    /// and leases are revoked.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`, `UNKNOWN_TOPIC`; `GROUP_NOT_EMPTY` for a stream group with members.
    pub async fn seek_group(&self, group: &str, topic: &str, to: Start) -> Result<()> {
        let position = match to {
            Start::Earliest => Position::Earliest(wire::Done {}),
            Start::Latest => Position::Latest(wire::Done {}),
            Start::Offset(offset) => Position::Offset(offset),
            Start::Time(time_ms) => Position::TimeMs(time_ms),
        };
        let (group, topic) = (group.to_owned(), topic.to_owned());
        self.change(Body::SeekGroup(wire::SeekGroup { group, topic, position: Some(position) })).await
    }

    /// Deletes a group with all it knows.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`, `GROUP_NOT_EMPTY`.
    pub async fn delete_group(&self, name: &str) -> Result<()> {
        self.change(Body::DeleteGroup(wire::DeleteGroup { name: name.to_owned() })).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_partitions_has_rates_of_plain_zero() {
        assert!(total(std::iter::empty()).is_sign_positive());
        assert_eq!(total([1.5, 2.5].into_iter()), 4.0);
    }
}
