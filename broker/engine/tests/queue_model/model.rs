//! The naive model: every message spelt out.

use std::collections::BTreeSet;

use dure_engine::{MessageState, Now, SettleAction, SettleError, Settlement};
use dure_proto::{LeaseToken, Offset};

use super::settings;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Ready,
    Delayed { due_mono: u64, due_wall: u64 },
    Leased { deadline: u64, lease_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Doom {
    pub(crate) rejected: bool,
    pub(crate) taken: bool,
}

/// One message, spelt out.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// To be delivered, sooner or later.
    pub(crate) alive: bool,
    /// The source log needs to keep it for this group.
    pub(crate) held: bool,
    pub(crate) place: Place,
    pub(crate) attempts: u32,
    pub(crate) token: Option<LeaseToken>,
    pub(crate) started: bool,
    /// Redriven: its bytes are there.
    pub(crate) letter: Option<u64>,
    pub(crate) doom: Option<Doom>,
    /// In the dead letters, there, after so many attempts.
    pub(crate) dead: Option<(u64, u32)>,
    /// The group has known its key since it was granted, expired, or was condemned when its turn had come.
    pub(crate) key_known: bool,
    /// It was looked at, and expires then, on the monotonic clock.
    pub(crate) expires: Option<u64>,
}

pub(crate) const FRESH: Message = Message {
    alive: true,
    held: true,
    place: Place::Ready,
    attempts: 0,
    token: None,
    started: false,
    letter: None,
    doom: None,
    dead: None,
    key_known: false,
    expires: None,
};

impl Message {
    pub(crate) fn is_known(&self) -> bool {
        self.alive && (self.token.is_some() || self.letter.is_some() || self.doom.is_some())
    }

    pub(crate) fn state(&self) -> MessageState {
        match (self.alive, self.dead, self.doom, self.place) {
            (false, Some(_), ..) => MessageState::Dead,
            (false, None, ..) => MessageState::Settled,
            (true, _, Some(_), _) => MessageState::Dying,
            (true, _, None, Place::Ready) => MessageState::Ready,
            (true, _, None, Place::Delayed { .. }) => MessageState::Delayed,
            (true, _, None, Place::Leased { .. }) => MessageState::Leased,
        }
    }

    pub(crate) fn settle(&mut self) {
        *self = Message { alive: false, held: false, dead: self.dead, key_known: self.key_known, ..FRESH };
    }

    pub(crate) fn give_back(&mut self, due_wall: u64, now: Now) {
        self.place = Place::Ready;
        if self.attempts >= settings().attempts_max {
            self.doom = Some(Doom { rejected: false, taken: false });
        } else if due_wall > now.wall_ms {
            self.place = Place::Delayed { due_mono: now.mono_ms + due_wall - now.wall_ms, due_wall };
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) messages: Vec<Message>,
    pub(crate) log_start: u64,
    /// Acknowledged since a seek last went below it: never to be delivered again.
    pub(crate) acked: BTreeSet<u64>,
    /// The group keeps the order of keys.
    pub(crate) by_key: bool,
    /// The key of each message, 0 for none, whatever becomes of it.
    pub(crate) keys: Vec<u8>,
    /// When each message expires, on the wall clock.
    pub(crate) expires: Vec<Option<u64>>,
    /// How many were settled because they expired.
    pub(crate) expired: u64,
}

impl Model {
    pub(crate) fn floor(&self) -> u64 {
        let held = self.messages.iter().position(|message| message.held);
        held.unwrap_or(self.messages.len()) as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        let known = self.messages.iter().filter(|message| message.is_known());
        known.count() >= settings().messages_max
    }

    /// What expired and is not out is settled, or dies with its key, in the order of its time.
    pub(crate) fn expire(&mut self, now: Now, die: bool) {
        let all = (0..self.messages.len()).map(|offset| (self.messages[offset].expires, offset));
        let mut due: Vec<_> = all.filter(|(at, _)| at.is_some_and(|at| at <= now.mono_ms)).collect();
        due.sort_unstable();
        for (_, offset) in due {
            let message = &mut self.messages[offset];
            if !matches!(message.state(), MessageState::Ready | MessageState::Delayed) {
                continue;
            }
            if die {
                message.key_known |= !message.is_known();
                message.doom = Some(Doom { rejected: true, taken: false });
            } else {
                message.settle();
                self.expired += 1;
            }
        }
    }

    /// The key that the group knows of a message; 0: none.
    fn key(&self, offset: usize) -> u8 {
        let message = &self.messages[offset];
        if !self.by_key || (message.is_known() && !message.key_known) { 0 } else { self.keys[offset] }
    }

