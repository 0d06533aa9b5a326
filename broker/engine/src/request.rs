//! What a shard can be asked and what it answers: the protocol-neutral layer between listeners and engine.

use crate::backup::BackupPlan;
use crate::delay::{DELAY_MS_MAX, Due};
use crate::queue_group::Sent;
use crate::topic_pattern::PatternError;
use bytes::Bytes;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{IdHash, Offset, PartitionId, ProducerId, Receipt, TopicId, TopicPartition};

/// A connection, numbered by the listener; never used again within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A subscription on a connection, numbered by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Its number for the request; 0 wants no answer.
    pub correlation: u64,
}

/// One request to a shard. Administrative ones carry the native protocol's messages as they are.
#[derive(Clone, Debug)]
pub enum Request {
    /// Answered with [`Response::Done`] once the topic is durable.
    CreateTopic(wire::CreateTopic),
    /// Answered with [`Response::Done`].
    AlterTopic(wire::AlterTopic),
    /// Answered with [`Response::Done`].
    DeleteTopic(wire::DeleteTopic),
    /// Answered with [`Response::Done`].
    PurgeTopic(wire::PurgeTopic),
    /// Answered with [`Response::Topics`].
    DescribeTopics(wire::DescribeTopics),

    /// Answered with [`Response::Producer`].
    InitProducer,
    /// Answered with [`Response::Produced`].
    Produce(Produce),
    /// Answered with [`Response::Scheduled`], or with [`Response::Produced`] if it is due already.
    ProduceLater {
        /// The batch.
        produce: Produce,
        /// When its log gets it.
        due: Due,
    },

    /// Answered with [`Response::Done`].
    CreateGroup(wire::CreateGroup),
    /// Answered with [`Response::Groups`].
    ListGroups,
    /// Answered with [`Response::Groups`], one of them.
    DescribeGroup(wire::DescribeGroup),
    /// Answered with [`Response::Done`]. The offsets of a time were looked up by the listener.
    SeekGroup {
        /// The group's name.
        group: String,
        /// The topic's name.
        topic: String,
        /// Where to go.
        to: SeekTo,
    },
    /// Answered with [`Response::Done`].
    DeleteGroup(wire::DeleteGroup),

    /// No answer but an error; [`Effect::Deliver`]s follow.
    ///
    /// [`Effect::Deliver`]: crate::Effect::Deliver
    WorkQueue(wire::WorkQueue),
    /// Answered with an [`Effect::Deliver`] that carries the correlation.
    ///
    /// [`Effect::Deliver`]: crate::Effect::Deliver
    Receive(wire::Receive),
    /// More credit for a queue subscription; never answered.
    QueueCredit {
        /// Which subscription.
        subscription: SubscriptionId,
        /// How many messages more.
        messages: u32,
        /// How many bytes more.
        bytes: u64,
    },
    /// What became of messages that were leased to a queue subscription; never answered.
    QueueSent {
        /// Which subscription.
        subscription: SubscriptionId,
        /// What was sent, and what was not.
        sent: Sent,
    },
    /// Ends a queue subscription; never answered.
    Unsubscribe {
        /// Which subscription.
        subscription: SubscriptionId,
    },
    /// Answered with [`Response::Settled`].
    Settle(Settle),
    /// Answered with [`Response::DeadLetters`]; the listener reads the bytes.
    ListDeadLetters(wire::ListDeadLetters),
    /// Answered with [`Response::Count`].
    Redrive(wire::Redrive),
    /// Answered with [`Response::Count`].
    PurgeDeadLetters(wire::PurgeDeadLetters),

    /// Answered with [`Response::Joined`]; [`Effect::Assign`]s follow.
    ///
    /// [`Effect::Assign`]: crate::Effect::Assign
    JoinGroup {
        /// What the client asks for.
        join: wire::JoinGroup,
        /// The client's name, for descriptions.
        client: String,
    },
    /// Answered with [`Response::Done`].
    Heartbeat(wire::Heartbeat),
    /// Answered with [`Response::Done`] once durable.
    CommitOffsets(wire::CommitOffsets),
    /// Answered with [`Response::Done`].
    LeaveGroup(wire::LeaveGroup),

