//! Settling messages of queue groups, and what is done with those that have died.

use std::collections::BTreeMap;

use dure_proto::{GroupId, Offset, PartitionId, Receipt, TopicPartition, wire};

use super::{QueueKey, Shard};
use crate::queue_group::{SettleError, Settlement};
use crate::request::{
    DeadLetterRef, ReplyTo, RequestError, Response, SETTLE_ITEMS_MAX, Settle, SettleItem, Settled,
};
use crate::time::Now;

/// Dead letters in one answer.
const DEAD_LETTERS_PER_PAGE: usize = 1000;

/// A message, in a group.
pub(super) type MessageKey = (GroupId, TopicPartition, Offset);

/// Settle requests that wait for dead letters: a reject is done when its message is buried.
#[derive(Default)]
pub(super) struct Rejects {
    next: u64,
    settles: BTreeMap<u64, WaitingSettle>,
    waiting: BTreeMap<MessageKey, Vec<(u64, usize)>>,
}

struct WaitingSettle {
    reply_to: ReplyTo,
    results: Vec<Result<Settled, RequestError>>,
    missing: usize,
}

impl Rejects {
    fn wait(
        &mut self,
        reply_to: ReplyTo,
        results: Vec<Result<Settled, RequestError>>,
        on: Vec<(MessageKey, usize)>,
    ) {
        self.next += 1;
        self.settles.insert(self.next, WaitingSettle { reply_to, results, missing: on.len() });
        for (message, item) in on {
            self.waiting.entry(message).or_default().push((self.next, item));
        }
    }

    /// What a message became. Returns the answers that are complete now.
    pub(super) fn resolve(
        &mut self,
        message: MessageKey,
        result: impl Fn(Offset) -> Result<Settled, RequestError>,
    ) -> Vec<(ReplyTo, Response)> {
        let mut complete = Vec::new();
        for (id, item) in self.waiting.remove(&message).unwrap_or_default() {
            let Some(settle) = self.settles.get_mut(&id) else { continue };
            settle.results[item] = result(message.2);
            settle.missing -= 1;
            if settle.missing == 0
                && let Some(settle) = self.settles.remove(&id)
            {
                complete.push((settle.reply_to, Response::Settled(settle.results)));
            }
        }
        complete
    }

    /// That one of them cannot be had for now. Returns the answers that are complete with it.
    pub(super) fn put_off(&mut self, message: MessageKey, error: &RequestError) -> Vec<(ReplyTo, Response)> {
        self.resolve(message, |_| Err(error.clone()))
    }

    /// Those of one partition that wait.
    pub(super) fn of(&self, group: GroupId, source: TopicPartition) -> Vec<MessageKey> {
        let all = (group, source, Offset::ZERO)..=(group, source, Offset::MAX);
        self.waiting.range(all).map(|(message, _)| *message).collect()
    }

