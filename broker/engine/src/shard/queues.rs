//! Serving queue groups: who takes, what is granted, what runs out. What a lease is, the lease tables know; who takes
//! turns, the dispatchers; here both meet the commits.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::journal::{QueueEvent, QueueEvents, event};
use dure_proto::{GroupId, LeaseToken, Offset, PartitionId, TopicId, TopicPartition, wire};

use super::record_tables::patience_ms;
use super::state::GroupKind;
use super::{QueueKey, QueueKeys, Shard, Step};
use crate::effect::{Deliver, DeliverTo, Effect, LeaseGrant};
use crate::mutant::{self, Mutant};
use crate::queue_group::{Dispatch, Dispatcher, LeaseTerms, Sent, Taker};
use crate::request::{ConnectionId, ReplyTo, RequestError, SubscriptionId};
use crate::time::Now;

use super::settle::{MessageKey, Rejects};

/// Messages that one receive takes at most.
const RECEIVE_COUNT_MAX: u32 = 10_000;
/// Longest wait of a receive.
const RECEIVE_WAIT_MS_MAX: u64 = 3_600_000;
/// The list of a subscription's leases is cleared of settled ones when it has grown to this.
const HELD_PRUNE_MIN: usize = 1024;

/// What the shard keeps of queue groups beside their state: of this run of the broker only.
#[derive(Default)]
pub(super) struct QueueSide {
    /// To be looked at before the turn ends.
    touched: QueueKeys,
    timers: BTreeSet<(u64, QueueKey)>,
    timer_of: BTreeMap<QueueKey, u64>,
    subscriptions: BTreeMap<(ConnectionId, SubscriptionId), Held>,
    pub(super) rejects: Rejects,
    /// Dying messages whose records are asked for again, and from when on.
    pub(super) put_off: BTreeMap<MessageKey, u64>,
}

/// What a subscription was granted, so that what it had not started can go back when it ends.
struct Held {
    key: QueueKey,
    leases: Vec<(PartitionId, Offset, LeaseToken)>,
    prune_at: usize,
}

impl QueueSide {
    pub(super) fn touch(&mut self, keys: impl IntoIterator<Item = QueueKey>) {
        self.touched.extend(keys);
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    fn set_timer(&mut self, key: QueueKey, at: Option<u64>) {
        if self.timer_of.get(&key).copied() == at {
            return;
        }
        if let Some(before) = self.timer_of.remove(&key) {
            self.timers.remove(&(before, key));
        }
        if let Some(at) = at {
            self.timer_of.insert(key, at);
            self.timers.insert((at, key));
        }
    }

    fn take_due(&mut self, now: Now) -> Vec<QueueKey> {
        let due: Vec<_> = self.timers.range(..(now.mono_ms + 1, (GroupId(0), TopicId(0)))).copied().collect();
        due.iter().for_each(|(_, key)| self.set_timer(*key, None));
        due.into_iter().map(|(_, key)| key).collect()
    }
}

impl Shard {
    pub(super) fn work_queue(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        work: &wire::WorkQueue,
    ) -> Result<(), RequestError> {
        let key = self.queue_for(now, &work.group, &work.topic)?;
        let (connection, subscription) = (reply_to.connection, SubscriptionId(work.subscription));
        if self.queues.subscriptions.contains_key(&(connection, subscription)) {
            return Err(RequestError::SubscriptionInUse(work.subscription));
        }
        let topic = self.state.queue_topic(key.0, key.1).expect("just looked up");
        topic
            .dispatcher
            .subscribe(
                connection,
                subscription,
                work.credit_messages,
                work.credit_bytes,
                work.limit_bytes.unwrap_or(work.credit_bytes),
                work.lease_ms,
            )
            .map_err(|full| RequestError::Busy(full.to_string()))?;
        let held = Held { key, leases: Vec::new(), prune_at: HELD_PRUNE_MIN };
        self.queues.subscriptions.insert((connection, subscription), held);
        self.queues.touch([key]);
        Ok(())
    }

