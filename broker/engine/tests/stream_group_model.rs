//! A stream group among clients that start, stop, freeze, lose their connections and are slow, over links
//! that delay. The clients keep the rules in the documentation of `stream_group`; what they *believe* to own
//! is followed on their side, and no partition may ever have two believers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dure_engine::{
    Caller, ConnectionId, Identity, Join, KnownTopic, MemberError, Now, StreamGroup, StreamGroupState,
};
use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};
use proptest::prelude::*;

const SESSION_MS: u64 = 1_000;
const HEARTBEAT_MS: u64 = 330;
const TICK_MS: u64 = 10;
const CLIENTS: usize = 6;
const PARTITIONS_MAX: u32 = 12;
const GROUP: GroupId = GroupId(7);

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Run(u64),
    Start(usize),
    Leave(usize),
    Kill(usize),
    Disconnect(usize),
    Freeze(usize, u64),
    Delay(usize, u64),
    /// How long it takes to finish with a revoked partition; one that takes for ever never does.
    Work(usize, u64),
    Commit(usize),
    Zombie(usize, TopicPartition, u64, u64),
    Grow(TopicId),
    DeleteSecondTopic,
    RestartBroker,
    Seek(TopicPartition, u64),
}

#[derive(Debug)]
enum Up {
    Join { sent_ms: u64 },
    Heartbeat { generation: Generation, owned: Vec<TopicPartition>, sent_ms: u64 },
    Commit { generation: Generation, offsets: Vec<(TopicPartition, Offset)> },
    Leave,
    Closed,
}

#[derive(Debug)]
enum Down {
    Joined { sent_ms: u64 },
    Alive { sent_ms: u64 },
    Refused,
    Assignment { generation: Generation, partitions: Vec<(TopicPartition, Offset)> },
}

/// One connection: in order in both directions.
struct Link {
    client: usize,
    up: VecDeque<(u64, Up)>,
    down: VecDeque<(u64, Down)>,
}

/// Which rule a client breaks, to show that the checker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sin {
    #[default]
    None,
    /// Says that it gave up what it goes on reading.
    Lies,
    /// Goes on when its session has run out.
    IgnoresTheClock,
}

#[derive(Default)]
struct Client {
    topics: Vec<TopicId>,
    wants: bool,
    connection: Option<ConnectionId>,
    join_sent: bool,
    /// The join that is not answered yet; what arrives before its answer is meant for whoever was before.
    joining: Option<u64>,
    generation: Generation,
    /// With the position that it has read up to.
    owned: BTreeMap<TopicPartition, Offset>,
    /// Until when it may read it, and when it will be done.
    giving_up: BTreeMap<TopicPartition, (u64, u64, Offset)>,
    /// Told to the broker as given up, and read all the same.
    lied: BTreeSet<TopicPartition>,
    believes_until_ms: u64,
    heartbeat_due_ms: u64,
    frozen_until_ms: u64,
    delay_ms: u64,
    work_ms: u64,
    sin: Sin,
}

impl Client {
    fn forget(&mut self) {
        self.owned.clear();
        self.giving_up.clear();
        self.lied.clear();
    }

    fn believes(&self, now_ms: u64) -> Vec<TopicPartition> {
        let in_time = now_ms < self.believes_until_ms || self.sin == Sin::IgnoresTheClock;
        let owned = self.owned.keys().filter(|_| in_time);
        let giving_up = self.giving_up.iter().filter(|(_, (until, _, _))| now_ms < *until).map(|(p, _)| p);
        owned.chain(giving_up).chain(&self.lied).copied().collect()
    }
}

struct World {
    now_ms: u64,
    epoch: Epoch,
    group: StreamGroup,
    topics: BTreeMap<TopicId, u32>,
    clients: Vec<Client>,
    links: BTreeMap<ConnectionId, Link>,
    connections: u64,
    committed: BTreeMap<TopicPartition, Offset>,
    generation: Generation,
}

fn name(client: usize) -> String {
    format!("client-{client}")
}

fn caller(connection: ConnectionId, member: &str) -> Caller<'_> {
    Caller { connection, member, claim: None }
}

