//! From leases to messages: reads the bytes of what a shard leased to this connection and sends them, in the order in
//! which they were leased.

use std::collections::HashMap;
use std::sync::Arc;

use dure_engine::{
    ConnectionId, LeaseGrant, Request, Sent, Settle, SettleAction, SettleItem, SubscriptionId,
};
use dure_proto::wire::envelope::Body;
use dure_proto::{Receipt, wire};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::connection::PUSH_BYTES_MAX;
use super::convert::error_message;
use super::stream::ended;
use crate::broker::Broker;
use crate::records::{Attachment, StoredRecord, Unreadable, record_bytes};
use crate::runtime::{
    AnswerTo, ByteCredit, Delivery, DeliveryTarget, Message, Outgoing, OutgoingFrame, Pending,
};

/// Bytes of messages in one push.
const PUSH_JOBS_BYTES_MAX: usize = 1 << 20;
/// Bytes of messages in the answer to a receive, which is one frame. Any single message fits.
const RECEIVE_JOBS_BYTES_MAX: usize = 8 << 20;
/// What the jobs of one frame may take in its envelope.
const JOBS_ENVELOPE_BYTES_MAX: usize = 512 << 10;
const _: () = assert!(JOBS_ENVELOPE_BYTES_MAX < dure_proto::ENVELOPE_BYTES_MAX);
/// When a message whose bytes the disk refused is tried again.
const READ_AGAIN_MS: u64 = 5_000;

/// Runs for as long as the connection.
pub(super) async fn deliver(
    broker: Arc<Broker>,
    connection: ConnectionId,
    answers: mpsc::UnboundedSender<Outgoing>,
    pushes: Arc<Semaphore>,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
) {
    let mut deliverer = Deliverer { broker, connection, answers, pushes, subscriptions: HashMap::new() };
    while let Some(delivery) = deliveries.recv().await {
        match delivery {
            Delivery::Subscribed { subscription, topic, group, credit } => {
                deliverer
                    .subscriptions
                    .insert(subscription, Subscriber { names: Names { topic, group }, credit });
            }
            Delivery::Ended { subscription, error } => {
                deliverer.subscriptions.remove(&subscription);
                deliverer.send(ended(subscription.0, error_message(&error)));
            }
            Delivery::Leased { target: DeliveryTarget::Subscription(subscription), leases } => {
                deliverer.push(subscription, &leases).await;
            }
            Delivery::Leased {
                target: DeliveryTarget::Receive { correlation, topic, group, permit },
                leases,
            } => {
                deliverer.answer(correlation, &Names { topic, group }, permit, &leases).await;
            }
        }
    }
}

struct Deliverer {
    broker: Arc<Broker>,
    connection: ConnectionId,
    answers: mpsc::UnboundedSender<Outgoing>,
    pushes: Arc<Semaphore>,
    subscriptions: HashMap<SubscriptionId, Subscriber>,
}

struct Subscriber {
    names: Names,
    credit: Arc<ByteCredit>,
}

#[derive(Clone)]
struct Names {
    topic: String,
    group: String,
}

/// Jobs of one frame in the making.
#[derive(Default)]
struct JobsFrame {
    jobs: Vec<wire::Job>,
    attachment: Attachment,
    envelope_bytes: usize,
}

impl JobsFrame {
    fn has_room(&self, job: &ReadyJob, bytes_max: usize) -> bool {
        self.jobs.is_empty()
            || (self.attachment.len() + job.bytes <= bytes_max
                && self.envelope_bytes + job.envelope_bytes <= JOBS_ENVELOPE_BYTES_MAX)
    }

    fn push(&mut self, ready: ReadyJob) {
        let ReadyJob { mut job, stored, envelope_bytes, .. } = ready;
        self.attachment.push(&stored.record, &mut job);
        self.envelope_bytes += envelope_bytes;
        self.jobs.push(job);
    }
}

/// A job whose bytes were read.
struct ReadyJob {
    job: wire::Job,
    stored: StoredRecord,
    bytes: usize,
    envelope_bytes: usize,
}

