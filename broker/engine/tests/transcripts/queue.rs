//! Stories of one lease table: workers by name, messages by offset, time in seconds.

use std::collections::BTreeMap;

use dure_engine::{
    Jitter, LeaseSettings, LeaseTable, LeaseTerms, Now, RecordFacts, RecordTable, SettleAction, Settlement,
    TokenSource,
};
use dure_proto::journal::{QueueEvent, queue_event::Event};
use dure_proto::{Epoch, LeaseToken, Offset, Priority};

use super::Teller;

pub(crate) struct Queue {
    settings: LeaseSettings,
    table: LeaseTable,
    tokens: TokenSource,
    epoch: u64,
    now: Now,
    end: Offset,
    letter_next: u64,
    /// The last receipt that a worker got of a message.
    receipts: BTreeMap<(String, u64), LeaseToken>,
    journal: Vec<QueueEvent>,
    /// What came back by the last command is granted again once that is on disk.
    held: Option<u64>,
    /// Events before the last command: what a crash leaves that loses its commit.
    durable: usize,
    /// Of each message, where the group goes by that.
    priorities: String,
}

impl Queue {
    /// Leases of 30 s, two attempts, waits of 1 to 4 s without a random part.
    pub(crate) fn new() -> Queue {
        let settings = LeaseSettings {
            attempts_max: 2,
            backoff_first_ms: 2_000,
            backoff_max_ms: 2_000,
            ..LeaseSettings::default()
        };
        Queue {
            table: LeaseTable::new(settings.clone(), Offset::ZERO),
            settings,
            tokens: TokenSource::new(Epoch(1)),
            epoch: 1,
            now: Now { mono_ms: 0, wall_ms: 1_700_000_000_000 },
            end: Offset::ZERO,
            letter_next: 0,
            receipts: BTreeMap::new(),
            journal: Vec::new(),
            held: None,
            durable: 0,
            priorities: String::new(),
        }
    }

    /// Urgent messages first.
    pub(crate) fn by_priority() -> Queue {
        let mut queue = Queue::new();
        queue.settings.by_priority = true;
        queue.table = LeaseTable::new(queue.settings.clone(), Offset::ZERO);
        queue
    }

    /// Shows the table the records that it wants to see.
    fn look(&mut self) {
        while let Some(from) = self.table.take_wanted_records(self.now) {
            let digits = self.priorities[from.0 as usize..].bytes();
            let facts = digits.map(|digit| RecordFacts {
                priority: Priority::of_level(digit - b'0').expect("a digit"),
                ..RecordFacts::default()
            });
            self.table.handle_records(from, &RecordTable::Records(facts.collect()), self.now);
        }
    }

    fn take(&mut self, worker: &str, count: u32, started: bool, told: &mut Vec<String>) -> Vec<QueueEvent> {
        let terms = LeaseTerms { lease_ms: self.settings.lease_ms, started };
        let mut events = Vec::new();
        let grants = self.table.grant(self.now, count, terms, &mut self.tokens, &mut events);
        for grant in &grants {
            self.receipts.insert((worker.to_owned(), grant.offset.0), grant.token);
            let LeaseToken { epoch, counter } = grant.token;
            told.push(format!(
                "{worker} has message {}, attempt {}, token {}-{counter}",
                grant.offset, grant.attempt, epoch.0
            ));
        }
        if grants.is_empty() {
            told.push("nothing is ready".into());
        }
        events
    }

    fn settle(
        &mut self,
        worker: &str,
        offset: u64,
        action: &SettleAction,
        told: &mut Vec<String>,
    ) -> Vec<QueueEvent> {
        let token = self.receipts[&(worker.to_owned(), offset)];
        let mut events = Vec::new();
        let settled = self.table.settle(Offset(offset), token, action, Jitter(0), self.now, &mut events);
        told.push(match settled {
            Ok(Settlement::Done) => "done".into(),
            Ok(Settlement::AlreadySettled) => "done before".into(),
            Ok(Settlement::Dying) => "it goes to the dead letters".into(),
            Err(error) => format!("refused: {error}"),
        });
        events
    }

    /// The bytes of what dies are fetched, and its letter is written in the commit that settles it.
    fn bury(&mut self) -> Vec<QueueEvent> {
        let mut events = Vec::new();
        for dying in self.table.take_dying(usize::MAX) {
            events.extend(self.table.bury(dying.offset, Offset(self.letter_next), self.now));
            self.letter_next += 1;
        }
        events
    }