impl World {
    fn new(subscriptions: &[u8], partitions: (u32, u32), sin: Sin) -> World {
        let mut group = StreamGroup::new(GROUP);
        group.open(Epoch(1));
        let clients = subscriptions.iter().map(|topics| Client {
            topics: match topics {
                0 => vec![TopicId(1), TopicId(2)],
                1 => vec![TopicId(1)],
                _ => vec![TopicId(2)],
            },
            work_ms: 50,
            sin,
            ..Client::default()
        });
        let mut world = World {
            now_ms: 1_000_000,
            epoch: Epoch(1),
            group,
            topics: BTreeMap::from([(TopicId(1), partitions.0), (TopicId(2), partitions.1)]),
            clients: clients.collect(),
            links: BTreeMap::new(),
            connections: 0,
            committed: BTreeMap::new(),
            generation: Generation(0),
        };
        world.tell_topics();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 0 }
    }

    fn tell_topics(&mut self) {
        let known = |(id, partitions): (&TopicId, &u32)| {
            (*id, KnownTopic { name: format!("topic.{id}"), partitions: *partitions })
        };
        let topics: Vec<_> = self.topics.iter().map(known).collect();
        self.group.handle_topics(self.now(), topics);
        self.after_step();
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        let of = |(topic, count): (&TopicId, &u32)| {
            let topic = *topic;
            (0..*count).map(move |p| TopicPartition { topic, partition: PartitionId(p) })
        };
        self.topics.iter().flat_map(of).collect()
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Run(ms) => self.run(ms),
            Op::Start(c) => self.clients[c].wants = true,
            Op::Leave(c) => {
                if self.clients[c].join_sent {
                    self.send(c, Up::Leave);
                }
                let client = &mut self.clients[c];
                client.forget();
                client.wants = false;
                client.join_sent = false;
                client.generation = Generation(0);
            }
            Op::Kill(c) => {
                self.cut(c);
                let client = &mut self.clients[c];
                client.forget();
                client.wants = false;
                client.generation = Generation(0);
                client.frozen_until_ms = 0;
            }
            Op::Disconnect(c) => self.cut(c),
            Op::Freeze(c, ms) => self.clients[c].frozen_until_ms = self.now_ms + ms,
            Op::Delay(c, ms) => self.clients[c].delay_ms = ms,
            Op::Work(c, ms) => self.clients[c].work_ms = ms,
            Op::Commit(c) => {
                let client = &mut self.clients[c];
                for position in client.owned.values_mut() {
                    position.0 += 3;
                }
                let giving_up = client.giving_up.iter().map(|(p, (_, _, position))| (*p, *position));
                let offsets = client.owned.iter().map(|(p, o)| (*p, *o)).chain(giving_up).collect();
                self.send(c, Up::Commit { generation: self.clients[c].generation, offsets });
            }
            Op::Zombie(c, partition, offset, back) => {
                let generation = Generation(self.clients[c].generation.0.saturating_sub(back));
                self.send(c, Up::Commit { generation, offsets: vec![(partition, Offset(offset))] });
            }
            Op::Grow(topic) => {
                if let Some(count) = self.topics.get_mut(&topic) {
                    *count = (*count + 1).min(PARTITIONS_MAX);
                }
                self.tell_topics();
            }
            Op::DeleteSecondTopic => {
                self.topics.remove(&TopicId(2));
                self.group.apply_topic_deleted(TopicId(2));
                self.committed.retain(|partition, _| partition.topic != TopicId(2));
                self.tell_topics();
            }
            Op::RestartBroker => self.restart_broker(),
            Op::Seek(partition, to) => match self.group.seek(partition, Offset(to)) {
                Ok(event) => {
                    assert_eq!(self.group.state(), StreamGroupState::Empty);
                    self.group.apply(&event).unwrap();
                    self.committed.insert(partition, Offset(to));
                    self.after_step();
                }
                Err(_) => assert_ne!(self.group.state(), StreamGroupState::Empty),
            },
        }
    }

    /// Everything but the offsets is gone, and everybody has to join again. A client that had not noticed
    /// would be a second believer for up to a session time; its commits are fenced.
    fn restart_broker(&mut self) {
        self.links.clear();
        for client in &mut self.clients {
            client.forget();
            client.connection = None;
            client.join_sent = false;
        }
        self.epoch.0 += 1;
        self.group = StreamGroup::restore(GROUP, &self.group.snapshot()).unwrap();
        self.group.open(self.epoch);
        self.tell_topics();
    }

    /// The client's end of the connection is gone; what it sent is still under way.
    fn cut(&mut self, c: usize) {
        if self.clients[c].connection.is_some() {
            self.send(c, Up::Closed);
            self.clients[c].connection = None;
            self.clients[c].join_sent = false;
        }
    }

    fn send(&mut self, c: usize, message: Up) {
        let Some(connection) = self.clients[c].connection else { return };
        let link = self.links.get_mut(&connection).expect("the client knows its connection");
        let earliest = link.up.back().map_or(0, |(at, _)| *at);
        link.up.push_back((earliest.max(self.now_ms + self.clients[c].delay_ms), message));
    }

    fn answer(&mut self, connection: ConnectionId, message: Down) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let earliest = link.down.back().map_or(0, |(at, _)| *at);
        link.down.push_back((earliest.max(self.now_ms + self.clients[link.client].delay_ms), message));
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(TICK_MS) {
            self.now_ms += TICK_MS;
            for connection in self.links.keys().copied().collect::<Vec<_>>() {
                self.broker_receives(connection);
            }
            if self.group.poll_timeout().is_some_and(|at| at <= self.now_ms) {
                self.group.handle_timeout(self.now());
                self.after_step();
                assert!(self.group.poll_timeout().is_none_or(|at| at > self.now_ms), "a timeout is left");
            }
            for c in 0..self.clients.len() {
                if self.clients[c].frozen_until_ms <= self.now_ms {
                    self.client_acts(c);
                }
            }
            self.check_exclusive();
        }
    }

    fn broker_receives(&mut self, connection: ConnectionId) {
        loop {
            let Some(link) = self.links.get_mut(&connection) else { return };
            let c = link.client;
            match link.up.front() {
                Some((at, _)) if *at <= self.now_ms => {}
                _ => return,
            }
            let (_, message) = link.up.pop_front().unwrap();
            match message {
                Up::Join { sent_ms } => {
                    let topics: Vec<TopicId> = self.clients[c]
                        .topics
                        .iter()
                        .filter(|t| self.topics.contains_key(t))
                        .copied()
                        .collect();
                    let topics = if topics.is_empty() { vec![TopicId(1)] } else { topics };
                    let name_of = name(c);
                    let join = Join {
                        identity: Identity::Member(&name_of),
                        connection,
                        client: "model",
                        topics: &topics,
                        patterns: &[],
                        session_ms: SESSION_MS,
                    };
                    let joined = self.group.handle_join(self.now(), &join).unwrap();
                    assert_eq!(joined.member.as_str(), name(c));
                    self.answer(connection, Down::Joined { sent_ms });
                }
                Up::Heartbeat { generation, owned, sent_ms } => {
                    let result = self.group.handle_heartbeat(
                        self.now(),
                        &caller(connection, &name(c)),
                        generation,
                        &owned,
                    );
                    self.answer(
                        connection,
                        if result.is_ok() { Down::Alive { sent_ms } } else { Down::Refused },
                    );
                }
                Up::Commit { generation, offsets } => {
                    self.broker_commits(c, connection, generation, &offsets)
                }
                Up::Leave => {
                    let result = self.group.handle_leave(self.now(), &caller(connection, &name(c)));
                    assert!(
                        !matches!(result, Err(MemberError::UnknownMember { member }) if member.is_empty())
                    );
                }
                Up::Closed => {
                    self.group.handle_connection_closed(connection);
                    self.links.remove(&connection);
                }
            }
            self.after_step();
        }
    }

    fn broker_commits(
        &mut self,
        c: usize,
        connection: ConnectionId,
        generation: Generation,
        offsets: &[(TopicPartition, Offset)],
    ) {
        let Ok(events) = self.group.handle_commit(&caller(connection, &name(c)), generation, offsets) else {
            return;
        };
        let description = self.group.describe();
        let me = description.members.iter().find(|m| m.id.as_str() == name(c)).expect("only members commit");
        for (partition, _) in offsets {
            assert!(
                me.partitions.contains(partition),
                "{} committed for {partition}, which is not its",
                me.id
            );
            for (other, client) in self.clients.iter().enumerate().filter(|(other, _)| *other != c) {
                let believes = client.believes(self.now_ms).contains(partition);
                assert!(!believes, "client {c} committed for {partition}, which client {other} reads");
            }
        }
        for event in events {
            let partition =
                TopicPartition { topic: TopicId(event.topic), partition: PartitionId(event.partition) };
            let before = self.committed.insert(partition, Offset(event.offset));
            assert!(before.is_none_or(|at| at.0 < event.offset), "{partition} moved back from {before:?}");
            self.group.apply(&event).unwrap();
        }
    }

    /// What changed goes out before any later answer; then everything is checked.
    fn after_step(&mut self) {
        for push in self.group.take_assignments() {
            let read_from = |p: &TopicPartition| (*p, self.group.committed(*p).unwrap_or_default());
            let partitions = push.partitions.iter().map(read_from).collect();
            assert_eq!(push.generation.0 >> 32, self.epoch.0);
            self.answer(push.connection, Down::Assignment { generation: push.generation, partitions });
        }
        self.group.check();
        let description = self.group.describe();
        assert!(description.generation >= self.generation, "the generation fell");
        self.generation = description.generation;
        assert!(description.committed.into_iter().eq(self.committed.iter().map(|(p, o)| (*p, *o))));
    }

    fn client_acts(&mut self, c: usize) {
        // First a look at the clock, as a process that was frozen has to.
        let client = &mut self.clients[c];
        if client.sin != Sin::IgnoresTheClock {
            client.giving_up.retain(|_, (until, _, _)| self.now_ms < *until);
            if !client.owned.is_empty() && self.now_ms >= client.believes_until_ms {
                client.forget();
                client.join_sent = false;
            }
        }
        self.client_receives(c);
        let client = &mut self.clients[c];
        if !client.wants {
            return;
        }
        if client.connection.is_none() {
            self.connections += 1;
            let connection = ConnectionId(self.connections);
            client.connection = Some(connection);
            self.links.insert(connection, Link { client: c, up: VecDeque::new(), down: VecDeque::new() });
        }
        let client = &mut self.clients[c];
        if !client.join_sent {
            client.join_sent = true;
            client.joining = Some(self.now_ms);
            client.generation = Generation(0);
            client.heartbeat_due_ms = self.now_ms + HEARTBEAT_MS;
            self.send(c, Up::Join { sent_ms: self.now_ms });
            return;
        }
        let done: Vec<TopicPartition> = client
            .giving_up
            .iter()
            .filter(|(_, (_, done, _))| *done <= self.now_ms)
            .map(|(p, _)| *p)
            .collect();
        if !done.is_empty() {
            let last = done.iter().map(|p| (*p, client.giving_up[p].2)).collect();
            let generation = client.generation;
            for partition in done {
                client.giving_up.remove(&partition);
                if client.sin == Sin::Lies {
                    client.lied.insert(partition);
                }
            }
            client.heartbeat_due_ms = self.now_ms;
            self.send(c, Up::Commit { generation, offsets: last });
        }
        if self.clients[c].heartbeat_due_ms <= self.now_ms && self.clients[c].joining.is_none() {
            self.heartbeat(c);
        }
    }

    fn heartbeat(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.heartbeat_due_ms = self.now_ms + HEARTBEAT_MS;
        let owned = client.owned.keys().chain(client.giving_up.keys()).copied().collect();
        let generation = client.generation;
        self.send(c, Up::Heartbeat { generation, owned, sent_ms: self.now_ms });
    }

    fn client_receives(&mut self, c: usize) {
        loop {
            let Some(connection) = self.clients[c].connection else { return };
            let link = self.links.get_mut(&connection).unwrap();
            match link.down.front() {
                Some((at, _)) if *at <= self.now_ms => {}
                _ => return,
            }
            let (_, message) = link.down.pop_front().unwrap();
            let client = &mut self.clients[c];
            let awaited = client
                .joining
                .is_none_or(|join| matches!(message, Down::Joined { sent_ms } if sent_ms == join));
            if !client.join_sent || !awaited {
                continue;
            }
            match message {
                Down::Joined { sent_ms } => {
                    client.joining = None;
                    // It prolongs nothing that was owned before.
                    if client.owned.is_empty() {
                        client.believes_until_ms = client.believes_until_ms.max(sent_ms + SESSION_MS);
                    }
                }
                Down::Alive { sent_ms } => {
                    client.believes_until_ms = client.believes_until_ms.max(sent_ms + SESSION_MS);
                }
                Down::Refused => {
                    client.forget();
                    client.join_sent = false;
                }
                Down::Assignment { generation, partitions } => {
                    let until = client.believes_until_ms;
                    let done = self.now_ms + client.work_ms;
                    let assigned: BTreeMap<TopicPartition, Offset> = partitions.into_iter().collect();
                    for (partition, position) in std::mem::take(&mut client.owned) {
                        if assigned.contains_key(&partition) {
                            client.owned.insert(partition, position);
                        } else {
                            client.giving_up.insert(partition, (until, done, position));
                        }
                    }
                    for (partition, committed) in assigned {
                        let resumed = client.giving_up.remove(&partition).map(|(_, _, position)| position);
                        client.owned.entry(partition).or_insert(resumed.unwrap_or(committed));
                    }
                    client.generation = generation;
                    client.heartbeat_due_ms = self.now_ms;
                }
            }
        }
    }

    fn check_exclusive(&self) {
        let mut readers: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        for (c, client) in self.clients.iter().enumerate() {
            for partition in client.believes(self.now_ms) {
                let other = readers.insert(partition, c);
                assert!(
                    other.is_none_or(|other| other == c),
                    "two readers: clients {other:?} and {c} both believe to own {partition}"
                );
            }
        }
    }

    /// The storm is over: everything is settled within the promised time.
    fn calm_down(&mut self) {
        for client in &mut self.clients {
            client.frozen_until_ms = 0;
            client.delay_ms = 0;
            client.work_ms = 20;
        }
        self.run(5 * SESSION_MS);
        let running: Vec<usize> = (0..self.clients.len()).filter(|c| self.clients[*c].wants).collect();
        let state = self.group.state();
        if running.is_empty() {
            assert_eq!(state, StreamGroupState::Empty);
            return;
        }
        assert_eq!(state, StreamGroupState::Stable);
        let description = self.group.describe();
        assert!(description.members.iter().map(|m| m.id.as_str()).eq(running.iter().map(|c| name(*c))));
        let mut loads: BTreeMap<Vec<TopicId>, Vec<usize>> = BTreeMap::new();
        let mut owned_by_any: BTreeSet<TopicPartition> = BTreeSet::new();
        for (c, member) in running.iter().zip(&description.members) {
            let client = &self.clients[*c];
            assert!(client.owned.keys().eq(&member.partitions), "client {c} and broker disagree");
            assert!(client.giving_up.is_empty());
            owned_by_any.extend(client.owned.keys());
            loads.entry(client.topics.clone()).or_default().push(client.owned.len());
        }
        let subscribed: BTreeSet<TopicId> =
            running.iter().flat_map(|c| self.clients[*c].topics.iter().copied()).collect();
        for partition in self.partitions().iter().filter(|p| subscribed.contains(&p.topic)) {
            assert!(owned_by_any.contains(partition), "nobody owns {partition}");
        }
        // A deletion leaves subscriptions to what is no more; they differ only in name.
        if self.topics.len() == 2 {
            for (topics, loads) in loads {
                let spread = loads.iter().max().unwrap() - loads.iter().min().unwrap();
                assert!(spread <= 1, "{topics:?}: {loads:?}");
            }
        }
    }
}

