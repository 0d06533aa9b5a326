//! Table, journal and model side by side.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dure_engine::{
    Counts, Jitter, LeaseSettings, LeaseTable, LeaseTerms, MessageState, Now, RecordFacts, RecordTable,
    SettleAction, Settlement, TokenSource,
};
use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{Epoch, KeyHash, LeaseToken, Offset, PartitionId, TopicId, TopicPartition};

use super::model::{Doom, FRESH, Message, Model, Place};
use super::ops::Op;
use super::settings;

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };

#[derive(Clone, Debug)]
enum Entry {
    Event(QueueEvent),
    HighWatermark(Offset),
    LogStart(Offset),
}

pub(crate) struct World {
    settings: LeaseSettings,
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
    /// Messages whose records were shown since the window began anew.
    shown: BTreeSet<u64>,
    /// The group looks into messages.
    looks: bool,
}

impl World {
    pub(crate) fn new(settings: LeaseSettings, looks: bool) -> World {
        let model = Model { by_key: settings.by_key, ..Model::default() };
        let mut world = World {
            now: Now { mono_ms: 5, wall_ms: 1_700_000_000_000 },
            table: LeaseTable::new(settings.clone(), Offset::ZERO),
            settings,
            tokens: TokenSource::new(Epoch(1)),
            epoch: 1,
            before: (model.clone(), 0),
            model,
            journal: Vec::new(),
            checkpoint: None,
            receipts: Vec::new(),
            given: HashSet::new(),
            letter_next: 100,
            shown: BTreeSet::new(),
            looks,
        };
        if looks {
            world.table.look_inside();
        }
        world
    }

    fn at(&self, place: u8) -> u64 {
        self.table.high_watermark().0 * u64::from(place) / 255
    }