impl Deliverer {
    async fn push(&mut self, subscription: SubscriptionId, leases: &[LeaseGrant]) {
        let Some(subscriber) = self.subscriptions.get(&subscription) else { return };
        let (names, credit) = (subscriber.names.clone(), Arc::clone(&subscriber.credit));
        let mut frame = JobsFrame::default();
        let (mut rest, mut unfit) = (Sent::default(), &leases[..0]);
        for (nth, lease) in leases.iter().enumerate() {
            match self.ready(lease).await {
                // It and those behind it go back, and come again when there is room for them.
                Ok(ready) if !credit.take(ready.bytes) => {
                    unfit = &leases[nth..];
                    rest.back += unfit.len() as u32;
                    rest.need_bytes = ready.bytes as u64;
                    break;
                }
                Ok(ready) => {
                    if !frame.has_room(&ready, PUSH_JOBS_BYTES_MAX) {
                        self.tell_sent(subscription, &frame, Sent::default());
                        self.send_push(subscription, std::mem::take(&mut frame)).await;
                    }
                    frame.push(ready);
                }
                // It used up credit and is not delivered.
                Err(error) => {
                    self.give_up(lease, &names, &error);
                    rest.back += 1;
                }
            }
        }
        self.tell_sent(subscription, &frame, rest);
        let release = SettleAction::Release { delay_ms: Some(0), reason: String::new() };
        unfit.iter().for_each(|lease| self.settle(lease, &names, release.clone()));
        if !frame.jobs.is_empty() {
            self.send_push(subscription, frame).await;
        }
    }

    async fn answer(
        &mut self,
        correlation: u64,
        names: &Names,
        permit: Option<OwnedSemaphorePermit>,
        leases: &[LeaseGrant],
    ) {
        let mut frame = JobsFrame::default();
        for lease in leases {
            match self.ready(lease).await {
                Ok(ready) if frame.has_room(&ready, RECEIVE_JOBS_BYTES_MAX) => frame.push(ready),
                // It does not fit in the answer: back to the queue at once, behind which the next receive finds it.
                Ok(_) => self.settle(
                    lease,
                    names,
                    SettleAction::Release { delay_ms: Some(0), reason: String::new() },
                ),
                Err(error) => self.give_up(lease, names, &error),
            }
        }
        self.send_jobs(correlation, 0, frame, permit);
    }

    async fn ready(&self, lease: &LeaseGrant) -> Result<ReadyJob, Unreadable> {
        let (partition, offset) = lease.bytes_at;
        let stored = self.broker.records.read(partition, offset).await?;
        let redriven = partition != lease.partition;
        let stored = if redriven { stored.of_letter() } else { stored };
        let mut job = job_of(&stored);
        job.partition = lease.partition.partition.0;
        job.offset = lease.offset.0;
        job.epoch = lease.token.epoch.0;
        job.counter = lease.token.counter;
        job.attempt = lease.attempt;
        job.lease_ms = lease.lease_ms;
        job.lease_deadline_ms = lease.deadline_wall_ms;
        let envelope_bytes = envelope_bytes(&stored);
        if envelope_bytes > JOBS_ENVELOPE_BYTES_MAX {
            let why = format!("its {} headers do not fit in a delivery", stored.record.headers.len());
            return Err(Unreadable::Undecodable { partition, offset, end: offset.plus(1), why });
        }
        Ok(ReadyJob { job, bytes: record_bytes(&stored.record), stored, envelope_bytes })
    }

    /// A message that cannot be delivered: to the dead letters if that is for good, else back for a while.
    fn give_up(&self, lease: &LeaseGrant, names: &Names, error: &Unreadable) {
        let action = if error.is_final() {
            SettleAction::Reject { reason: error.to_string() }
        } else {
            SettleAction::Release { delay_ms: Some(READ_AGAIN_MS), reason: error.to_string() }
        };
        tracing::error!(group = names.group, topic = names.topic, %error, ?action, "a leased message cannot be read");
        self.settle(lease, names, action);
    }

