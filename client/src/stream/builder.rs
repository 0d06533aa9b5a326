//! What can be set about a stream, and how one starts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body, locate_offset::Position};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::filter::Filters;
use super::member::{Member, MemberConfig};
use super::progress::Progress;
use super::reader::{Reader, ReaderConfig};
use super::subscription::{Subscription, Watcher};
use super::{HighWatermark, MessageStream};
use crate::client::{Client, Retries, unexpected};
use crate::error::{Error, ErrorCode, Result, Retry};

const CREDIT_BYTES_DEFAULT: u64 = 8 << 20;
/// However many partitions share the credit, each has at least this much.
const PARTITION_CREDIT_BYTES_MIN: u64 = 1 << 20;
const SESSION_DEFAULT: Duration = Duration::from_secs(6);

/// Where to start reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message that is still there.
    #[default]
    Earliest,
    /// Behind the newest message.
    Latest,
    /// At this offset.
    Offset(u64),
    /// At the first message appended at or after this time, in milliseconds since the epoch.
    Time(u64),
}

/// Settings of a [`MessageStream`].
#[derive(Clone, Debug)]
pub struct StreamBuilder {
    client: Client,
    topics: Vec<String>,
    partition: Option<u32>,
    start: Start,
    credit_bytes: u64,
    until_high_watermark: bool,
    group: Option<String>,
    member: Option<String>,
    auto_commit: Option<Duration>,
    session: Duration,
    filters: Filters,
}

impl StreamBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        StreamBuilder {
            client,
            topics: vec![topic],
            partition: None,
            start: Start::Earliest,
            credit_bytes: CREDIT_BYTES_DEFAULT,
            until_high_watermark: false,
            group: None,
            member: None,
            auto_commit: None,
            session: SESSION_DEFAULT,
            filters: Filters::default(),
        }
    }

    /// Yields only messages that have this header with this value; of several filters, those that have all. The broker
    /// sends no others, and positions and commits pass what it filtered out. At most 16, of 4 KiB each.
    #[must_use]
    pub fn filter(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.filters.add(name.into(), value.into());
        self
    }

    /// Reads this topic too, or these: in a pattern `*` stands for any one part between dots, and a last `>` for the
    /// rest. A member of a group also reads what appears later; alone a stream does unless it ends at the high
    /// watermarks. What appears later is read from its first message on, and what is deleted leaves in silence.
    #[must_use]
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Reads this partition only. Not for a member of a group.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Where to start; earliest unless set. In a group: where to start a partition that has no committed
    /// offset.
    #[must_use]
    pub fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Ends the stream at the high watermarks found at its start. Not for a member of a group.
    #[must_use]
    pub fn until_high_watermark(mut self) -> Self {
        self.until_high_watermark = true;
        self
    }

    /// How many bytes the broker may send ahead of what has been yielded, over all partitions; 8 MiB unless
    /// set.
    #[must_use]
    pub fn credit(mut self, bytes: u64) -> Self {
        self.credit_bytes = bytes;
        self
    }

    /// Joins this stream group: its members share the partitions and commit how far they are.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Takes part under a name that outlives this process, as a process does that is restarted: whoever joins under it
    /// within the session goes on with the same partitions at once, and nothing moves. The one before, if it is still
    /// there, is fenced: its commits are refused, and its stream ends with `MEMBER_REPLACED`. Closing such a stream does
    /// not leave the group; its place goes when the session ends. Named as a topic is.
    #[must_use]
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// Commits by itself, this often, and when a partition is taken away or the stream is closed. A message
    /// counts as handled when the one after it is asked for, never earlier. Without this, commit explicitly.
    #[must_use]
    pub fn auto_commit(mut self, interval: Duration) -> Self {
        self.auto_commit = Some(interval);
        self
    }

    /// How long a member may be silent before its partitions go to others; 6 s unless set, between 100 ms and 30 min.
    #[must_use]
    pub fn session(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// Starts reading.
    ///
    /// # Errors
    /// [`Error::Broker`] with `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`, `OFFSET_OUT_OF_RANGE` (an offset beyond the
    /// high watermark), `WRONG_GROUP_KIND`, `BAD_PATTERN` or `INVALID_REQUEST` (a member's name, a session or a filter
    /// out of bounds); [`Error::InvalidArgument`] for settings that exclude each other.
    pub async fn subscribe(self) -> Result<MessageStream> {
        match self.group.clone() {
            Some(group) => self.join(group).await,
            None => self.read_alone().await,
        }
    }

    async fn read_alone(self) -> Result<MessageStream> {
        if self.member.is_some() {
            return Err(Error::invalid("a member has a name within its group, and there is no group"));
        }
        if self.auto_commit.is_some() {
            return Err(Error::invalid("there is nothing to commit without a group"));
        }
        let (subscription, topics) = Subscription::resolve(&self.client, self.topics).await?;
        if self.partition.is_some() && !subscription.patterns.is_empty() {
            return Err(Error::invalid(
                "the topics of a pattern are read whole: name the one of the partition",
            ));
        }
        let mut places = Vec::new();
        for topic in &topics {
            let partitions = match self.partition {
                Some(partition) if partition >= topic.partitions => {
                    return Err(unknown_partition(&topic.name, partition, topic.partitions));
                }
                Some(partition) => partition..partition + 1,
                None => 0..topic.partitions,
            };
            places.extend(partitions.map(|partition| (Arc::clone(topic), partition)));
        }
        let located = places.iter().map(|(topic, partition)| {
            let (client, start) = (&self.client, self.start);
            async move { locate_valid(client, &topic.name, topic.id, *partition, start).await }
        });
        let located = try_join_all(located).await?;

        let (out, fetched) = mpsc::unbounded_channel();
        let progress = Arc::new(Progress::default());
        let stop = CancellationToken::new();
        let readers = ReaderConfig {
            client: self.client.clone(),
            credit_bytes: (self.credit_bytes / places.len().max(1) as u64).max(PARTITION_CREDIT_BYTES_MIN),
            filters: self.filters.clone(),
            out,
            stop: stop.clone(),
        };
        let mut high_watermarks = Vec::with_capacity(places.len());
        for ((topic, partition), Located { offset, high_watermark }) in places.into_iter().zip(located) {
            let name = Arc::clone(&topic.name);
            high_watermarks.push(HighWatermark {
                topic: Arc::clone(&name),
                partition,
                offset: high_watermark,
            });
            let end = self.until_high_watermark.then_some(high_watermark);
            let lane = {
                let mut lanes = progress.lanes();
                let id = lanes.add(Arc::clone(&name), partition, end);
                if let Some(lane) = lanes.of(&name, partition) {
                    lane.position = offset;
                }
                id
            };
            let reader = Reader {
                lane,
                may_vanish: subscription.may_vanish(&name),
                topic: name,
                topic_id: topic.id,
                partition,
                start: Start::Offset(offset),
                config: readers.clone(),
            };
            reader.start();
        }
        let watches = !self.until_high_watermark && !subscription.patterns.is_empty();
        if watches {
            let known = topics.iter().map(|topic| topic.id).collect();
            let (client, progress) = (self.client, Arc::clone(&progress));
            Watcher { client, patterns: subscription.patterns, known, progress, readers }.start();
        }
        let mut stream = MessageStream::new(fetched, progress, high_watermarks, self.filters, stop, None);
        stream.watches = watches;
        Ok(stream)
    }

    async fn join(self, group: String) -> Result<MessageStream> {
        if self.partition.is_some() {
            return Err(Error::invalid("a group decides itself which member reads which partition"));
        }
        if self.until_high_watermark {
            return Err(Error::invalid("a member of a group has no end to stop at"));
        }
        let (subscription, _) = Subscription::resolve(&self.client, self.topics).await?;
        let (out, fetched) = mpsc::unbounded_channel();
        let progress = Arc::new(Progress::default());
        let stop = CancellationToken::new();
        let config = MemberConfig {
            group,
            name: self.member,
            subscription,
            start: self.start,
            credit_bytes: self.credit_bytes.max(PARTITION_CREDIT_BYTES_MIN),
            filters: self.filters.clone(),
            auto_commit: self.auto_commit,
            session: self.session,
        };
        let member = Member::join(self.client, config, out, Arc::clone(&progress), stop.clone()).await?;
        Ok(MessageStream::new(fetched, progress, Vec::new(), self.filters, stop, Some(member)))
    }
}

