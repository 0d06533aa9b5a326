//! Runs the engine: one thread per shard that decides, two that write its commits, one that reads delayed messages
//! which are due, one for the disk work that nobody waits for yet, one for what nobody ever waits for. Connections reach a shard through its inbox and hear from it through their outboxes; what they read
//! lies in published views.

mod disk_threads;
mod effects;
mod inbox;
mod letters;
mod outbox;
mod pending;
mod record_tables;
mod registry;
mod shard_thread;

use std::sync::Arc;
use std::thread::JoinHandle;

use dure_engine::{
    ConnectionId, DiskRef, Letter, LogView, OpenError, RecoveryReport, ReplyTo, Request, RequestError,
    Response, Shard, ShardConfig, TopicTable,
};
use dure_proto::{ShardId, TopicId, TopicPartition};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use inbox::Message;
pub(crate) use letters::{LetterRequest, fetch_letters};
pub(crate) use outbox::{ByteCredit, Delivery, DeliveryTarget, Line, Outbox, Outgoing, OutgoingFrame};
pub(crate) use pending::{AnswerTo, Pending};
pub(crate) use record_tables::{RecordsRequest, fetch_records};
pub(crate) use registry::Logs;

use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::Metrics;
use effects::{Asks, Effects, Watched};

/// The connection number of the broker's own requests; listeners count from 1.
pub(crate) const OWN_CONNECTION: ConnectionId = ConnectionId(0);

/// All shards, as connections see them.
#[derive(Clone)]
pub(crate) struct Shards {
    handles: Arc<[ShardHandle]>,
}

/// One running shard.
pub(crate) struct ShardHandle {
    id: ShardId,
    inbox: crossbeam_channel::Sender<Message>,
    logs: Logs,
    topics: watch::Receiver<Arc<TopicTable>>,
}

/// The threads of one shard and what it asks for: letters and record tables.
pub(crate) struct ShardThreads {
    pub(crate) joins: Vec<JoinHandle<()>>,
    pub(crate) letters: mpsc::UnboundedReceiver<LetterRequest>,
    pub(crate) records: mpsc::UnboundedReceiver<RecordsRequest>,
}

/// Recovers a shard and starts its threads. Takes as long as recovery takes: for a thread that may wait.
pub(crate) fn start_shard(
    disk: DiskRef,
    id: ShardId,
    config: ShardConfig,
    clock: Clock,
    health: &Health,
    metrics: &Arc<Metrics>,
) -> Result<(ShardHandle, ShardThreads, RecoveryReport), OpenError> {
    let (mut shard, report) = Shard::open(disk.clone(), id, config, clock.now())?;
    let (inbox, messages) = crossbeam_channel::unbounded();
    let (letters_out, letters) = mpsc::unbounded_channel();
    let (records_out, records) = mpsc::unbounded_channel();
    let (publisher, logs) = registry::new();
    let (topics_out, topics) = watch::channel(Arc::new(TopicTable::default()));
    let mut joins = Vec::new();
    let jobs = disk_threads::start(id, &disk, &inbox, health, metrics, &mut joins);
    let mut effects = Effects::new(
        id,
        jobs,
        publisher,
        topics_out,
        Asks { letters: letters_out, records: records_out },
        Watched { health: health.clone(), metrics: metrics.clone() },
    );
    // What a start finds out stays known.
    health.recovered(id.0, &report.findings);
    // Whoever finds the broker ready finds its topics.
    effects.carry_out(shard.take_effects(), false);
    joins.push(shard_thread::start(id, shard, clock, messages, effects, health.clone()));
    Ok((ShardHandle { id, inbox, logs, topics }, ShardThreads { joins, letters, records }, report))
}

impl Shards {
    pub(crate) fn new(handles: Vec<ShardHandle>) -> Shards {
        assert!(!handles.is_empty(), "a data directory has at least one shard");
        Shards { handles: handles.into() }
    }

    /// The shard that owns a partition.
    pub(crate) fn of(&self, _partition: TopicPartition) -> &ShardHandle {
        // The table that maps partitions to shards comes with the second shard.
        &self.handles[0]
    }

    /// The shard that keeps the catalogue and the groups.
    pub(crate) fn catalogue(&self) -> &ShardHandle {
        &self.handles[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ShardHandle> {
        self.handles.iter()
    }

    /// Names and settings of topics as they are now.
    pub(crate) fn topics(&self) -> Arc<TopicTable> {
        self.catalogue().topics.borrow().clone()
    }

    /// The published views of one log, from now on.
    pub(crate) fn log(&self, partition: TopicPartition) -> Option<watch::Receiver<LogView>> {
        self.of(partition).logs.get(partition)
    }

    /// The view of one log as it is now.
    pub(crate) fn view(&self, partition: TopicPartition) -> Result<LogView, RequestError> {
        let missing = || self.missing(partition);
        self.log(partition).map(|views| views.borrow().clone()).ok_or_else(missing)
    }

    /// Why there is no such log.
    pub(crate) fn missing(&self, partition: TopicPartition) -> RequestError {
        match self.topics().by_id(partition.topic) {
            Some(topic) if partition.partition.0 >= topic.partitions => RequestError::UnknownPartition {
                topic: topic.name.to_string(),
                partition: partition.partition,
                partitions: topic.partitions,
            },
            // In the moment between the end of a log and that of its topic, too.
            _ => RequestError::UnknownTopicId(partition.topic),
        }
    }

    /// The name of a topic, for people; its number if it has none.
    pub(crate) fn topic_name(&self, id: TopicId) -> String {
        self.topics().by_id(id).map_or_else(|| format!("#{id}"), |topic| topic.name.to_string())
    }

    /// A request of the broker's own.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, RequestError> {
        let (answer, answered) = oneshot::channel();
        let pending = Pending::unmetered(AnswerTo::Local(answer));
        // A refusal drops the sender, which the receiver hears of.
        let _ = self.catalogue().send(OWN_CONNECTION, request, pending);
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Every shard hears of a connection before its first request.
    pub(crate) fn attach(&self, connection: ConnectionId, outbox: &Outbox) {
        for shard in self.iter() {
            shard.post(Message::Attach { connection, outbox: outbox.clone() });
        }
    }

    /// And that it is gone, after its last one.
    pub(crate) fn detach(&self, connection: ConnectionId) {
        for shard in self.iter() {
            shard.post(Message::Detach(connection));
        }
    }

    pub(crate) fn begin_shutdown(&self) {
        for shard in self.iter() {
            shard.post(Message::Shutdown);
        }
    }
}

impl ShardHandle {
    /// Sends a request; its answer goes where `pending` says. Gives that back when the shard's thread has ended.
    pub(crate) fn send(
        &self,
        connection: ConnectionId,
        request: Request,
        pending: Pending,
    ) -> Result<(), Pending> {
        let message = Message::Request { connection, request, pending };
        match self.inbox.send(message) {
            Err(crossbeam_channel::SendError(Message::Request { pending, .. })) => Err(pending),
            _ => Ok(()),
        }
    }

    /// Sends what has no answer. A shard that is gone needs none of it.
    pub(crate) fn post(&self, message: Message) {
        let _ = self.inbox.send(message);
    }

    pub(crate) fn letter(&self, letter: Letter) {
        self.post(Message::Letter(letter));
    }

    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }
}

/// The reply address of a request whose entry in the pending table has this key.
fn reply_to(connection: ConnectionId, key: u64) -> ReplyTo {
    ReplyTo { connection, correlation: key }
}