    fn settle(&self, lease: &LeaseGrant, names: &Names, action: SettleAction) {
        let receipt =
            Receipt { partition: lease.partition.partition, offset: lease.offset, token: lease.token };
        // A group may work several topics; the lease knows which one it is of.
        let topics = self.broker.shards.topics();
        let topic = topics
            .by_id(lease.partition.topic)
            .map_or_else(|| names.topic.clone(), |topic| topic.name.clone());
        let items = vec![SettleItem { receipt, action }];
        let request = Request::Settle(Settle { topic, group: names.group.clone(), items });
        let shard = self.broker.shards.of(lease.partition);
        // A shard that has ended takes its leases with it.
        let _ = shard.send(self.connection, request, Pending::unmetered(AnswerTo::Nobody));
    }

    /// Tells the shard what the messages of a frame take, before it leaves and the client can give new credit for them.
    /// `rest` says what became of messages that are not in the frame.
    fn tell_sent(&self, subscription: SubscriptionId, frame: &JobsFrame, rest: Sent) {
        let (messages, bytes) = (frame.jobs.len() as u32, frame.attachment.len() as u64);
        let sent = Sent { messages, bytes, ..rest };
        let request = Request::QueueSent { subscription, sent };
        let message = Message::OneWay { connection: self.connection, request, permits: [None, None] };
        self.broker.shards.catalogue().post(message);
    }

    async fn send_push(&self, subscription: SubscriptionId, frame: JobsFrame) {
        let bytes = u32::try_from(frame.attachment.len() + frame.envelope_bytes).unwrap_or(u32::MAX);
        let room = bytes.min(PUSH_BYTES_MAX);
        let permit = self.pushes.clone().acquire_many_owned(room).await.expect("never closed");
        self.send_jobs(0, subscription.0, frame, Some(permit));
    }

    fn send_jobs(
        &self,
        correlation: u64,
        subscription: u64,
        frame: JobsFrame,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let JobsFrame { jobs, attachment, .. } = frame;
        self.broker.metrics.messages_out.increment(jobs.len() as u64);
        self.broker.metrics.bytes_out.increment(attachment.len() as u64);
        let body = Body::Jobs(wire::Jobs { subscription, jobs });
        let envelope = wire::Envelope { correlation, body: Some(body) };
        self.send(OutgoingFrame { envelope, attachment: attachment.finish(), permit });
    }

    fn send(&self, frame: OutgoingFrame) {
        let _ = self.answers.send(Outgoing::Frame(frame));
    }
}

/// What is known of a record, without its lengths.
pub(super) fn job_of(stored: &StoredRecord) -> wire::Job {
    wire::Job { append_time_ms: stored.append_time_ms, ..wire::Job::default() }
}

/// An upper bound of what a record's job takes in an envelope.
pub(super) fn envelope_bytes(stored: &StoredRecord) -> usize {
    const JOB_BYTES: usize = 96;
    const HEADER_BYTES: usize = 16;
    JOB_BYTES + stored.record.headers.len() * HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dure_proto::Record;
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_bound_of_a_job_holds_at_the_largest_numbers() {
        let headers = vec![(Bytes::from(vec![1; 300]), Some(Bytes::from(vec![2; 70_000]))); 3];
        let value = Some(Bytes::from(vec![3; 1 << 22]));
        let record = Record { offset_delta: 0, timestamp_ms: 0, key: value.clone(), value, headers };
        let stored = StoredRecord { record, append_time_ms: u64::MAX };
        let mut job = wire::Job {
            partition: u32::MAX,
            offset: u64::MAX,
            epoch: u64::MAX,
            counter: u64::MAX,
            attempt: u32::MAX,
            lease_ms: u64::MAX,
            lease_deadline_ms: u64::MAX,
            ..job_of(&stored)
        };
        Attachment::default().push(&stored.record, &mut job);
        let jobs = wire::Jobs { subscription: 0, jobs: vec![job] };
        assert!(jobs.encoded_len() <= envelope_bytes(&stored));
    }
}
