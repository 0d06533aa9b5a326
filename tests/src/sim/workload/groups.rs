//! Groups of both kinds.

use std::collections::BTreeSet;

use dure_engine::{Input, Request, Settle, SettleAction, SettleItem, SubscriptionId};
use dure_proto::{LeaseToken, Offset, Receipt, TopicPartition, wire};

use super::{Op, QUEUES, STREAMS, TOPICS};
use crate::sim::model::{GroupShape, LogModel, Member, SettledItem};
use crate::sim::world::{Held, Subscribed, World};
use crate::sim::{Checked, copied};

/// Half of the groups keep the order of keys.
const ORDERINGS: [wire::Ordering; 4] =
    [wire::Ordering::Key, wire::Ordering::Key, wire::Ordering::Priority, wire::Ordering::None];
/// Items of one settle request.
const ITEMS_MAX: usize = 4;

impl World {
    pub(super) fn create_group(&mut self) {
        let stream = self.rng.u8(0..3) == 0;
        let name = if stream { self.pick(&STREAMS) } else { self.pick(&QUEUES) }.to_owned();
        let queue = (!stream).then(|| wire::QueueSettings {
            lease_ms: [50, 400, 5_000][self.rng.usize(0..3)],
            attempts_max: self.rng.u32(1..=4),
            backoff_first_ms: 10,
            backoff_max_ms: 200,
            hold: self.rng.u8(0..4) > 0,
            dead_letter_topic: match self.knobs.copies_letters && name == copied::GROUP {
                true => copied::GRAVES.to_owned(),
                false => String::new(),
            },
            expired: if self.rng.bool() { wire::Expired::DeadLetter } else { wire::Expired::Drop } as i32,
            ordering: ORDERINGS[self.rng.usize(0..ORDERINGS.len())] as i32,
            ..dure_engine::default_queue_settings()
        });
        let group = self.model.groups.entry(name.clone()).or_default();
        if group.shape.pending.is_some() || group.moving {
            return;
        }
        let after = group.shape.now.clone().unwrap_or(GroupShape { queue: queue.clone() });
        group.shape.pending = Some(Some(after));
        let topic = if stream { self.pick(&TOPICS).to_owned() } else { self.pick_work() };
        let topics = self.topics.by_name(&topic).map(|topic| topic.name.clone()).into_iter().collect();
        let kind = if stream { wire::GroupKind::Stream } else { wire::GroupKind::Queue } as i32;
        let create = wire::CreateGroup { name: name.clone(), kind, topics, queue };
        self.send(Request::CreateGroup(create), Op::Group { name });
    }

    pub(super) fn delete_group(&mut self) {
        if self.rng.u8(0..3) > 0 {
            return;
        }
        let name = if self.rng.bool() { self.pick(&QUEUES) } else { self.pick(&STREAMS) }.to_owned();
        let Some(group) = self.model.groups.get_mut(&name) else { return };
        if group.shape.pending.is_some() || group.shape.now.is_none() || group.moving {
            return;
        }
        group.shape.pending = Some(None);
        self.send(Request::DeleteGroup(wire::DeleteGroup { name: name.clone() }), Op::DeleteGroup { name });
    }

    /// A queue group that is there and that nobody deletes.
    fn pick_queue(&mut self) -> Option<String> {
        let name = self.pick(&QUEUES);
        self.group_is_there(name).then(|| name.to_owned())
    }

    fn group_is_there(&self, name: &str) -> bool {
        let group = self.model.groups.get(name);
        group.is_some_and(|group| group.shape.now.is_some() && group.shape.pending.is_none())
    }

    pub(super) fn receive(&mut self) {
        let Some(group) = self.pick_queue() else { return };
        let topic = self.pick_work();
        let receive = wire::Receive {
            topic: topic.clone(),
            group: group.clone(),
            count: self.rng.u32(1..6),
            wait_ms: [0, 0, 300][self.rng.usize(0..3)],
            lease_ms: [None, Some(30), Some(2_000)][self.rng.usize(0..3)],
        };
        self.send(Request::Receive(receive), Op::Receive { group, topic });
    }

