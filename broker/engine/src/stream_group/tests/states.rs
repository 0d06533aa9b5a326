//! Every state that a stream group can reach with a few processes, partitions and faults, one by one: whatever joins, leaves,
//! deaths, lost connections, topics that come and go, silence and restarts of the broker follow on each other. Where the
//! random storms of `tests/stream_group_model.rs` look far, this looks everywhere nearby. It lives here, and not beside
//! those, because states that differ in numbers only have to be told to be the same, which takes all of a group's fields.
//!
//! Two of the processes run under one name, which outlives them. All subscribe by a pattern. It begins with a group that is
//! empty, and with one in which everything is in order, and goes so many steps far from there. Beside that no step breaks
//! a promise, each state is let come to rest: within six sessions every partition has exactly one reader.
//!
//! A plain test run takes few of everything; `EXHAUSTIVE=1 cargo test --release -p dure-engine --lib states` takes more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{Hash, Hasher};

use stateright::{Checker, Model, Property};

use super::*;
use crate::topic_pattern::TopicPattern;

const SESSION_MS: u64 = 100;
const TICK_MS: u64 = SESSION_MS / 2;
/// The topic that is always there, and the one that comes and goes.
const STEADY: TopicId = TopicId(1);
/// Of each process, whose name it runs under.
const NAMES: [&str; 4] = ["named", "named", "ann", "bob"];
const NAMED: usize = 2;

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    processes: usize,
    partitions: u32,
    /// Deaths, lost connections, leaves and restarts of the broker together.
    faults: u32,
    /// How often the second topic comes or goes.
    changes: u32,
    /// Steps from where it begins.
    depth: usize,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Join(usize),
    /// A process takes the next assignment in.
    Hear(usize),
    /// It is done with what was taken away from it.
    Finish(usize),
    Beat(usize),
    Leave(usize),
    Die(usize),
    LoseConnection(usize),
    TopicComesOrGoes,
    RestartBroker,
    /// Half a session.
    Tick,
}

type Partitions = BTreeSet<TopicPartition>;

#[derive(Clone, Default)]
struct Process {
    connection: Option<ConnectionId>,
    joined: bool,
    claim: Option<Claim>,
    generation: Generation,
    inbox: VecDeque<(Generation, Partitions)>,
    owned: Partitions,
    /// Taken away, and read until it is done with, or until then.
    closing: BTreeMap<TopicPartition, u64>,
    /// Until then it reads what it owns.
    until_ms: u64,
    /// Dead, gone or told to end: it takes no further step.
    over: bool,
    /// It was told to end.
    replaced: bool,
}

impl Process {
    fn reads(&self, now_ms: u64) -> impl Iterator<Item = TopicPartition> {
        let owned = self.owned.iter().filter(move |_| now_ms < self.until_ms);
        owned.chain(self.closing.iter().filter(move |(_, until)| now_ms < **until).map(|(p, _)| p)).copied()
    }

    fn forget(&mut self) {
        self.owned.clear();
        self.closing.clear();
        self.inbox.clear();
        (self.joined, self.generation) = (false, Generation(0));
    }
}

#[derive(Clone)]
struct World {
    group: StreamGroup,
    processes: Vec<Process>,
    now_ms: u64,
    epoch: u64,
    connections: u64,
    partitions: u32,
    /// The number of the second topic, while there is one; it never repeats.
    second: Option<TopicId>,
    topic_next: u32,
    faults: u32,
    changes: u32,
    /// The first promise that did not hold.
    broken: Option<&'static str>,
}