    pub(super) fn receive(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        receive: &wire::Receive,
    ) -> Result<(), RequestError> {
        let key = self.queue_for(now, &receive.group, &receive.topic)?;
        let deadline = now.mono_ms + receive.wait_ms.min(RECEIVE_WAIT_MS_MAX);
        let count = receive.count.clamp(1, RECEIVE_COUNT_MAX);
        let topic = self.state.queue_topic(key.0, key.1).expect("just looked up");
        topic
            .dispatcher
            .receive(reply_to, count, deadline, receive.lease_ms)
            .map_err(|full| RequestError::Busy(full.to_string()))?;
        self.queues.touch([key]);
        Ok(())
    }

    pub(super) fn queue_credit(
        &mut self,
        connection: ConnectionId,
        subscription: SubscriptionId,
        messages: u32,
        bytes: u64,
    ) {
        self.for_taker(connection, subscription, |dispatcher, taker| {
            dispatcher.add_credit(taker, messages, bytes)
        });
    }

    pub(super) fn queue_sent(&mut self, connection: ConnectionId, subscription: SubscriptionId, sent: Sent) {
        self.for_taker(connection, subscription, |dispatcher, taker| dispatcher.handle_sent(taker, sent));
    }

    fn for_taker(
        &mut self,
        connection: ConnectionId,
        subscription: SubscriptionId,
        tell: impl FnOnce(&mut Dispatcher, Taker) -> bool,
    ) {
        // One that ended meanwhile: this crossed the end on its way.
        let Some(held) = self.queues.subscriptions.get(&(connection, subscription)) else { return };
        let key = held.key;
        if let Some(topic) = self.state.queue_topic(key.0, key.1) {
            tell(&mut topic.dispatcher, Taker::Subscription(connection, subscription));
            self.queues.touch([key]);
        }
    }

    pub(super) fn unsubscribe(&mut self, now: Now, connection: ConnectionId, subscription: SubscriptionId) {
        let Some(held) = self.queues.subscriptions.remove(&(connection, subscription)) else { return };
        let (group, topic) = held.key;
        if let Some(queue) = self.state.queue_topic(group, topic) {
            queue.dispatcher.remove(Taker::Subscription(connection, subscription));
        }
        let mut by_partition: BTreeMap<PartitionId, Vec<(Offset, LeaseToken)>> = BTreeMap::new();
        for (partition, offset, token) in held.leases {
            by_partition.entry(partition).or_default().push((offset, token));
        }
        for (partition, leases) in by_partition {
            self.commit_path.make_room();
            let partition = TopicPartition { topic, partition };
            let Some(table) = self.state.table(group, partition) else { continue };
            let mut events = Vec::new();
            table.release_unstarted(leases, now, &mut events);
            self.commit_queue_events(group, partition, events);
        }
        self.queues.touch([held.key]);
    }

    pub(super) fn queue_connection_closed(&mut self, now: Now, connection: ConnectionId) {
        let gone: Vec<_> =
            self.queues.subscriptions.keys().filter(|(of, _)| *of == connection).map(|(_, s)| *s).collect();
        for subscription in gone {
            self.unsubscribe(now, connection, subscription);
        }
        for group in self.state.groups.values_mut() {
            if let GroupKind::Queue(queue) = &mut group.kind {
                for topic in queue.topics.values_mut() {
                    topic.dispatcher.remove_connection(connection);
                }
            }
        }
    }

    /// Everybody who takes from this topic is told that it is over.
    pub(super) fn end_takers_of_topic(&mut self, topic: TopicId, error: &RequestError) {
        for group in self.state.queue_groups_of(topic) {
            self.end_takers((group, topic), error);
        }
    }

