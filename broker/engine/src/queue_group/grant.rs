//! Granting: which messages go out next, and under which tokens.

use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{Epoch, KeyHash, LeaseToken, Offset};

use super::settings::LEASE_MS_MAX;
use super::table::LeaseTable;
use super::window::Window;
use crate::Now;
use crate::mutant::{self, Mutant};

/// Gives out lease tokens that never repeat, for all tables of a shard.
#[derive(Clone, Debug)]
pub struct TokenSource {
    /// Durable before the first grant under it.
    epoch: Epoch,
    next: u64,
}

impl TokenSource {
    /// The tokens of an epoch that nobody has granted under yet.
    #[must_use]
    pub fn new(epoch: Epoch) -> TokenSource {
        TokenSource { epoch, next: 1 }
    }

    /// Whether a token may have been given out before this epoch began. If its message does not know it, a crash took
    /// the grant before its commit was durable.
    #[must_use]
    pub fn may_have_lost(&self, token: LeaseToken) -> bool {
        Epoch(0) < token.epoch && token.epoch < self.epoch && token.counter > 0
    }

    /// A token that was never given out.
    pub fn take(&mut self) -> LeaseToken {
        let token = LeaseToken { epoch: self.epoch, counter: self.next };
        self.next += 1;
        token
    }
}

/// How messages are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Length of the lease, brought within 1 to [`LEASE_MS_MAX`].
    pub lease_ms: u64,
    /// The attempt counts from here, as with a receive; else when the holder says that it starts.
    pub started: bool,
}

/// One message granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its offset in the source.
    pub offset: Offset,
    /// The lease.
    pub token: LeaseToken,
    /// The number that this attempt has once it is started, from 1.
    pub attempt: u32,
    /// How long the lease runs.
    pub lease_ms: u64,
    /// Set if it was redriven: its bytes are read from the dead-letter log, at this offset.
    pub letter: Option<Offset>,
}

impl LeaseTable {
    /// Leases up to `count_max` messages: returned ones first, then fresh ones in order; where keys are kept in order,
    /// those whose turn it is; where urgent ones go first, those that are. One event tells of contiguous offsets.
    pub fn grant(
        &mut self,
        now: Now,
        count_max: u32,
        terms: LeaseTerms,
        tokens: &mut TokenSource,
        events: &mut Vec<QueueEvent>,
    ) -> Vec<Grant> {
        let terms = LeaseTerms { lease_ms: terms.lease_ms.clamp(1, LEASE_MS_MAX), ..terms };
        let mut grants = Vec::new();
        while grants.len() < count_max as usize {
            let Some(offset) = self.next_to_grant() else { break };
            let open = self.window.as_ref().and_then(|window| window.of_open(offset));
            let key = open.and_then(|(key, _)| key);
            self.window.iter_mut().for_each(Window::count_grant);
            let token = tokens.take();
            let leased = journal::Leased {
                offset: offset.0,
                count: 1,
                epoch: token.epoch.0,
                counter: token.counter,
                lease_ms: terms.lease_ms,
                started: terms.started,
                keys: if self.settings.by_key { vec![KeyHash::to_stored(key)] } else { Vec::new() },
            };
            self.decide(Event::Leased(leased), now, events);
            let message = &self.messages[&offset];
            grants.push(Grant {
                offset,
                token,
                attempt: message.attempts + u32::from(!terms.started),
                lease_ms: terms.lease_ms,
                letter: message.letter,
            });
        }
        grants
    }

    fn next_to_grant(&mut self) -> Option<Offset> {
        match &self.window {
            Some(window) => window.next(self.is_full()),
            None => self.ready_again.first().copied().or_else(|| self.next_fresh()),
        }
    }

    /// The next message that was never granted, if there is one and the table may know one more.
    fn next_fresh(&mut self) -> Option<Offset> {
        if self.is_full() {
            return None;
        }
        loop {
            self.fresh = self.settled.next_unsettled(self.fresh);
            if self.fresh >= self.high_watermark {
                return None;
            }
            if !self.messages.contains_key(&self.fresh) {
                return Some(self.fresh);
            }
            self.fresh = self.fresh.plus(1);
        }
    }

    /// Applies what was decided and hands it to the journal, as one event with the one before where they are
    /// contiguous.
    pub(crate) fn decide(&mut self, event: Event, now: Now, events: &mut Vec<QueueEvent>) {
        let event = QueueEvent { event: Some(event) };
        self.apply(&event, now).expect("what is decided from the state fits the state");
        if !events.last_mut().is_some_and(|last| extend_run(last, &event)) {
            events.push(event);
        }
    }
}

/// Makes `run` tell of `event` too, if `event` goes on where `run` ends.
fn extend_run(run: &mut QueueEvent, event: &QueueEvent) -> bool {
    match (&mut run.event, &event.event) {
        (Some(Event::Leased(run)), Some(Event::Leased(next))) => {
            let count = u64::from(run.count);
            let contiguous = (run.offset + count, run.counter + count) == (next.offset, next.counter);
            let alike = (run.epoch, run.lease_ms, run.started) == (next.epoch, next.lease_ms, next.started);
            let alike = alike && run.keys.is_empty() == next.keys.is_empty();
            let fits = run.count.checked_add(next.count).is_some();
            if contiguous && alike && fits {
                run.count += next.count;
                run.keys.extend(&next.keys);
            }
            contiguous && alike && fits
        }
        (Some(Event::Settled(run)), Some(Event::Settled(next))) => {
            let contiguous = (run.offset + u64::from(run.count) == next.offset
                || mutant::is(Mutant::RunsJoinedOverGap) && run.offset < next.offset)
                && run.expired == next.expired;
            let fits = run.count.checked_add(next.count).is_some();
            if contiguous && fits {
                run.count += next.count;
            }
            contiguous && fits
        }
        _ => false,
    }
}
