//! How a message comes into the dead letters: the shard asks for its record, and with that it is buried.

use dure_proto::{BatchHeader, GroupId, Offset, TopicPartition};

use super::settle::MessageKey;
use super::{QueueKey, Shard};
use crate::effect::{Effect, Letter};
use crate::letter::{LetterError, letter_batch};
use crate::mutant::{self, Mutant};
use crate::request::RequestError;
use crate::time::Now;

/// Records fetched for the dead letters at a time, per partition and turn; each that is buried brings the next turn.
const LETTERS_PER_TURN: usize = 64;
/// A record that the disk would not read is asked for again after this long.
const RETRY_MS: u64 = 5_000;

impl Shard {
    /// Asks for the bytes of messages that are to die.
    pub(super) fn fetch_letters(&mut self, key: QueueKey) {
        let Some(letters) = self.state.catalogue.dead_letter_log(key.0, key.1).map(|info| info.id) else {
            return;
        };
        self.give_up_rejects_without_room(key);
        let dying = self.state.queue_topic(key.0, key.1).map(|topic| topic.dying()).unwrap_or_default();
        if dying.is_empty() || self.holds_letters() {
            return;
        }
        for partition in dying {
            let source = TopicPartition { topic: key.1, partition };
            let kept_in = TopicPartition { topic: letters, partition };
            if let Err(error) = self.check_writable(kept_in) {
                for message in self.queues.rejects.of(key.0, source) {
                    self.give_up_reject(message, &error);
                }
                continue;
            }
            let Some(table) = self.state.table(key.0, source) else { continue };
            let dying = table.take_dying(LETTERS_PER_TURN);
            self.effects.extend(dying.into_iter().map(|dying| Effect::FetchLetter {
                group: key.0,
                source,
                offset: dying.offset,
                reason: dying.reason,
                from: dying.letter.map_or((source, dying.offset), |letter| (kept_in, letter)),
            }));
        }
    }

    /// Where there are as many dead letters as can be, whoever rejected a message need not wait for one of them to go.
    fn give_up_rejects_without_room(&mut self, key: QueueKey) {
        for message in self.queues.rejects.waiting_in(key) {
            let Some(topic) = self.state.queue_topic(key.0, key.1) else { return };
            let table = topic.table(message.1.partition);
            if table.is_some_and(|table| table.dead_room() == 0 && table.is_dying_new(message.2)) {
                let what = "there are as many dead letters as can be: purge or redrive some".to_owned();
                self.give_up_reject(message, &RequestError::Busy(what));
            }
        }
    }

    /// The bytes of a dying message are here, or are known to be damaged: they go to the dead-letter log and the
    /// message is settled, in one commit. One that cannot be read or written now goes on dying.
    pub(super) fn bury_letter(&mut self, now: Now, letter: &Letter) {
        if self.stopped.is_some() || self.shutting_down {
            return;
        }
        self.commit_path.make_room();
        let message = (letter.group, letter.source, letter.offset);
        let log = self.state.catalogue.dead_letter_log(letter.group, letter.source.topic).map(|info| info.id);
        let kept_in = log.map(|topic| TopicPartition { topic, ..letter.source });
        let batch = match (&letter.batch, kept_in.map_or(Ok(()), |kept_in| self.check_writable(kept_in))) {
            (Err(LetterError::Unread(why)), _) => {
                let what = format!("the record of a message that is to die cannot be read now: {why}");
                return self.put_letter_off(now, message, &RequestError::Busy(what));
            }
            (_, Err(error)) => return self.put_letter_off(now, message, &error),
            (Ok(batch), Ok(())) => batch.clone(),
            (Err(LetterError::Damaged(why)), Ok(())) => {
                if let Some(table) = self.state.table(letter.group, letter.source) {
                    table.handle_letter_damaged(letter.offset, why);
                }
                letter_batch(Err(why))
            }
        };
        let dies =
            self.state.table(letter.group, letter.source).is_some_and(|table| table.is_dying(letter.offset));
        let buried = match (kept_in, BatchHeader::parse(&batch)) {
            (Some(kept_in), Ok(header)) if dies => {
                let offset = self.append(now, kept_in, &header, &batch);
                if mutant::is(Mutant::DeadLetterInTwoCommits) {
                    self.commit_path.make_room();
                }
                let table = self.state.table(letter.group, letter.source).expect("it dies there");
                let died = table.bury(letter.offset, offset, now).expect("it dies");
                self.commit_queue_events(letter.group, letter.source, vec![died]);
                true
            }
            // Acknowledged, removed or revoked while its bytes were read.
            _ => false,
        };
        self.resolve_rejects(message, buried);
    }

    /// It is asked for again after a while. Whoever rejected it need not wait for that.
    fn put_letter_off(&mut self, now: Now, message: MessageKey, error: &RequestError) {
        self.queues.put_off.insert(message, now.mono_ms.saturating_add(RETRY_MS));
        self.give_up_reject(message, error);
    }

    fn give_up_reject(&mut self, message: MessageKey, error: &RequestError) {
        for (reply_to, response) in self.queues.rejects.put_off(message, error) {
            self.reply_durably(reply_to, response);
        }
    }

    /// Has the records asked for again whose time has come.
    pub(super) fn resume_letters(&mut self, now: Now) {
        let put_off = &mut self.queues.put_off;
        let due: Vec<(GroupId, TopicPartition, Offset)> =
            put_off.extract_if(.., |_, at_ms| *at_ms <= now.mono_ms).map(|(message, _)| message).collect();
        for (group, source, offset) in due {
            if let Some(table) = self.state.table(group, source) {
                table.handle_letter_failed(offset);
                self.queues.touch([(group, source.topic)]);
            }
        }
    }
}
