//! What the holder of a receipt can do.

use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{LeaseToken, Offset};

use super::message::Doom;
use super::settings::{Jitter, LEASE_MS_MAX, REASON_BYTES_MAX, RELEASE_DELAY_MS_MAX};
use super::table::LeaseTable;
use crate::mutant::{self, Mutant};
use crate::{Now, SettleAction};

/// What became of a settle action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done, once the events are durable.
    Done,
    /// An ack of a message that is acknowledged, dead or removed already.
    AlreadySettled,
    /// It goes to the dead letters: done once its [`Died`](journal::Died) event is durable.
    Dying,
}

/// Why a settle action had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The message was leased anew since, or its lease ran out and another message of its key was leased.
    #[error("stale lease: the message was leased anew since this receipt was given out")]
    StaleLease,
    /// The message is acknowledged, dead, or on its way to the dead letters.
    #[error("the message is settled already")]
    AlreadySettled,
    /// No such grant, or a seek revoked it.
    #[error("this receipt was never given out, or a seek revoked it")]
    UnknownReceipt,
    /// Everything up to a message is to be settled that is not there yet.
    #[error("there is no such message yet: the next one gets offset {end}")]
    BeyondEnd {
        /// The high watermark.
        end: Offset,
    },
    /// A lease or a delay over its bound.
    #[error("{what} of {ms} ms is out of bounds: at most {ms_max} ms, and a lease at least 1 ms")]
    OutOfBounds {
        /// `a lease` or `a delay`.
        what: &'static str,
        /// What was asked for.
        ms: u64,
        /// The bound.
        ms_max: u64,
    },
}

impl LeaseTable {
    /// Does what the holder of `token` wants with the message at `offset`. A receipt works until its message
    /// is settled or leased anew, even when the lease ran out. `jitter` is spread over the messages here.
    pub fn settle(
        &mut self,
        offset: Offset,
        token: LeaseToken,
        action: &SettleAction,
        jitter: Jitter,
        now: Now,
        events: &mut Vec<QueueEvent>,
    ) -> Result<Settlement, SettleError> {
        if matches!(action, SettleAction::AckUpTo) {
            return self.ack_up_to(offset, token, now, events);
        }
        match (self.find(offset, token), action) {
            (Ok(()), SettleAction::Ack) => {
                self.decide(
                    Event::Settled(journal::Settled { offset: offset.0, count: 1, expired: false }),
                    now,
                    events,
                );
                return Ok(Settlement::Done);
            }
            (Err(SettleError::AlreadySettled), SettleAction::Ack) => return Ok(Settlement::AlreadySettled),
            (found, _) => found?,
        }
        if self.messages[&offset].is_rejected() && !matches!(action, SettleAction::Reject { .. }) {
            return Err(SettleError::AlreadySettled);
        }
        if matches!(action, SettleAction::Start | SettleAction::Extend { .. }) && self.key_went_on(offset) {
            return Err(SettleError::StaleLease);
        }
        match action {
            SettleAction::Ack | SettleAction::AckUpTo => unreachable!("answered above"),
            SettleAction::Start => {
                self.start(offset, now, events);
                Ok(Settlement::Done)
            }
            SettleAction::Extend { lease_ms } => {
                let lease_ms = lease_ms.unwrap_or(self.settings.lease_ms);
                if lease_ms == 0 || lease_ms > LEASE_MS_MAX {
                    let (what, ms_max) = ("a lease", LEASE_MS_MAX);
                    return Err(SettleError::OutOfBounds { what, ms: lease_ms, ms_max });
                }
                self.decide(Event::Extended(journal::Extended { offset: offset.0, lease_ms }), now, events);
                Ok(Settlement::Done)
            }
            SettleAction::Release { delay_ms, reason } => {
                if let Some(ms) = delay_ms.filter(|ms| *ms > RELEASE_DELAY_MS_MAX) {
                    let (what, ms_max) = ("a delay", RELEASE_DELAY_MS_MAX);
                    return Err(SettleError::OutOfBounds { what, ms, ms_max });
                }
                if self.messages[&offset].dying.is_some() {
                    return Ok(Settlement::Done); // It is back, and out of attempts.
                }
                let attempts = self.messages[&offset].attempts;
                let delay_ms = if mutant::is(Mutant::ReleaseIgnoresDelay) { &Some(0) } else { delay_ms };
                let delay_ms =
                    delay_ms.unwrap_or_else(|| self.settings.backoff_ms(attempts, jitter.of(offset)));
                self.give_back(offset, delay_ms, "released", reason, now, events);
                Ok(Settlement::Done)
            }
            SettleAction::Reject { reason } => {
                let reason = if reason.is_empty() { "rejected" } else { clip(reason) };
                self.condemn(offset, reason);
                Ok(Settlement::Dying)
            }
        }
    }