    /// Answered with [`Response::Backup`] once everything decided before is in it. Its files stay until
    /// [`Request::EndBackup`] or the end of the connection.
    BeginBackup,
    /// The connection's backup is done with; never answered.
    EndBackup,
}

/// One validated record batch for one partition.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Where it goes.
    pub partition: TopicPartition,
    /// The batch: its length, checksum and counts were checked by whoever received it.
    pub batch: Bytes,
    /// Whether any record has a key.
    pub keyed: bool,
    /// Whether every record has a key.
    pub all_keyed: bool,
    /// Size of its largest record in bytes.
    pub record_bytes_max: u32,
    /// Whether any record expires.
    pub expiring: bool,
    /// The id of each record, as far as it has one; empty if none has.
    pub ids: Vec<Option<IdHash>>,
}

/// Where a group's cursor goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// One offset, for all partitions of the topic.
    Offset(Offset),
    /// An offset per partition, from 0, as a time was resolved to.
    PerPartition(Vec<Offset>),
}

/// Settles messages of one queue group.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The topic's name.
    pub topic: String,
    /// The group's name.
    pub group: String,
    /// At most [`SETTLE_ITEMS_MAX`] of them.
    pub items: Vec<SettleItem>,
}

/// Bound of one [`Settle`].
pub const SETTLE_ITEMS_MAX: usize = 10_000;

/// What is to become of one message.
#[derive(Clone, Debug)]
pub struct SettleItem {
    /// The grant that the worker holds.
    pub receipt: Receipt,
    /// What to do.
    pub action: SettleAction,
}

/// See `wire::SettleAction`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleAction {
    /// Done with it, for ever.
    Ack,
    /// Done with it and with everything before it, whoever holds that; a receipt without a token holds nothing itself.
    AckUpTo,
    /// Back to the queue, after this delay or after the group's backoff.
    Release {
        /// `None`: the group's backoff.
        delay_ms: Option<u64>,
        /// Kept with the dead letter if that was the last attempt.
        reason: String,
    },
    /// To the dead letters.
    Reject {
        /// Kept with the dead letter.
        reason: String,
    },
    /// The lease runs this long from now, or the group's lease time.
    Extend {
        /// `None`: the group's lease time.
        lease_ms: Option<u64>,
    },
    /// The handler has it now: the attempt counts.
    Start,
}

/// A successful answer.
#[derive(Clone, Debug)]
pub enum Response {
    /// It is done, and durable where it changed anything.
    Done,
    /// How many messages it concerned.
    Count(u64),
    /// The descriptions asked for.
    Topics(Vec<wire::TopicDescription>),
    /// A producer session.
    Producer {
        /// Its identity.
        producer: ProducerId,
        /// Its epoch.
        epoch: u16,
    },
    /// The batch is durable.
    Produced {
        /// Offset of its first record.
        base_offset: Offset,
        /// The broker's time of append.
        append_time_ms: u64,
        /// Records of it that were not appended; the others have contiguous offsets.
        duplicates: Vec<wire::Duplicates>,
    },
    /// The batch is durable, and waits: it gets its offset when it is due.
    Scheduled {
        /// When that is, in milliseconds since the Unix epoch.
        due_ms: u64,
        /// Records of it that do not wait, since others with their ids were accepted before.
        duplicates: Vec<wire::Duplicates>,
    },
    /// The descriptions asked for.
    Groups(Vec<wire::GroupDescription>),
    /// One result per item, in order.
    Settled(Vec<Result<Settled, RequestError>>),
    /// Where the dead letters asked for lie.
    DeadLetters {
        /// In the order of the source's partition and offset.
        letters: Vec<DeadLetterRef>,
        /// There are more behind the last one.
        more: bool,
    },
    /// Membership of a stream group.
    Joined(wire::JoinGroupReply),
    /// What a backup consists of; the listener reads the files.
    Backup(BackupPlan),
}

/// A settled item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// It had been settled before; nothing changed.
    pub already: bool,
}

/// A dead letter: where its bytes lie and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRef {
    /// Partition of the source.
    pub partition: PartitionId,
    /// Offset in the source.
    pub offset: Offset,
    /// Where the record is kept.
    pub kept_in: TopicPartition,
    /// Its offset there.
    pub letter: Offset,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it died.
    pub reason: String,
    /// When it died.
    pub dead_wall_ms: u64,
}