fn partition() -> impl Strategy<Value = TopicPartition> {
    (1_u32..=2, 0_u32..4).prop_map(|(t, p)| TopicPartition { topic: TopicId(t), partition: PartitionId(p) })
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..CLIENTS;
    prop_oneof![
        12 => (10_u64..700).prop_map(Op::Run),
        3 => (700_u64..2_500).prop_map(Op::Run),
        12 => client().prop_map(Op::Start),
        3 => client().prop_map(Op::Leave),
        4 => client().prop_map(Op::Kill),
        4 => client().prop_map(Op::Disconnect),
        4 => (client(), 100_u64..3_000).prop_map(|(c, ms)| Op::Freeze(c, ms)),
        4 => (client(), 0_u64..1_500).prop_map(|(c, ms)| Op::Delay(c, ms)),
        3 => (client(), prop_oneof![0_u64..900, Just(u64::from(u32::MAX))]).prop_map(|(c, ms)| Op::Work(c, ms)),
        8 => client().prop_map(Op::Commit),
        3 => (client(), partition(), 0_u64..200, 0_u64..4).prop_map(|(c, p, o, b)| Op::Zombie(c, p, o, b)),
        2 => (1_u32..=2).prop_map(|t| Op::Grow(TopicId(t))),
        1 => (partition(), 0_u64..50).prop_map(|(p, o)| Op::Seek(p, o)),
    ]
}

