//! What comes into a shard and what goes out of it.

use std::sync::Arc;

use bytes::Bytes;
use dure_proto::{GroupId, KeySeed, LeaseToken, Offset, PartitionId, TopicPartition, wire};

use crate::catalogue::TopicTable;
use crate::finding::Finding;
use crate::job::{DiskJob, JobDone};
use crate::letter::LetterError;
use crate::log::LogView;
use crate::queue_group::RecordTable;
use crate::request::{ConnectionId, ReplyTo, Request, RequestError, Response, SubscriptionId};

/// Something that happened outside.
#[derive(Debug)]
pub enum Input {
    /// A client asks.
    Request {
        /// Who wants the answer.
        reply_to: ReplyTo,
        /// What is asked.
        request: Request,
    },
    /// The connection is gone: its subscriptions end, its leases that were not started go back.
    ConnectionClosed(ConnectionId),
    /// A [`DiskJob`] ended.
    JobDone(JobDone),
    /// The record that [`Effect::FetchLetter`] asked for, as a batch for the dead-letter log.
    Letter(Letter),
    /// What [`Effect::FetchRecords`] asked for.
    Records(FoundRecords),
}

/// What a queue group that looks into messages has to know of them.
#[derive(Clone, Debug)]
pub struct FoundRecords {
    /// The group that asked.
    pub group: GroupId,
    /// The partition that it asked about.
    pub partition: TopicPartition,
    /// The offset from which on it asked.
    pub from: Offset,
    /// What was found there.
    pub table: RecordTable,
}

/// A record on its way to the dead-letter log.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The group in which it dies.
    pub group: GroupId,
    /// Its partition.
    pub source: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// A batch of that one record.
    pub batch: Result<Bytes, LetterError>,
}

/// Something that is to happen outside.
#[derive(Debug)]
pub enum Effect {
    /// To be run on another thread, its outcome coming back as [`Input::JobDone`]. Jobs of one kind may run
    /// side by side; nothing waits for them but what the shard itself holds back.
    Job(DiskJob),
    /// An answer.
    Reply {
        /// Where it goes.
        to: ReplyTo,
        /// The answer.
        result: Result<Response, RequestError>,
    },
    /// Messages leased to a subscription or a receive: read their bytes and send them.
    Deliver(Deliver),
    /// A queue subscription is over.
    EndSubscription {
        /// Its connection.
        connection: ConnectionId,
        /// The subscription.
        subscription: SubscriptionId,
        /// Why.
        error: RequestError,
    },
    /// What a member of a stream group should own.
    Assign {
        /// Its connection.
        connection: ConnectionId,
        /// The assignment.
        assignment: wire::Assignment,
    },
    /// Readers see this state of a log from now on.
    Publish(LogView),
    /// The log is gone.
    Unpublish(TopicPartition),
    /// The names and settings of topics from now on.
    TopicsChanged(Arc<TopicTable>),
    /// Read this record, make a batch of it with [`letter_batch`], and send it back as [`Input::Letter`].
    ///
    /// [`letter_batch`]: crate::letter_batch
    FetchLetter {
        /// The group in which it dies.
        group: GroupId,
        /// Its partition.
        source: TopicPartition,
        /// Its offset.
        offset: Offset,
        /// Why it dies.
        reason: String,
        /// Where its bytes are: the source, or the dead-letter log if it was redriven.
        from: (TopicPartition, Offset),
    },
    /// The scrubber read something, or came to the end of a pass.
    Scrubbed(Scrubbed),
    /// Producing is refused from now on, or (`None`) no longer.
    Shortage(Option<Shortage>),
    /// All the logs that the disk refuses to write: sent whenever that changed. Producing to them is refused.
    Unwritable(Vec<Unwritable>),
    /// All the partitions whose dead letters wait to be copied to their group's dead-letter topic: sent whenever that changed.
    CopiesWait(Vec<CopiesWait>),
    /// A pass of compaction failed.
    CompactionFailed(CompactionFailed),
    /// Look at the records from an offset on, as many as are at hand, and send back as [`Input::Records`] what is to be
    /// known of them. Always answered, if only with [`RecordTable::Failed`].
    FetchRecords {
        /// The group that asks.
        group: GroupId,
        /// Its partition.
        partition: TopicPartition,
        /// The first record.
        from: Offset,
        /// Under which keys are numbered.
        seed: KeySeed,
    },
    /// The shard met an error that it cannot go on from; everything is refused from now on.
    Stopped(String),
}

/// What the scrubber did.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Damage that was not known before.
    pub findings: Vec<Finding>,
    /// Everything that is sealed was read since this was said the last time.
    pub pass_done: bool,
    /// Set if it changed: all that is known to be damaged now, in as few findings as can be.
    pub damage: Option<Vec<Finding>>,
}

/// Why producing is refused: the reserve is all that is left of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What the file system has left.
    pub available_bytes: u64,
    /// What is kept free.
    pub reserve_bytes: u64,
    /// What could not be done for lack of room and is tried again until there is some; in words.
    pub waits: Vec<&'static str>,
}

/// A pass of compaction that failed. Another one begins after a while; until one succeeds old messages stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionFailed {
    /// Through which log.
    pub partition: TopicPartition,
    /// The name of its topic.
    pub topic: String,
    /// Why.
    pub what: String,
    /// The pass before it failed, too.
    pub again: bool,
}

/// A log that the disk refuses to write. What was acknowledged is kept elsewhere, and served; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritable {
    /// Which log.
    pub partition: TopicPartition,
    /// The name of its topic.
    pub topic: String,
    /// The first offset that is not in its segment.
    pub from: Offset,
    /// What the disk said.
    pub what: String,
}

/// Dead letters of one partition that their group's dead-letter topic does not take. They are tried again each second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiesWait {
    /// The group's name.
    pub group: String,
    /// The name of the topic that they are of.
    pub topic: String,
    /// Its partition.
    pub partition: PartitionId,
    /// The topic that they are to be copied to.
    pub to: String,
    /// Why it does not take them.
    pub why: String,
}

/// Messages leased.
#[derive(Clone, Debug)]
pub struct Deliver {
    /// Whose they are.
    pub connection: ConnectionId,
    /// How they were asked for.
    pub target: DeliverTo,
    /// The partition that they are of.
    pub leases: Vec<LeaseGrant>,
}

/// How leased messages were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverTo {
    /// By a subscription.
    Subscription(SubscriptionId),
    /// By a receive with this correlation; the lease list may be empty.
    Receive(u64),
}

/// One leased message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Where its bytes are: its own place, or the dead-letter log if it was redriven.
    pub bytes_at: (TopicPartition, Offset),
    /// The grant.
    pub token: LeaseToken,
    /// The number that this attempt has once it is started.
    pub attempt: u32,
    /// How long the lease runs.
    pub lease_ms: u64,
    /// When it ends, on the broker's wall clock.
    pub deadline_wall_ms: u64,
}
