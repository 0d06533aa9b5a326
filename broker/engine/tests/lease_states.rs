//! Every state that a lease table can reach with a few workers, messages and crashes, one by one: whatever workers,
//! leases' ends, syncs, deaths of workers and crashes of the broker follow on each other in whichever order. Where the
//! random histories of `queue_model.rs` look far, this looks everywhere nearby.
//!
//! A plain test run takes few of everything; `EXHAUSTIVE=1 cargo test --release -p dure-engine --test lease_states` takes
//! three workers, four messages and two crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use dure_engine::{
    Jitter, LeaseSettings, LeaseTable, LeaseTerms, MessageState, Now, SettleAction, SettleError, Settlement,
    TokenSource,
};
use dure_proto::journal::{QueueEvent, QueueSnapshot, queue_event::Event};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, TopicId, TopicPartition};
use stateright::{Checker, Model, Property};

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
const ATTEMPTS_MAX: u32 = 2;

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    workers: usize,
    messages: u64,
    /// Deaths of workers and crashes of the broker together.
    crashes: u32,
    /// Steps that a crash can take back.
    unsynced: usize,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A worker without a message asks for one and starts it.
    Take(usize),
    Ack(usize),
    Release(usize),
    /// A worker forgets what it has.
    Die(usize),
    /// The next lease runs out.
    LeaseEnds,
    /// What was decided is on disk, and is answered.
    Sync,
    /// What was decided since the last sync is gone, with everything that the broker knew.
    Crash,
}

#[derive(Clone)]
struct World {
    table: LeaseTable,
    /// The table as the disk has it.
    durable: LeaseTable,
    /// Decided and not synced, step by step.
    pending: Vec<Vec<QueueEvent>>,
    /// What came back is not granted again before this is synced.
    held: Option<u64>,
    /// Acknowledged and not told so yet.
    unanswered: BTreeSet<u64>,
    tokens: TokenSource,
    token_last: Option<LeaseToken>,
    epoch: u64,
    mono_ms: u64,
    /// When running leases end, counted beside the table.
    deadlines: BTreeMap<u64, u64>,
    workers: Vec<Option<(u64, LeaseToken)>>,
    /// Whose worker was told that it is settled for ever.
    answered: BTreeSet<u64>,
    /// Deliveries of each message.
    deliveries: Vec<u32>,
    /// Crashes of the broker; deaths of workers are in `crashes` only.
    restarts: u32,
    crashes: u32,
    letter_next: u64,
    /// The first promise that did not hold.
    broken: Option<&'static str>,
}