    pub(super) fn subscribe(&mut self) {
        let known: Vec<_> = self.subscriptions.keys().copied().collect();
        if known.len() >= 4 || (!known.is_empty() && self.rng.bool()) {
            let key = known[self.rng.usize(0..known.len())];
            let (connection, subscription) = key;
            let reply_to = dure_engine::ReplyTo { connection, correlation: 0 };
            let request = match self.rng.u8(0..3) {
                0 => {
                    self.unsubscribed(key);
                    Request::Unsubscribe { subscription }
                }
                _ => {
                    let messages = self.rng.u32(1..4);
                    let of = self.subscriptions.get_mut(&key).expect("it is one of them");
                    of.credit_messages += u64::from(messages);
                    Request::QueueCredit { subscription, messages, bytes: self.rng.u64(0..1_000) }
                }
            };
            self.note(format_args!("tell {connection:?} {request:?}"));
            return self.handle(Input::Request { reply_to, request });
        }
        let Some(group) = self.pick_queue() else { return };
        let topic = self.pick_work();
        let reply_to = self.next_reply_to();
        let subscription = SubscriptionId(self.next_number());
        let key = (reply_to.connection, subscription);
        let work = wire::WorkQueue {
            subscription: subscription.0,
            topic: topic.clone(),
            group: group.clone(),
            credit_messages: self.rng.u32(0..6),
            credit_bytes: 1 << 20,
            limit_bytes: None,
            lease_ms: [None, Some(100), Some(2_000)][self.rng.usize(0..3)],
        };
        let credit_messages = u64::from(work.credit_messages);
        self.subscriptions.insert(key, Subscribed { group, topic, credit_messages });
        self.send_from(reply_to, Request::WorkQueue(work), Op::Subscribe { key });
    }