    pub(crate) fn step(&mut self, op: &Op) {
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
            Op::Append(messages) => {
                for (key, ttl) in messages {
                    self.model.keys.push(key);
                    self.model.expires.push(ttl.map(|ttl| now.wall_ms + ttl));
                }
                let end = Offset(self.model.keys.len() as u64);
                self.model.messages.resize(end.0 as usize, FRESH);
                self.table.handle_high_watermark(end);
                self.journal.push(Entry::HighWatermark(end));
            }
            Op::Scan(count) => {
                if let Some(from) = self.take_wanted() {
                    let end = (from + count).min(self.model.keys.len() as u64);
                    self.shown.extend(from..end);
                    let facts = (from..end).map(|at| self.look_at(at)).collect();
                    self.table.handle_records(Offset(from), &RecordTable::Records(facts), now);
                    assert!(self.table.scanned() >= Some(Offset(end)), "it stopped with room left");
                }
            }
            Op::ScanUndecodable(count) => {
                if let Some(from) = self.take_wanted() {
                    let end = (from + count).min(self.model.keys.len() as u64);
                    let reason = "it cannot be decoded".to_owned();
                    let table = RecordTable::Undecodable { end: Offset(end), reason };
                    self.table.handle_records(Offset(from), &table, now);
                    for offset in from..end {
                        if self.model.is_full() {
                            break;
                        }
                        self.shown.insert(offset);
                        self.condemn(offset, false);
                    }
                }
            }
            Op::ScanFailed => {
                if let Some(from) = self.take_wanted() {
                    self.table.handle_records(Offset(from), &RecordTable::Failed, now);
                    assert_eq!(self.table.take_wanted_records(now), None, "it asks without end");
                    assert!(self.table.poll_timeout().is_some());
                }
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
            Op::AckUpTo(place) => {
                let (offset, token, action) = (self.at(place), LeaseToken::NONE, SettleAction::AckUpTo);
                let result = self.table.settle(Offset(offset), token, &action, Jitter(0), now, events);
                assert_eq!(result, self.model.settle(offset, token, &action, now, None));
            }
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
                let scanned = self.scanned();
                let there = self.model.messages.get(offset as usize);
                let expires = there.is_some_and(|message| message.expires.is_some());
                let goes = there.is_some() && (expires || self.model.may_go(offset, scanned));
                self.table.handle_undeliverable(Offset(offset), "cannot be decoded");
                self.condemn(offset, goes);
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
                    *message = Message { held: false, letter, key_known: message.key_known, ..FRESH };
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
                self.shown.clear();
            }
            Op::Checkpoint => self.checkpoint = Some((self.table.snapshot(OF), self.journal.len())),
            Op::Crash { from_checkpoint, lose_last, down_ms } => {
                self.crash(from_checkpoint, lose_last, down_ms, events);
            }
        }
    }

    fn scanned(&self) -> u64 {
        self.table.scanned().map_or(0, |scanned| scanned.0)
    }

    fn look_at(&mut self, offset: u64) -> RecordFacts {
        let key = KeyHash::from_stored(u64::from(self.model.keys[offset as usize]));
        let expires_wall_ms = self.model.expires[offset as usize];
        let message = &mut self.model.messages[offset as usize];
        if message.alive && message.letter.is_none() {
            let in_ms = |wall_ms: u64| wall_ms.saturating_sub(self.now.wall_ms);
            message.expires = expires_wall_ms.map(|wall_ms| self.now.mono_ms + in_ms(wall_ms));
        }
        RecordFacts { key, expires_wall_ms, ..RecordFacts::default() }
    }

    /// Where a record table is wanted: at the first unsettled message that was not shown yet.
    fn take_wanted(&mut self) -> Option<u64> {
        let from = self.table.take_wanted_records(self.now)?.0;
        assert!(self.looks, "a group that need not look into messages does");
        assert_eq!(self.table.take_wanted_records(self.now), None, "asked twice");
        assert!(self.model.messages[from as usize].held, "{from} is settled");
        Some(from)
    }

    fn condemn(&mut self, offset: u64, key_known: bool) {
        if let Some(message) = self.model.messages.get_mut(offset as usize)
            && message.alive
            && message.doom.is_none()
        {
            message.key_known |= key_known && !message.is_known();
            message.doom = Some(Doom { rejected: true, taken: false });
        }
    }

    fn lowest_dead(&mut self, count: u64) -> impl Iterator<Item = (u64, &mut Message)> {
        let all = (0u64..).zip(&mut self.model.messages);
        all.filter(|(_, message)| message.dead.is_some()).take(count as usize)
    }

    fn grant(&mut self, count: u32, lease_ms: u64, started: bool, events: &mut Vec<QueueEvent>) {
        self.table.handle_expired(self.now, events);
        self.model.expire(self.now, self.settings.expired_die);
        let terms = LeaseTerms { lease_ms, started };
        let grantable = self.table.grantable();
        let grants = self.table.grant(self.now, count, terms, &mut self.tokens, events);
        assert_eq!(grants.len() as u64, grantable.min(u64::from(count)), "grantable was wrong");
        for grant in &grants {
            let offset = grant.offset.0;
            assert!(self.given.insert(grant.token), "token {:?} was given out before", grant.token);
            assert!(!self.model.acked.contains(&offset), "{offset} was acknowledged and is granted");
            self.check_may_go(offset);
            let message = &mut self.model.messages[offset as usize];
            // Of one that could not be decoded nobody knows the key.
            message.key_known |= !message.is_known();
            message.token = Some(grant.token);
            message.started = started;
            message.attempts += u32::from(started);
            message.place = Place::Leased { deadline: self.now.mono_ms + lease_ms, lease_ms };
            assert_eq!(grant.attempt, message.attempts + u32::from(!started));
            assert_eq!(grant.letter, message.letter.map(Offset));
            self.receipts.push((grant.offset, grant.token));
        }
        if grants.len() < count as usize && !self.looks {
            assert_eq!(self.model.next(), None, "something could have been granted");
        }
    }

    fn check_may_go(&self, offset: u64) {
        match self.table.scanned() {
            Some(scanned) => assert!(self.model.may_go(offset, scanned.0), "{offset} was not due"),
            None => assert_eq!(self.model.next(), Some(offset)),
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
            SettleAction::Release { delay_ms: Some(ms), .. } if attempts < 3 => {
                let expected = if *ms == 0 { 0 } else { self.now.wall_ms + ms };
                assert!(due.is_none_or(|due| due == expected));
            }
            SettleAction::Release { delay_ms: None, .. } if attempts < 3 => {
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
            let event = match &event.event {
                Some(Event::Returned(event)) => event,
                Some(Event::Settled(settled)) if settled.expired => continue,
                other => panic!("time does not do this: {other:?}"),
            };
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
        self.model.expire(now, self.settings.expired_die);
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
                (LeaseTable::restore(snapshot, self.settings.clone(), self.now).expect("it is ours"), *from)
            }
            None => (LeaseTable::new(self.settings.clone(), Offset::ZERO), 0),
        };
        if self.looks {
            table.look_inside();
        }
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
        self.shown.clear();
        self.epoch += 1;
        self.tokens = TokenSource::new(Epoch(self.epoch));
        self.receipts.retain(|(offset, _)| (offset.0 as usize) < self.model.messages.len());
        self.before = (self.model.clone(), self.journal.len());
        self.compare();
        self.time_out(events);
    }

    fn compare(&self) {
        self.table.check();
        if let Some(scanned) = self.table.scanned() {
            assert_eq!(self.table.grantable(), self.model.grantable(scanned.0), "grantable is wrong");
            assert!(self.settings.expired_die || self.table.expired() == self.model.expired);
            let unseen = |at: &u64| self.model.messages[*at as usize].held && !self.shown.contains(at);
            assert_eq!((0..scanned.0).find(unseen), None, "granted without having been looked at");
        }
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
    pub(crate) fn compare_snapshots(&self) {
        let snapshot = self.table.snapshot(OF);
        let mut restored =
            LeaseTable::restore(&snapshot, self.settings.clone(), self.now).expect("it is ours");
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