/// What happens at most once or twice in a run.
fn rare() -> impl Strategy<Value = Vec<(usize, Op)>> {
    let op = prop_oneof![Just(Op::RestartBroker), Just(Op::DeleteSecondTopic)];
    proptest::collection::vec((0_usize..80, op), 0..2)
}

/// What members subscribe to, how many partitions the topics have, and what happens.
pub(crate) type Storm = (Vec<u8>, (u32, u32), Vec<Op>, Vec<(usize, Op)>);

pub(crate) fn storms() -> impl Strategy<Value = Storm> {
    let subscriptions = proptest::collection::vec(0_u8..3, CLIENTS);
    (subscriptions, (0_u32..8, 1_u32..6), proptest::collection::vec(op(), 1..80), rare())
}

/// Lets it happen, and then everybody come to rest.
pub(crate) fn storm(subscriptions: &[u8], partitions: (u32, u32), ops: Vec<Op>, rare: Vec<(usize, Op)>) {
    let mut world = World::new(subscriptions, partitions, Sin::None);
    for (i, op) in ops.into_iter().enumerate() {
        world.step(op);
        for (_, op) in rare.iter().filter(|(at, _)| *at == i) {
            world.step(op.clone());
        }
    }
    world.calm_down();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn no_storm_gives_a_partition_two_readers_or_leaves_it_without_one(
        (subscriptions, partitions, ops, rare) in storms(),
    ) {
        storm(&subscriptions, partitions, ops, rare);
    }

    #[test]
    fn members_of_one_subscription_settle_evenly(
        partitions in (0_u32..8, 0_u32..6),
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        storm(&[0; CLIENTS], partitions, ops, Vec::new());
    }
}

