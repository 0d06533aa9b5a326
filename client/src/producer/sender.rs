//! The task that takes batches from the accumulator and sends them, each partition's in order.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use dure_proto::wire::{self, envelope::Body};
use dure_proto::{BATCHES_IN_FLIGHT_MAX, ProducerId};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::accumulator::{Accumulator, OpenBatch, Taken};
use super::delivery::{Appended, Duplicates};
use super::line::{Entry, Finished, Line};
use crate::client::{Client, Retries, TopicInfo, unexpected};
use crate::connection::{Connection, Reply};
use crate::error::{Error, ErrorCode, Result};

enum Event {
    Answer { partition: u32, id: u64, outcome: Result<Appended> },
    Wake { partition: u32 },
}

struct Sender {
    client: Client,
    topic: Arc<TopicInfo>,
    /// The broker did not know the topic's number: it may have been made anew.
    topic_stale: bool,
    accumulator: Arc<Accumulator>,
    lanes: Vec<Lane>,
    /// The session that the partitions share until one breaks.
    session: Option<(ProducerId, u16)>,
    entry_next: u64,
    events: FuturesUnordered<Pin<Box<dyn Future<Output = Event> + Send>>>,
}

/// A partition's line and what carries it.
struct Lane {
    line: Line,
    /// What is in flight went this way. Batches follow each other on one connection only.
    connection: Option<Arc<Connection>>,
    /// A [`Event::Wake`] is due then.
    wake_at: Option<Instant>,
    /// The shared session had a gap here.
    own_session: bool,
}

/// Starts the task. It ends when the accumulator is closed and everything in it is answered.
pub(super) fn start(client: Client, topic: Arc<TopicInfo>, accumulator: Arc<Accumulator>) {
    let lane = || Lane { line: Line::new(), connection: None, wake_at: None, own_session: false };
    let sender = Sender {
        lanes: (0..topic.partitions).map(|_| lane()).collect(),
        client,
        topic,
        topic_stale: false,
        accumulator,
        session: None,
        entry_next: 0,
        events: FuturesUnordered::new(),
    };
    tokio::spawn(sender.run());
}

impl Sender {
    async fn run(mut self) {
        let mut partitions = Vec::new();
        loop {
            tokio::select! {
                () = self.accumulator.woken() => {}
                Some(event) = self.events.next() => self.take_in(event, &mut partitions),
            }
            while let Some(Some(event)) = self.events.next().now_or_never() {
                self.take_in(event, &mut partitions);
            }
            self.accumulator.drain_dirty(&mut partitions);
            for partition in partitions.drain(..) {
                self.pump(partition).await;
            }
            if self.accumulator.is_finished() && self.lanes.iter().all(|lane| lane.line.is_empty()) {
                return;
            }
        }
    }

    fn take_in(&mut self, event: Event, partitions: &mut Vec<u32>) {
        match event {
            Event::Answer { partition, id, outcome } => {
                self.answered(partition, id, outcome);
                partitions.push(partition);
            }
            Event::Wake { partition } => {
                self.lanes[partition as usize].wake_at = None;
                partitions.push(partition);
            }
        }
    }

    fn answered(&mut self, partition: u32, id: u64, outcome: Result<Appended>) {
        let code = outcome.as_ref().err().and_then(Error::code);
        self.topic_stale |= code == Some(ErrorCode::UnknownTopic);
        let finished = self.lanes[partition as usize].line.answered(id, outcome, Instant::now());
        self.finish(finished);
    }

    fn finish(&self, finished: impl IntoIterator<Item = Finished>) {
        for Finished { entry, outcome } in finished {
            self.accumulator.release(entry.reserved);
            let _ = entry.reply.send(outcome);
        }
    }

    /// Sends of one partition what may be sent now.
    async fn pump(&mut self, partition: u32) {
        loop {
            let lane = &mut self.lanes[partition as usize];
            let in_flight = lane.line.in_flight();
            if let Some(retry_at) = lane.line.trouble_until() {
                if in_flight > 0 {
                    return;
                }
                if retry_at > Instant::now() {
                    return self.wake_at(partition, retry_at);
                }
                let given_up = lane.line.repair(Instant::now());
                self.finish(given_up);
                continue;
            }
            if let Some(deadline) = lane.line.unsent().map(|entry| entry.deadline) {
                if self.ensure_session(partition, deadline).await && !self.transmit(partition).await {
                    return;
                }
                continue;
            }
            if in_flight >= BATCHES_IN_FLIGHT_MAX {
                return;
            }
            match self.accumulator.take(partition, in_flight == 0) {
                Taken::Nothing => return,
                Taken::NotBefore(due) => return self.wake_at(partition, due),
                Taken::Batch(batch) => self.admit(partition, *batch).await,
            }
        }
    }

    fn wake_at(&mut self, partition: u32, at: Instant) {
        let lane = &mut self.lanes[partition as usize];
        if lane.wake_at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        lane.wake_at = Some(at);
        self.events.push(Box::pin(async move {
            sleep_until(at).await;
            Event::Wake { partition }
        }));
    }

