//! Carries out what a shard decided. Nothing here waits for anyone.

use std::collections::HashMap;
use std::sync::Arc;

use dure_engine::{
    CompactionFailed, ConnectionId, Deliver, DeliverTo, DiskJob, Effect, JobDone, Request, RequestError,
    Response, Scrubbed, SubscriptionId, TopicTable,
};
use dure_proto::ShardId;
use dure_proto::wire::envelope::Body;
use tokio::sync::{mpsc, watch};

use super::disk_threads::Jobs;
use super::pending::PendingTable;
use super::registry::LogPublisher;
use super::{
    AnswerTo, Delivery, DeliveryTarget, LetterRequest, Message, Outbox, Outgoing, OutgoingFrame, Pending,
    RecordsRequest,
};
use crate::health::Health;
use crate::metrics::Metrics;

pub(super) struct Effects {
    shard: ShardId,
    jobs: Jobs,
    logs: LogPublisher,
    topics: watch::Sender<Arc<TopicTable>>,
    asks: Asks,
    watched: Watched,
    connections: HashMap<ConnectionId, Attached>,
    /// Those with something that is not said yet.
    spoken_to: Vec<ConnectionId>,
    pending: PendingTable,
}

/// Where is told how the shard fares.
pub(super) struct Watched {
    pub(super) health: Health,
    pub(super) metrics: Arc<Metrics>,
}

/// Where a shard's questions about records go.
pub(super) struct Asks {
    pub(super) letters: mpsc::UnboundedSender<LetterRequest>,
    pub(super) records: mpsc::UnboundedSender<RecordsRequest>,
}

struct Attached {
    outbox: Outbox,
    /// What it is told once everything else is carried out, all at once.
    said: Vec<Outgoing>,
    /// Numbers of what goes with the connection, some of it answered meanwhile.
    with_it: Vec<u64>,
}

/// From this many on, answered ones are forgotten before another is remembered.
const WITH_IT_KEPT: usize = 64;

impl Effects {
    pub(super) fn new(
        shard: ShardId,
        jobs: Jobs,
        logs: LogPublisher,
        topics: watch::Sender<Arc<TopicTable>>,
        asks: Asks,
        watched: Watched,
    ) -> Effects {
        let (connections, spoken_to, pending) = (HashMap::new(), Vec::new(), PendingTable::default());
        Effects { shard, jobs, logs, topics, asks, watched, connections, spoken_to, pending }
    }