fn unknown_partition(topic: &str, partition: u32, partitions: u32) -> Error {
    Error::Broker {
        code: ErrorCode::UnknownPartition,
        message: format!("topic `{topic}` has no partition {partition}: it has {partitions}, counted from 0"),
        retry: Retry::Never,
    }
}

/// A place in a log, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) offset: u64,
    pub(crate) high_watermark: u64,
}

/// Asks the broker for the offset that `start` means; an offset is taken as it is.
pub(crate) async fn locate(client: &Client, topic_id: u32, partition: u32, start: Start) -> Result<Located> {
    let position = match start {
        Start::Earliest | Start::Offset(_) => Position::Earliest(wire::Done {}),
        Start::Latest => Position::Latest(wire::Done {}),
        Start::Time(time_ms) => Position::TimeMs(time_ms),
    };
    let body = Body::LocateOffset(wire::LocateOffset { topic_id, partition, position: Some(position) });
    match client.call(body, Retries::Idempotent).await?.body {
        Body::LocateOffsetReply(wire::LocateOffsetReply { offset, high_watermark }) => {
            let offset = if let Start::Offset(asked) = start { asked } else { offset };
            Ok(Located { offset, high_watermark })
        }
        other => Err(unexpected("LocateOffset", &other)),
    }
}

/// As [`locate`]; an offset beyond the end of the log is an error, one below its start means its start.
async fn locate_valid(
    client: &Client,
    topic: &str,
    topic_id: u32,
    partition: u32,
    start: Start,
) -> Result<Located> {
    let Start::Offset(asked) = start else { return locate(client, topic_id, partition, start).await };
    let Located { offset, high_watermark } = locate(client, topic_id, partition, Start::Earliest).await?;
    if asked > high_watermark {
        return Err(Error::Broker {
            code: ErrorCode::OffsetOutOfRange,
            message: format!("{topic}/{partition} ends at offset {high_watermark}: there is no {asked} yet"),
            retry: Retry::Never,
        });
    }
    Ok(Located { offset: asked.max(offset), high_watermark })
}
