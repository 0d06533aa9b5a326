//! Stories of the lease table.

mod ack_up_to;
mod dead_letters;
mod expiry;
mod key_order;
mod leases;
mod log_and_cursor;
mod priority;
mod reasons;
mod restarts;

use dure_proto::journal::{QueueEvent, QueueSnapshot, queue_event::Event};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, Priority, TopicId, TopicPartition};

use super::*;
use crate::{Now, SettleAction};

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
const WALL: u64 = 1_700_000_000_000;

/// A table on a simulated clock, with the journal it wrote.
struct Story {
    table: LeaseTable,
    tokens: TokenSource,
    now: Now,
    journal: Vec<QueueEvent>,
}

impl Story {
    fn with(messages: u64) -> Story {
        Story::with_settings(messages, LeaseSettings::default())
    }

    fn with_settings(messages: u64, settings: LeaseSettings) -> Story {
        let mut table = LeaseTable::new(settings, Offset(0));
        table.handle_high_watermark(Offset(messages));
        let now = Now { mono_ms: 1_000, wall_ms: WALL };
        Story { table, tokens: TokenSource::new(Epoch(1)), now, journal: Vec::new() }
    }

    fn grant(&mut self, count: u32, started: bool) -> Vec<Grant> {
        let terms = LeaseTerms { lease_ms: 30_000, started };
        let grants = self.table.grant(self.now, count, terms, &mut self.tokens, &mut self.journal);
        self.table.check();
        grants
    }

    fn grant_quietly(&mut self, count: u32) -> Vec<Grant> {
        let terms = LeaseTerms { lease_ms: 86_400_000, started: false };
        self.table.grant(self.now, count, terms, &mut self.tokens, &mut self.journal)
    }

    fn settle_quietly(&mut self, grant: Grant) -> Result<Settlement, SettleError> {
        let (offset, token) = (grant.offset, grant.token);
        self.table.settle(offset, token, &SettleAction::Ack, Jitter(0), self.now, &mut self.journal)
    }

    /// Granted to a receive.
    fn receive(&mut self) -> Grant {
        self.grant(1, true)[0]
    }

    fn settle(&mut self, grant: Grant, action: SettleAction) -> Result<Settlement, SettleError> {
        let (offset, token) = (grant.offset, grant.token);
        let result = self.table.settle(offset, token, &action, Jitter(7), self.now, &mut self.journal);
        self.table.check();
        result
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.table.handle_timeout(self.now, &mut self.journal);
        self.table.check();
    }

    fn bury_all(&mut self, first_letter: u64) -> Vec<Dying> {
        let dying = self.table.take_dying(usize::MAX);
        for (nth, dying) in (0..).zip(&dying) {
            let event = self.table.bury(dying.offset, Offset(first_letter + nth), self.now);
            self.journal.push(event.expect("it dies"));
        }
        self.table.check();
        dying
    }

    /// The broker was killed and is up again after `down_ms`, from the journal alone.
    fn crash(&mut self, down_ms: u64) {
        self.now = Now { mono_ms: 50, wall_ms: self.now.wall_ms + down_ms };
        let mut table = LeaseTable::new(self.table.settings().clone(), Offset(0));
        for event in &self.journal {
            table.apply(event, self.now).expect("a whole journal fits");
        }
        table.handle_high_watermark(self.table.high_watermark());
        table.recovered(self.now);
        table.check();
        self.table = table;
        self.tokens = TokenSource::new(Epoch(self.tokens.take().epoch.0 + 1));
    }

    fn counts(&self) -> (u64, u64, u64, u64) {
        let Counts { ready, leased, delayed, dead } = self.table.counts();
        (ready, leased, delayed, dead)
    }
}

fn reject(reason: &str) -> SettleAction {
    SettleAction::Reject { reason: reason.to_owned() }
}

const RELEASE_NOW: SettleAction = SettleAction::Release { delay_ms: Some(0), reason: String::new() };
const BACK_OFF: SettleAction = SettleAction::Release { delay_ms: None, reason: String::new() };
