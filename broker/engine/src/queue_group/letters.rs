//! The way into the dead letters and out of them.

use std::ops::Bound;

use dure_proto::journal::{self, QueueEvent, queue_event::Event};
use dure_proto::{KeyHash, Offset};

use super::message::{DeadLetter, MessageState};
use super::settle::clip;
use super::table::LeaseTable;
use crate::Now;

/// A message whose bytes are needed for the dead-letter log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dying {
    /// Its offset in the source.
    pub offset: Offset,
    /// Why it dies.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Set if it was redriven: its bytes are read from the dead-letter log, at this offset.
    pub letter: Option<Offset>,
}

impl LeaseTable {
    /// Messages that began to die since the last call, each once, at most `count_max` of them.
    pub fn take_dying(&mut self, count_max: usize) -> Vec<Dying> {
        let count_max = count_max.min(self.dead_room());
        let offsets: Vec<Offset> = self.dying_new.iter().take(count_max).copied().collect();
        let take = |offset| {
            self.edit(offset, |message| message.dying.as_mut().expect("it is in dying_new").taken = true);
            let message = &self.messages[&offset];
            let doom = message.dying.as_ref().expect("it is in dying_new");
            let reason = doom.reason.clone();
            Dying { offset, reason, attempts: message.attempts, letter: message.letter }
        };
        offsets.into_iter().map(take).collect()
    }

    /// Whether [`take_dying`](LeaseTable::take_dying) would give out any.
    #[must_use]
    pub fn has_dying(&self) -> bool {
        !self.dying_new.is_empty() && self.dead_room() > 0
    }

    /// Whether a dying message's bytes are not asked for yet.
    #[must_use]
    pub fn is_dying_new(&self, offset: Offset) -> bool {
        self.dying_new.contains(&offset)
    }

    /// Whether [`bury`](LeaseTable::bury) would bury it. It would not if it was acknowledged, revived by an
    /// extend, removed by retention or revoked by a seek meanwhile: ask before a record is appended.
    #[must_use]
    pub fn is_dying(&self, offset: Offset) -> bool {
        self.state(offset) == MessageState::Dying
    }

    /// The reason and the attempts that a dying message's dead letter will carry.
    #[must_use]
    pub fn dying(&self, offset: Offset) -> Option<(&str, u32)> {
        let message = self.messages.get(&offset)?;
        Some((&message.dying.as_ref()?.reason, message.attempts))
    }

    /// Its bytes could not be read now: [`take_dying`](LeaseTable::take_dying) gives it out again.
    pub fn handle_letter_failed(&mut self, offset: Offset) {
        if self.is_dying(offset) {
            self.edit(offset, |message| message.dying.as_mut().expect("it is dying").taken = false);
        }
    }

    /// Its record is damaged: its dead letter will say so, since it holds nothing else.
    pub fn handle_letter_damaged(&mut self, offset: Offset, why: &str) {
        if self.is_dying(offset) {
            self.edit(offset, |message| {
                let doom = message.dying.as_mut().expect("it is dying");
                let reason = format!("{}; its record is damaged: {why}", doom.reason);
                doom.reason = clip(&reason).to_owned();
            });
        }
    }

    /// Settles a dying message whose record is appended to the dead-letter log at `letter`, in the same
    /// commit. `None` if it does not die any more.
    pub fn bury(&mut self, offset: Offset, letter: Offset, now: Now) -> Option<QueueEvent> {
        let (reason, attempts) = self.dying(offset)?;
        let died = journal::Died {
            offset: offset.0,
            letter: letter.0,
            attempts,
            reason: reason.to_owned(),
            wall_ms: now.wall_ms,
            key: KeyHash::to_stored(self.messages[&offset].key),
        };
        let event = QueueEvent { event: Some(Event::Died(died)) };
        self.apply(&event, now).expect("a dying message is not dead");
        Some(event)
    }

    /// Sends messages to the dead letters that cannot be delivered, whoever holds them: one that cannot be
    /// decoded, or that expired. What is settled or beyond the end is passed over.
    pub fn handle_undeliverable(&mut self, offset: Offset, reason: &str) {
        match self.state(offset) {
            MessageState::Ready | MessageState::Delayed | MessageState::Leased => {
                self.condemn(offset, clip(reason));
            }
            MessageState::Absent | MessageState::Dying | MessageState::Dead | MessageState::Settled => {}
        }
    }

    /// Settles `from..to` of the source without dead letters: offsets that no record has, or none any more.
    /// Redriven messages stay, since their bytes lie elsewhere.
    pub fn handle_lost(&mut self, from: Offset, to: Offset, now: Now, events: &mut Vec<QueueEvent>) {
        let kept = self.messages.range(from..to).filter(|(_, message)| message.letter.is_some());
        let kept: Vec<Offset> = kept.map(|(offset, _)| *offset).chain([to]).collect();
        let mut from = from.max(self.floor());
        for end in kept {
            while from < end {
                let count = end.since(from).min(u64::from(u32::MAX)) as u32;
                self.decide(
                    Event::Settled(journal::Settled { offset: from.0, count, expired: false }),
                    now,
                    events,
                );
                from = from.plus(u64::from(count));
            }
            from = from.max(end.plus(1));
        }
    }

