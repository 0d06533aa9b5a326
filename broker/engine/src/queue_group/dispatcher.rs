//! Who gets the next messages of a topic: subscriptions with credit and one-shot receives take turns, over
//! the partitions in rotation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dure_proto::PartitionId;

use super::ready::ReadyMessages;
use crate::Now;
use crate::mutant::{self, Mutant};
use crate::request::{ConnectionId, ReplyTo, SubscriptionId};

/// Subscriptions and waiting receives of one dispatcher.
pub const TAKERS_MAX: usize = 65_536;

/// Somebody who takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Taker {
    /// Takes as credit allows until it is removed.
    Subscription(ConnectionId, SubscriptionId),
    /// Takes once.
    Receive(ReplyTo),
}

/// One grant to be made. A receive may get several from different partitions in one
/// [`Dispatcher::dispatch`], contiguous, and is over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Who gets it.
    pub to: Taker,
    /// From which partition.
    pub partition: PartitionId,
    /// How many messages, at least 1.
    pub count: u32,
    /// How long the leases run; `None`: as the group says.
    pub lease_ms: Option<u64>,
}

/// No more subscriptions or receives fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{TAKERS_MAX} subscriptions and receives wait on this topic and group already")]
pub struct DispatcherFull;

/// Shares the messages of one group and topic fairly. It knows no message: the caller says how many each
/// partition has ready, grants what comes out, and hands back what it could not grant.
#[derive(Clone, Debug, Default)]
pub struct Dispatcher {
    takers: BTreeMap<Taker, Wants>,
    /// Those of `takers` that want something, in the order of their turns, each once.
    turns: VecDeque<Taker>,
    /// Receives by the monotonic time at which their wait ends.
    deadlines: BTreeSet<(u64, Taker)>,
    /// The partition after which the next one is looked for.
    last_partition: Option<PartitionId>,
}

#[derive(Clone, Copy, Debug)]
struct Wants {
    /// Messages that it takes yet. In `turns` if this is positive and the credit in bytes allows one.
    messages: u32,
    /// Goes below zero by a message that is larger than all credit. At most `limit_bytes`.
    credit_bytes: i64,
    /// The credit of one that holds nothing.
    limit_bytes: i64,
    /// Granted, and it is not known yet what they take.
    unseen: u32,
    /// What one message takes, about; 0 while nothing is known.
    each_bytes: i64,
    /// The message that it was given last did not fit: it takes so much.
    need_bytes: i64,
    lease_ms: Option<u64>,
    /// Set for a receive: when it is answered with none.
    deadline_mono_ms: Option<u64>,
}

impl Wants {
    fn new(messages: u32, credit_bytes: i64, lease_ms: Option<u64>, deadline_mono_ms: Option<u64>) -> Wants {
        let (limit_bytes, unseen, each_bytes, need_bytes) = (credit_bytes, 0, 0, 0);
        Wants {
            messages,
            credit_bytes,
            limit_bytes,
            unseen,
            each_bytes,
            need_bytes,
            lease_ms,
            deadline_mono_ms,
        }
    }

    fn any(&self) -> bool {
        self.messages > 0 && self.room() > 0
    }

    /// How many messages its credit in bytes allows, about: whoever knows them sees to it that no more are sent. One that
    /// holds nothing is given one, however large.
    fn room(&self) -> u32 {
        let holds_nothing = self.unseen == 0 && self.credit_bytes >= self.limit_bytes;
        if !holds_nothing && self.credit_bytes < self.need_bytes.max(1) {
            return 0;
        }
        let free = self.credit_bytes.saturating_sub(self.each_bytes.saturating_mul(self.unseen.into()));
        let by_size = match self.each_bytes {
            0 => u32::MAX,
            each => u32::try_from(free.max(0) / each).unwrap_or(u32::MAX),
        };
        by_size.max(u32::from(self.unseen == 0))
    }
}

/// What became of messages that were granted to a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// These went out.
    pub messages: u32,
    /// What those took of its credit.
    pub bytes: u64,
    /// These did not, and are its credit again.
    pub back: u32,
    /// Set if that is because the credit did not suffice: the first of them takes so much.
    pub need_bytes: u64,
}

impl Dispatcher {
    /// Nobody waits yet.
    #[must_use]
    pub fn new() -> Dispatcher {
        Dispatcher::default()
    }