    /// Messages of one queue that somebody waits for.
    pub(super) fn waiting_in(&self, (group, topic): QueueKey) -> Vec<MessageKey> {
        let at = |partition, offset| (group, TopicPartition { topic, partition }, offset);
        let range = at(PartitionId(0), Offset::ZERO)..=at(PartitionId(u32::MAX), Offset(u64::MAX));
        self.waiting.range(range).map(|(message, _)| *message).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<ReplyTo> {
        self.waiting.clear();
        std::mem::take(&mut self.settles).into_values().map(|settle| settle.reply_to).collect()
    }

    /// What still waits is not buried any more: that part of the requests failed, the rest of them is done.
    pub(super) fn give_up(&mut self, error: &RequestError) -> Vec<(ReplyTo, Response)> {
        for (id, item) in std::mem::take(&mut self.waiting).into_values().flatten() {
            if let Some(settle) = self.settles.get_mut(&id) {
                settle.results[item] = Err(error.clone());
            }
        }
        let settles = std::mem::take(&mut self.settles).into_values();
        settles.map(|settle| (settle.reply_to, Response::Settled(settle.results))).collect()
    }
}

impl Shard {
    pub(super) fn settle(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        settle: &Settle,
    ) -> Result<(), RequestError> {
        if settle.items.len() > SETTLE_ITEMS_MAX {
            return Err(RequestError::Invalid(format!(
                "{} receipts in one request: at most {SETTLE_ITEMS_MAX}",
                settle.items.len()
            )));
        }
        let topic = self.state.catalogue.find(&settle.topic)?.id;
        let group = self.queue_group_id(&settle.group)?;
        if self.state.queue_topic(group, topic).is_none() {
            let what = format!("group `{}` does not work topic `{}`", settle.group, settle.topic);
            return Err(RequestError::Invalid(what));
        }
        let mut results = Vec::with_capacity(settle.items.len());
        let mut dying = Vec::new();
        // Events of neighbouring items of one partition go into the journal together.
        let of_one = |a: &SettleItem, b: &SettleItem| a.receipt.partition == b.receipt.partition;
        for items in settle.items.chunk_by(of_one) {
            let partition = TopicPartition { topic, partition: items[0].receipt.partition };
            let jitter = self.jitter();
            let mut events = Vec::new();
            for item in items {
                let Receipt { offset, token, .. } = item.receipt;
                let settled = match self.state.table(group, partition) {
                    Some(table) => table.settle(offset, token, &item.action, jitter, now, &mut events),
                    None => Err(SettleError::UnknownReceipt),
                };
                results.push(match settled {
                    Ok(Settlement::Done) => Ok(Settled { already: false }),
                    Ok(Settlement::AlreadySettled) => Ok(Settled { already: true }),
                    Ok(Settlement::Dying) => {
                        dying.push(((group, partition, offset), results.len()));
                        Ok(Settled { already: false })
                    }
                    Err(SettleError::UnknownReceipt) if self.tokens.may_have_lost(token) => {
                        Err(RequestError::StaleLease(item.receipt))
                    }
                    Err(error) => Err(settle_error(error, item.receipt)),
                });
            }
            self.commit_queue_events(group, partition, events);
        }
        if dying.is_empty() {
            self.reply_durably(reply_to, Response::Settled(results));
        } else {
            self.queues.rejects.wait(reply_to, results, dying);
            if self.shutting_down {
                self.give_up_rejects();
            }
        }
        self.queues.touch([(group, topic)]);
        Ok(())
    }

    /// A rejected message that was acknowledged, revoked or removed meanwhile is not buried by anybody, and perhaps its
    /// bytes were not even asked for.
    pub(super) fn answer_void_rejects(&mut self, key: QueueKey) {
        for message in self.queues.rejects.waiting_in(key) {
            let (group, partition, offset) = message;
            if !self.state.table(group, partition).is_some_and(|table| table.is_dying(offset)) {
                self.resolve_rejects(message, false);
            }
        }
    }

    pub(super) fn resolve_rejects(&mut self, message: MessageKey, buried: bool) {
        let receipt =
            |offset| Receipt { partition: message.1.partition, offset, token: dure_proto::LeaseToken::NONE };
        let result = |offset| match buried {
            true => Ok(Settled { already: false }),
            false => Err(RequestError::AlreadySettled(receipt(offset))),
        };
        for (reply_to, response) in self.queues.rejects.resolve(message, result) {
            self.reply_durably(reply_to, response);
        }
    }

    /// Nobody waits for records to be read while the shard shuts down. The messages stay leased, and can be rejected
    /// again afterwards.
    pub(super) fn give_up_rejects(&mut self) {
        for (reply_to, response) in self.queues.rejects.give_up(&RequestError::ShuttingDown) {
            self.reply_durably(reply_to, response);
        }
    }

    pub(super) fn list_dead_letters(
        &mut self,
        reply_to: ReplyTo,
        list: &wire::ListDeadLetters,
    ) -> Result<(), RequestError> {
        let topic = self.state.catalogue.find(&list.topic)?.id;
        let group = self.queue_group_id(&list.group)?;
        let after = (!list.after.is_empty()).then(|| parse_letter_id(&list.after)).transpose()?;
        let only = list.id.as_deref().map(parse_letter_id).transpose()?;
        let log = self.state.catalogue.dead_letter_log(group, topic).map(|info| info.id);
        let (Some(log), Some(queue)) = (log, self.state.queue_topic(group, topic)) else {
            let what = format!("group `{}` does not work topic `{}`", list.group, list.topic);
            return Err(RequestError::Invalid(what));
        };
        let count_max = (list.count_max as usize).clamp(1, DEAD_LETTERS_PER_PAGE);
        let all = queue.tables().iter().enumerate().flat_map(|(p, table)| {
            let partition = PartitionId(p as u32);
            let from = match after {
                Some((of, offset)) if of == partition => Some(offset),
                _ => None,
            };
            let behind = after.is_none_or(|(of, _)| of <= partition);
            let letters = behind.then(|| table.dead_letters(from)).into_iter().flatten();
            letters.map(move |(offset, letter)| DeadLetterRef {
                partition,
                offset,
                kept_in: TopicPartition { topic: log, partition },
                letter: letter.letter,
                attempts: letter.attempts,
                reason: letter.reason.clone(),
                dead_wall_ms: letter.dead_wall_ms,
            })
        });
        let wanted = all.filter(|letter| only.is_none_or(|id| id == (letter.partition, letter.offset)));
        let mut letters: Vec<DeadLetterRef> = wanted.take(count_max + 1).collect();
        let more = letters.len() > count_max;
        letters.truncate(count_max);
        if let (Some((partition, offset)), true) = (only, letters.is_empty()) {
            let what = format!(
                "no dead letter {partition}-{offset} in group `{}` of topic `{}`: see `dure dlq list`",
                list.group, list.topic
            );
            return Err(RequestError::Invalid(what));
        }
        // Their bytes are read next, which has to wait for those that were just buried.
        self.reply_durably(reply_to, Response::DeadLetters { letters, more });
        Ok(())
    }