    /// Gives a batch its place in the line.
    async fn admit(&mut self, partition: u32, batch: OpenBatch) {
        let id = self.entry_next;
        self.entry_next += 1;
        self.ensure_session(partition, batch.deadline).await;
        let OpenBatch { builder, reply, reserved, deadline, due, .. } = batch;
        let records = builder.len() as u32;
        let (keyed, all_keyed) = (builder.keyed(), builder.all_keyed());
        let (expiring, identified) = (builder.expiring(), builder.identified());
        let record_bytes_max = builder.record_bytes_max();
        let line = &mut self.lanes[partition as usize].line;
        // Without a session it is stamped when there is one.
        let batch = builder.build(line.stamp(records));
        line.push(Entry {
            id,
            batch,
            records,
            keyed,
            all_keyed,
            expiring,
            identified,
            record_bytes_max,
            due,
            reply,
            reserved,
            deadline,
            sent: false,
            doubt: false,
            last_error: None,
        });
    }

    /// Makes sure that the partition has a session; if none can be had, its batches fail.
    async fn ensure_session(&mut self, partition: u32, deadline: Instant) -> bool {
        let lane = &self.lanes[partition as usize];
        if lane.line.has_session() {
            return true;
        }
        match self.new_session(lane.own_session, deadline).await {
            Ok((producer, epoch)) => {
                let lane = &mut self.lanes[partition as usize];
                lane.line.start_session(producer, epoch);
                // If this session breaks, the partition's next one is its own.
                lane.own_session = true;
                true
            }
            Err(error) => {
                let failed = self.lanes[partition as usize].line.fail_all(&error);
                self.finish(failed);
                false
            }
        }
    }

    async fn new_session(&mut self, own: bool, deadline: Instant) -> Result<(ProducerId, u16)> {
        if self.topic_stale {
            self.topic = self.client.fresh_topic(&self.topic.name).await?;
            self.topic_stale = false;
        }
        if let Some(session) = self.session.filter(|_| !own) {
            return Ok(session);
        }
        let body = Body::InitProducer(wire::InitProducer {});
        match self.client.call_by(deadline, body, Retries::Idempotent).await?.body {
            Body::InitProducerReply(reply) => {
                let epoch = u16::try_from(reply.producer_epoch)
                    .map_err(|_| Error::protocol("the producer's epoch is beyond 16 bits"))?;
                let session = (ProducerId(reply.producer_id), epoch);
                if !own {
                    self.session = Some(session);
                }
                Ok(session)
            }
            other => Err(unexpected("InitProducer", &other)),
        }
    }

    /// Sends the first batch that is not under way. False if what is in flight has to be answered first.
    async fn transmit(&mut self, partition: u32) -> bool {
        let lane = &mut self.lanes[partition as usize];
        let in_flight = lane.line.in_flight();
        let Some(entry) = lane.line.unsent() else { return true };
        let (id, deadline) = (entry.id, entry.deadline);
        if deadline <= Instant::now() {
            self.answered(partition, id, Err(Error::timeout("waiting to be sent")));
            return true;
        }
        let body = Body::Produce(wire::Produce {
            topic_id: self.topic.id,
            partition,
            keyed: entry.keyed,
            all_keyed: entry.all_keyed,
            record_bytes_max: entry.record_bytes_max,
            expiring: entry.expiring,
            identified: entry.identified,
            due: entry.due,
        });
        let batch = entry.batch.clone();
        let connection = match lane.connection.clone().filter(|_| in_flight > 0) {
            Some(connection) if !connection.is_open() => return false,
            Some(connection) => connection,
            None => match self.client.connection_by(deadline).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.answered(partition, id, Err(error));
                    return true;
                }
            },
        };
        match timeout_at(deadline, connection.submit(body, batch)).await {
            Ok(Ok(submitted)) => {
                let lane = &mut self.lanes[partition as usize];
                if let Some(entry) = lane.line.unsent() {
                    entry.sent = true;
                }
                lane.connection = Some(connection);
                self.events.push(Box::pin(async move {
                    let reply = timeout_at(deadline, submitted.reply()).await;
                    let outcome = reply.unwrap_or_else(|_| Err(Error::unknown("no answer in time")));
                    Event::Answer { partition, id, outcome: outcome.and_then(appended) }
                }));
            }
            Ok(Err(error)) => self.answered(partition, id, Err(error)),
            Err(_) => self.answered(partition, id, Err(Error::timeout("waiting for room on the connection"))),
        }
        true
    }
}

fn appended(reply: Reply) -> Result<Appended> {
    match reply.body {
        Body::ProduceReply(wire::ProduceReply { base_offset, append_time_ms, due_ms, duplicates }) => {
            let duplicates = Duplicates::new(duplicates);
            Ok(match due_ms {
                Some(due_ms) => Appended { base_offset: None, append_time_ms: due_ms, duplicates },
                None => Appended { base_offset: Some(base_offset), append_time_ms, duplicates },
            })
        }
        other => Err(unexpected("Produce", &other)),
    }
}