    /// The process is gone, and with it what it had not synced; the next one replays the journal.
    fn restart(&mut self, journal: usize) {
        self.journal.truncate(journal);
        self.table = LeaseTable::new(self.settings.clone(), Offset::ZERO);
        for event in &self.journal {
            self.table.apply(event, self.now).expect("it was true before");
        }
        self.table.handle_high_watermark(self.end);
        self.table.recovered(self.now);
        self.held = None;
        self.epoch += 1;
        self.tokens = TokenSource::new(Epoch(self.epoch));
    }

    fn counts(&self) -> String {
        let counts = self.table.counts();
        format!(
            "ready {}, leased {}, delayed {}, dead {}; all below {} is settled",
            counts.ready,
            counts.leased,
            counts.delayed,
            counts.dead,
            self.table.floor()
        )
    }
}

impl Teller for Queue {
    fn tell(&mut self, command: &str) -> Vec<String> {
        let mut told = Vec::new();
        let words: Vec<&str> = command.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("a number: {command}"));
        let before = self.journal.len();
        // What the last command decided is on disk by now.
        self.held.take().into_iter().for_each(|number| self.table.release_held(number));
        let events = match words[..] {
            [count, "messages", "arrive"] => {
                self.end = self.end.plus(number(count));
                self.table.handle_high_watermark(self.end);
                Vec::new()
            }
            [priorities, "arrive"] => {
                self.priorities.push_str(priorities);
                self.end = Offset(self.priorities.len() as u64);
                self.table.handle_high_watermark(self.end);
                Vec::new()
            }
            [worker, "receives", count] => self.take(worker, number(count) as u32, true, &mut told),
            [worker, "prefetches", count] => self.take(worker, number(count) as u32, false, &mut told),
            [worker, "disconnects"] => {
                let held = self.receipts.iter().filter(|((name, _), _)| name == worker);
                let held: Vec<_> = held.map(|((_, offset), token)| (Offset(*offset), *token)).collect();
                let mut events = Vec::new();
                self.table.release_unstarted(held, self.now, &mut events);
                events
            }
            [seconds, "seconds", "pass"] => {
                self.now.mono_ms += 1_000 * number(seconds);
                self.now.wall_ms += 1_000 * number(seconds);
                let mut events = Vec::new();
                self.table.handle_timeout(self.now, &mut events);
                events
            }
            ["letters", "are", "written"] => self.bury(),
            ["redrive"] => {
                let mut events = Vec::new();
                let letters_end = Offset(self.letter_next);
                self.table.redrive(u64::MAX, letters_end, self.now, &mut events);
                events
            }
            ["the", "broker", "crashes"] => {
                self.restart(before);
                Vec::new()
            }
            ["the", "broker", "crashes", "before", "that", "is", "synced"] => {
                self.restart(self.durable);
                Vec::new()
            }
            [worker, verb, offset] => {
                let action = match verb {
                    "starts" => SettleAction::Start,
                    "acks" => SettleAction::Ack,
                    "releases" => SettleAction::Release { delay_ms: None, reason: String::new() },
                    "rejects" => SettleAction::Reject { reason: "not a picture".into() },
                    "extends" => SettleAction::Extend { lease_ms: None },
                    _ => panic!("what is that: {command}"),
                };
                self.settle(worker, number(offset), &action, &mut told)
            }
            _ => panic!("what is that: {command}"),
        };
        self.look();
        self.durable = before.min(self.journal.len());
        self.held = self.table.hold_back(&events);
        told.extend(events.iter().map(|event| format!("journal: {}", described(event))));
        self.journal.extend(events);
        told.push(self.counts());
        told
    }
}

fn described(event: &QueueEvent) -> String {
    match event.event.as_ref().expect("an event") {
        Event::Leased(leased) => {
            let started = if leased.started { ", started" } else { "" };
            format!(
                "leased {} from {} for {} s{started}",
                leased.count,
                leased.offset,
                leased.lease_ms / 1_000
            )
        }
        Event::Settled(settled) => format!("settled {} from {}", settled.count, settled.offset),
        Event::Started(started) => format!("started {}", started.offset),
        Event::Returned(returned) if returned.due_wall_ms == 0 => format!("returned {}", returned.offset),
        Event::Returned(returned) => format!("returned {}, to wait", returned.offset),
        Event::Extended(extended) => format!("extended {}", extended.offset),
        Event::Died(died) => {
            format!("died {} after {} attempts: {}", died.offset, died.attempts, died.reason)
        }
        Event::Redriven(redriven) => format!("redriven {}", redriven.offset),
        Event::DeadPurged(purged) => format!("forgotten {}", purged.offset),
        Event::LettersCopied(copied) => format!("copied the letters up to {}", copied.upto),
        Event::CursorMoved(moved) => format!("everything from {} again", moved.offset),
    }
}