    pub(super) fn end_takers(&mut self, key: QueueKey, error: &RequestError) {
        let Some(queue) = self.state.queue_topic(key.0, key.1) else { return };
        let takers: Vec<Taker> = queue.dispatcher.takers().collect();
        for taker in takers {
            match taker {
                Taker::Receive(to) => self.effects.push(Effect::Reply { to, result: Err(error.clone()) }),
                Taker::Subscription(connection, subscription) => {
                    self.queues.subscriptions.remove(&(connection, subscription));
                    self.effects.push(Effect::EndSubscription {
                        connection,
                        subscription,
                        error: error.clone(),
                    });
                }
            }
        }
        self.queues.set_timer(key, None);
    }

    pub(super) fn queue_stopped(&mut self, error: &RequestError) {
        let keys: Vec<QueueKey> = self
            .state
            .groups
            .values()
            .filter_map(|group| match &group.kind {
                GroupKind::Queue(queue) => Some(queue.topics.keys().map(|topic| (group.id, *topic))),
                GroupKind::Stream(_) => None,
            })
            .flatten()
            .collect();
        keys.into_iter().for_each(|key| self.end_takers(key, error));
        let waiting = self.queues.rejects.take_all();
        waiting.into_iter().for_each(|to| self.reply(to, Err(error.clone())));
    }

    /// Ends leases and waits that are over.
    pub(super) fn queue_timeouts(&mut self, now: Now) {
        for key in self.queues.take_due(now) {
            let Some(topic) = self.state.queue_topic(key.0, key.1) else { continue };
            let due: BTreeSet<PartitionId> = topic.due(now).into_iter().chain(topic.changed()).collect();
            for partition in due {
                self.commit_path.make_room();
                let partition = TopicPartition { topic: key.1, partition };
                let Some(table) = self.state.table(key.0, partition) else { continue };
                let mut events = Vec::new();
                if table.poll_timeout().is_some_and(|at| at <= now.mono_ms) {
                    table.handle_timeout(now, &mut events);
                }
                self.commit_queue_events(key.0, partition, events);
            }
            self.queues.touch([key]);
        }
    }

    /// Grants what can be granted to whoever wants it, in every queue that something happened to.
    pub(super) fn serve_queues(&mut self, now: Now) {
        while !self.commit_path.is_full()
            && let Some(key) = self.queues.touched.pop_first()
        {
            if self.shutting_down {
                self.end_takers(key, &RequestError::ShuttingDown);
                continue;
            }
            self.settle_expired(now, key);
            self.answer_void_rejects(key);
            self.look(now, key);
            self.fetch_letters(key);
            self.ask_for_records(now, key);
            self.look(now, key);
            self.dispatch(now, key);
            let Some(topic) = self.state.queue_topic(key.0, key.1) else {
                self.queues.set_timer(key, None);
                continue;
            };
            topic.look(now);
            let receives = topic.dispatcher.poll_timeout().map(|at| at + patience_ms(topic));
            let at = topic.poll_timeout().into_iter().chain(receives).min();
            self.queues.set_timer(key, at);
        }
    }

    fn look(&mut self, now: Now, key: QueueKey) {
        self.state.queue_topic(key.0, key.1).into_iter().for_each(|topic| topic.look(now));
    }

    fn dispatch(&mut self, now: Now, key: QueueKey) {
        let Some(topic) = self.state.queue_topic(key.0, key.1) else { return };
        if topic.dispatcher.is_hungry() {
            let (dispatcher, ready) = topic.dispatcher_and_ready();
            let dispatches = dispatcher.dispatch(ready);
            for of_one in dispatches.chunk_by(|a, b| a.to == b.to) {
                self.grant(now, key, of_one);
            }
        }
        let Some(topic) = self.state.queue_topic(key.0, key.1) else { return };
        let Some(mono_ms) = now.mono_ms.checked_sub(patience_ms(topic)) else { return };
        for reply_to in topic.dispatcher.handle_timeout(Now { mono_ms, ..now }) {
            self.deliver(Taker::Receive(reply_to), Vec::new());
        }
    }

