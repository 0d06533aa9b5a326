//! The one function that changes what is durable, when it is decided and when it is replayed.

use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{Epoch, KeyHash, LeaseToken, Offset};

use super::expiry::{EXPIRED_REASON, Expiries};
use super::message::{DeadLetter, Phase};
use super::settings::{RELEASE_DELAY_MS_MAX, TABLE_MESSAGES_MAX};
use super::settle::clip;
use super::table::LeaseTable;
use crate::Now;
use crate::mutant::{self, Mutant};
use crate::settled_set::SettledSet;

/// An event that does not fit the state, because something before it is lost. Nothing was changed; at worst
/// the message is delivered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` of message {offset} was skipped: {why}")]
pub struct NotApplied {
    /// The kind of event.
    pub event: &'static str,
    /// The message that it is about.
    pub offset: Offset,
    /// What does not fit.
    pub why: &'static str,
}

impl LeaseTable {
    /// Makes an event true. An event about an offset also shows that this offset was in the log.
    pub fn apply(&mut self, event: &QueueEvent, now: Now) -> Result<(), NotApplied> {
        let skip = |event, offset, why| Err(NotApplied { event, offset: Offset(offset), why });
        match &event.event {
            Some(Event::Leased(leased)) => self.apply_leased(leased, now),
            Some(Event::Settled(settled)) => {
                let count = if mutant::is(Mutant::RunReplayedAsOne) { 1 } else { settled.count };
                let end = settled.offset.saturating_add(u64::from(count));
                if end > Offset::MAX.0 {
                    return skip("settled", settled.offset, "it ends beyond the largest offset");
                }
                let before = self.serviced;
                self.apply_settled(Offset(settled.offset), Offset(end));
                if settled.expired {
                    self.expired += self.serviced - before;
                }
                Ok(())
            }
            Some(Event::Started(started)) => self.edit_granted("started", started.offset, |message| {
                message.attempts = message.attempts.saturating_add(u32::from(!message.started));
                message.started = true;
            }),
            Some(Event::Returned(returned)) => {
                let phase = waiting_until(returned.due_wall_ms, now);
                self.edit_granted("returned", returned.offset, |message| {
                    message.phase = phase;
                    if !returned.reason.is_empty() {
                        message.why = Some(clip(&returned.reason).into());
                    }
                })
            }
            Some(Event::Extended(extended)) => {
                let lease_ms = extended.lease_ms;
                self.edit_granted("extended", extended.offset, |message| {
                    message.phase =
                        Phase::Leased { deadline_mono_ms: now.mono_ms.saturating_add(lease_ms), lease_ms };
                    message.dying = None;
                })
            }
            Some(Event::Died(died)) => self.apply_died(died),
            Some(Event::Redriven(redriven)) => {
                let Some(dead) = self.dead.remove(&Offset(redriven.offset)) else {
                    return skip("redriven", redriven.offset, "it is not in the dead letters");
                };
                self.edit(Offset(redriven.offset), |message| {
                    message.letter = Some(dead.letter).filter(|_| !mutant::is(Mutant::RedriveForgetsLetter));
                    message.key = dead.key;
                });
                Ok(())
            }
            Some(Event::DeadPurged(purged)) => {
                let Some(dead) = self.dead.remove(&Offset(purged.offset)) else {
                    return skip("dead purged", purged.offset, "it is not in the dead letters");
                };
                self.letters.remove(&dead.letter);
                Ok(())
            }
            Some(Event::CursorMoved(moved)) => {
                if moved.offset > Offset::MAX.0 {
                    return skip("cursor moved", moved.offset, "it is beyond the largest offset");
                }
                self.apply_cursor(Offset(moved.offset));
                Ok(())
            }
            Some(Event::LettersCopied(copied)) => {
                self.letters_copied = self.letters_copied.max(Offset(copied.upto).min(Offset::MAX));
                Ok(())
            }
            None => skip("unknown", 0, "a newer version wrote it"),
        }
    }