    pub(super) fn redrive(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        redrive: &wire::Redrive,
    ) -> Result<(), RequestError> {
        let count_max = if redrive.count_max == 0 { u64::MAX } else { redrive.count_max };
        let count =
            self.for_dead_letters(&redrive.topic, &redrive.group, count_max, |table, left, end, events| {
                table.redrive(left, end, now, events)
            })?;
        self.reply_durably(reply_to, Response::Count(count));
        Ok(())
    }

    pub(super) fn purge_dead_letters(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        purge: &wire::PurgeDeadLetters,
    ) -> Result<(), RequestError> {
        let count =
            self.for_dead_letters(&purge.topic, &purge.group, u64::MAX, |table, left, _, events| {
                table.purge_dead(left, now, events)
            })?;
        self.reply_durably(reply_to, Response::Count(count));
        Ok(())
    }

    /// `act` gets how many it may take at most and the end of the letters that can be read, and says how many it took.
    fn for_dead_letters(
        &mut self,
        topic: &str,
        group: &str,
        count_max: u64,
        act: impl Fn(&mut crate::LeaseTable, u64, Offset, &mut Vec<dure_proto::journal::QueueEvent>) -> u64,
    ) -> Result<u64, RequestError> {
        let topic = self.state.catalogue.find(topic)?.clone();
        let group = self.queue_group_id(group)?;
        let log = self.state.catalogue.dead_letter_log(group, topic.id).map(|info| info.id);
        let mut count = 0;
        for partition in topic.all_partitions() {
            self.commit_path.make_room();
            let letters = log.and_then(|topic| self.writers.get(&TopicPartition { topic, ..partition }));
            let letters_end = letters.map_or(Offset::ZERO, |writer| writer.high_watermark());
            let Some(table) = self.state.table(group, partition) else { continue };
            let mut events = Vec::new();
            count += act(table, count_max - count, letters_end, &mut events);
            self.commit_queue_events(group, partition, events);
        }
        Ok(count)
    }
}

/// `PARTITION-OFFSET` of the source, as `dlq list` prints it.
fn parse_letter_id(id: &str) -> Result<(PartitionId, Offset), RequestError> {
    let parsed = id.split_once('-').and_then(|(partition, offset)| {
        Some((PartitionId(partition.parse().ok()?), Offset(offset.parse().ok()?)))
    });
    parsed.ok_or_else(|| {
        let shown: String = id.chars().take(60).collect();
        RequestError::Invalid(format!("`{shown}` is not the id of a dead letter: expected PARTITION-OFFSET"))
    })
}

fn settle_error(error: SettleError, receipt: Receipt) -> RequestError {
    match error {
        SettleError::StaleLease => RequestError::StaleLease(receipt),
        SettleError::AlreadySettled => RequestError::AlreadySettled(receipt),
        SettleError::UnknownReceipt => RequestError::UnknownReceipt(receipt),
        SettleError::BeyondEnd { end } => RequestError::Invalid(format!(
            "partition {} has no offset {} yet: the next message gets {end}",
            receipt.partition, receipt.offset
        )),
        SettleError::OutOfBounds { what, ms, ms_max } => {
            RequestError::Invalid(format!("{what} of {ms} ms is out of bounds: at most {ms_max} ms"))
        }
    }
}