impl World {
    fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall_ms: 1_700_000_000_000 }
    }

    fn promise(&mut self, holds: bool, promise: &'static str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(promise);
        }
    }

    fn decided(&mut self, events: Vec<QueueEvent>) {
        self.held = self.table.hold_back(&events).or(self.held);
        self.pending.extend((!events.is_empty()).then_some(events));
    }

    fn take(&mut self, worker: usize) {
        let lease_ms = 10;
        let terms = LeaseTerms { lease_ms, started: true };
        let mut events = Vec::new();
        let grants = self.table.grant(self.now(), 1, terms, &mut self.tokens, &mut events);
        let grant = grants[0];
        let offset = grant.offset.0;
        self.promise(!self.answered.contains(&offset), "what was acknowledged never comes again");
        self.promise(self.token_last < Some(grant.token), "a token never repeats");
        self.promise(grant.attempt <= ATTEMPTS_MAX, "no attempt above the limit");
        self.token_last = Some(grant.token);
        self.deliveries[offset as usize] += 1;
        self.deadlines.insert(offset, self.mono_ms + lease_ms);
        self.workers[worker] = Some((offset, grant.token));
        self.decided(events);
    }

    fn settle(&mut self, worker: usize, action: &SettleAction) {
        let (offset, token) = self.workers[worker].take().expect("it has one");
        let mut events = Vec::new();
        let at = Offset(offset);
        let is_last = self.table.is_leased_by(at, token);
        let settled = self.table.settle(at, token, action, Jitter(0), self.now(), &mut events);
        match settled {
            Ok(Settlement::Done) if matches!(action, SettleAction::Ack) => {
                self.promise(is_last, "only the last receipt settles");
                self.unanswered.insert(offset);
                self.deadlines.remove(&offset);
            }
            Ok(Settlement::Done) => drop(self.deadlines.remove(&offset)),
            Ok(Settlement::AlreadySettled) => {}
            Ok(Settlement::Dying) => unreachable!("nobody rejects"),
            Err(error) => {
                let expected = matches!(
                    error,
                    SettleError::StaleLease | SettleError::AlreadySettled | SettleError::UnknownReceipt
                );
                self.promise(expected && !is_last, "a receipt works until its message is leased anew");
            }
        }
        self.decided(events);
    }

    fn lease_ends(&mut self) {
        self.mono_ms = self.table.poll_timeout().expect("a lease runs");
        let mut events = Vec::new();
        self.table.handle_timeout(self.now(), &mut events);
        self.decided(events);
        let now = self.mono_ms; // A lease ends when its last millisecond is over.
        let over: Vec<u64> = self.deadlines.iter().filter(|(_, at)| **at < now).map(|(o, _)| *o).collect();
        self.promise(!over.is_empty(), "no lease ends early");
        for offset in over {
            self.deadlines.remove(&offset);
            self.promise(self.table.state(Offset(offset)) != MessageState::Leased, "a lease ends");
        }
    }

    /// Letters are written in the commit that settles.
    fn bury(&mut self) {
        for dying in self.table.take_dying(usize::MAX) {
            let letter = Offset(self.letter_next);
            self.letter_next += 1;
            let died = self.table.bury(dying.offset, letter, self.now());
            self.decided(died.into_iter().collect());
            self.promise(dying.attempts == ATTEMPTS_MAX, "dead exactly at the limit");
        }
    }

    fn sync(&mut self) {
        for event in std::mem::take(&mut self.pending).into_iter().flatten() {
            self.durable.apply(&event, self.now()).expect("it was true when it was decided");
        }
        if let Some(number) = self.held.take() {
            self.table.release_held(number);
        }
        self.answered.append(&mut self.unanswered);
    }

    fn crash(&mut self) {
        self.pending.clear();
        self.held = None;
        self.unanswered.clear();
        self.table = self.durable.clone();
        self.table.recovered(self.now());
        self.deadlines.clear();
        for message in self.durable.snapshot(OF).messages.iter().filter(|message| message.lease_ms > 0) {
            self.deadlines.insert(message.offset, self.mono_ms + message.lease_ms);
        }
        self.epoch += 1;
        self.tokens = TokenSource::new(Epoch(self.epoch));
        self.restarts += 1;
    }

    fn check(&mut self, messages: u64) {
        self.table.check();
        let counts = self.table.counts();
        let states = (0..messages).map(|offset| self.table.state(Offset(offset)));
        let settled = states.filter(|state| *state == MessageState::Settled).count() as u64;
        self.promise(settled + counts.dead + counts.lag() == messages, "nothing is lost");
        for offset in self.answered.clone() {
            let state = self.table.state(Offset(offset));
            self.promise(state == MessageState::Settled, "what was answered stays settled");
        }
        // A crash may repeat one attempt of a message.
        let most = ATTEMPTS_MAX + self.restarts;
        self.promise(
            self.deliveries.iter().all(|count| *count <= most),
            "a crash repeats one attempt at most",
        );
    }

    /// All that decides what can still happen: the same for states that differ only in the time of day, in the numbers
    /// of their tokens, or in which of two equal workers has what.
    fn essence(&self) -> Essence {
        let (table, durable) = (self.table.snapshot(OF), self.durable.snapshot(OF));
        let mut tokens: BTreeSet<LeaseToken> =
            self.workers.iter().flatten().map(|(_, token)| *token).collect();
        tokens.extend(
            [&table, &durable].into_iter().flat_map(|snapshot| snapshot.messages.iter().map(token_of)),
        );
        tokens.extend(self.pending.iter().flatten().filter_map(leased_under));
        let rank = |token: LeaseToken| tokens.range(..token).count();
        let facts = |snapshot: &QueueSnapshot| {
            let mut facts = vec![snapshot.floor];
            facts.extend(snapshot.settled.iter().map(|byte| u64::from(*byte)));
            for message in &snapshot.messages {
                let bits = u64::from(message.started) << 1 | u64::from(message.letter.is_some());
                let rank = rank(token_of(message)) as u64;
                facts.extend([message.offset, u64::from(message.attempts), rank, message.lease_ms, bits]);
            }
            facts
        };
        let mut workers: Vec<_> =
            self.workers.iter().map(|held| held.map(|(offset, token)| (offset, rank(token)))).collect();
        workers.sort();
        let pending = self.pending.iter().flatten().map(|event| {
            let rank = leased_under(event).map(rank);
            match event.event.as_ref().expect("an event") {
                Event::Leased(leased) => (0, leased.offset, rank),
                Event::Settled(settled) => (1, settled.offset, rank),
                Event::Returned(returned) => (2, returned.offset, rank),
                Event::Died(died) => (3, died.offset, rank),
                other => unreachable!("{other:?}"),
            }
        });
        Essence {
            table: facts(&table),
            durable: facts(&durable),
            pending: pending.collect(),
            unanswered: self.unanswered.clone(),
            workers,
            left_ms: self.deadlines.iter().map(|(offset, at)| (*offset, at - self.mono_ms)).collect(),
            answered: self.answered.clone(),
            deliveries: self.deliveries.clone(),
            crashes: (self.crashes, self.restarts),
            broken: self.broken,
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Essence {
    table: Vec<u64>,
    durable: Vec<u64>,
    pending: Vec<(u8, u64, Option<usize>)>,
    unanswered: BTreeSet<u64>,
    workers: Vec<Option<(u64, usize)>>,
    left_ms: Vec<(u64, u64)>,
    answered: BTreeSet<u64>,
    deliveries: Vec<u32>,
    crashes: (u32, u32),
    broken: Option<&'static str>,
}

fn token_of(message: &dure_proto::journal::QueueMessageSnapshot) -> LeaseToken {
    LeaseToken { epoch: Epoch(message.epoch), counter: message.counter }
}

fn leased_under(event: &QueueEvent) -> Option<LeaseToken> {
    match event.event.as_ref()? {
        Event::Leased(leased) => Some(LeaseToken { epoch: Epoch(leased.epoch), counter: leased.counter }),
        _ => None,
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
        let states: Vec<_> =
            (0..self.deliveries.len() as u64).map(|at| self.table.state(Offset(at))).collect();
        write!(f, "{states:?}, workers {:?}, broken {:?}", self.workers, self.broken)
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let settings = LeaseSettings {
            attempts_max: ATTEMPTS_MAX,
            backoff_first_ms: 0,
            backoff_max_ms: 0,
            ..LeaseSettings::default()
        };
        let mut table = LeaseTable::new(settings, Offset::ZERO);
        table.handle_high_watermark(Offset(self.messages));
        vec![World {
            durable: table.clone(),
            table,
            pending: Vec::new(),
            held: None,
            unanswered: BTreeSet::new(),
            tokens: TokenSource::new(Epoch(1)),
            token_last: None,
            epoch: 1,
            mono_ms: 0,
            deadlines: BTreeMap::new(),
            workers: vec![None; self.workers],
            answered: BTreeSet::new(),
            deliveries: vec![0; self.messages as usize],
            restarts: 0,
            crashes: 0,
            letter_next: 0,
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        actions.extend((!world.pending.is_empty()).then_some(Step::Sync));
        actions.extend((world.crashes < self.crashes).then_some(Step::Crash));
        if world.pending.len() >= self.unsynced {
            return;
        }
        for (worker, held) in world.workers.iter().enumerate() {
            match held {
                None if world.table.grantable() > 0 => actions.push(Step::Take(worker)),
                None => {}
                Some(_) => {
                    actions.extend([Step::Ack(worker), Step::Release(worker)]);
                    actions.extend((world.crashes < self.crashes).then_some(Step::Die(worker)));
                }
            }
        }
        actions.extend(world.table.poll_timeout().map(|_| Step::LeaseEnds));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Take(worker) => world.take(worker),
            Step::Ack(worker) => world.settle(worker, &SettleAction::Ack),
            Step::Release(worker) => {
                world.settle(worker, &SettleAction::Release { delay_ms: None, reason: String::new() })
            }
            Step::Die(worker) => {
                world.workers[worker] = None;
                world.crashes += 1;
            }
            Step::LeaseEnds => world.lease_ends(),
            Step::Sync => world.sync(),
            Step::Crash => {
                world.crashes += 1;
                world.crash();
            }
        }
        world.bury();
        world.check(self.messages);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no promise is broken", |_, world: &World| world.broken.is_none()),
            Property::eventually("every message ends settled or dead, and on disk", |_, world: &World| {
                world.table.counts().lag() == 0 && world.pending.is_empty()
            }),
            Property::sometimes("a message dies", |_, world: &World| world.table.counts().dead > 0),
            Property::sometimes("a crash repeats an attempt", |_, world: &World| {
                world.deliveries.iter().any(|count| *count > ATTEMPTS_MAX)
            }),
        ]
    }
}

#[test]
fn no_order_of_events_breaks_a_promise_of_the_lease_table() {
    let all = std::env::var_os("EXHAUSTIVE").is_some();
    let bounds = match all {
        true => Bounds { workers: 3, messages: 4, crashes: 2, unsynced: 2 },
        false => Bounds { workers: 2, messages: 2, crashes: 2, unsynced: 2 },
    };
    let threads = if all { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let checked = bounds.checker().threads(threads).spawn_dfs().join();
    println!(
        "{bounds:?}: {} states, {} of them different",
        checked.state_count(),
        checked.unique_state_count()
    );
    checked.assert_properties();
}