    /// A subscription with its first credit; `limit_bytes` is what it has when it holds nothing. One that exists is
    /// replaced.
    pub fn subscribe(
        &mut self,
        connection: ConnectionId,
        subscription: SubscriptionId,
        credit_messages: u32,
        credit_bytes: u64,
        limit_bytes: u64,
        lease_ms: Option<u64>,
    ) -> Result<(), DispatcherFull> {
        let wants = Wants {
            limit_bytes: signed(limit_bytes),
            ..Wants::new(credit_messages, signed(credit_bytes.min(limit_bytes)), lease_ms, None)
        };
        self.enter(Taker::Subscription(connection, subscription), wants)
    }

    /// A receive of up to `count` messages, answered with none at `deadline_mono_ms`. A count of 0 takes none.
    pub fn receive(
        &mut self,
        reply_to: ReplyTo,
        count: u32,
        deadline_mono_ms: u64,
        lease_ms: Option<u64>,
    ) -> Result<(), DispatcherFull> {
        let deadline_mono_ms = Some(deadline_mono_ms);
        let wants = Wants::new(count, i64::MAX, lease_ms, deadline_mono_ms);
        self.enter(Taker::Receive(reply_to), wants)
    }

    /// More credit for a subscription. Says whether there is such a taker.
    pub fn add_credit(&mut self, taker: Taker, messages: u32, bytes: u64) -> bool {
        self.change(taker, |wants| {
            wants.messages = wants.messages.saturating_add(messages);
            wants.credit_bytes = wants.credit_bytes.saturating_add(signed(bytes)).min(wants.limit_bytes);
        })
    }

    /// Credit back for what could not be granted after all.
    pub fn hand_back(&mut self, taker: Taker, messages: u32) -> bool {
        self.handle_sent(taker, Sent { back: messages, ..Sent::default() })
    }

    /// What was granted to a subscription was sent, or did not fit into its credit: what the messages take is known only
    /// where they are read.
    pub fn handle_sent(&mut self, taker: Taker, sent: Sent) -> bool {
        let Sent { messages, bytes, back, need_bytes } = sent;
        self.change(taker, |wants| {
            wants.messages = wants.messages.saturating_add(back);
            wants.unseen = wants.unseen.saturating_sub(messages.saturating_add(back));
            wants.credit_bytes = wants.credit_bytes.saturating_sub(signed(bytes));
            wants.need_bytes = signed(need_bytes).max(if messages + back > 0 { 0 } else { wants.need_bytes });
            if messages > 0 {
                let each = signed(bytes) / i64::from(messages);
                let before = if wants.each_bytes == 0 { each } else { wants.each_bytes };
                wants.each_bytes = ((before.saturating_mul(3)).saturating_add(each) / 4).max(1);
            }
        })
    }

    /// A subscription or receive is gone. Says whether it was there.
    pub fn remove(&mut self, taker: Taker) -> bool {
        let Some(wants) = self.takers.get(&taker).copied() else { return false };
        self.forget(taker, wants);
        if wants.any() {
            self.turns.retain(|other| *other != taker);
        }
        true
    }

    /// A connection is gone, and all of its takers with it. Says which.
    pub fn remove_connection(&mut self, connection: ConnectionId) -> Vec<Taker> {
        let of = |taker: &&Taker| match taker {
            Taker::Subscription(of, _) => *of == connection,
            Taker::Receive(reply_to) => reply_to.connection == connection,
        };
        let takers: Vec<Taker> = self.takers.keys().filter(of).copied().collect();
        for taker in &takers {
            self.remove(*taker);
        }
        takers
    }

    /// Everybody, for when the group or the topic is deleted.
    pub fn takers(&self) -> impl Iterator<Item = Taker> {
        self.takers.keys().copied()
    }

    /// Whether anybody would take a message now.
    #[must_use]
    pub fn is_hungry(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Shares out what the partitions have, and takes it off `ready`. In each round everybody gets an equal part of
    /// what is there, at most what it wants, so that nobody hoards while others wait. A receive is over with what it gets.
    pub fn dispatch(&mut self, ready: &mut ReadyMessages) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        while ready.total() > 0 && !self.turns.is_empty() {
            let share = ready.total().div_ceil(self.turns.len() as u64);
            for _ in 0..self.turns.len() {
                if ready.total() == 0 {
                    break; // Who got nothing in this round is first in the next one.
                }
                let taker = self.turns.pop_front().expect("one turn each in this round");
                let count = share.min(ready.total());
                self.take_turn(taker, count, ready, &mut dispatches);
            }
        }
        dispatches
    }

