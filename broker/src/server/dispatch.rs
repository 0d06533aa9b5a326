//! From a frame to whoever answers it. The neutral requests go to the engine as they are; what needs views, bytes or
//! several steps has a module of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use dure_engine::{PATTERNS_MAX, Produce, Request, RequestError, SubscriptionId, TopicPattern};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{
    BatchHeader, BatchLimits, Frame, IdHash, PartitionId, Records, TopicId, TopicPartition, message_id,
};
use tokio::sync::OwnedSemaphorePermit;

use super::access;
use super::connection::Connection;
use super::convert::{denied, due, error_message, message, settle};
use super::delivery::deliver;
use super::frames::Received;
use crate::runtime::{AnswerTo, ByteCredit, Delivery, Message, OutgoingFrame, Pending, ShardHandle};

/// What a request costs beside its bytes.
const REQUEST_BYTES: usize = 256;
/// A receive answers in one frame.
const RECEIVE_MESSAGES_MAX: u32 = 1000;
/// What a queue subscription may have on its way.
const CREDIT_MESSAGES_MAX: u32 = 10_000;

/// Credits of queue subscriptions that are over are forgotten when there are twice as many, or as were left last time.
pub(super) const QUEUES_CHECKED_MIN: usize = 64;

/// The room that a request takes until it is answered.
pub(super) struct Room {
    pub(super) connection: OwnedSemaphorePermit,
    pub(super) global: OwnedSemaphorePermit,
}

impl Connection {
    /// Handles one frame. Waits for room, so that a client that asks faster than it is answered is read no further.
    pub(super) async fn dispatch(&mut self, received: Received) {
        let Received { frame: Frame { envelope, attachment }, bytes, assembly } = received;
        let room = self.room(bytes).await;
        drop(assembly);
        let correlation = envelope.correlation;
        let Some((name, body)) = envelope.body.and_then(|body| Some((access::request_name(&body)?, body)))
        else {
            let text = "no request that this broker knows; it may be of a newer version".to_owned();
            return self.refuse(correlation, message(ErrorCode::InvalidRequest, text, Retry::Never), room);
        };
        self.broker.metrics.request(name);
        if let Err(error) = access::check(&self.broker, &self.principal, &body) {
            return self.refuse(correlation, denied(&error), room);
        }
        if let Err((error, room)) = self.handle(correlation, body, attachment, room) {
            self.refuse(correlation, error_message(&error), room);
        }
    }

    async fn room(&self, bytes: usize) -> Room {
        let own_max =
            self.broker.options.connection_inflight_bytes_max.min(self.broker.options.inflight_bytes_max);
        let cost = u32::try_from(bytes + REQUEST_BYTES).unwrap_or(u32::MAX).min(own_max);
        let connection = self.inflight.clone().acquire_many_owned(cost).await.expect("never closed");
        let global = self.broker.inflight.clone().acquire_many_owned(cost).await.expect("never closed");
        Room { connection, global }
    }

    fn handle(
        &mut self,
        correlation: u64,
        body: Body,
        attachment: Bytes,
        room: Room,
    ) -> Result<(), (RequestError, Room)> {
        let request = match body {
            Body::Ping(_) => return self.done(correlation, Body::Done(wire::Done {}), room),
            Body::Metadata(metadata) => {
                return match self.metadata(&metadata) {
                    Ok(reply) => self.done(correlation, Body::MetadataReply(reply), room),
                    Err(error) => Err((error, room)),
                };
            }
            Body::Produce(message) => match self.produce(&message, attachment) {
                Ok(produce) => {
                    let shard = self.broker.shards.of(produce.partition);
                    let request = match message.due.map(due) {
                        Some(due) => Request::ProduceLater { produce, due },
                        None => Request::Produce(produce),
                    };
                    self.ask(shard, correlation, request, room);
                    return Ok(());
                }
                Err(ProduceFault::Request(error)) => return Err((error, room)),
                Err(ProduceFault::Batch(error)) => {
                    self.refuse(correlation, error, room);
                    return Ok(());
                }
            },
            Body::Settle(message) => match settle(message) {
                Ok(settle) => Request::Settle(settle),
                Err(error) => return Err((error, room)),
            },
            Body::Read(read) => return self.read(correlation, &read).map_err(|error| (error, room)),
            Body::Credit(credit) => {
                self.credit(&credit, room);
                return Ok(());
            }
            Body::Unsubscribe(ended) => {
                self.unsubscribe(ended.subscription, room);
                return Ok(());
            }
            Body::LocateOffset(locate) => return self.locate(correlation, locate, room),
            Body::SeekGroup(seek) => return self.seek(correlation, seek, room),
            Body::ListDeadLetters(list) => {
                self.list_dead_letters(correlation, list, room);
                return Ok(());
            }
            Body::DescribeGroup(describe) => {
                self.describe_group(correlation, describe, room);
                return Ok(());
            }
            Body::Backup(backup) => return self.backup(correlation, &backup, room),
            Body::WorkQueue(work) => {
                self.work_queue(correlation, work, room);
                return Ok(());
            }
            Body::Receive(receive) => {
                self.receive(correlation, receive, room);
                return Ok(());
            }
            Body::CreateTopic(m) => Request::CreateTopic(m),
            Body::AlterTopic(m) => Request::AlterTopic(m),
            Body::DeleteTopic(m) => Request::DeleteTopic(m),
            Body::PurgeTopic(m) => Request::PurgeTopic(m),
            Body::DescribeTopics(m) => Request::DescribeTopics(m),
            Body::InitProducer(_) => Request::InitProducer,
            Body::CreateGroup(m) => Request::CreateGroup(m),
            Body::ListGroups(_) => Request::ListGroups,
            Body::DeleteGroup(m) => Request::DeleteGroup(m),
            Body::Redrive(m) => Request::Redrive(m),
            Body::PurgeDeadLetters(m) => Request::PurgeDeadLetters(m),
            Body::JoinGroup(join) => {
                let request = Request::JoinGroup { join, client: self.client.clone() };
                let pending = Pending::new(AnswerTo::Join { correlation }, room.connection, room.global);
                self.submit(self.broker.shards.catalogue(), request, pending);
                return Ok(());
            }
            Body::Heartbeat(m) => Request::Heartbeat(m),
            Body::CommitOffsets(m) => Request::CommitOffsets(m),
            Body::LeaveGroup(m) => Request::LeaveGroup(m),
            _ => {
                return Err((
                    RequestError::Invalid("this message is an answer, not a request".to_owned()),
                    room,
                ));
            }
        };
        self.ask(self.broker.shards.catalogue(), correlation, request, room);
        Ok(())
    }