    fn grant(&mut self, now: Now, key: QueueKey, dispatches: &[Dispatch]) {
        let to = dispatches[0].to;
        let started = matches!(to, Taker::Receive(_));
        let letters = self.state.catalogue.dead_letter_log(key.0, key.1).map(|info| info.id);
        let mut leases = Vec::new();
        for dispatch in dispatches {
            let partition = TopicPartition { topic: key.1, partition: dispatch.partition };
            let Some(table) = self.state.table(key.0, partition) else { continue };
            let lease_ms = dispatch.lease_ms.unwrap_or(table.settings().lease_ms);
            let mut events = Vec::new();
            let terms = LeaseTerms { lease_ms, started };
            let grants = table.grant(now, dispatch.count, terms, &mut self.tokens, &mut events);
            let missing = dispatch.count - grants.len() as u32;
            if missing > 0
                && !started
                && let Some(topic) = self.state.queue_topic(key.0, key.1)
            {
                topic.dispatcher.hand_back(to, missing);
            }
            leases.extend(grants.into_iter().map(|grant| LeaseGrant {
                partition,
                offset: grant.offset,
                bytes_at: match (grant.letter, letters) {
                    (Some(letter), Some(topic)) => (TopicPartition { topic, ..partition }, letter),
                    _ => (partition, grant.offset),
                },
                token: grant.token,
                attempt: grant.attempt,
                lease_ms: grant.lease_ms,
                deadline_wall_ms: now.wall_ms + grant.lease_ms,
            }));
            if !mutant::is(Mutant::GrantNotJournaled) {
                self.commit_queue_events(key.0, partition, events);
            }
        }
        self.deliver(to, leases);
    }

    fn deliver(&mut self, to: Taker, leases: Vec<LeaseGrant>) {
        let (connection, target) = match to {
            Taker::Receive(reply_to) => (reply_to.connection, DeliverTo::Receive(reply_to.correlation)),
            Taker::Subscription(connection, subscription) => {
                self.remember_leases(connection, subscription, &leases);
                (connection, DeliverTo::Subscription(subscription))
            }
        };
        self.effects.push(Effect::Deliver(Deliver { connection, target, leases }));
    }

    fn remember_leases(
        &mut self,
        connection: ConnectionId,
        subscription: SubscriptionId,
        leases: &[LeaseGrant],
    ) {
        let Some(held) = self.queues.subscriptions.get_mut(&(connection, subscription)) else { return };
        held.leases.extend(leases.iter().map(|lease| (lease.partition.partition, lease.offset, lease.token)));
        if held.leases.len() >= held.prune_at {
            let (group, topic) = held.key;
            let tables = self.state.queue_topic(group, topic).map_or(&[][..], |topic| topic.tables());
            held.leases.retain(|(partition, offset, token)| {
                tables.get(partition.0 as usize).is_some_and(|table| table.is_leased_by(*offset, *token))
            });
            held.prune_at = HELD_PRUNE_MIN.max(held.leases.len() * 2);
        }
    }

    /// Puts what a lease table decided, and has applied already, into the open commit.
    pub(super) fn commit_queue_events(
        &mut self,
        group: GroupId,
        partition: TopicPartition,
        events: Vec<QueueEvent>,
    ) {
        if events.is_empty() {
            return;
        }
        if !mutant::is(Mutant::RegrantBeforeDurable)
            && let Some(upto) = self.state.table(group, partition).and_then(|table| table.hold_back(&events))
        {
            self.commit_path.then(Step::ReleaseHeld { group, partition, upto });
        }
        let events = QueueEvents {
            group: group.0,
            topic: partition.topic.0,
            partition: partition.partition.0,
            events,
        };
        let event = dure_proto::journal::Event { event: Some(event::Event::Queue(events)) };
        self.commit_path.push_event(&event);
        self.queues.touch([(group, partition.topic)]);
    }
}