    /// Up to `count_max` dead letters go back to the group, lowest offset first, as if never tried, and no more than
    /// it may know singly. Says how many. Those whose letters lie at `letters_end` or behind cannot be read yet, and nobody was told of them.
    pub fn redrive(
        &mut self,
        count_max: u64,
        letters_end: Offset,
        now: Now,
        events: &mut Vec<QueueEvent>,
    ) -> u64 {
        let room = self.settings.messages_max.saturating_sub(self.messages.len());
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX).min(room);
        let readable = self.dead.iter().filter(|(_, dead)| dead.letter < letters_end);
        let offsets: Vec<Offset> = readable.map(|(offset, _)| *offset).take(count_max).collect();
        for offset in &offsets {
            self.decide(Event::Redriven(journal::Redriven { offset: offset.0 }), now, events);
        }
        offsets.len() as u64
    }

    /// Forgets up to `count_max` dead letters, lowest offset first. Says how many.
    pub fn purge_dead(&mut self, count_max: u64, now: Now, events: &mut Vec<QueueEvent>) -> u64 {
        let offsets = self.lowest_dead(count_max);
        for offset in &offsets {
            self.decide(Event::DeadPurged(journal::DeadPurged { offset: offset.0 }), now, events);
        }
        offsets.len() as u64
    }

    /// The dead letters in the order of their offsets, behind `after`.
    pub fn dead_letters(&self, after: Option<Offset>) -> impl Iterator<Item = (Offset, &DeadLetter)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.dead.range((from, Bound::Unbounded)).map(|(offset, letter)| (*offset, letter))
    }

    /// One dead letter.
    #[must_use]
    pub fn dead_letter(&self, offset: Offset) -> Option<&DeadLetter> {
        self.dead.get(&offset)
    }

    /// The lowest offset of the dead-letter log that is still needed. `None`: nothing of it is.
    #[must_use]
    pub fn first_letter(&self) -> Option<Offset> {
        self.letters.first_key_value().map(|(letter, _)| *letter)
    }

    /// The first dead letter that is not copied to the group's dead-letter topic, by where it lies in the dead-letter log.
    #[must_use]
    pub fn next_to_copy(&self) -> Option<Offset> {
        self.uncopied().next()
    }

    /// How many there are.
    #[must_use]
    pub fn uncopied_count(&self) -> u64 {
        self.uncopied().count() as u64
    }

    /// A dead letter by where it lies in the dead-letter log, with its offset in the source, if it is to be copied.
    #[must_use]
    pub fn letter_to_copy(&self, letter: Offset) -> Option<(Offset, &DeadLetter)> {
        let offset = *self.letters.get(&letter).filter(|_| letter >= self.letters_copied)?;
        self.dead.get(&offset).map(|dead| (offset, dead))
    }

    /// Its copy is appended in the same commit. Of those that were copied the oldest go where there are more than
    /// `kept_max` dead letters.
    pub fn note_copied(&mut self, letter: Offset, kept_max: usize, now: Now, events: &mut Vec<QueueEvent>) {
        self.decide(Event::LettersCopied(journal::LettersCopied { upto: letter.plus(1).0 }), now, events);
        while self.dead.len() > kept_max {
            let mut copied = self.letters.range(..self.letters_copied).map(|(_, offset)| *offset);
            let Some(offset) = copied.find(|offset| self.dead.contains_key(offset)) else { return };
            self.decide(Event::DeadPurged(journal::DeadPurged { offset: offset.0 }), now, events);
        }
    }

    /// The others were redriven, and are copied should they die again.
    fn uncopied(&self) -> impl Iterator<Item = Offset> {
        let letters = self.letters.range(self.letters_copied..);
        letters.filter(|(_, offset)| self.dead.contains_key(offset)).map(|(letter, _)| *letter)
    }

    /// Moves the cursor to `to`, brought within what the log has: everything from there on is unsettled
    /// again and leases are revoked, everything below is settled, dead letters stay dead. Says where it went.
    pub fn seek(&mut self, to: Offset, now: Now, events: &mut Vec<QueueEvent>) -> Offset {
        let to = to.clamp(self.log_start, self.high_watermark);
        self.decide(Event::CursorMoved(journal::CursorMoved { offset: to.0 }), now, events);
        to
    }

    fn lowest_dead(&self, count_max: u64) -> Vec<Offset> {
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
        self.dead.keys().take(count_max).copied().collect()
    }
}