/// Two clients with everything in order, then a third.
fn with_sinners(sin: Sin) -> World {
    let mut world = World::new(&[0, 0, 0], (4, 2), sin);
    world.step(Op::Start(0));
    world.step(Op::Run(500));
    world.step(Op::Start(1));
    world.step(Op::Run(500));
    world
}

#[test]
#[should_panic(expected = "two readers")]
fn the_checker_sees_a_client_that_lies_about_what_it_gave_up() {
    with_sinners(Sin::Lies).run(2_000);
}

#[test]
#[should_panic(expected = "two readers")]
fn the_checker_sees_a_client_that_ignores_its_clock() {
    let mut world = with_sinners(Sin::IgnoresTheClock);
    world.step(Op::Freeze(0, 10_000));
    world.run(3_000);
}

#[test]
fn a_freeze_longer_than_the_session_hands_everything_over_and_back() {
    let mut world = with_sinners(Sin::None);
    world.step(Op::Freeze(0, 3_000));
    world.run(2_000);
    assert_eq!(world.clients[1].owned.len(), 6);
    world.step(Op::Run(2_000));
    world.calm_down();
    assert_eq!(world.clients[0].owned.len(), 3);
}

#[test]
fn one_that_never_gives_up_is_fenced_and_the_rest_goes_on() {
    let mut world = World::new(&[0, 0], (4, 2), Sin::None);
    world.step(Op::Work(0, u64::from(u32::MAX)));
    world.step(Op::Start(0));
    world.run(500);
    world.step(Op::Start(1));
    world.run(2 * SESSION_MS + 200);
    assert_eq!(world.clients[1].owned.len(), 3);
    world.calm_down();
}
