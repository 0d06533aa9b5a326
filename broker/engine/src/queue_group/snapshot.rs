//! The table as a checkpoint holds it.

use dure_proto::journal::{QueueMessageSnapshot, QueueSnapshot};
use dure_proto::{Epoch, KeyHash, LeaseToken, Offset, Priority, TopicPartition};
use roaring::RoaringTreemap;

use super::apply::waiting_until;
use super::message::{DeadLetter, Message, Phase};
use super::settings::LeaseSettings;
use super::settle::clip;
use super::table::LeaseTable;
use crate::Now;
use crate::mutant::{self, Mutant};
use crate::settled_set::SettledSet;

/// A snapshot that says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The set of settled offsets does not decode.
    #[error("the settled offsets do not decode: {0}")]
    Settled(String),
    /// A settled offset is not above the floor.
    #[error("an offset at or below the floor {0} is listed as settled")]
    Floor(Offset),
    /// A message contradicts the rest.
    #[error("message {offset}: {why}")]
    Message {
        /// Which one.
        offset: Offset,
        /// What is wrong.
        why: &'static str,
    },
}

impl LeaseTable {
    /// What a restart needs. A message that was rejected and not buried yet is held by its worker again, so
    /// that the reject can be repeated.
    #[must_use]
    pub fn snapshot(&self, of: TopicPartition) -> QueueSnapshot {
        let mut settled = Vec::with_capacity(self.settled.above().serialized_size());
        let none = RoaringTreemap::new();
        let above = if mutant::is(Mutant::SettledNotKept) { &none } else { self.settled.above() };
        above.serialize_into(&mut settled).expect("a Vec takes everything");
        let known = self.messages.iter().filter(|(_, message)| !message.is_like_fresh());
        let messages = known.map(|(offset, message)| message_snapshot(*offset, message));
        let dead = self.dead.iter().map(|(offset, letter)| QueueMessageSnapshot {
            offset: offset.0,
            attempts: letter.attempts,
            letter: Some(letter.letter.0),
            reason: letter.reason.clone(),
            dead_wall_ms: letter.dead_wall_ms,
            key: KeyHash::to_stored(letter.key),
            ..QueueMessageSnapshot::default()
        });
        QueueSnapshot {
            topic: of.topic.0,
            partition: of.partition.0,
            floor: self.floor().0,
            settled,
            messages: messages.chain(dead).collect(),
            letters_copied: if mutant::is(Mutant::CopiedNotKept) { 0 } else { self.letters_copied.0 },
        }
    }

    /// The table of a snapshot. Later events, the log's start and its high watermark are told to it next,
    /// then [`recovered`](LeaseTable::recovered).
    pub fn restore(
        snapshot: &QueueSnapshot,
        settings: LeaseSettings,
        now: Now,
    ) -> Result<LeaseTable, RestoreError> {
        let floor = Offset(snapshot.floor);
        let above = RoaringTreemap::deserialize_from(snapshot.settled.as_slice())
            .map_err(|error| RestoreError::Settled(error.to_string()))?;
        let mut end = above.max().map_or(floor, |max| Offset(max.saturating_add(1)));
        let settled = SettledSet::from_parts(floor, above).ok_or(RestoreError::Floor(floor))?;
        let mut table = LeaseTable::new(settings, floor);
        table.settled = settled;
        table.letters_copied = Offset(snapshot.letters_copied).min(Offset::MAX);
        for message in &snapshot.messages {
            let offset = Offset(message.offset);
            let wrong = |why| Err(RestoreError::Message { offset, why });
            if offset >= Offset::MAX {
                return wrong("it is beyond the largest offset");
            }
            if table.messages.contains_key(&offset) || table.dead.contains_key(&offset) {
                return wrong("it is listed twice");
            }
            if table.settled.contains(offset) != message.letter.is_some() {
                return wrong("it is settled without a letter, or has one unsettled");
            }
            end = end.max(offset.plus(1));
            match message.letter {
                Some(letter) if !message.redriven => {
                    table.dead.insert(offset, dead_letter(message, Offset(letter)));
                    table.letters.insert(Offset(letter), offset);
                }
                letter => {
                    table.edit(offset, |known| *known = known_message(message, letter.map(Offset), now))
                }
            }
        }
        if end > Offset::MAX {
            return Err(RestoreError::Message { offset: end, why: "it is beyond the largest offset" });
        }
        table.high_watermark = table.high_watermark.max(end);
        Ok(table)
    }
}

fn message_snapshot(offset: Offset, message: &Message) -> QueueMessageSnapshot {
    let token = message.token.unwrap_or(LeaseToken::NONE);
    let (lease_ms, due_wall_ms) = match message.phase {
        Phase::Ready => (0, 0),
        Phase::Waiting { due_wall_ms, .. } => (0, due_wall_ms),
        Phase::Leased { .. } if mutant::is(Mutant::LeasesNotKept) => (0, 0),
        Phase::Leased { lease_ms, .. } => (lease_ms, 0),
    };
    QueueMessageSnapshot {
        offset: offset.0,
        attempts: message.attempts,
        epoch: token.epoch.0,
        counter: token.counter,
        lease_ms,
        due_wall_ms,
        started: message.started,
        letter: message.letter.map(|letter| letter.0),
        redriven: message.letter.is_some(),
        reason: message.why.as_deref().unwrap_or_default().to_owned(),
        key: KeyHash::to_stored(message.key.filter(|_| !mutant::is(Mutant::KeysNotKept))),
        ..QueueMessageSnapshot::default()
    }
}

fn known_message(snapshot: &QueueMessageSnapshot, letter: Option<Offset>, now: Now) -> Message {
    let phase = match snapshot.lease_ms {
        0 => waiting_until(snapshot.due_wall_ms, now),
        lease_ms => Phase::Leased { deadline_mono_ms: now.mono_ms.saturating_add(lease_ms), lease_ms },
    };
    let token = LeaseToken { epoch: Epoch(snapshot.epoch), counter: snapshot.counter };
    Message {
        attempts: snapshot.attempts,
        token: (snapshot.epoch != 0).then_some(token),
        started: snapshot.started,
        letter,
        key: KeyHash::from_stored(snapshot.key),
        priority: Priority::default(),
        why: (!snapshot.reason.is_empty()).then(|| clip(&snapshot.reason).into()),
        phase,
        held: 0,
        dying: None,
    }
}

fn dead_letter(snapshot: &QueueMessageSnapshot, letter: Offset) -> DeadLetter {
    DeadLetter {
        letter,
        attempts: snapshot.attempts,
        reason: snapshot.reason.clone(),
        key: KeyHash::from_stored(snapshot.key),
        dead_wall_ms: snapshot.dead_wall_ms,
    }
}
