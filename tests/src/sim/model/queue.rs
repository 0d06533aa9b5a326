//! The messages of one partition as the workers of one queue group know them.

use std::collections::{BTreeMap, BTreeSet};

use dure_engine::{LeaseGrant, RequestError, SettleAction, Settled};
use dure_proto::{LeaseToken, Offset};

use super::SubscriptionKey;
use crate::sim::{Checked, ensure};

/// Whether a message lies in the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dead {
    #[default]
    Maybe,
    Yes,
}

/// The last grant of a message.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) token: LeaseToken,
    /// The number that this attempt has once it is started.
    attempt: u32,
    /// The commit that it is in, once that was sent.
    pub(crate) commit: Option<u64>,
    /// The shortest that the lease may be.
    pub(crate) lease_ms: u64,
    /// Nobody else gets the message before; `None` once it may have been given back.
    pub(crate) exclusive_until: Option<u64>,
    pub(crate) started: bool,
    /// The receipt works until the message is settled or leased anew.
    pub(crate) valid: bool,
    pub(crate) subscription: Option<SubscriptionKey>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Started deliveries, at least and at most.
    attempts: (u32, u32),
    /// The most that it ever may have been started, whatever a crash took since.
    attempts_ever: u32,
    /// For good: it may never come back.
    pub(crate) acked: bool,
    /// An ack or a reject was sent, or its last attempt was given out.
    pub(crate) maybe_settled: bool,
    /// An ack was sent.
    maybe_acked: bool,
    /// When everything up to it was last acknowledged, it could not be dead.
    sure_to_live: bool,
    pub(crate) dead: Dead,
    /// Why workers rejected it.
    pub(crate) reasons: BTreeSet<String>,
    /// Why workers gave it back.
    released: BTreeSet<String>,
    pub(crate) grant: Option<Grant>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct PartModel {
    pub(crate) messages: BTreeMap<u64, Message>,
    /// Rises with each seek: what was learned before says nothing of what is after.
    pub(crate) seeks: u32,
    /// Rises with each redrive or purge of the dead letters.
    pub(crate) redrives: u32,
    /// A seek may have settled everything below.
    pub(crate) loose_below: Offset,
    /// The group holds this partition's segments for sure.
    pub(crate) holds: bool,
    /// The dead letters as they were listed last.
    pub(crate) letters: BTreeSet<u64>,
    /// Somebody may have removed some of them.
    pub(crate) letters_purged: bool,
}

/// What became of a message of a queue that was worked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Acked,
    Dead,
    /// It was acknowledged and the answer was lost, or a seek passed over it, or it died and its letter was purged.
    Unknown,
    /// Nothing accounts for it.
    Missing,
}

/// One item of a settle request that is under way.
#[derive(Clone, Debug)]
pub(crate) struct SettledItem {
    pub(crate) offset: Offset,
    pub(crate) token: LeaseToken,
    pub(crate) action: SettleAction,
    pub(crate) seeks: u32,
    pub(crate) redrives: u32,
    pub(crate) sent_mono_ms: u64,
}

impl Message {
    /// Whether it may have died for this reason, in its last attempt: nobody wanted it, or whoever gave it back said why.
    pub(crate) fn may_die_of(&self, reason: &str, attempts_max: u32) -> bool {
        let in_last = format!(" in attempt {attempts_max} of {attempts_max}");
        let of_nothing = format!("no attempts left ({attempts_max} of {attempts_max})");
        if reason == of_nothing || reason.strip_prefix("lease expired") == Some(&in_last) {
            return true;
        }
        let Some(why) = reason.strip_prefix("released").and_then(|reason| reason.strip_prefix(&*in_last))
        else {
            return false;
        };
        self.released.contains(why.strip_prefix(": ").unwrap_or(why))
    }
}