    fn apply_leased(&mut self, leased: &journal::Leased, now: Now) -> Result<(), NotApplied> {
        let end = leased.offset.saturating_add(u64::from(leased.count));
        let counter_end = leased.counter.checked_add(u64::from(leased.count));
        let first = Offset(leased.offset);
        if leased.count as usize > TABLE_MESSAGES_MAX {
            return Err(NotApplied {
                event: "leased",
                offset: first,
                why: "it is of more than a table holds",
            });
        }
        if end > Offset::MAX.0 || counter_end.is_none() {
            return Err(NotApplied {
                event: "leased",
                offset: first,
                why: "it ends beyond the largest offset",
            });
        }
        self.reach(Offset(end));
        let mut result = Ok(());
        for nth in 0..u64::from(leased.count) {
            let offset = first.plus(nth);
            if self.settled.contains(offset) && !self.messages.contains_key(&offset) {
                result = Err(NotApplied { event: "leased", offset, why: "it is settled" });
                continue;
            }
            let token = LeaseToken { epoch: Epoch(leased.epoch), counter: leased.counter + nth };
            let early_ms = u64::from(mutant::is(Mutant::LeaseDeadlineOffByOne));
            let phase = Phase::Leased {
                deadline_mono_ms: now.mono_ms.saturating_add(leased.lease_ms - early_ms),
                lease_ms: leased.lease_ms,
            };
            let key = leased.keys.get(nth as usize).copied().and_then(KeyHash::from_stored);
            self.edit(offset, |message| {
                message.key = message.key.or(key);
                message.token = Some(token);
                message.started = leased.started;
                let counts = leased.started && !mutant::is(Mutant::AttemptNotCounted);
                message.attempts = message.attempts.saturating_add(u32::from(counts));
                message.phase = phase;
                message.dying = None;
            });
            if offset == self.fresh {
                self.fresh = offset.plus(1);
            }
        }
        result
    }

    fn apply_settled(&mut self, from: Offset, to: Offset) {
        self.reach(to);
        let mut left = Vec::new();
        let mut remove = |table: &mut LeaseTable, offset| {
            let Some(message) = table.remove(offset) else { return };
            // What is not redriven is counted below, once for all.
            table.serviced += u64::from(message.letter.is_some());
            left.extend(message.key);
        };
        if to == from.plus(1) {
            remove(self, from);
        } else {
            let known: Vec<Offset> = self.messages.range(from..to).map(|(offset, _)| *offset).collect();
            known.into_iter().for_each(|offset| remove(self, offset));
        }
        self.serviced += self.settled.insert_range(from, to);
        self.settle_in_window(from, to, left);
    }

    fn apply_died(&mut self, died: &journal::Died) -> Result<(), NotApplied> {
        let offset = Offset(died.offset);
        if offset >= Offset::MAX || self.dead.contains_key(&offset) {
            return Err(NotApplied { event: "died", offset, why: "it is dead already" });
        }
        self.apply_settled(offset, offset.plus(1));
        self.expired += u64::from(died.reason == EXPIRED_REASON);
        self.letters.insert(Offset(died.letter), offset);
        let letter = DeadLetter {
            letter: Offset(died.letter),
            attempts: died.attempts,
            reason: died.reason.clone(),
            key: KeyHash::from_stored(died.key),
            dead_wall_ms: died.wall_ms,
        };
        self.dead.insert(offset, letter);
        Ok(())
    }

    fn apply_cursor(&mut self, to: Offset) {
        self.reach(to);
        let all: Vec<Offset> = self.messages.keys().copied().collect();
        self.settled = SettledSet::new(to);
        let removed =
            all.into_iter().map(|offset| (offset, self.remove(offset).expect("it was just listed")));
        let removed: Vec<_> = removed.collect();
        self.window.iter_mut().for_each(|window| window.restart(to));
        self.expiries = Expiries::default();
        for (offset, message) in removed {
            if message.letter.is_some() && offset >= to {
                self.settled.insert_range(offset, offset.plus(1));
                self.edit(offset, |again| (again.letter, again.key) = (message.letter, message.key));
            }
        }
        for offset in self.dead.range(to..).map(|(offset, _)| *offset) {
            self.settled.insert_range(offset, offset.plus(1));
        }
        self.fresh = self.settled.floor();
        self.advance_window(self.fresh);
    }

    /// An event about offsets below `end` shows that the log has them.
    fn reach(&mut self, end: Offset) {
        self.handle_high_watermark(end);
    }

    fn edit_granted(
        &mut self,
        event: &'static str,
        offset: u64,
        change: impl FnOnce(&mut super::message::Message),
    ) -> Result<(), NotApplied> {
        let offset = Offset(offset);
        if self.messages.get(&offset).is_none_or(|message| message.token.is_none()) {
            return Err(NotApplied { event, offset, why: "it was not leased" });
        }
        self.edit(offset, change);
        Ok(())
    }
}

/// The wait that is left until a wall-clock time, on the monotonic clock. However the wall clock jumped, it
/// is no longer than any wait can be.
pub(crate) fn waiting_until(due_wall_ms: u64, now: Now) -> Phase {
    let wait_ms = due_wall_ms.saturating_sub(now.wall_ms).min(RELEASE_DELAY_MS_MAX);
    if wait_ms == 0 {
        return Phase::Ready;
    }
    Phase::Waiting { due_mono_ms: now.mono_ms + wait_ms, due_wall_ms }
}
