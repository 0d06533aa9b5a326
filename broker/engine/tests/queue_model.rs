//! The lease table against a naive model: random operations, crashes with replay from the beginning or from a
//! snapshot, lost last commits. After every step every offset, every count and every index must agree.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dure_engine::{
    Counts, Jitter, LeaseSettings, LeaseTable, LeaseTerms, MessageState, Now, SettleAction, SettleError,
    Settlement, TokenSource,
};
use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, TopicId, TopicPartition};
use proptest::prelude::*;

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };

fn settings() -> LeaseSettings {
    LeaseSettings {
        lease_ms: 10_000,
        attempts_max: 3,
        backoff_first_ms: 1_000,
        backoff_max_ms: 3_000,
        messages_max: 12,
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Append(u64),
    LogStart(u8),
    Grant { count: u32, lease_ms: u64, started: bool },
    Settle { pick: usize, action: SettleAction },
    Forge { offset: u64, epoch: u64, counter: u64 },
    Advance(u64),
    ReleaseUnstarted(usize),
    TakeDying(usize),
    Bury,
    LetterFailed,
    Undeliverable(u8),
    Lost { from: u8, count: u64 },
    Redrive(u64),
    Purge(u64),
    Seek(u8),
    Checkpoint,
    Crash { from_checkpoint: bool, lose_last: bool, down_ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let action = prop_oneof![
        4 => Just(SettleAction::Ack),
        3 => Just(SettleAction::Start),
        3 => proptest::option::of(0u64..5_000).prop_map(|delay_ms| SettleAction::Release { delay_ms }),
        2 => Just(SettleAction::Reject { reason: "no".into() }),
        2 => proptest::option::of(1u64..20_000).prop_map(|lease_ms| SettleAction::Extend { lease_ms }),
    ];
    prop_oneof![
        4 => (1u64..6).prop_map(Op::Append),
        1 => any::<u8>().prop_map(Op::LogStart),
        8 => (1u32..6, 1u64..15_000, any::<bool>())
            .prop_map(|(count, lease_ms, started)| Op::Grant { count, lease_ms, started }),
        16 => (0usize..24, action).prop_map(|(pick, action)| Op::Settle { pick, action }),
        1 => (0u64..30, 1u64..3, 1u64..30)
            .prop_map(|(offset, epoch, counter)| Op::Forge { offset, epoch, counter }),
        8 => (0u64..12_000).prop_map(Op::Advance),
        1 => (0usize..12).prop_map(Op::ReleaseUnstarted),
        4 => (1usize..4).prop_map(Op::TakeDying),
        4 => Just(Op::Bury),
        1 => Just(Op::LetterFailed),
        1 => any::<u8>().prop_map(Op::Undeliverable),
        1 => (any::<u8>(), 1u64..5).prop_map(|(from, count)| Op::Lost { from, count }),
        2 => (1u64..3).prop_map(Op::Redrive),
        1 => (1u64..3).prop_map(Op::Purge),
        1 => any::<u8>().prop_map(Op::Seek),
        1 => Just(Op::Checkpoint),
        2 => (any::<bool>(), any::<bool>(), 0u64..5_000)
            .prop_map(|(from_checkpoint, lose_last, down_ms)| Op::Crash { from_checkpoint, lose_last, down_ms }),
    ]
}

// ---- the model ---------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready,
    Delayed { due_mono: u64, due_wall: u64 },
    Leased { deadline: u64, lease_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Doom {
    rejected: bool,
    taken: bool,
}

/// One message, spelt out.
#[derive(Clone, Debug)]
struct Message {
    /// To be delivered, sooner or later.
    alive: bool,
    /// The source log needs to keep it for this group.
    held: bool,
    place: Place,
    attempts: u32,
    token: Option<LeaseToken>,
    started: bool,
    /// Redriven: its bytes are there.
    letter: Option<u64>,
    doom: Option<Doom>,
    /// In the dead letters, there, after so many attempts.
    dead: Option<(u64, u32)>,
}

const FRESH: Message = Message {
    alive: true,
    held: true,
    place: Place::Ready,
    attempts: 0,
    token: None,
    started: false,
    letter: None,
    doom: None,
    dead: None,
};

impl Message {
    fn is_known(&self) -> bool {
        self.alive && (self.token.is_some() || self.letter.is_some() || self.doom.is_some())
    }

    fn state(&self) -> MessageState {
        match (self.alive, self.dead, self.doom, self.place) {
            (false, Some(_), ..) => MessageState::Dead,
            (false, None, ..) => MessageState::Settled,
            (true, _, Some(_), _) => MessageState::Dying,
            (true, _, None, Place::Ready) => MessageState::Ready,
            (true, _, None, Place::Delayed { .. }) => MessageState::Delayed,
            (true, _, None, Place::Leased { .. }) => MessageState::Leased,
        }
    }

    fn settle(&mut self) {
        *self = Message { alive: false, held: false, dead: self.dead, ..FRESH };
    }

    fn give_back(&mut self, due_wall: u64, now: Now) {
        self.place = Place::Ready;
        if self.attempts >= settings().attempts_max {
            self.doom = Some(Doom { rejected: false, taken: false });
        } else if due_wall > now.wall_ms {
            self.place = Place::Delayed { due_mono: now.mono_ms + due_wall - now.wall_ms, due_wall };
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    messages: Vec<Message>,
    log_start: u64,
    /// Acknowledged since a seek last went below it: never to be delivered again.
    acked: BTreeSet<u64>,
}

impl Model {
    fn floor(&self) -> u64 {
        let held = self.messages.iter().position(|message| message.held);
        held.unwrap_or(self.messages.len()) as u64
    }

    fn is_full(&self) -> bool {
        let known = self.messages.iter().filter(|message| message.is_known() || message.dead.is_some());
        known.count() >= settings().messages_max
    }

    /// Returned ones first, then fresh ones.
    fn next(&self) -> Option<u64> {
        let ready = |known: bool| {
            let mut all = self.messages.iter();
            all.position(|m| m.alive && m.is_known() == known && m.state() == MessageState::Ready)
        };
        ready(true).or_else(|| if self.is_full() { None } else { ready(false) }).map(|at| at as u64)
    }

    fn settle(
        &mut self,
        offset: u64,
        token: LeaseToken,
        action: &SettleAction,
        now: Now,
        due_wall: Option<u64>,
    ) -> Result<Settlement, SettleError> {
        let Some(message) = self.messages.get_mut(offset as usize) else {
            return Err(SettleError::UnknownReceipt);
        };
        if !message.alive {
            return match action {
                SettleAction::Ack => Ok(Settlement::AlreadySettled),
                _ => Err(SettleError::AlreadySettled),
            };
        }
        match message.token {
            Some(last) if last == token => {}
            Some(last) if last > token => return Err(SettleError::StaleLease),
            _ => return Err(SettleError::UnknownReceipt),
        }
        let rejected = message.doom.is_some_and(|doom| doom.rejected);
        let leased_for =
            |lease_ms| (Place::Leased { deadline: now.mono_ms + lease_ms, lease_ms }, None::<Doom>);
        match action {
            SettleAction::Ack => {
                message.settle();
                self.acked.insert(offset);
            }
            SettleAction::Reject { .. } => {
                let taken = message.doom.is_some_and(|doom| doom.taken);
                message.doom = Some(Doom { rejected: true, taken });
                return Ok(Settlement::Dying);
            }
            _ if rejected => return Err(SettleError::AlreadySettled),
            SettleAction::Start => {
                if !matches!(message.place, Place::Leased { .. }) {
                    (message.place, message.doom) = leased_for(settings().lease_ms);
                }
                message.attempts += u32::from(!message.started);
                message.started = true;
            }
            SettleAction::Extend { lease_ms } => {
                (message.place, message.doom) = leased_for(lease_ms.unwrap_or(settings().lease_ms));
            }
            SettleAction::Release { .. } if message.doom.is_some() => {}
            SettleAction::Release { .. } => message.give_back(due_wall.unwrap_or(0), now),
        }
        Ok(Settlement::Done)
    }

    fn seek(&mut self, to: u64) {
        for (offset, message) in (0u64..).zip(&mut self.messages) {
            if offset < to {
                message.settle();
            } else if message.dead.is_some() {
            } else if message.letter.is_some() {
                *message = Message { held: false, letter: message.letter, ..FRESH };
            } else {
                *message = FRESH;
            }
        }
        self.acked.retain(|offset| *offset < to);
    }

    /// Only what is in the journal survives; leases run anew.
    fn crash(&mut self, now: Now) {
        for message in self.messages.iter_mut().filter(|message| message.alive) {
            message.doom = None;
            match &mut message.place {
                Place::Leased { deadline, lease_ms } => *deadline = now.mono_ms + *lease_ms,
                Place::Delayed { due_wall, .. } => {
                    let due_wall = *due_wall;
                    message.give_back(due_wall, now);
                }
                Place::Ready => message.give_back(0, now),
            }
        }
    }
}

// ---- the world: table, journal and model side by side ------------------------------------------------

#[derive(Clone, Debug)]
enum Entry {
    Event(QueueEvent),
    HighWatermark(Offset),
    LogStart(Offset),
}

struct World {
    now: Now,
    table: LeaseTable,
    tokens: TokenSource,
    epoch: u64,
    model: Model,
    journal: Vec<Entry>,
    /// What was known before the last operation, for a crash that loses its commit.
    before: (Model, usize),
    checkpoint: Option<(journal::QueueSnapshot, usize)>,
    /// Every receipt ever given out.
    receipts: Vec<(Offset, LeaseToken)>,
    given: HashSet<LeaseToken>,
    letter_next: u64,
}

impl World {
    fn new() -> World {
        World {
            now: Now { mono_ms: 5, wall_ms: 1_700_000_000_000 },
            table: LeaseTable::new(settings(), Offset::ZERO),
            tokens: TokenSource::new(Epoch(1)),
            epoch: 1,
            model: Model::default(),
            journal: Vec::new(),
            before: (Model::default(), 0),
            checkpoint: None,
            receipts: Vec::new(),
            given: HashSet::new(),
            letter_next: 100,
        }
    }

    fn at(&self, place: u8) -> u64 {
        self.table.high_watermark().0 * u64::from(place) / 255
    }

    fn step(&mut self, op: &Op) {
        if !matches!(op, Op::Crash { .. } | Op::Checkpoint) {
            self.before = (self.model.clone(), self.journal.len());
        }
        let mut events = Vec::new();
        self.operate(op, &mut events);
        self.journal.extend(events.into_iter().map(Entry::Event));
        self.compare();
    }

    fn operate(&mut self, op: &Op, events: &mut Vec<QueueEvent>) {
        let now = self.now;
        match op.clone() {
            Op::Append(count) => {
                let end = Offset(self.model.messages.len() as u64 + count);
                self.model.messages.resize(end.0 as usize, FRESH);
                self.table.handle_high_watermark(end);
                self.journal.push(Entry::HighWatermark(end));
            }
            Op::LogStart(place) => {
                let start = self.at(place).max(self.model.log_start);
                self.model.log_start = start;
                for message in &mut self.model.messages[..start as usize] {
                    message.held = false;
                    if message.letter.is_none() {
                        message.settle();
                    }
                }
                self.table.handle_log_start(Offset(start));
                self.journal.push(Entry::LogStart(Offset(start)));
            }
            Op::Grant { count, lease_ms, started } => self.grant(count, lease_ms, started, events),
            Op::Settle { pick, action } => self.settle(pick, &action, events),
            Op::Forge { offset, epoch, counter } => {
                let token = LeaseToken { epoch: Epoch(epoch), counter };
                if !self.given.contains(&token) {
                    let ack = SettleAction::Ack;
                    let result = self.table.settle(Offset(offset), token, &ack, Jitter(0), now, events);
                    assert_eq!(result, self.model.settle(offset, token, &ack, now, None));
                    assert!(events.is_empty(), "a forged receipt had an effect");
                }
            }
            Op::Advance(ms) => {
                self.now.mono_ms += ms;
                self.now.wall_ms += ms;
                self.time_out(events);
            }
            Op::ReleaseUnstarted(count) => {
                let held: Vec<_> = self.receipts.iter().rev().take(count).copied().collect();
                self.table.release_unstarted(held.clone(), now, events);
                for (offset, token) in held {
                    let message = &mut self.model.messages[offset.0 as usize];
                    let holds = message.state() == MessageState::Leased && message.token == Some(token);
                    if holds && !message.started {
                        message.give_back(0, now);
                    }
                }
            }
            Op::TakeDying(count) => {
                for dying in self.table.take_dying(count) {
                    let message = &mut self.model.messages[dying.offset.0 as usize];
                    let doom = message.doom.as_mut().expect("it does not die in the model");
                    assert!(!doom.taken, "taken twice");
                    doom.taken = true;
                    assert_eq!(
                        (dying.attempts, dying.letter),
                        (message.attempts, message.letter.map(Offset))
                    );
                }
            }
            Op::Bury => self.bury(events),
            Op::LetterFailed => {
                for (offset, message) in (0u64..).zip(&mut self.model.messages) {
                    if let Some(doom) = &mut message.doom {
                        doom.taken = false;
                        self.table.handle_letter_failed(Offset(offset));
                    }
                }
            }
            Op::Undeliverable(place) => {
                let offset = self.at(place);
                self.table.handle_undeliverable(Offset(offset), "cannot be decoded");
                if let Some(message) = self.model.messages.get_mut(offset as usize)
                    && message.alive
                    && message.doom.is_none()
                {
                    message.doom = Some(Doom { rejected: true, taken: false });
                }
            }
            Op::Lost { from, count } => {
                let from = self.at(from);
                let to = (from + count).min(self.model.messages.len() as u64);
                self.table.handle_lost(Offset(from), Offset(to), now, events);
                for message in &mut self.model.messages[from as usize..to as usize] {
                    if message.letter.is_none() {
                        message.settle();
                    }
                }
            }
            Op::Redrive(count) => {
                let count = self.table.redrive(count, Offset::MAX, now, events);
                for (_, message) in self.lowest_dead(count) {
                    let letter = message.dead.map(|(letter, _)| letter);
                    *message = Message { held: false, letter, ..FRESH };
                }
            }
            Op::Purge(count) => {
                let count = self.table.purge_dead(count, now, events);
                for (_, message) in self.lowest_dead(count) {
                    message.dead = None;
                }
            }
            Op::Seek(place) => {
                let to = self.at(place).max(self.model.log_start);
                assert_eq!(self.table.seek(Offset(to), now, events), Offset(to));
                self.model.seek(to);
            }
            Op::Checkpoint => self.checkpoint = Some((self.table.snapshot(OF), self.journal.len())),
            Op::Crash { from_checkpoint, lose_last, down_ms } => {
                self.crash(from_checkpoint, lose_last, down_ms, events);
            }
        }
    }

    fn lowest_dead(&mut self, count: u64) -> impl Iterator<Item = (u64, &mut Message)> {
        let all = (0u64..).zip(&mut self.model.messages);
        all.filter(|(_, message)| message.dead.is_some()).take(count as usize)
    }

    fn grant(&mut self, count: u32, lease_ms: u64, started: bool, events: &mut Vec<QueueEvent>) {
        let terms = LeaseTerms { lease_ms, started };
        let grantable = self.table.grantable();
        let grants = self.table.grant(self.now, count, terms, &mut self.tokens, events);
        assert_eq!(grants.len() as u64, grantable.min(u64::from(count)), "grantable was wrong");
        for grant in &grants {
            let offset = grant.offset.0;
            assert!(self.given.insert(grant.token), "token {:?} was given out before", grant.token);
            assert!(!self.model.acked.contains(&offset), "{offset} was acknowledged and is granted");
            assert_eq!(self.model.next(), Some(offset));
            let message = &mut self.model.messages[offset as usize];
            message.token = Some(grant.token);
            message.started = started;
            message.attempts += u32::from(started);
            message.place = Place::Leased { deadline: self.now.mono_ms + lease_ms, lease_ms };
            assert_eq!(grant.attempt, message.attempts + u32::from(!started));
            assert_eq!(grant.letter, message.letter.map(Offset));
            self.receipts.push((grant.offset, grant.token));
        }
        if grants.len() < count as usize {
            assert_eq!(self.model.next(), None, "something could have been granted");
        }
    }

    fn settle(&mut self, pick: usize, action: &SettleAction, events: &mut Vec<QueueEvent>) {
        let Some((offset, token)) = self.receipts.iter().rev().nth(pick).copied() else { return };
        let attempts = self.model.messages[offset.0 as usize].attempts;
        let result = self.table.settle(offset, token, action, Jitter(pick as u64 * 31), self.now, events);
        let due = events.iter().find_map(|event| match &event.event {
            Some(Event::Returned(returned)) => Some(returned.due_wall_ms),
            _ => None,
        });
        match action {
            SettleAction::Release { delay_ms: Some(ms) } if attempts < 3 => {
                let expected = if *ms == 0 { 0 } else { self.now.wall_ms + ms };
                assert!(due.is_none_or(|due| due == expected));
            }
            SettleAction::Release { delay_ms: None } if attempts < 3 => {
                assert!(due.is_none_or(|due| is_backoff(attempts, due - self.now.wall_ms)));
            }
            _ => {}
        }
        let expected = self.model.settle(offset.0, token, action, self.now, due);
        assert_eq!(result, expected, "{action:?} of {offset} with {token:?}");
        if result.is_err() || result == Ok(Settlement::AlreadySettled) {
            assert!(events.is_empty(), "it failed and had an effect");
        }
    }

    fn time_out(&mut self, events: &mut Vec<QueueEvent>) {
        let now = self.now;
        self.table.handle_timeout(now, events);
        assert!(self.table.poll_timeout().is_none_or(|at| at > now.mono_ms), "it left something over");
        let mut returned: BTreeMap<u64, u64> = BTreeMap::new();
        for event in events.iter() {
            let Some(Event::Returned(event)) = &event.event else { panic!("time does only this") };
            assert!(returned.insert(event.offset, event.due_wall_ms).is_none(), "returned twice");
        }
        for (offset, message) in (0u64..).zip(&mut self.model.messages) {
            match (message.state(), message.place) {
                (MessageState::Delayed, Place::Delayed { due_mono, .. }) if due_mono <= now.mono_ms => {
                    message.place = Place::Ready;
                }
                (MessageState::Leased, Place::Leased { deadline, .. }) if deadline < now.mono_ms => {
                    let due = returned.remove(&offset).expect("its lease is over");
                    assert_eq!(due, 0, "its worker is gone, and the lease was wait enough");
                    message.give_back(due, now);
                }
                _ => {}
            }
        }
        assert!(returned.is_empty(), "returned before its time: {returned:?}");
    }

    /// What the shard does when the bytes have come: everything taken is buried, in any order.
    fn bury(&mut self, events: &mut Vec<QueueEvent>) {
        for offset in (0..self.model.messages.len() as u64).rev() {
            let message = &mut self.model.messages[offset as usize];
            let taken = message.doom.is_some_and(|doom| doom.taken);
            assert_eq!(self.table.is_dying(Offset(offset)), message.doom.is_some());
            if !taken {
                continue;
            }
            let letter = self.letter_next;
            self.letter_next += 1;
            let event = self.table.bury(Offset(offset), Offset(letter), self.now).expect("it dies");
            let Some(Event::Died(died)) = &event.event else { panic!("not a death") };
            let rejected = message.doom.is_some_and(|doom| doom.rejected);
            assert!(rejected || died.attempts == settings().attempts_max, "dead before the limit");
            assert_eq!(died.attempts, message.attempts);
            message.dead = Some((letter, message.attempts));
            message.settle();
            events.push(event);
            assert_eq!(self.table.bury(Offset(offset), Offset(letter), self.now), None);
        }
    }

    fn crash(&mut self, from_checkpoint: bool, lose_last: bool, down_ms: u64, events: &mut Vec<QueueEvent>) {
        let mut lost = false;
        if lose_last {
            let checkpoint_end = self.checkpoint.as_ref().map_or(0, |(_, at)| *at);
            if self.before.1 >= checkpoint_end {
                self.model = self.before.0.clone();
                self.journal.truncate(self.before.1);
                lost = true;
            }
        }
        self.now.wall_ms += down_ms;
        let live = durable(&self.table, self.now);
        self.now.mono_ms = 3;
        let (mut table, from) = match self.checkpoint.as_ref().filter(|_| from_checkpoint) {
            Some((snapshot, from)) => {
                (LeaseTable::restore(snapshot, settings(), self.now).expect("it is ours"), *from)
            }
            None => (LeaseTable::new(settings(), Offset::ZERO), 0),
        };
        for entry in &self.journal[from..] {
            match entry {
                Entry::Event(event) => table.apply(event, self.now).expect("it fits"),
                Entry::HighWatermark(end) => table.handle_high_watermark(*end),
                Entry::LogStart(start) => table.handle_log_start(*start),
            }
            table.check();
        }
        table.handle_log_start(Offset(self.model.log_start));
        table.handle_high_watermark(Offset(self.model.messages.len() as u64));
        assert!(lost || durable(&table, self.now) == live, "replay differs from what was live");
        table.recovered(self.now);
        self.model.crash(self.now);
        self.table = table;
        self.epoch += 1;
        self.tokens = TokenSource::new(Epoch(self.epoch));
        self.receipts.retain(|(offset, _)| (offset.0 as usize) < self.model.messages.len());
        self.before = (self.model.clone(), self.journal.len());
        self.compare();
        self.time_out(events);
    }

    fn compare(&self) {
        self.table.check();
        let mut counts = Counts::default();
        let mut acked = 0;
        for (offset, message) in (0u64..).zip(&self.model.messages) {
            let state = message.state();
            assert_eq!(self.table.state(Offset(offset)), state, "offset {offset}: {message:?}");
            match state {
                MessageState::Ready => counts.ready += 1,
                MessageState::Delayed => counts.delayed += 1,
                MessageState::Leased | MessageState::Dying => counts.leased += 1,
                MessageState::Dead => counts.dead += 1,
                MessageState::Settled => acked += 1,
                MessageState::Absent => panic!("{offset} is in the log"),
            }
        }
        assert_eq!(self.table.counts(), counts);
        assert_eq!(self.table.high_watermark().0, acked + counts.dead + counts.lag(), "one is lost");
        assert_eq!(self.table.floor().0, self.model.floor());
        let alive = self.model.messages.iter().position(|message| message.alive);
        assert_eq!(self.table.oldest_unsettled(), alive.map(|at| Offset(at as u64)));
        assert_eq!(self.table.is_full(), self.model.is_full());
        let dead = (0u64..).zip(&self.model.messages).filter_map(|(at, m)| m.dead.map(|dead| (at, dead)));
        let listed = self.table.dead_letters(None).map(|(at, dead)| (at.0, (dead.letter.0, dead.attempts)));
        assert_eq!(listed.collect::<Vec<_>>(), dead.collect::<Vec<_>>());
        let letters = self.model.messages.iter();
        let letters = letters.filter_map(|m| m.letter.or(m.dead.map(|(letter, _)| letter)));
        assert_eq!(self.table.first_letter(), letters.min().map(Offset));
    }

    /// A snapshot holds everything that a restart needs.
    fn compare_snapshots(&self) {
        let snapshot = self.table.snapshot(OF);
        let mut restored = LeaseTable::restore(&snapshot, settings(), self.now).expect("it is ours");
        restored.handle_log_start(Offset(self.model.log_start));
        restored.handle_high_watermark(self.table.high_watermark());
        restored.check();
        assert_eq!(durable(&restored, self.now), durable(&self.table, self.now));
    }
}

/// What of a table survives a crash: floor, settled offsets, and messages with waits that are not over.
fn durable(table: &LeaseTable, now: Now) -> (u64, Vec<u64>, Vec<journal::QueueMessageSnapshot>) {
    let snapshot = table.snapshot(OF);
    let settled = roaring::RoaringTreemap::deserialize_from(snapshot.settled.as_slice()).expect("it is ours");
    let mut messages = snapshot.messages;
    for message in messages.iter_mut().filter(|message| message.due_wall_ms <= now.wall_ms) {
        message.due_wall_ms = 0;
    }
    (snapshot.floor, settled.iter().collect(), messages)
}

/// The first wait, doubled with each further attempt, up to a quarter more, never above the bound.
fn is_backoff(attempts: u32, wait_ms: u64) -> bool {
    match attempts {
        0 | 1 => (1_000..=1_250).contains(&wait_ms),
        2 => (2_000..=2_500).contains(&wait_ms),
        _ => (2_400..=3_000).contains(&wait_ms),
    }
}

/// What may happen to a table.
pub(crate) fn histories() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 1..150)
}

/// Lets it happen to the table and to the model: they agree after every step.
pub(crate) fn run(ops: &[Op]) {
    let mut world = World::new();
    for op in ops {
        world.step(op);
    }
    world.compare_snapshots();
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(ops in histories()) {
        run(&ops);
    }
}