/// Why a request failed. Every message says what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// What stands for topics' names stands for none.
    #[error("topic pattern `{pattern}` {error}")]
    BadPattern {
        /// Its beginning.
        pattern: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// No topic of that name.
    #[error("unknown topic `{0}`: create it with `dure topic create {0}`")]
    UnknownTopic(String),
    /// No topic with that number.
    #[error("unknown topic number {0}: it was deleted; look the topic up again by its name")]
    UnknownTopicId(TopicId),
    /// The name is taken.
    #[error("topic `{0}` exists already")]
    TopicExists(String),
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has no partition {partition}: it has {partitions}, numbered from 0")]
    UnknownPartition {
        /// Its name.
        topic: String,
        /// The one asked for.
        partition: PartitionId,
        /// How many it has.
        partitions: u32,
    },
    /// A record is over the topic's bound.
    #[error(
        "a message of {bytes} bytes is larger than topic `{topic}` takes ({bytes_max}): raise it with \
         `dure topic alter {topic} --max-message`"
    )]
    MessageTooLarge {
        /// The topic's name.
        topic: String,
        /// Size of the largest record, or of the batch.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// Partitions cannot be added without breaking the order of keys.
    #[error(
        "topic `{topic}` holds keyed messages: with more partitions a key moves to another one and its order \
         is lost; --force does it all the same"
    )]
    KeyedMessages {
        /// The topic's name.
        topic: String,
    },
    /// A topic that is compacted takes no message without a key.
    #[error("topic `{topic}` is compacted by key: every message needs one")]
    KeyRequired {
        /// The topic's name.
        topic: String,
    },
    /// A queue group would lose work to compaction.
    #[error(
        "topic `{topic}` is compacted by key, so that a message goes when there is a newer one, done or not: queue \
         group `{group}` cannot work it; read it with `dure consume`, or make a topic without `--cleanup compact`"
    )]
    CompactedTopic {
        /// The topic's name.
        topic: String,
        /// The group's name.
        group: String,
    },
    /// No such group.
    #[error("unknown group `{0}`: create it with `dure group create {0}`, or use it once")]
    UnknownGroup(String),
    /// The name is taken.
    #[error("group `{0}` exists already")]
    GroupExists(String),
    /// A queue group was used as a stream group or the other way round.
    #[error("group `{group}` is a {is} group: {hint}")]
    WrongGroupKind {
        /// The group's name.
        group: String,
        /// `stream` or `queue`.
        is: &'static str,
        /// What works on it instead.
        hint: &'static str,
    },
    /// The group has members.
    #[error("group `{0}` has members: stop them first")]
    GroupNotEmpty(String),
    /// The message was leased anew since, or a crash of the broker took the grant.
    #[error(
        "stale lease: message {0} was leased anew since this receipt was given out, or the broker went down before the \
         lease was kept: it is delivered again"
    )]
    StaleLease(Receipt),
    /// Only an ack may meet a settled message.
    #[error("already settled: message {0} is acknowledged or dead-lettered")]
    AlreadySettled(Receipt),
    /// No such grant.
    #[error("unknown receipt {0}: it was never given out for this topic and group, or a seek revoked it")]
    UnknownReceipt(Receipt),
    /// A member of an older generation.
    #[error("fenced: member `{member}` of group `{group}` is of an older generation; join again")]
    FencedGeneration {
        /// The group's name.
        group: String,
        /// The member.
        member: String,
    },
    /// The session ran out or never was.
    #[error("unknown member `{member}` of group `{group}`: its session ran out; join again")]
    UnknownMember {
        /// The group's name.
        group: String,
        /// The member.
        member: String,
    },
    /// Another process has the member's name.
    #[error(
        "replaced: another process joined group `{group}` as `{member}`; end this one, or give it a name of its own"
    )]
    MemberReplaced {
        /// The group's name.
        group: String,
        /// The member.
        member: String,
    },
    /// A batch of the producer session is missing before this one.
    #[error(
        "out of order: producer {producer} sent sequence {got} to {partition} where {expected} was due; start a \
         new producer session"
    )]
    OutOfOrderSequence {
        /// The session.
        producer: ProducerId,
        /// The partition.
        partition: TopicPartition,
        /// What came.
        got: u32,
        /// What was due.
        expected: u32,
    },
    /// The broker has forgotten the session.
    #[error("unknown producer session {0}: it expired; start a new one")]
    UnknownProducer(ProducerId),
    /// The subscription's number is in use on its connection.
    #[error("subscription {0} is in use on this connection: choose another number")]
    SubscriptionInUse(u64),
    /// A message cannot wait so long.
    #[error(
        "topic `{topic}`: a message cannot be due so far ahead: at most {} days from now on, by the broker's clock",
        DELAY_MS_MAX / 86_400_000
    )]
    DelayTooLong {
        /// The topic's name.
        topic: String,
    },
    /// A bound was met; nothing was done.
    #[error("busy: {0}; try again later")]
    Busy(String),
    /// The reserve is all that is left of the disk.
    #[error(
        "disk full: {available_bytes} bytes are left and {reserve_bytes} are kept in reserve; free space, lower \
         a retention or delete a topic, and producing resumes by itself"
    )]
    DiskFull {
        /// What the file system has left.
        available_bytes: u64,
        /// What is kept free.
        reserve_bytes: u64,
    },
    /// The disk refuses to write this one log.
    #[error(
        "topic `{topic}` partition {partition} takes no messages, since the disk refuses to write it: {what}; mend the disk, \
         and producing resumes by itself"
    )]
    Unwritable {
        /// The topic's name.
        topic: String,
        /// Which partition of it.
        partition: PartitionId,
        /// What the disk said.
        what: String,
    },
    /// The shard met an error that it cannot go on from.
    #[error("shard stopped: {0}; see the broker's log, mend the disk, and start the broker again")]
    ShardStopped(String),
    /// The broker is going down; nothing was done.
    #[error("the broker is shutting down; try again when it is back")]
    ShuttingDown,
}