    /// When [`handle_timeout`](Dispatcher::handle_timeout) has something to do, on the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Receives whose wait is over: they are to be answered with none. Dispatch first, so that one that does
    /// not want to wait gets what is there.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<ReplyTo> {
        let mut over = Vec::new();
        while let Some((_, taker)) = self.deadlines.first().filter(|(at, _)| *at <= now.mono_ms).copied() {
            self.remove(taker);
            if let Taker::Receive(reply_to) = taker {
                over.push(reply_to);
            }
        }
        over
    }

    /// Panics if an invariant that is written on the fields does not hold.
    pub fn check(&self) {
        let hungry: BTreeSet<_> =
            self.takers.iter().filter(|(_, wants)| wants.any()).map(|(t, _)| *t).collect();
        assert_eq!(self.turns.iter().copied().collect::<BTreeSet<_>>(), hungry);
        assert_eq!(self.turns.len(), hungry.len(), "somebody has two turns");
        let deadlines = self.takers.iter().filter_map(|(t, wants)| Some((wants.deadline_mono_ms?, *t)));
        assert_eq!(self.deadlines, deadlines.collect());
        assert!(self.takers.len() <= TAKERS_MAX);
    }

    /// Gives `taker` up to `count_max`, at least 1, of what is ready, and a next turn behind everybody if it
    /// wants more.
    fn take_turn(
        &mut self,
        taker: Taker,
        count_max: u64,
        ready: &mut ReadyMessages,
        dispatches: &mut Vec<Dispatch>,
    ) {
        let wants = self.takers.get_mut(&taker).expect("turns hold takers only");
        let count = count_max.min(u64::from(wants.messages.min(wants.room())));
        wants.messages -= if mutant::is(Mutant::CreditNotTaken) { 0 } else { count as u32 };
        wants.unseen = wants.unseen.saturating_add(count as u32);
        wants.need_bytes = 0;
        let wants = *wants;
        let mut left = count;
        while left > 0 {
            let taken = ready.take(self.last_partition, left);
            let (partition, part) = taken.expect("no more is given than is ready");
            left -= part;
            self.last_partition = Some(partition);
            dispatches.push(Dispatch { to: taker, partition, count: part as u32, lease_ms: wants.lease_ms });
        }
        if wants.deadline_mono_ms.is_some() {
            self.forget(taker, wants);
        } else if wants.any() {
            self.turns.push_back(taker);
        }
    }

    fn forget(&mut self, taker: Taker, wants: Wants) {
        self.takers.remove(&taker);
        if let Some(deadline_mono_ms) = wants.deadline_mono_ms {
            self.deadlines.remove(&(deadline_mono_ms, taker));
        }
    }

    fn enter(&mut self, taker: Taker, wants: Wants) -> Result<(), DispatcherFull> {
        self.remove(taker);
        if self.takers.len() >= TAKERS_MAX {
            return Err(DispatcherFull);
        }
        self.takers.insert(taker, wants);
        if wants.any() {
            self.turns.push_back(taker);
        }
        if let Some(deadline_mono_ms) = wants.deadline_mono_ms {
            self.deadlines.insert((deadline_mono_ms, taker));
        }
        Ok(())
    }

    fn change(&mut self, taker: Taker, change: impl FnOnce(&mut Wants)) -> bool {
        let Some(wants) = self.takers.get_mut(&taker) else { return false };
        let before = wants.any();
        change(wants);
        match (before, wants.any()) {
            (false, true) => self.turns.push_back(taker),
            (true, false) => self.turns.retain(|other| *other != taker),
            (true, true) | (false, false) => {}
        }
        true
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sub(number: u64) -> Taker {
        Taker::Subscription(ConnectionId(number), SubscriptionId(1))
    }

    fn ask(number: u64) -> ReplyTo {
        ReplyTo { connection: ConnectionId(number), correlation: 1 }
    }

    fn with(credits: &[u32]) -> Dispatcher {
        let mut dispatcher = Dispatcher::new();
        for (number, credit) in (0..).zip(credits) {
            let connection = ConnectionId(number);
            dispatcher
                .subscribe(connection, SubscriptionId(1), *credit, 1 << 20, 1 << 20, None)
                .expect("there is room");
        }
        dispatcher
    }

    fn ready(messages: &[u64]) -> ReadyMessages {
        let mut ready = ReadyMessages::default();
        (0..).zip(messages).for_each(|(n, m)| ready.set(PartitionId(n), *m));
        ready
    }

    /// Who gets how many.
    fn run(dispatcher: &mut Dispatcher, messages: &[u64]) -> BTreeMap<Taker, u32> {
        let mut ready = ready(messages);
        let mut given = BTreeMap::new();
        for dispatch in dispatcher.dispatch(&mut ready) {
            assert!(dispatch.count > 0);
            *given.entry(dispatch.to).or_default() += dispatch.count;
        }
        dispatcher.check();
        ready.check();
        let left = ready.total();
        assert_eq!(messages.iter().sum::<u64>() - left, given.values().map(|n| u64::from(*n)).sum::<u64>());
        assert!(left == 0 || !dispatcher.is_hungry(), "somebody is left hungry");
        given
    }

    #[test]
    fn prefetch_one_means_one() {
        let mut dispatcher = with(&[1, 100]);
        let given = run(&mut dispatcher, &[50]);
        assert_eq!(given, [(sub(0), 1), (sub(1), 49)].into());
        assert_eq!(run(&mut dispatcher, &[10])[&sub(1)], 10, "the other one still holds its message");
        assert!(dispatcher.add_credit(sub(0), 1, 0));
        assert_eq!(run(&mut dispatcher, &[1]).len(), 1);
    }

    #[test]
    fn few_messages_go_round_instead_of_all_to_one() {
        let mut dispatcher = with(&[100, 100, 100]);
        assert_eq!(run(&mut dispatcher, &[3]), [(sub(0), 1), (sub(1), 1), (sub(2), 1)].into());
        assert_eq!(run(&mut dispatcher, &[90]), [(sub(0), 30), (sub(1), 30), (sub(2), 30)].into());
        let one_by_one: Vec<_> =
            (0..6).map(|_| *run(&mut dispatcher, &[1]).first_key_value().unwrap().0).collect();
        assert_eq!(one_by_one, [sub(0), sub(1), sub(2), sub(0), sub(1), sub(2)]);
    }

    #[test]
    fn partitions_are_taken_in_rotation() {
        let mut dispatcher = with(&[1]);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let dispatches = dispatcher.dispatch(&mut ready(&[9, 0, 9, 9]));
            seen.extend(dispatches.iter().map(|dispatch| dispatch.partition.0));
            dispatcher.add_credit(sub(0), 1, 0);
        }
        assert_eq!(seen, [0, 2, 3, 0, 2]);
    }

    #[test]
    fn a_receive_takes_from_several_partitions_at_once_and_is_over() {
        let mut dispatcher = Dispatcher::new();
        dispatcher.receive(ask(1), 10, 5_000, Some(60_000)).expect("there is room");
        assert!(run(&mut dispatcher, &[0, 0]).is_empty());
        let dispatches = dispatcher.dispatch(&mut ready(&[4, 0, 3]));
        let parts: Vec<_> = dispatches.iter().map(|d| (d.partition.0, d.count, d.lease_ms)).collect();
        assert_eq!(parts, [(0, 4, Some(60_000)), (2, 3, Some(60_000))]);
        dispatcher.check();
        assert_eq!((dispatcher.poll_timeout(), dispatcher.is_hungry()), (None, false));
    }

    #[test]
    fn a_receive_is_answered_with_none_when_its_wait_is_over() {
        let mut dispatcher = Dispatcher::new();
        dispatcher.receive(ask(1), 10, 5_000, None).expect("there is room");
        dispatcher.receive(ask(2), 10, 4_000, None).expect("there is room");
        assert_eq!(dispatcher.poll_timeout(), Some(4_000));
        let at = |mono_ms| Now { mono_ms, wall_ms: 0 };
        assert!(dispatcher.handle_timeout(at(3_999)).is_empty());
        assert_eq!(dispatcher.handle_timeout(at(4_000)), [ask(2)]);
        dispatcher.check();
        assert_eq!(run(&mut dispatcher, &[20]), [(Taker::Receive(ask(1)), 10)].into());
        assert!(dispatcher.handle_timeout(at(9_000)).is_empty());
    }

    #[test]
    fn receives_and_subscriptions_do_not_starve_each_other() {
        let mut dispatcher = with(&[1_000]);
        for _ in 0..10 {
            dispatcher.receive(ask(7), 50, 5_000, None).expect("there is room");
            assert_eq!(run(&mut dispatcher, &[10]), [(sub(0), 5), (Taker::Receive(ask(7)), 5)].into());
        }
    }

    #[test]
    fn who_has_no_bytes_left_waits_for_more() {
        let mut dispatcher = with(&[10]);
        assert_eq!(run(&mut dispatcher, &[1])[&sub(0)], 1);
        let large = Sent { messages: 1, bytes: 2 << 20, ..Sent::default() };
        assert!(dispatcher.handle_sent(sub(0), large));
        assert!(!dispatcher.is_hungry());
        assert!(dispatcher.add_credit(sub(0), 0, 1 << 20));
        assert!(!dispatcher.is_hungry(), "it is still in debt");
        assert!(dispatcher.add_credit(sub(0), 1, 1 << 20));
        assert_eq!(
            run(&mut dispatcher, &[50])[&sub(0)],
            1,
            "by what the last one took, one is all that fits"
        );
    }

    #[test]
    fn no_more_is_granted_than_fits_once_it_is_known_what_messages_take() {
        let mut dispatcher = with(&[100]);
        assert_eq!(run(&mut dispatcher, &[3])[&sub(0)], 3);
        assert!(dispatcher.handle_sent(sub(0), Sent { messages: 3, bytes: 3 << 18, ..Sent::default() }));
        assert_eq!(run(&mut dispatcher, &[50])[&sub(0)], 1);
        assert!(run(&mut dispatcher, &[50]).is_empty(), "what was granted is counted before it was sent");
        assert!(dispatcher.handle_sent(sub(0), Sent { messages: 1, bytes: 1 << 18, ..Sent::default() }));
        assert!(run(&mut dispatcher, &[50]).is_empty());
        assert!(dispatcher.add_credit(sub(0), 2, 2 << 18));
        assert_eq!(run(&mut dispatcher, &[50])[&sub(0)], 2);
    }

    #[test]
    fn what_did_not_fit_waits_for_its_room_or_for_empty_hands() {
        let mut dispatcher = with(&[100]);
        assert_eq!(run(&mut dispatcher, &[5])[&sub(0)], 5);
        let sent = Sent { messages: 1, bytes: 100, back: 4, need_bytes: 2 << 20 };
        assert!(dispatcher.handle_sent(sub(0), sent));
        assert!(run(&mut dispatcher, &[4]).is_empty(), "it would come back at once");
        assert!(dispatcher.add_credit(sub(0), 1, 99));
        assert!(run(&mut dispatcher, &[4]).is_empty());
        assert!(dispatcher.add_credit(sub(0), 0, 1));
        assert!(run(&mut dispatcher, &[4]).contains_key(&sub(0)), "it holds nothing and gets it alone");
        assert!(dispatcher.add_credit(sub(0), 0, u64::MAX));
        dispatcher.check();
    }

    #[test]
    fn a_connection_that_is_gone_takes_nothing_any_more() {
        let mut dispatcher = with(&[5, 5]);
        dispatcher.receive(ask(0), 1, 5_000, None).expect("there is room");
        assert_eq!(dispatcher.remove_connection(ConnectionId(0)), [sub(0), Taker::Receive(ask(0))]);
        dispatcher.check();
        assert_eq!(run(&mut dispatcher, &[9]), [(sub(1), 5)].into());
        assert!(!dispatcher.add_credit(sub(0), 1, 0) && !dispatcher.remove(sub(0)));
        assert_eq!(dispatcher.poll_timeout(), None);
    }

    #[test]
    fn beyond_the_bound_nobody_enters_and_nobody_is_hurt() {
        let mut dispatcher = with(&vec![1; TAKERS_MAX]);
        assert_eq!(dispatcher.receive(ask(TAKERS_MAX as u64), 1, 5, None), Err(DispatcherFull));
        dispatcher.check();
        assert_eq!(run(&mut dispatcher, &[TAKERS_MAX as u64 + 9]).len(), TAKERS_MAX);
    }
}