impl PartModel {
    /// A message was leased: only one that nobody else holds and nobody settled, as the right attempt.
    pub(crate) fn granted(
        &mut self,
        lease: &LeaseGrant,
        subscription: Option<SubscriptionKey>,
        attempts_max: u32,
        mono_ms: u64,
    ) -> Checked {
        let LeaseGrant { partition, offset, token, attempt, lease_ms, .. } = *lease;
        let message = self.messages.entry(offset.0).or_default();
        ensure!(!message.acked, "{partition}: message {offset} was acknowledged and came back");
        ensure!(
            message.dead != Dead::Yes,
            "{partition}: dead message {offset} was delivered without a redrive"
        );
        let held = message.grant.as_ref().and_then(|grant| Some((grant.token, grant.exclusive_until?)));
        if let Some((holder, until)) = held {
            ensure!(
                until <= mono_ms,
                "{partition}: message {offset} is leased by {holder:?} for {} ms more and was leased again",
                until - mono_ms
            );
        }
        let (low, high) = message.attempts;
        ensure!(
            (low + 1..=high + 1).contains(&attempt),
            "{partition}: message {offset} was started {low} to {high} times, and this is attempt {attempt}"
        );
        ensure!(
            attempt <= attempts_max,
            "{partition}: message {offset}: attempt {attempt} of {attempts_max}"
        );
        let started = subscription.is_none();
        let before = attempt - 1;
        message.attempts_ever = message.attempts_ever.max(attempt);
        message.attempts = if started { (attempt, attempt) } else { (before, before) };
        message.maybe_settled |= started && attempt == attempts_max;
        message.grant = Some(Grant {
            token,
            attempt,
            commit: None,
            lease_ms,
            exclusive_until: Some(mono_ms + lease_ms + 1),
            started,
            valid: true,
            subscription,
        });
        Ok(())
    }

    /// A worker sends this about a message: from now on it may be true.
    ///
    /// `expires` says of which messages nobody knows when they end by themselves.
    pub(crate) fn sent(&mut self, item: &SettledItem, attempts_max: u32, expires: impl Fn(Offset) -> bool) {
        if item.action == SettleAction::AckUpTo {
            return self.sent_for_all_before(item.offset, expires);
        }
        let message = self.messages.entry(item.offset.0).or_default();
        let mine = message.grant.as_mut().filter(|grant| grant.token == item.token);
        match &item.action {
            SettleAction::Ack => (message.maybe_settled, message.maybe_acked) = (true, true),
            SettleAction::Reject { reason } => {
                message.maybe_settled = true;
                message.reasons.insert(reason.clone());
            }
            SettleAction::Start => {
                // Also with an older receipt: a crash may have taken the grant that came after it.
                let attempt = mine.as_ref().map_or(message.attempts.1 + 1, |grant| grant.attempt);
                message.attempts.1 = message.attempts.1.max(attempt.min(attempts_max));
                message.attempts_ever = message.attempts_ever.max(message.attempts.1);
                message.maybe_settled |= message.attempts.1 == attempts_max;
            }
            SettleAction::Release { reason, .. } => drop(message.released.insert(reason.clone())),
            SettleAction::AckUpTo => unreachable!("looked at above"),
            SettleAction::Extend { .. } => {}
        }
        let Some(grant) = mine else { return };
        match item.action {
            SettleAction::Start => {
                grant.started = true;
                // A lease that ran out begins anew with the group's own length, which may be shorter.
                grant.exclusive_until = grant.exclusive_until.filter(|until| *until > item.sent_mono_ms);
            }
            SettleAction::Extend { lease_ms: Some(lease_ms) } => {
                let until = item.sent_mono_ms + lease_ms + 1;
                grant.lease_ms = grant.lease_ms.min(lease_ms);
                grant.exclusive_until = grant.exclusive_until.map(|before| before.min(until));
            }
            _ => grant.exclusive_until = None,
        }
    }

    /// All of these may be acknowledged from now on, whoever holds them.
    fn sent_for_all_before(&mut self, offset: Offset, expires: impl Fn(Offset) -> bool) {
        for at in 0..=offset.0 {
            let message = self.messages.entry(at).or_default();
            message.sure_to_live = !message.maybe_settled && !expires(Offset(at));
            (message.maybe_settled, message.maybe_acked) = (true, true);
            if let Some(grant) = &mut message.grant {
                grant.exclusive_until = None;
            }
        }
    }

    /// They are, unless they were dead by then.
    fn all_before_acked(&mut self, offset: Offset) {
        for message in self.messages.range_mut(..=offset.0).map(|(_, message)| message) {
            message.acked |= message.sure_to_live;
        }
    }