    /// Sends a request to a shard, whose answer goes to the client.
    pub(super) fn ask(&self, shard: &ShardHandle, correlation: u64, request: Request, room: Room) {
        let to = if correlation == 0 { AnswerTo::Nobody } else { AnswerTo::Client { correlation } };
        self.submit(shard, request, Pending::new(to, room.connection, room.global));
    }

    pub(super) fn submit(&self, shard: &ShardHandle, request: Request, pending: Pending) {
        if let Err(pending) = shard.send(self.id, request, pending) {
            pending.refuse(&self.outbox, RequestError::ShuttingDown);
        }
    }

    /// Answers by itself.
    pub(super) fn done(&self, correlation: u64, body: Body, room: Room) -> Result<(), (RequestError, Room)> {
        if correlation != 0 {
            self.outbox.frame(OutgoingFrame::answer(correlation, body, Some(room.connection)));
        }
        Ok(())
    }

    fn refuse(&self, correlation: u64, error: wire::Error, room: Room) {
        let _ = self.done(correlation, Body::Error(error), room);
    }

    fn metadata(&self, wanted: &wire::Metadata) -> Result<wire::MetadataReply, RequestError> {
        let topics = self.broker.shards.topics();
        let describe = |topic: &dure_engine::TopicInfo| wire::TopicMetadata {
            name: topic.name.to_string(),
            id: topic.id.0,
            config: Some(topic.config),
            partitions: vec![wire::PartitionMetadata::default(); topic.partitions as usize],
        };
        let topics = if wanted.topics.is_empty() {
            topics.iter().filter(|topic| !topic.is_hidden()).map(|topic| describe(topic)).collect()
        } else {
            let (patterns, names): (Vec<&String>, Vec<&String>) =
                wanted.topics.iter().partition(|name| TopicPattern::is_meant(name));
            if patterns.len() > PATTERNS_MAX {
                let text = format!("{} patterns are more than the {PATTERNS_MAX} at once", patterns.len());
                return Err(RequestError::Invalid(text));
            }
            let patterns: Vec<TopicPattern> =
                patterns.into_iter().map(|text| TopicPattern::checked(text)).collect::<Result<_, _>>()?;
            let is_meant = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
            let meant = topics.iter().filter(|topic| !patterns.is_empty() && is_meant(&topic.name));
            // Each once, however often it is named: an answer is bounded by the topics that there are.
            let mut seen = BTreeSet::new();
            names
                .into_iter()
                .filter_map(|name| topics.by_name(name))
                .chain(meant)
                .filter(|topic| topic.delayed_of.is_none())
                .filter(|topic| seen.insert(topic.id))
                .map(|topic| describe(topic))
                .collect()
        };
        Ok(wire::MetadataReply { topics })
    }