    /// Settles a message and every one before it, whoever holds them and whether they were ever granted. Dead letters
    /// stay. A token has to be the message's last grant.
    fn ack_up_to(
        &mut self,
        offset: Offset,
        token: LeaseToken,
        now: Now,
        events: &mut Vec<QueueEvent>,
    ) -> Result<Settlement, SettleError> {
        if offset >= self.high_watermark {
            return Err(SettleError::BeyondEnd { end: self.high_watermark });
        }
        if token != LeaseToken::NONE {
            match self.find(offset, token) {
                Err(SettleError::AlreadySettled) => return Ok(Settlement::AlreadySettled),
                found => found?,
            }
        }
        let too_far = mutant::is(Mutant::AckUpToOneTooFar) && offset.plus(1) < self.high_watermark;
        let offset = if too_far { offset.plus(1) } else { offset };
        let before = self.serviced;
        // A redriven message may lie below the floor.
        let mut from = self.oldest_unsettled().unwrap_or(self.high_watermark);
        while from <= offset {
            let count = offset.plus(1).since(from).min(u64::from(u32::MAX)) as u32;
            let settled = journal::Settled { offset: from.0, count, expired: false };
            self.decide(Event::Settled(settled), now, events);
            from = from.plus(u64::from(count));
        }
        Ok(if self.serviced > before { Settlement::Done } else { Settlement::AlreadySettled })
    }

    /// A connection or subscription is gone: what it had not started goes back at once, its attempt not
    /// counted. Receipts that hold nothing are passed over.
    pub fn release_unstarted(
        &mut self,
        held: impl IntoIterator<Item = (Offset, LeaseToken)>,
        now: Now,
        events: &mut Vec<QueueEvent>,
    ) {
        for (offset, token) in held {
            let unstarted = |message: &super::message::Message| {
                message.token == Some(token)
                    && message.is_leased()
                    && !message.started
                    && message.dying.is_none()
            };
            if self.messages.get(&offset).is_some_and(unstarted) {
                self.decide(returned(offset, 0), now, events);
            }
        }
    }

    /// Its lease is over, and another message of its key is out since: to lease it anew would make two of them.
    fn key_went_on(&self, offset: Offset) -> bool {
        let message = &self.messages[&offset];
        let (Some(window), Some(key)) = (&self.window, message.key) else { return false };
        !message.standing().is_out() && window.is_out(key)
    }

    fn start(&mut self, offset: Offset, now: Now, events: &mut Vec<QueueEvent>) {
        if !self.messages[&offset].is_leased() {
            let extended = journal::Extended { offset: offset.0, lease_ms: self.settings.lease_ms };
            self.decide(Event::Extended(extended), now, events);
        }
        if !self.messages[&offset].started {
            self.decide(Event::Started(journal::Started { offset: offset.0 }), now, events);
        }
    }

    /// Back to the queue after a delay, or on to the dead letters if that was its last attempt.
    pub(crate) fn give_back(
        &mut self,
        offset: Offset,
        delay_ms: u64,
        how: &str,
        why: &str,
        now: Now,
        events: &mut Vec<QueueEvent>,
    ) {
        let (attempts, attempts_max) = (self.messages[&offset].attempts, self.settings.attempts_max);
        if attempts < attempts_max {
            let due_wall_ms = if delay_ms == 0 { 0 } else { now.wall_ms.saturating_add(delay_ms) };
            self.decide(returned(offset, due_wall_ms), now, events);
            return;
        }
        let mut reason = format!("{how} in attempt {attempts} of {attempts_max}");
        if !why.is_empty() && !mutant::is(Mutant::ReleaseReasonLost) {
            reason = format!("{reason}: {why}");
        }
        let reason = clip(&reason).to_owned();
        self.decide(
            Event::Returned(journal::Returned { offset: offset.0, due_wall_ms: 0, reason }),
            now,
            events,
        );
    }

    /// Puts a message on its way to the dead letters. Volatile: a crash forgets it.
    pub(crate) fn condemn(&mut self, offset: Offset, reason: &str) {
        self.edit(offset, |message| {
            let taken = message.dying.as_ref().is_some_and(|doom| doom.taken);
            message.dying = Some(Box::new(Doom { reason: reason.to_owned(), rejected: true, taken }));
        });
    }

    /// Whether `token` is the last grant of the message.
    fn find(&self, offset: Offset, token: LeaseToken) -> Result<(), SettleError> {
        match self.messages.get(&offset) {
            Some(message) => match message.token {
                Some(last) if last == token || mutant::is(Mutant::StaleLeaseAccepted) => Ok(()),
                Some(last) if token < last => Err(SettleError::StaleLease),
                _ => Err(SettleError::UnknownReceipt),
            },
            None if self.settled.contains(offset) => Err(SettleError::AlreadySettled),
            None => Err(SettleError::UnknownReceipt),
        }
    }
}

pub(crate) fn returned(offset: Offset, due_wall_ms: u64) -> Event {
    Event::Returned(journal::Returned { offset: offset.0, due_wall_ms, reason: String::new() })
}

/// At most [`REASON_BYTES_MAX`] bytes of it, in whole characters.
pub(crate) fn clip(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