    /// What the broker answered.
    pub(crate) fn answered(&mut self, item: &SettledItem, result: &Result<Settled, RequestError>) -> Checked {
        let same_seek = item.seeks == self.seeks;
        let same_letters = item.redrives == self.redrives;
        let message = self.messages.entry(item.offset.0).or_default();
        let grant = message.grant.as_ref().filter(|grant| grant.token == item.token);
        let valid = same_seek && grant.is_some_and(|grant| grant.valid);
        let ended = same_seek && grant.is_some_and(|grant| grant.commit == Some(u64::MAX));
        match (result, &item.action) {
            (Ok(Settled { already: false }), SettleAction::Ack) => {
                ensure!(
                    !ended,
                    "an ack of message {} by a receipt that a crash took was accepted",
                    item.offset
                );
                ensure!(
                    !(same_letters && message.dead == Dead::Yes),
                    "an ack of dead message {} was accepted",
                    item.offset
                );
                message.acked |= same_seek;
            }
            (Ok(Settled { already: true }), SettleAction::Ack) => {}
            (Ok(Settled { already: false }), SettleAction::AckUpTo) => {
                ensure!(
                    !ended,
                    "everything up to {} was acknowledged by a receipt that a crash took",
                    item.offset
                );
                if same_seek {
                    self.all_before_acked(item.offset);
                }
            }
            (Ok(Settled { already: true }), SettleAction::AckUpTo) => {}
            (Ok(_), SettleAction::Reject { .. }) => {
                if same_letters {
                    message.dead = Dead::Yes;
                }
            }
            (Ok(_), SettleAction::Start) => {
                let attempt =
                    grant.filter(|grant| same_seek && same_letters && grant.valid).map(|g| g.attempt);
                message.attempts.0 = message.attempts.0.max(attempt.unwrap_or(0));
            }
            (Ok(_), _) => {}
            (Err(RequestError::StaleLease(_) | RequestError::UnknownReceipt(_)), action) => {
                ensure!(!valid, "{action:?} of message {} by its holder: {result:?}", item.offset);
                ensure!(
                    !(ended && matches!(result, Err(RequestError::UnknownReceipt(_)))),
                    "a receipt of message {} that a crash took is said never to have been given out",
                    item.offset
                );
            }
            (Err(RequestError::AlreadySettled(_)), SettleAction::Ack) => {
                ensure!(false, "an ack of message {} was answered with {result:?}", item.offset);
            }
            (Err(_), _) => {}
        }
        Ok(())
    }

    pub(crate) fn account_of(&self, offset: Offset) -> Account {
        let message = self.messages.get(&offset.0);
        if message.is_some_and(|message| message.acked) {
            return Account::Acked;
        }
        if self.letters.contains(&offset.0) {
            return Account::Dead;
        }
        let died_and_gone = |message: &Message| message.maybe_settled && self.letters_purged;
        let may_be = message.is_some_and(|message| message.maybe_acked || died_and_gone(message));
        if may_be || offset < self.loose_below { Account::Unknown } else { Account::Missing }
    }

    /// The group's cursor is moved, or was: everything may be otherwise.
    pub(crate) fn seek(&mut self, end: Offset) {
        self.seeks += 1;
        self.loose_below = self.loose_below.max(end);
        for message in self.messages.values_mut() {
            message.acked = false;
            message.maybe_settled = true;
            message.attempts.0 = 0;
            if let Some(grant) = &mut message.grant {
                (grant.valid, grant.exclusive_until) = (false, None);
            }
        }
    }

    /// Dead letters are redriven or purged, or were.
    pub(crate) fn redrive(&mut self) {
        self.redrives += 1;
        for message in self.messages.values_mut() {
            message.dead = Dead::Maybe;
            message.attempts.0 = 0;
            // One that died is settled, and comes back as if nobody had ever had it.
            if message.maybe_settled
                && let Some(grant) = &mut message.grant
            {
                (grant.valid, grant.exclusive_until) = (false, None);
            }
        }
    }

    /// Leases of a subscription that were not started go back.
    pub(crate) fn unsubscribe(&mut self, gone: impl Fn(SubscriptionKey) -> bool) {
        for grant in self.messages.values_mut().filter_map(|message| message.grant.as_mut()) {
            if grant.subscription.is_some_and(&gone) {
                grant.exclusive_until = None;
            }
        }
    }

    pub(crate) fn restart(&mut self, kept: u64, before_ms: u64, mono_ms: u64) {
        for message in self.messages.values_mut() {
            let Some(grant) = &mut message.grant else { continue };
            if grant.commit.is_some_and(|commit| commit <= kept) {
                // It goes on for a full term, unless it had run out.
                let left = grant.exclusive_until.filter(|until| *until > before_ms);
                grant.exclusive_until = left.map(|_| mono_ms + grant.lease_ms + 1);
            } else {
                // It never was, and its attempt comes again. Those before it were durable when it was given out.
                grant.commit = Some(u64::MAX);
                (grant.valid, grant.exclusive_until) = (false, None);
                message.attempts = (message.attempts.0.min(grant.attempt - 1), message.attempts_ever);
            }
        }
    }
}