    /// Jobs and what readers see come first: the disk should not wait for anything else, and whoever is told that
    /// something is there must find it. `alone`: nothing else waits for the shard's thread. Returns what should be run
    /// on it.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>, alone: bool) -> Option<DiskJob> {
        let mut told = Vec::with_capacity(effects.len());
        let mut here = None;
        for effect in effects {
            match effect {
                Effect::Job(job) => here = self.jobs.run(job, alone).or(here),
                Effect::Publish(view) => self.logs.publish(view),
                Effect::Unpublish(partition) => self.logs.unpublish(partition),
                Effect::TopicsChanged(topics) => _ = self.topics.send_replace(topics),
                other => told.push(other),
            }
        }
        self.logs.flush();
        told.into_iter().for_each(|effect| self.tell(effect));
        self.speak();
        here
    }

    /// Runs a job on this thread.
    pub(super) fn run_here(&self, job: DiskJob) -> JobDone {
        self.jobs.run_here(job)
    }

    /// A job came back.
    pub(super) fn note_done(&mut self, done: &JobDone) {
        self.jobs.note_done(done);
    }

    fn say(&mut self, connection: ConnectionId, outgoing: Outgoing) {
        let Some(attached) = self.connections.get_mut(&connection) else { return };
        if attached.said.is_empty() {
            self.spoken_to.push(connection);
        }
        attached.said.push(outgoing);
    }

    fn speak(&mut self) {
        for connection in self.spoken_to.drain(..) {
            if let Some(Attached { outbox, said, .. }) = self.connections.get_mut(&connection) {
                outbox.line.say(said);
            }
        }
    }

    fn tell(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { to, result } => self.reply(to.correlation, result),
            Effect::Deliver(deliver) => self.deliver(deliver),
            Effect::EndSubscription { connection, subscription, error } => {
                self.forget_subscription(connection, subscription);
                if let Some(attached) = self.connections.get(&connection) {
                    attached.outbox.deliver(Delivery::Ended { subscription, error });
                }
            }
            Effect::Assign { connection, assignment } => {
                let frame = OutgoingFrame::push(Body::Assignment(assignment));
                self.say(connection, Outgoing::Frame(frame));
            }
            Effect::FetchLetter { group, source, offset, from, .. } => {
                let _ = self.asks.letters.send(LetterRequest { group, source, offset, from });
            }
            Effect::FetchRecords { group, partition, from, seed } => {
                let _ = self.asks.records.send(RecordsRequest { group, partition, from, seed });
            }
            Effect::Scrubbed(scrubbed) => self.scrubbed(scrubbed),
            Effect::Shortage(shortage) => self.watched.health.set_shortage(self.shard.0, shortage),
            Effect::CopiesWait(waits) => self.watched.health.set_copies_waiting(self.shard.0, waits),
            Effect::CompactionFailed(failed) => self.compaction_failed(&failed),
            Effect::Unwritable(logs) => self.watched.health.set_unwritable(self.shard.0, logs),
            Effect::Stopped(why) => self.watched.health.shard_stopped(self.shard.0, why),
            Effect::Job(_) | Effect::Publish(_) | Effect::Unpublish(_) | Effect::TopicsChanged(_) => {
                unreachable!("carried out before anyone is told")
            }
        }
    }

    fn scrubbed(&self, scrubbed: Scrubbed) {
        let Scrubbed { bytes, findings, pass_done, damage } = scrubbed;
        let (shard, Watched { health, metrics }) = (self.shard, &self.watched);
        metrics.scrubbed(bytes, pass_done);
        for finding in findings {
            tracing::error!(%shard, kind = finding.kind(), "scrubber: {finding}");
            metrics.scrub_finding(finding.kind());
        }
        if let Some(damage) = damage {
            health.scrubbed(shard.0, &damage);
        }
    }

    fn compaction_failed(&self, failed: &CompactionFailed) {
        self.watched.metrics.compaction_failures.increment(1);
        let CompactionFailed { partition, topic, what, again } = failed;
        // Once: it is tried again each minute, and `topic describe` shows it until it succeeds.
        if !again {
            let partition = partition.partition.0;
            tracing::warn!(
                topic,
                partition,
                what,
                "a pass of compaction failed; it is tried again each minute"
            );
        }
    }

    pub(super) fn attach(&mut self, connection: ConnectionId, outbox: Outbox) {
        self.connections.insert(connection, Attached { outbox, said: Vec::new(), with_it: Vec::new() });
    }

    /// What waits for an answer that has an end is still answered, and keeps its room until then.
    pub(super) fn detach(&mut self, connection: ConnectionId) {
        let with_it = self.connections.remove(&connection).map(|attached| attached.with_it);
        for key in with_it.unwrap_or_default() {
            self.pending.take(key);
        }
    }

    /// The number under which the engine is to answer.
    pub(super) fn await_answer(&mut self, connection: ConnectionId, mut pending: Pending) -> u64 {
        let goes_with_it = pending.goes_with_connection();
        if pending.is_open_ended() {
            pending.release_global();
        }
        if matches!(pending.to, AnswerTo::WorkQueue { .. }) {
            pending.connection = None;
        }
        let key = self.pending.insert(connection, pending);
        if let Some(attached) = self.connections.get_mut(&connection).filter(|_| goes_with_it) {
            if attached.with_it.len() >= WITH_IT_KEPT {
                attached.with_it.retain(|key| self.pending.get(*key).is_some());
            }
            attached.with_it.push(key);
        }
        key
    }

    /// A subscription that its client ends is answered no more.
    pub(super) fn one_way(&mut self, connection: ConnectionId, request: &Request) {
        if let Request::Unsubscribe { subscription } = request {
            self.forget_subscription(connection, *subscription);
        }
    }

    /// The shard is drained: what came too late is told so.
    pub(super) fn refuse(&mut self, message: Message) {
        match message {
            Message::Attach { connection, outbox } => self.attach(connection, outbox),
            Message::Detach(connection) => self.detach(connection),
            Message::Request { connection, pending, .. } => {
                let key = self.await_answer(connection, pending);
                self.reply(key, Err(RequestError::ShuttingDown));
                self.speak();
            }
            Message::OneWay { .. }
            | Message::Done(_)
            | Message::Letter(_)
            | Message::Records(_)
            | Message::Shutdown => {}
        }
    }

    /// What the shard took and never answered. A drained shard has answered all that it decided on, so that this was
    /// only waiting; of one that stopped nobody knows.
    pub(super) fn refuse_the_rest(&mut self, stopped: Option<&str>) {
        let error = match stopped {
            Some(why) => RequestError::ShardStopped(why.to_owned()),
            None => RequestError::ShuttingDown,
        };
        let rest: Vec<_> = self.pending.drain().collect();
        for (connection, pending) in rest {
            self.answer(connection, pending, Err(error.clone()));
        }
        self.speak();
    }

    fn reply(&mut self, key: u64, result: Result<Response, RequestError>) {
        if let Some((connection, pending)) = self.pending.take(key) {
            self.answer(connection, pending, result);
        }
    }

    fn answer(&mut self, connection: ConnectionId, pending: Pending, result: Result<Response, RequestError>) {
        let Pending { to, connection: permit, .. } = pending;
        match (to, result) {
            (AnswerTo::WorkQueue { correlation: 0, subscription }, Err(error)) => {
                if let Some(attached) = self.connections.get(&connection) {
                    attached.outbox.deliver(Delivery::Ended { subscription, error });
                }
            }
            // Nobody asked for an answer.
            (AnswerTo::WorkQueue { correlation: 0, .. } | AnswerTo::Client { correlation: 0 }, _) => {}
            (
                AnswerTo::Client { correlation }
                | AnswerTo::Join { correlation }
                | AnswerTo::WorkQueue { correlation, .. }
                | AnswerTo::Receive { correlation, .. },
                result,
            ) => self.say(connection, Outgoing::Answer { correlation, result, permit }),
            (AnswerTo::Task(answer) | AnswerTo::Local(answer), result) => {
                let _ = answer.send(result);
            }
            (AnswerTo::Nobody, _) => {}
        }
    }

    fn deliver(&mut self, deliver: Deliver) {
        let Deliver { connection, target, leases } = deliver;
        let target = match target {
            DeliverTo::Subscription(subscription) => DeliveryTarget::Subscription(subscription),
            DeliverTo::Receive(key) => match self.pending.take(key) {
                Some((
                    _,
                    Pending {
                        to: AnswerTo::Receive { correlation, topic, group }, connection: permit, ..
                    },
                )) => DeliveryTarget::Receive { correlation, topic, group, permit },
                // The connection went; the engine hears of it next and takes the leases back.
                _ => return,
            },
        };
        if let Some(attached) = self.connections.get(&connection) {
            attached.outbox.deliver(Delivery::Leased { target, leases });
        }
    }

    fn forget_subscription(&mut self, connection: ConnectionId, ended: SubscriptionId) {
        let Some(attached) = self.connections.get_mut(&connection) else { return };
        let is_it = |key: &u64| {
            let to = self.pending.get(*key).map(|pending| &pending.to);
            matches!(to, Some(AnswerTo::WorkQueue { subscription, .. }) if *subscription == ended)
        };
        if let Some(at) = attached.with_it.iter().position(is_it) {
            let key = attached.with_it.swap_remove(at);
            self.pending.take(key);
        }
    }
}