impl World {
    fn new(bounds: &Bounds) -> World {
        let mut world = World {
            group: StreamGroup::new(GroupId(1)),
            processes: vec![Process::default(); bounds.processes],
            now_ms: 0,
            epoch: 1,
            connections: 0,
            partitions: bounds.partitions,
            second: None,
            topic_next: 2,
            faults: 0,
            changes: 0,
            broken: None,
        };
        world.group.open(Epoch(1));
        world.tell_topics();
        world
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 0 }
    }

    fn promise(&mut self, holds: bool, promise: &'static str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(promise);
        }
    }

    fn tell_topics(&mut self) {
        let known = |id, name: &str, partitions| (id, KnownTopic { name: name.into(), partitions });
        let second = self.second.map(|id| known(id, "t.second", 1));
        let topics: Vec<_> = [known(STEADY, "t.steady", self.partitions)].into_iter().chain(second).collect();
        self.group.handle_topics(self.now(), topics);
    }

    fn join(&mut self, at: usize) {
        if self.processes[at].connection.is_none() {
            self.connections += 1;
            self.processes[at].connection = Some(ConnectionId(self.connections));
        }
        let pattern: TopicPattern = "t.*".parse().expect("a pattern");
        let process = &self.processes[at];
        let name = NAMES[at];
        let identity = match at < NAMED {
            true => Identity::Named { name, claim: process.claim },
            false => Identity::Member(name),
        };
        let join = Join {
            identity,
            connection: process.connection.expect("it was just made"),
            client: "",
            topics: &[],
            patterns: &[pattern],
            session_ms: SESSION_MS,
        };
        let now = self.now();
        let latest = self.later_of_its_name(at).is_none();
        let joined = self.group.handle_join(now, &join);
        let process = &mut self.processes[at];
        match joined {
            Ok(joined) => {
                (process.claim, process.joined) = (joined.claim, true);
                process.generation = Generation(0);
                process.inbox.clear();
                // It prolongs nothing that was owned before.
                if process.owned.is_empty() {
                    process.until_ms = process.until_ms.max(now.mono_ms + SESSION_MS);
                }
                self.promise(latest, "a process that was replaced does not come back");
            }
            Err(error) => {
                process.forget();
                (process.over, process.replaced) = (true, true);
                let expected = matches!(error, JoinError::Replaced { .. }) && !latest;
                self.promise(expected, "only who was replaced is refused");
            }
        }
    }

    /// The other process of the name, if it has it by now and came after this one, which had it.
    fn later_of_its_name(&self, at: usize) -> Option<&Process> {
        self.processes[at].claim?;
        let other = self.processes.get(1 - at.min(1)).filter(|_| at < NAMED)?;
        let held = self.group.members.get(NAMES[at]).and_then(|member| member.claim);
        Some(other).filter(|other| other.claim > self.processes[at].claim && other.claim == held)
    }

    fn hear(&mut self, at: usize) {
        let process = &mut self.processes[at];
        let (generation, assigned) = process.inbox.pop_front().expect("there is one");
        process.generation = generation;
        for partition in process.owned.difference(&assigned) {
            process.closing.insert(*partition, process.until_ms);
        }
        process.closing.retain(|partition, _| !assigned.contains(partition));
        process.owned = assigned;
    }

    fn beat(&mut self, at: usize) {
        let now = self.now();
        let Process { generation, owned, closing, .. } = self.processes[at].clone();
        let listed: Vec<TopicPartition> = owned.iter().chain(closing.keys()).copied().collect();
        let (connection, claim) = (self.processes[at].connection, self.processes[at].claim);
        let caller = Caller { connection: connection.expect("it has one"), member: NAMES[at], claim };
        let beat = self.group.handle_heartbeat(now, &caller, generation, &listed);
        let process = &mut self.processes[at];
        match beat {
            Ok(()) => process.until_ms = now.mono_ms + SESSION_MS,
            Err(MemberError::Replaced { .. }) => {
                process.forget();
                (process.over, process.replaced) = (true, true);
            }
            Err(_) => process.forget(),
        }
    }

    fn cut(&mut self, at: usize) {
        if let Some(connection) = self.processes[at].connection.take() {
            self.group.handle_connection_closed(connection);
        }
        self.processes[at].inbox.clear();
        self.processes[at].joined = false;
    }

    fn end(&mut self, at: usize) {
        self.cut(at);
        self.processes[at].forget();
        self.processes[at].over = true;
    }

    fn leave(&mut self, at: usize) {
        let now = self.now();
        let (connection, claim) = (self.processes[at].connection, self.processes[at].claim);
        let caller = Caller { connection: connection.expect("it has one"), member: NAMES[at], claim };
        let _ = self.group.handle_leave(now, &caller);
        self.end(at);
    }

    fn topic_comes_or_goes(&mut self) {
        self.changes += 1;
        self.second = match self.second {
            Some(topic) => {
                self.group.apply_topic_deleted(topic);
                None
            }
            None => {
                self.topic_next += 1;
                Some(TopicId(self.topic_next))
            }
        };
        self.tell_topics();
    }

    /// Members are forgotten, and every connection is gone. A client drops what it owns when it hears so.
    fn restart_broker(&mut self) {
        for process in &mut self.processes {
            process.forget();
            process.connection = None;
        }
        self.epoch += 1;
        self.group = StreamGroup::restore(GroupId(1), &self.group.snapshot()).expect("its own");
        self.group.open(Epoch(self.epoch));
        self.tell_topics();
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let now_ms = self.now_ms;
        for process in &mut self.processes {
            process.closing.retain(|_, until| now_ms < *until);
            if now_ms >= process.until_ms && !process.owned.is_empty() {
                process.forget();
            }
        }
        let now = self.now();
        self.group.handle_timeout(now);
    }

    /// What changed goes out; then everything that has to hold is looked at.
    fn after(&mut self) {
        self.group.check();
        for told in self.group.take_assignments() {
            let of = |process: &&mut Process| process.connection == Some(told.connection);
            if let Some(process) = self.processes.iter_mut().find(of) {
                process.inbox.push_back((told.generation, told.partitions.into_iter().collect()));
            }
        }
        self.group.check();
        let mut readers: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        let mut exclusive = true;
        for (at, process) in self.processes.iter().enumerate() {
            for partition in process.reads(self.now_ms).filter(|p| self.exists(p)) {
                // A process that takes over a name does not wait for the one before.
                let other = readers.insert(partition, at);
                exclusive &= other.is_none_or(|other| NAMES[other] == NAMES[at]);
            }
        }
        self.promise(exclusive, "no partition has two readers");
        self.check_commits();
    }

    fn exists(&self, partition: &TopicPartition) -> bool {
        partition.topic == STEADY || Some(partition.topic) == self.second
    }

    /// Whose commits would be taken now.
    fn check_commits(&mut self) {
        let mut group = self.group.clone();
        let mut committers: BTreeMap<TopicPartition, usize> = BTreeMap::new();
        for (at, name) in NAMES.iter().enumerate().take(self.processes.len()) {
            let Process { connection: Some(connection), claim, generation, .. } = self.processes[at] else {
                continue;
            };
            let caller = Caller { connection, member: name, claim };
            for partition in group.slots.keys().copied().collect::<Vec<_>>() {
                if group.handle_commit(&caller, generation, &[(partition, Offset(1))]).is_err() {
                    continue;
                }
                let other = committers.insert(partition, at);
                self.promise(other.is_none(), "of one partition one process commits");
                let read_by = |(other, process): (usize, &Process)| {
                    NAMES[other] != *name && process.reads(self.now_ms).any(|read| read == partition)
                };
                let read = self.processes.iter().enumerate().any(read_by);
                self.promise(!read, "nobody commits for what another reads");
                self.promise(self.later_of_its_name(at).is_none(), "who was replaced does not commit");
            }
        }
    }

    /// Everybody hears what there is to hear, does it, and says so.
    fn obey(&mut self) {
        while self.processes.iter().any(|process| !process.inbox.is_empty()) {
            self.obey_once();
        }
        self.obey_once();
    }

    fn obey_once(&mut self) {
        for at in 0..self.processes.len() {
            while !self.processes[at].inbox.is_empty() {
                self.hear(at);
            }
            self.processes[at].closing.clear();
            if self.processes[at].joined && !self.processes[at].over {
                self.beat(at);
                self.after();
            }
        }
    }

    /// From here on everybody does as told, and nothing breaks any more.
    fn settles(&self) -> bool {
        let mut world = self.clone();
        for _ in 0..12 {
            for at in 0..world.processes.len() {
                if !world.processes[at].over && !world.processes[at].joined {
                    world.join(at);
                    world.after();
                }
            }
            world.obey();
            world.tick();
            world.after();
        }
        let live: Vec<&Process> = world.processes.iter().filter(|process| !process.over).collect();
        let reads: Vec<_> = live.iter().flat_map(|process| process.reads(world.now_ms)).collect();
        let all: usize = world.group.slots.len();
        let expected = if live.is_empty() { 0 } else { all };
        let each_once = reads.len() == expected && reads.iter().collect::<BTreeSet<_>>().len() == expected;
        let state = if live.is_empty() { StreamGroupState::Empty } else { StreamGroupState::Stable };
        // Both processes of a name cannot stay.
        each_once && world.group.state() == state && world.broken.is_none()
    }

    /// All that decides what can still happen: the same for states that differ only in the time of day and in the numbers
    /// of generations, connections, claims and topics.
    fn essence(&self) -> Vec<u64> {
        let members = || self.group.members.values();
        let holdings = || members().flat_map(|member| member.holdings.values());
        let told =
            self.processes.iter().flat_map(|p| p.inbox.iter().map(|(at, _)| *at).chain([p.generation]));
        let mut generations: BTreeSet<Generation> = told.chain([Generation(0)]).collect();
        generations.extend(members().flat_map(|m| [m.generation, m.pushed, m.confirmed]));
        generations.extend(holdings().map(|holding| holding.granted_at));
        generations.extend(holdings().filter_map(|holding| holding.revoking).map(|revoking| revoking.since));
        let rank = |of: Generation| generations.range(..of).count() as u64;
        let mut claims: BTreeSet<Claim> = self.processes.iter().filter_map(|p| p.claim).collect();
        claims.extend(members().filter_map(|member| member.claim));
        let claim = |of: Option<Claim>| of.map_or(99, |of| claims.range(..of).count() as u64);
        let left = |at: u64| at.saturating_sub(self.now_ms);
        let place = |p: &TopicPartition| match p.topic {
            STEADY => u64::from(p.partition.0),
            topic if Some(topic) == self.second => 50,
            topic => 60 + u64::from(topic.0),
        };
        let mut facts = vec![u64::from(self.second.is_some()), self.faults.into(), self.changes.into()];
        facts.push(u64::from(self.broken.is_some()) << 1 | u64::from(self.epoch > 1));
        let mut list = |items: Vec<u64>| {
            facts.push(1_000 + items.len() as u64);
            facts.extend(items);
        };
        for (id, member) in &self.group.members {
            let speaker = self.processes.iter().position(|p| p.connection == member.connection);
            let speaker = member.connection.and(speaker).map_or(9, |at| at as u64);
            let behind = member.behind_deadline_ms.map_or(999, left);
            let name = NAMES.iter().position(|name| *name == id.as_str()).expect("one of them") as u64;
            let deadline = left(member.session_deadline_ms);
            list(vec![name, speaker, claim(member.claim), deadline, behind, u64::from(member.fenced)]);
            list(vec![rank(member.generation), rank(member.pushed), rank(member.confirmed)]);
            for (partition, holding) in &member.holdings {
                let (since, until) =
                    holding.revoking.map_or((99, 999), |r| (rank(r.since), left(r.deadline_ms)));
                list(vec![place(partition), rank(holding.granted_at), since, until]);
            }
        }
        for (partition, slot) in &self.group.slots {
            let name = |id: &MemberId| NAMES.iter().position(|name| *name == id.as_str()).unwrap_or(8) as u64;
            let (target, holder) =
                (slot.target.as_ref().map_or(9, name), slot.holder.as_ref().map_or(9, name));
            list(vec![place(partition), target, holder]);
        }
        for process in &self.processes {
            let bits = u64::from(process.over) << 2
                | u64::from(process.joined) << 1
                | u64::from(process.connection.is_some());
            list(vec![bits, claim(process.claim), rank(process.generation), left(process.until_ms)]);
            list(process.owned.iter().map(place).collect());
            list(process.closing.iter().flat_map(|(p, until)| [place(p), left(*until)]).collect());
            for (generation, assigned) in &process.inbox {
                list([rank(*generation)].into_iter().chain(assigned.iter().map(place)).collect());
            }
        }
        facts
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.essence().hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        self.essence() == other.essence()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, process) in NAMES.iter().zip(&self.processes) {
            let reads: Vec<String> = process.reads(self.now_ms).map(|p| p.to_string()).collect();
            write!(f, "{name} reads {reads:?}{}; ", if process.over { ", over" } else { "" })?;
        }
        write!(f, "{:?}, broken {:?}", self.group.state(), self.broken)
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let empty = World::new(self);
        let mut in_order = empty.clone();
        for at in 1..self.processes {
            in_order.join(at);
            in_order.after();
            in_order.obey();
        }
        assert_eq!(in_order.group.state(), StreamGroupState::Stable);
        vec![empty, in_order]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        let faulty = world.faults < self.faults;
        for (at, process) in world.processes.iter().enumerate().filter(|(_, process)| !process.over) {
            if process.joined {
                actions.push(Step::Beat(at));
                actions.extend(faulty.then_some(Step::LoseConnection(at)));
                // A process that has a name does not leave.
                actions.extend((faulty && at >= NAMED).then_some(Step::Leave(at)));
            } else {
                actions.push(Step::Join(at));
            }
            let holds = process.joined || !process.owned.is_empty();
            actions.extend((faulty && holds).then_some(Step::Die(at)));
            actions.extend((!process.inbox.is_empty()).then_some(Step::Hear(at)));
            actions.extend((!process.closing.is_empty()).then_some(Step::Finish(at)));
        }
        actions.extend((world.changes < self.changes).then_some(Step::TopicComesOrGoes));
        actions.extend((faulty && !world.group.members.is_empty()).then_some(Step::RestartBroker));
        let idle = world.group.members.is_empty() && world.processes.iter().all(|p| p.owned.is_empty());
        actions.extend((!idle).then_some(Step::Tick));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Join(at) => world.join(at),
            Step::Hear(at) => world.hear(at),
            Step::Finish(at) => world.processes[at].closing.clear(),
            Step::Beat(at) => world.beat(at),
            Step::Leave(at) => world.leave(at),
            Step::Die(at) => world.end(at),
            Step::LoseConnection(at) => world.cut(at),
            Step::TopicComesOrGoes => world.topic_comes_or_goes(),
            Step::RestartBroker => world.restart_broker(),
            Step::Tick => world.tick(),
        }
        let is_fault =
            matches!(step, Step::Leave(_) | Step::Die(_) | Step::LoseConnection(_) | Step::RestartBroker);
        world.faults += u32::from(is_fault);
        world.after();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no promise is broken", |_, world: &World| world.broken.is_none()),
            Property::always("within six sessions it comes to rest", |_, world: &World| world.settles()),
            Property::sometimes("a process is replaced", |_, world: &World| {
                world.processes.iter().any(|process| process.replaced)
            }),
            Property::sometimes("a partition moves", |_, world: &World| {
                world.processes.iter().any(|process| !process.closing.is_empty())
            }),
            Property::sometimes("a member is fenced", |_, world: &World| {
                world.group.members.values().any(|member| member.fenced)
            }),
            Property::sometimes("what is not there any more is owned", |_, world: &World| {
                let mut owned = world.processes.iter().flat_map(|process| &process.owned);
                owned.any(|partition| !world.exists(partition))
            }),
        ]
    }
}

#[test]
fn no_order_of_events_breaks_a_promise_of_a_stream_group() {
    let all = std::env::var_os("EXHAUSTIVE").is_some();
    let bounds = match all {
        true => Bounds { processes: 3, partitions: 2, faults: 2, changes: 2, depth: 9 },
        false => Bounds { processes: 3, partitions: 2, faults: 1, changes: 2, depth: 7 },
    };
    let threads = if all { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let checked = bounds.checker().threads(threads).target_max_depth(bounds.depth).spawn_bfs().join();
    println!(
        "{bounds:?}: {} states, {} of them different",
        checked.state_count(),
        checked.unique_state_count()
    );
    checked.assert_properties();
}