    fn produce(&self, produce: &wire::Produce, batch: Bytes) -> Result<Produce, ProduceFault> {
        let header = BatchHeader::validate(&batch, &BatchLimits::default())?;
        let partition =
            TopicPartition { topic: TopicId(produce.topic_id), partition: PartitionId(produce.partition) };
        if produce.record_bytes_max as usize > dure_proto::DECOMPRESSED_BYTES_MAX {
            let text =
                format!("record_bytes_max of {} is more than a batch can hold", produce.record_bytes_max);
            return Err(ProduceFault::Request(RequestError::Invalid(text)));
        }
        self.broker.metrics.messages_in.increment(header.record_count.into());
        self.broker.metrics.bytes_in.increment(batch.len() as u64);
        let ids = if produce.identified { self.ids(&batch)? } else { Vec::new() };
        let wire::Produce { keyed, all_keyed, record_bytes_max, expiring, .. } = *produce;
        Ok(Produce { partition, batch, keyed, all_keyed, record_bytes_max, expiring, ids })
    }

    /// The ids of a batch's records, as the shard knows them.
    fn ids(&self, batch: &Bytes) -> Result<Vec<Option<IdHash>>, ProduceFault> {
        let records = Records::decode(batch, &BatchLimits::identified())?;
        let seed = self.broker.format.key_seed();
        let id = |record: dure_proto::Record| match message_id(&record.headers) {
            Ok(id) => Ok(id.map(|id| IdHash::of(id, seed))),
            Err(error) => Err(RequestError::Invalid(error.to_string())),
        };
        records.iter().map(id).collect::<Result<_, _>>().map_err(ProduceFault::Request)
    }

    fn work_queue(&mut self, correlation: u64, mut work: wire::WorkQueue, room: Room) {
        work.credit_messages = work.credit_messages.min(CREDIT_MESSAGES_MAX);
        let subscription = SubscriptionId(work.subscription);
        self.start_deliveries();
        let (topic, group) = (work.topic.clone(), work.group.clone());
        let credit = ByteCredit::new(work.credit_bytes, work.limit_bytes.unwrap_or(work.credit_bytes));
        let credit = Arc::new(credit);
        if self.queues.len() >= self.queues_checked * 2 {
            self.queues.retain(|_, credit| credit.strong_count() > 0);
            self.queues_checked = self.queues.len().max(QUEUES_CHECKED_MIN);
        }
        self.queues.insert(work.subscription, Arc::downgrade(&credit));
        self.outbox.deliver(Delivery::Subscribed { subscription, topic, group, credit });
        let to = AnswerTo::WorkQueue { correlation, subscription };
        let pending = Pending::new(to, room.connection, room.global);
        self.submit(self.broker.shards.catalogue(), Request::WorkQueue(work), pending);
    }

    fn receive(&mut self, correlation: u64, mut receive: wire::Receive, room: Room) {
        receive.count = receive.count.clamp(1, RECEIVE_MESSAGES_MAX);
        self.start_deliveries();
        let to =
            AnswerTo::Receive { correlation, topic: receive.topic.clone(), group: receive.group.clone() };
        let pending = Pending::new(to, room.connection, room.global);
        self.submit(self.broker.shards.catalogue(), Request::Receive(receive), pending);
    }

    fn credit(&mut self, credit: &wire::Credit, room: Room) {
        match self.streams.get(&credit.subscription) {
            Some(stream) => stream.add(credit.bytes),
            None => {
                let messages = credit.messages.min(CREDIT_MESSAGES_MAX);
                let (subscription, bytes) = (SubscriptionId(credit.subscription), credit.bytes);
                if let Some(queue) = self.queues.get(&credit.subscription).and_then(Weak::upgrade) {
                    queue.add(bytes);
                }
                self.tell(Request::QueueCredit { subscription, messages, bytes }, room);
            }
        }
    }

    fn unsubscribe(&mut self, subscription: u64, room: Room) {
        match self.streams.remove(&subscription) {
            Some(stream) => stream.close(),
            None => self.tell(Request::Unsubscribe { subscription: SubscriptionId(subscription) }, room),
        }
    }

    /// Sends what is never answered; its room is given back once it is handled.
    fn tell(&self, request: Request, room: Room) {
        let permits = [Some(room.connection), Some(room.global)];
        self.broker.shards.catalogue().post(Message::OneWay { connection: self.id, request, permits });
    }

    /// The task that reads leased messages starts with the first that needs it.
    fn start_deliveries(&mut self) {
        if let Some(deliveries) = self.deliveries.take() {
            self.tasks.spawn(deliver(
                self.broker.clone(),
                self.id,
                self.outbox.answers.clone(),
                self.pushes.clone(),
                deliveries,
            ));
        }
    }
}

enum ProduceFault {
    Request(RequestError),
    Batch(wire::Error),
}

impl From<dure_proto::BatchError> for ProduceFault {
    fn from(error: dure_proto::BatchError) -> ProduceFault {
        ProduceFault::Batch(message(ErrorCode::InvalidBatch, error.to_string(), Retry::Never))
    }
}