impl RequestError {
    /// The code that it has on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            RequestError::Invalid(_) | RequestError::SubscriptionInUse(_) => ErrorCode::InvalidRequest,
            RequestError::BadPattern { .. } => ErrorCode::BadPattern,
            RequestError::UnknownTopic(_) | RequestError::UnknownTopicId(_) => ErrorCode::UnknownTopic,
            RequestError::TopicExists(_) => ErrorCode::TopicExists,
            RequestError::UnknownPartition { .. } => ErrorCode::UnknownPartition,
            RequestError::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
            RequestError::KeyedMessages { .. } => ErrorCode::KeyedMessages,
            RequestError::KeyRequired { .. } => ErrorCode::KeyRequired,
            RequestError::CompactedTopic { .. } => ErrorCode::CompactedTopic,
            RequestError::UnknownGroup(_) => ErrorCode::UnknownGroup,
            RequestError::GroupExists(_) => ErrorCode::GroupExists,
            RequestError::WrongGroupKind { .. } => ErrorCode::WrongGroupKind,
            RequestError::GroupNotEmpty(_) => ErrorCode::GroupNotEmpty,
            RequestError::StaleLease(_) => ErrorCode::StaleLease,
            RequestError::AlreadySettled(_) => ErrorCode::AlreadySettled,
            RequestError::UnknownReceipt(_) => ErrorCode::UnknownReceipt,
            RequestError::FencedGeneration { .. } => ErrorCode::FencedGeneration,
            RequestError::UnknownMember { .. } => ErrorCode::UnknownMember,
            RequestError::MemberReplaced { .. } => ErrorCode::MemberReplaced,
            RequestError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
            RequestError::UnknownProducer(_) => ErrorCode::UnknownProducer,
            RequestError::DelayTooLong { .. } => ErrorCode::DelayTooLong,
            RequestError::Busy(_) => ErrorCode::Busy,
            RequestError::DiskFull { .. } => ErrorCode::DiskFull,
            RequestError::Unwritable { .. } => ErrorCode::Unwritable,
            RequestError::ShardStopped(_) => ErrorCode::ShardStopped,
            RequestError::ShuttingDown => ErrorCode::ShuttingDown,
        }
    }

    /// Whether the same request can help when it is sent again. A shard that stopped does not know what its
    /// last commits became.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            RequestError::Busy(_)
            | RequestError::DiskFull { .. }
            | RequestError::Unwritable { .. }
            | RequestError::ShuttingDown => Retry::Later,
            RequestError::ShardStopped(_) => Retry::Unknown,
            _ => Retry::Never,
        }
    }
}