    /// Somebody has another message of its key.
    pub(crate) fn key_is_out(&self, offset: u64) -> bool {
        let key = self.key(offset as usize);
        let out = |other: &usize| {
            matches!(self.messages[*other].state(), MessageState::Leased | MessageState::Dying)
                && self.key(*other) == key
                && *other as u64 != offset
        };
        self.by_key && key != 0 && (0..self.messages.len()).any(|other| out(&other))
    }

    /// Whether a group that keeps the order of keys may grant it: it is the first of its key, and no other is out.
    pub(crate) fn may_go(&self, offset: u64, scanned: u64) -> bool {
        let key = self.key(offset as usize);
        let before = |other: &usize| self.messages[*other].alive && self.key(*other) == key;
        self.messages[offset as usize].state() == MessageState::Ready
            && offset < scanned
            && (key == 0 || !(0..offset as usize).any(|other| before(&other)))
            && !self.key_is_out(offset)
    }

    /// How many could be granted one after the other.
    pub(crate) fn grantable(&self, scanned: u64) -> u64 {
        let known = self.messages.iter().filter(|m| m.is_known()).count();
        let room = settings().messages_max.saturating_sub(known) as u64;
        let all = (0..self.messages.len() as u64).filter(|offset| self.may_go(*offset, scanned));
        let (again, fresh): (Vec<_>, Vec<_>) = all.partition(|at| self.messages[*at as usize].is_known());
        again.len() as u64 + room.min(fresh.len() as u64)
    }

    /// Returned ones first, then fresh ones.
    pub(crate) fn next(&self) -> Option<u64> {
        let ready = |known: bool| {
            let mut all = self.messages.iter();
            all.position(|m| m.alive && m.is_known() == known && m.state() == MessageState::Ready)
        };
        ready(true).or_else(|| if self.is_full() { None } else { ready(false) }).map(|at| at as u64)
    }

    pub(crate) fn settle(
        &mut self,
        offset: u64,
        token: LeaseToken,
        action: &SettleAction,
        now: Now,
        due_wall: Option<u64>,
    ) -> Result<Settlement, SettleError> {
        if *action == SettleAction::AckUpTo {
            return self.ack_up_to(offset, token);
        }
        let key_is_out = self.messages.len() as u64 > offset && self.key_is_out(offset);
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
            SettleAction::AckUpTo => unreachable!("answered above"),
            SettleAction::Reject { .. } => {
                let taken = message.doom.is_some_and(|doom| doom.taken);
                message.doom = Some(Doom { rejected: true, taken });
                return Ok(Settlement::Dying);
            }
            _ if rejected => return Err(SettleError::AlreadySettled),
            SettleAction::Start | SettleAction::Extend { .. }
                if key_is_out && message.doom.is_none() && !matches!(message.place, Place::Leased { .. }) =>
            {
                return Err(SettleError::StaleLease);
            }
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

    fn ack_up_to(&mut self, offset: u64, token: LeaseToken) -> Result<Settlement, SettleError> {
        let Some(message) = self.messages.get(offset as usize) else {
            return Err(SettleError::BeyondEnd { end: Offset(self.messages.len() as u64) });
        };
        match message.token {
            _ if token == LeaseToken::NONE => {}
            _ if !message.alive => return Ok(Settlement::AlreadySettled),
            Some(last) if last == token => {}
            Some(last) if last > token => return Err(SettleError::StaleLease),
            _ => return Err(SettleError::UnknownReceipt),
        }
        let alive = (0..=offset).filter(|at| self.messages[*at as usize].alive);
        let done: Vec<u64> = alive.collect();
        done.iter().for_each(|at| self.messages[*at as usize].settle());
        self.acked.extend(&done);
        Ok(if done.is_empty() { Settlement::AlreadySettled } else { Settlement::Done })
    }

    pub(crate) fn seek(&mut self, to: u64) {
        for (offset, message) in (0u64..).zip(&mut self.messages) {
            if offset < to {
                message.settle();
            } else if message.dead.is_some() {
            } else if message.letter.is_some() {
                let key_known = message.key_known;
                *message = Message { held: false, letter: message.letter, key_known, ..FRESH };
            } else {
                *message = FRESH;
            }
        }
        self.acked.retain(|offset| *offset < to);
    }

    /// Only what is in the journal survives; leases run anew.
    pub(crate) fn crash(&mut self, now: Now) {
        self.expired = 0;
        for message in self.messages.iter_mut().filter(|message| message.alive) {
            message.doom = None;
            message.expires = None;
            message.key_known &= message.token.is_some() || message.letter.is_some();
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