    /// A worker says what became of some messages of one group and topic.
    pub(super) fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let first = self.held[self.rng.usize(0..self.held.len())].clone();
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for held in std::mem::take(&mut self.held) {
            let same = held.group == first.group && held.topic == first.topic;
            let takes = same && mine.len() < ITEMS_MAX && self.rng.u8(0..4) > 0;
            if takes { &mut mine } else { &mut others }.push(held);
        }
        self.held = others;
        // Its group or its topic is another one by now.
        let topic_id = self.topics.by_name(&first.topic).map(|topic| topic.id);
        mine.retain(|held| Some(held.partition.topic) == topic_id && self.group_is_there(&held.group));
        if mine.is_empty() {
            return;
        }
        self.send_settle(&first, &mine, Self::settle_action);
        // Some workers forget what they held, others say it twice.
        let again = self.rng.u8(0..4) == 0;
        self.held.extend(mine.into_iter().filter(|_| again));
    }

    pub(crate) fn send_settle(
        &mut self,
        first: &Held,
        mine: &[Held],
        mut action: impl FnMut(&mut Self) -> SettleAction,
    ) {
        let sent_mono_ms = self.now.mono_ms;
        let (mut items, mut sent) = (Vec::new(), Vec::new());
        for held in mine {
            let action = action(self);
            let token = match action {
                // Whoever says that everything up to there is done need not hold it.
                SettleAction::AckUpTo if self.rng.bool() => LeaseToken::NONE,
                _ => held.token,
            };
            let log = self.model.logs.get(&held.partition);
            let expiring: Vec<Offset> = match action {
                SettleAction::AckUpTo => log.into_iter().flat_map(LogModel::offsets).collect(),
                _ => Vec::new(),
            };
            let expiring: BTreeSet<Offset> = expiring
                .into_iter()
                .filter(|offset| self.model.expires_ms(held.partition, *offset).is_some())
                .collect();
            let group = self.model.groups.get_mut(&held.group).expect("it was just seen");
            let queue = group.shape.now.as_ref().and_then(|shape| shape.queue.as_ref());
            let attempts_max = queue.map_or(u32::MAX, |queue| queue.attempts_max);
            let part = group.parts.entry(held.partition).or_default();
            let item = SettledItem {
                offset: held.offset,
                token,
                action: action.clone(),
                seeks: part.seeks,
                redrives: part.redrives,
                sent_mono_ms,
            };
            part.sent(&item, attempts_max, |offset| expiring.contains(&offset));
            sent.push((held.partition, item));
            let receipt = Receipt { partition: held.partition.partition, offset: held.offset, token };
            items.push(SettleItem { receipt, action });
        }
        let instance = self.model.groups[&first.group].instance;
        let settle = Settle { topic: first.topic.clone(), group: first.group.clone(), items };
        self.send(Request::Settle(settle), Op::Settle { group: first.group.clone(), instance, items: sent });
    }

    /// What did not fit into the credit of its subscription goes back, as the connection gives it back: nobody waits for
    /// the answers.
    pub(crate) fn send_back(&mut self, unfit: &[Held]) {
        for held in unfit {
            let release = |_: &mut Self| SettleAction::Release { delay_ms: Some(0), reason: String::new() };
            self.send_settle(held, std::slice::from_ref(held), release);
        }
        *self.totals.operations.entry("messages sent back, since there was no room").or_default() +=
            unfit.len() as u64;
    }

    fn settle_action(&mut self) -> SettleAction {
        match self.rng.u8(0..10) {
            0 if self.rng.bool() => SettleAction::AckUpTo,
            0..=4 => SettleAction::Ack,
            5 => SettleAction::Release {
                delay_ms: [None, Some(0), Some(80)][self.rng.usize(0..3)],
                reason: match self.rng.u8(0..3) {
                    0 => String::new(),
                    _ => format!("busy-{}", self.next_number()),
                },
            },
            6 | 7 => SettleAction::Reject { reason: format!("bad-{}", self.next_number()) },
            8 => SettleAction::Extend { lease_ms: Some([20, 500][self.rng.usize(0..2)]) },
            _ => SettleAction::Start,
        }
    }

    pub(super) fn seek(&mut self) {
        if self.rng.u8(0..4) > 0 {
            return;
        }
        let queue = self.rng.bool();
        let name = if queue { self.pick(&QUEUES) } else { self.pick(&STREAMS) }.to_owned();
        let topic = self.pick(&TOPICS).to_owned();
        if !self.group_is_there(&name) || self.model.groups[&name].moving {
            return;
        }
        let to = self.seek_target();
        self.model.groups.get_mut(&name).expect("it is there").moving = true;
        let partitions = self.partitions_of(&topic);
        self.seek_begins_or_ends(&name, &partitions);
        let request = Request::SeekGroup { group: name.clone(), topic, to };
        self.send(request, Op::SeekGroup { name, partitions });
    }

    /// Between the two nobody knows where the cursor is.
    pub(super) fn seek_begins_or_ends(&mut self, name: &str, partitions: &[TopicPartition]) {
        let Some(group) = self.model.groups.get_mut(name) else { return };
        let queue = group.shape.now.as_ref().is_some_and(|shape| shape.queue.is_some());
        for partition in partitions.iter().copied() {
            let end = self.model.logs.get(&partition).map(|log| log.end).unwrap_or_default();
            if queue {
                group.parts.entry(partition).or_default().seek(end);
            } else {
                group.committed.entry(partition).or_default().seek();
            }
        }
    }

    pub(super) fn dead_letters(&mut self) {
        let Some(name) = self.pick_queue() else { return };
        let topic = self.pick_work();
        let group = self.model.groups.get_mut(&name).expect("it is there");
        if std::mem::replace(&mut group.moving, true) {
            return;
        }
        let partitions = self.partitions_of(&topic);
        self.letters_move(&name, &partitions);
        let purges = self.rng.u8(0..3) == 0;
        if let Some(group) = self.model.groups.get_mut(&name).filter(|_| purges) {
            for partition in &partitions {
                group.parts.entry(*partition).or_default().letters_purged = true;
            }
        }
        let op = Op::Letters { name: name.clone(), partitions };
        let request = match purges {
            true => Request::PurgeDeadLetters(wire::PurgeDeadLetters { topic, group: name }),
            false => Request::Redrive(wire::Redrive { topic, group: name, count_max: self.rng.u64(0..3) }),
        };
        self.send(request, op);
    }

    pub(crate) fn letters_move(&mut self, name: &str, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|partition| self.model.note_expired(name, *partition, self.now.wall_ms));
        let Some(group) = self.model.groups.get_mut(name) else { return };
        for partition in partitions {
            group.parts.entry(*partition).or_default().redrive();
        }
    }

    pub(super) fn join_or_leave(&mut self) {
        let known = self.model.members.len();
        if known > 0 && self.rng.u8(0..3) > 0 {
            return self.heartbeat_or_leave();
        }
        if known >= 4 {
            return;
        }
        let group = self.pick(&STREAMS).to_owned();
        if !self.group_is_there(&group) {
            return;
        }
        let topics = TOPICS.iter().filter(|name| self.topics.by_name(name).is_some());
        let topics: Vec<String> = topics.map(|name| (*name).to_owned()).collect();
        let reply_to = self.next_reply_to();
        // Some bring a name that outlives them, of which there is one: they replace each other.
        let name = if self.rng.u8(0..3) == 0 { "named" } else { "" }.to_owned();
        let join =
            wire::JoinGroup { group: group.clone(), topics, session_ms: 10_000, name, ..Default::default() };
        let op = Op::Join { group, connection: reply_to.connection };
        self.send_from(reply_to, Request::JoinGroup { join, client: "sim".into() }, op);
    }

    fn heartbeat_or_leave(&mut self) {
        let at = self.rng.usize(0..self.model.members.len());
        let member = self.model.members[at].clone();
        let reply_to =
            dure_engine::ReplyTo { connection: member.connection, correlation: self.next_number() };
        if self.rng.u8(0..5) == 0 {
            let Member { group, name, claim, .. } = member.clone();
            let leave = wire::LeaveGroup { group, member: name, claim };
            let op = Op::Leave { replaced: self.is_replaced(&member), member };
            return self.send_from(reply_to, Request::LeaveGroup(leave), op);
        }
        let partitions = member.assignment.iter().flat_map(|assignment| &assignment.partitions);
        let owned = partitions
            .map(|p| wire::TopicPartitionName { topic: p.topic.clone(), partition: p.partition })
            .collect();
        let generation = member.assignment.as_ref().map_or(0, |assignment| assignment.generation);
        let Member { group, name, claim, .. } = member.clone();
        let beat = wire::Heartbeat { group, member: name, generation, owned, claim };
        let op = Op::Heartbeat { replaced: self.is_replaced(&member), member };
        self.send_from(reply_to, Request::Heartbeat(beat), op);
    }

    /// Another one was told that it has the member's name.
    fn is_replaced(&self, member: &Member) -> bool {
        let same = |other: &&Member| other.group == member.group && other.name == member.name;
        self.model.members.iter().filter(same).any(|other| other.claim > member.claim)
    }

    pub(super) fn commit_offsets(&mut self) {
        if self.model.members.is_empty() {
            return;
        }
        let at = self.rng.usize(0..self.model.members.len());
        let member = self.model.members[at].clone();
        let Some(assignment) = &member.assignment else { return };
        let (mut offsets, mut asked) = (Vec::new(), Vec::new());
        for assigned in &assignment.partitions {
            let partition = dure_proto::TopicPartition {
                topic: dure_proto::TopicId(assigned.topic_id),
                partition: dure_proto::PartitionId(assigned.partition),
            };
            let Some(view) = self.views.get(&partition) else { continue };
            let offset = self.rng.u64(view.log_start.0..=view.high_watermark.0);
            offsets.push(wire::CommittedOffset {
                topic: assigned.topic.clone(),
                partition: assigned.partition,
                offset,
            });
            asked.push((partition, offset));
        }
        let Some(group) = self.model.groups.get_mut(&member.group) else { return };
        for (partition, offset) in &asked {
            let committed = group.committed.entry(*partition).or_default();
            committed.asked_max = committed.asked_max.max(*offset);
        }
        let instance = group.instance;
        let replaced = self.is_replaced(&member);
        let generation = assignment.generation;
        let Member { group, name, claim, connection, .. } = member.clone();
        let op = Op::Commit { instance, member, replaced, offsets: asked };
        let commit = wire::CommitOffsets { group, member: name, generation, offsets, claim };
        let reply_to = dure_engine::ReplyTo { connection, correlation: self.next_number() };
        self.send_from(reply_to, Request::CommitOffsets(commit), op);
    }

    /// Takes everything that a queue has to give out now.
    pub(crate) fn receive_all(&mut self, group: &str, topic: &str) -> Checked {
        let receive = wire::Receive {
            topic: topic.to_owned(),
            group: group.to_owned(),
            count: 10_000,
            wait_ms: 0,
            lease_ms: Some(60_000),
        };
        let op = Op::Receive { group: group.to_owned(), topic: topic.to_owned() };
        self.send(Request::Receive(receive), op);
        self.settle_down()
    }

    /// Acknowledges everything that is in hand.
    pub(crate) fn ack_all(&mut self) -> Checked {
        while let Some(first) = self.held.first().cloned() {
            let held = std::mem::take(&mut self.held);
            let same = |held: &Held| held.group == first.group && held.topic == first.topic;
            let (mine, others): (Vec<Held>, Vec<Held>) = held.into_iter().partition(same);
            self.held = others;
            self.send_settle(&first, &mine, |_| SettleAction::Ack);
            self.settle_down()?;
        }
        Ok(())
    }
}
