//! What has to be true after every recovery, and of every log that is shown.

use dure_engine::{DeadLetterRef, LogView, Request, Response};
use dure_proto::{EntryHeader, Offset, TopicId, TopicPartition, wire};

use super::copied::copy_in;
use super::expiring::says_expired;
use super::model::{Account, Dead, Fate, GroupShape, TopicShape, named_in, read_log, read_value};
use super::world::World;
use super::{Checked, Violation, ensure};

/// Whether these are a batch's bytes, perhaps without the stamp of its session.
pub(super) fn is_it(bytes: &[u8], sent: &[u8], delayed: bool) -> bool {
    let unstamped = dure_proto::without_producer(sent).ok().filter(|_| delayed);
    let same = |sent: &[u8]| bytes.get(16..) == sent.get(16..);
    same(sent) || unstamped.is_some_and(|unstamped| same(&unstamped))
}

/// Rounds in which every queue has to be worked off; of one key each round gives out one message.
const DRAIN_ROUNDS_MAX: u32 = 600;

impl World {
    /// Everything that clients were told is so.
    pub(crate) fn check_recovered(&mut self) -> Checked {
        self.check_topics()?;
        let views: Vec<LogView> = self.views.values().cloned().collect();
        for view in &views {
            self.check_log_from(view, view.log_start)?;
        }
        // Purges whose answers were lost have happened by now, or never will.
        for (name, topic) in &mut self.model.topics {
            if std::mem::take(&mut topic.purging) {
                self.purged.push(name.clone());
            }
        }
        // So have seeks and redrives.
        for group in self.model.groups.values_mut().filter(|group| group.moving) {
            group.moving = false;
            for (partition, part) in &mut group.parts {
                part.seek(self.model.logs.get(partition).map(|log| log.end).unwrap_or_default());
                part.redrive();
            }
        }
        self.check_groups()
    }

    fn check_topics(&mut self) -> Checked {
        let waited = self.waiting_at_most();
        let described = match self.ask(Request::DescribeTopics(wire::DescribeTopics::default()))? {
            Response::Topics(topics) => topics,
            other => return Err(Violation(format!("{other:?}"))),
        };
        let mut names: Vec<String> = self.model.topics.keys().cloned().collect();
        names.extend(described.iter().map(|topic| topic.name.clone()));
        names.sort_unstable();
        names.dedup();
        for name in names {
            let found = described.iter().find(|topic| topic.name == name);
            let shape = found.map(|topic| TopicShape {
                partitions: topic.partitions.len() as u32,
                config: topic.config.unwrap_or_default(),
            });
            let known = &mut self.model.topics.entry(name.clone()).or_default().shape;
            let before = known.clone();
            ensure!(known.observe(shape.as_ref()), "topic `{name}` is {shape:?}, and should be {before:?}");
            self.model.topics.get_mut(&name).expect("just made").id = found.map(|topic| TopicId(topic.id));
        }
        for topic in &described {
            for row in &topic.partitions {
                let partition = TopicPartition {
                    topic: TopicId(topic.id),
                    partition: dure_proto::PartitionId(row.partition),
                };
                ensure!(row.lost.is_empty(), "{partition}: {:?} are lost", row.lost);
                // The view may be newer than the answer.
                let shown = self.views.get(&partition).map(|view| (view.log_start, view.high_watermark));
                ensure!(
                    shown.is_some_and(
                        |(start, end)| row.log_start_offset <= start.0 && row.high_watermark <= end.0
                    ),
                    "{partition} is described as {row:?} and shown as {shown:?}"
                );
            }
        }
        self.check_scheduled(&described, &waited)?;
        self.forget_deleted_topics();
        Ok(())
    }

    /// What readers see from `from` on: what was produced, each batch at one offset and once.
    pub(crate) fn check_log_from(&mut self, view: &LogView, from: Offset) -> Checked {
        let partition = view.partition;
        let source = self.letters_of.get(&partition.topic).copied();
        let mut found = Vec::new();
        let end = read_log(view, from, |header, batch| {
            found.push((header, batch));
            Ok(())
        })?;
        if let Some(end) = end {
            self.model.logs.entry(partition).or_default().was_read(from, end);
        }
        let waits_for = self.delays_of.get(&partition.topic).copied();
        let compacted = self.is_compacted(partition);
        if compacted {
            self.check_compacted(view, from, &found, end.is_some())?;
        }
        for (header, batch) in found.into_iter().filter(|_| !compacted) {
            match (source, waits_for) {
                (Some(source), _) => self.check_letter(partition, source, &header, &batch)?,
                (_, Some(topic)) => self.check_waiting(partition, topic, &header, &batch)?,
                _ => self.check_batch(partition, &header, &batch)?,
            }
        }
        *self.totals.checks.entry("logs read").or_default() += 1;
        match (end, self.model.logs.get(&partition)) {
            (Some(end), Some(log)) => {
                let purged = log.purged_upto;
                ensure!(view.log_start >= purged, "{partition}: what was purged below {purged} is back");
                log.check_end(end)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_batch(
        &mut self,
        partition: TopicPartition,
        header: &EntryHeader,
        bytes: &[u8],
    ) -> Checked {
        if self.takes_copies(partition)
            && let Some(copy) = copy_in(bytes)
        {
            return self.check_copy(partition, header, &copy);
        }
        let parsed = dure_proto::BatchHeader::parse(bytes);
        let id = parsed.map_err(|error| Violation(format!("{partition}: {error}")))?.base_timestamp_ms as u64;
        let base = header.base_offset;
        let Some(batch) = self.model.batches.get(&id) else {
            return Err(Violation(format!("{partition}: nobody produced what is at {base}")));
        };
        ensure!(batch.partition == partition, "batch {id} of {} is in {partition}", batch.partition);
        // Base offset and epoch are the broker's.
        ensure!(self.is_batch(id, bytes)?, "batch {id} at {base} of {partition} is not what was produced");
        let batch = &self.model.batches[&id];
        ensure!(batch.fate != Fate::Refused, "batch {id} was refused, and is at {base} of {partition}");
        if let Fate::Acked(acked) = batch.fate {
            ensure!(acked == base, "batch {id} was acknowledged at {acked} and is at {base} of {partition}");
        }
        let parsed_base = Offset(u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes")));
        ensure!(parsed_base == base, "batch {id} at {base} of {partition} says that it is at {parsed_base}");
        let (place, delay) = (batch.place.expect("it was sent"), batch.delay);
        let early_ms = delay.map_or(0, |delay| delay.due_ms.saturating_sub(header.append_time_ms));
        ensure!(early_ms == 0, "batch {id} entered {partition} at {base}, {early_ms} ms before it was due");
        if delay.is_some() && self.damaged {
            // Of one that entered by a commit that is lost nothing tells, and it enters again.
            return Ok(());
        }
        let log = self.model.logs.entry(partition).or_default();
        log.place(base, id, header.record_count, header.append_time_ms)?;
        if delay.is_none() { log.place_in_order(base, place) } else { Ok(()) }
    }

    /// A dead letter is a message of its source, byte for byte.
    fn check_letter(
        &mut self,
        partition: TopicPartition,
        source: TopicId,
        header: &EntryHeader,
        bytes: &[u8],
    ) -> Checked {
        let source = TopicPartition { topic: source, ..partition };
        let base = header.base_offset;
        let number = u64::from(crc32fast::hash(&bytes[16..])) << 20 | base.0;
        self.model.logs.entry(partition).or_default().place(base, number, header.record_count, 0)?;
        let batch = bytes::Bytes::copy_from_slice(bytes);
        let records = dure_proto::Records::decode(&batch, &dure_proto::BatchLimits::stored());
        let records = records.map_err(|error| Violation(format!("{partition}: {error}")))?;
        ensure!(records.len() == 1, "{partition}: {} records in the dead letter at {base}", records.len());
        let Some(value) = records.value(0) else { return Ok(()) };
        let (id, index) = named_in(&value).unzip();
        let batch = id.and_then(|id| self.model.batches.get(&id));
        let is_copy = |batch: &super::model::Batch| batch.partition == source && batch.sent.contains(&value);
        let copied = self.model.copied_at.values().any(|copy| is_copy(&self.model.batches[copy]));
        let wanted = batch.filter(|batch| batch.partition == source || copied);
        let wanted = wanted.and_then(|batch| batch.sent.get(index?));
        ensure!(wanted == Some(&value), "{partition}: the dead letter at {base} is no message of {source}");
        Ok(())
    }

    fn check_groups(&mut self) -> Checked {
        let described = match self.ask(Request::ListGroups)? {
            Response::Groups(groups) => groups,
            other => return Err(Violation(format!("{other:?}"))),
        };
        let mut names: Vec<String> = self.model.groups.keys().cloned().collect();
        names.extend(described.iter().map(|group| group.name.clone()));
        names.sort_unstable();
        names.dedup();
        for name in names {
            let found = described.iter().find(|group| group.name == name);
            let shape = found.map(|group| GroupShape { queue: group.queue.clone() });
            let known = &mut self.model.groups.entry(name.clone()).or_default().shape;
            let before = known.clone();
            ensure!(known.observe(shape.as_ref()), "group `{name}` is {shape:?}, and should be {before:?}");
            match found {
                None => self.model.forget_group(&name),
                Some(group) if group.queue.is_some() => self.check_queue_group(group)?,
                Some(group) => self.check_stream_group(group)?,
            }
        }
        Ok(())
    }

    fn partition_of(&self, row: &wire::GroupPartition) -> Option<TopicPartition> {
        let topic = self.topics.by_name(&row.topic)?.id;
        Some(TopicPartition { topic, partition: dure_proto::PartitionId(row.partition) })
    }

    /// A committed offset is what was committed, or more that was asked for; it never moves back.
    fn check_stream_group(&mut self, group: &wire::GroupDescription) -> Checked {
        for row in &group.partitions {
            let Some(partition) = self.partition_of(row) else { continue };
            let model = self.model.groups.get_mut(&group.name).expect("it was just seen");
            let known = model.committed.entry(partition).or_default();
            let found = row.committed.unwrap_or(0);
            ensure!(
                known.acked <= found && found <= known.asked_max,
                "group `{}` is at {found} of {partition}, and should be at {} to {}",
                group.name,
                known.acked,
                known.asked_max
            );
            known.observe(found);
        }
        Ok(())
    }

    fn check_queue_group(&mut self, group: &wire::GroupDescription) -> Checked {
        let mut topics: Vec<&str> = Vec::new();
        for row in &group.partitions {
            let Some(partition) = self.partition_of(row) else { continue };
            self.check_expired_count(&group.name, partition, row)?;
            let model = self.model.groups.get_mut(&group.name).expect("it was just seen");
            model.parts.entry(partition).or_default();
            // What retention took before the group had the topic may not have been published yet (seed 357977).
            self.holds.push((group.name.clone(), partition));
            if !topics.contains(&&*row.topic) {
                topics.push(&row.topic);
            }
        }
        for topic in topics {
            self.check_dead_letters(&group.name, topic)?;
        }
        Ok(())
    }

    /// Exactly the messages that died are in the dead letters, with their bytes.
    fn check_dead_letters(&mut self, group: &str, topic: &str) -> Checked {
        let topic_id = self.topics.by_name(topic).expect("it was just described").id;
        let list = wire::ListDeadLetters {
            topic: topic.to_owned(),
            group: group.to_owned(),
            count_max: 1_000,
            ..wire::ListDeadLetters::default()
        };
        let letters = match self.ask(Request::ListDeadLetters(list))? {
            Response::DeadLetters { letters, .. } => letters,
            other => return Err(Violation(format!("{other:?}"))),
        };
        for letter in &letters {
            self.check_dead_letter(group, topic_id, letter)?;
        }
        let model = self.model.groups.get_mut(group).expect("it was just described");
        let parts = model.parts.iter_mut().filter(|(partition, _)| partition.topic == topic_id);
        for (partition, part) in parts {
            let listed = letters.iter().filter(|letter| letter.partition == partition.partition);
            part.letters = listed.map(|letter| letter.offset.0).collect();
            let dead = part.messages.iter().filter(|(_, message)| message.dead == Dead::Yes);
            for (offset, _) in dead {
                let there =
                    letters.iter().any(|l| (l.partition, l.offset.0) == (partition.partition, *offset));
                ensure!(there, "message {offset} of {partition} died in `{group}` and is no dead letter");
            }
        }
        Ok(())
    }

    fn check_dead_letter(&mut self, group: &str, topic: TopicId, letter: &DeadLetterRef) -> Checked {
        let source = TopicPartition { topic, partition: letter.partition };
        let offset = letter.offset;
        let expired = says_expired(&letter.reason) && self.may_have_expired(group, source, offset);
        let model = self.model.groups.get_mut(group).expect("it was just described");
        let queue = model.shape.now.as_ref().and_then(|shape| shape.queue.as_ref());
        let attempts_max = queue.map_or(0, |queue| queue.attempts_max);
        let message = model.parts.entry(source).or_default().messages.entry(offset.0).or_default();
        ensure!(
            !message.acked,
            "{source}: message {offset} was acknowledged and is a dead letter of `{group}`"
        );
        ensure!(letter.attempts <= attempts_max, "{source}: message {offset}: {} attempts", letter.attempts);
        ensure!(
            expired
                || message.reasons.contains(&letter.reason)
                || letter.attempts == attempts_max && message.may_die_of(&letter.reason, attempts_max),
            "{source}: message {offset} died in attempt {} of {attempts_max}: {}",
            letter.attempts,
            letter.reason
        );
        let Some(view) = self.views.get(&letter.kept_in) else {
            return Err(Violation(format!("{} of `{group}` is not shown", letter.kept_in)));
        };
        let found = read_value(view, letter.letter)?;
        ensure!(
            found.is_none_or(|found| found.is_none() || self.model.fits(source, offset, found.as_ref())),
            "{source}: the dead letter of message {offset} holds other bytes"
        );
        Ok(())
    }

    /// A log's start moves only over what a purge, retention or settling lets go, and never over what a group holds.
    pub(crate) fn check_log_start(&mut self, view: &LogView) -> Checked {
        let partition = view.partition;
        let Some(log) = self.model.logs.get(&partition) else { return Ok(()) };
        let Some(info) = self.topics.by_id(partition.topic) else { return Ok(()) };
        if view.log_start <= log.start || info.is_hidden() {
            return Ok(());
        }
        let Some(topic) = self.model.topics.get(&info.name) else { return Ok(()) };
        if topic.purging || self.purged.contains(&info.name) {
            return Ok(());
        }
        let by_size = topic.configs.iter().any(|config| config.retention_bytes.is_some());
        let by_settling = topic.configs.iter().any(|c| c.cleanup == wire::Cleanup::DeleteWhenSettled as i32);
        for (base, placed) in log.batches_in(log.start, view.log_start) {
            let end = base.plus(u64::from(placed.records));
            if end <= log.purge_bound {
                continue;
            }
            let old = |ms| placed.append_ms + ms < self.now.wall_ms;
            let by_time = topic.configs.iter().any(|config| config.retention_ms.is_some_and(old));
            ensure!(
                by_time || by_size || by_settling,
                "{partition}: batch {} at {base} was removed, and nothing lets it go",
                placed.batch
            );
            for (name, group) in &self.model.groups {
                let queue = group.shape.now.as_ref().and_then(|shape| shape.queue.as_ref());
                let Some(part) = group.parts.get(&partition).filter(|part| part.holds) else { continue };
                if !queue.is_some_and(|queue| queue.hold) || group.shape.pending.is_some() {
                    continue;
                }
                for offset in base.0.max(log.start.0)..end.0.min(view.log_start.0) {
                    let settled = part.messages.get(&offset).is_some_and(|message| message.maybe_settled);
                    let expires_ms = self.model.expires_ms(partition, Offset(offset));
                    let expired = expires_ms.is_some_and(|at| at <= self.now.wall_ms);
                    ensure!(
                        settled || expired || Offset(offset) < part.loose_below,
                        "{partition}: message {offset} was removed, and `{name}` had not settled it"
                    );
                }
            }
        }
        Ok(())
    }

    /// Works every queue off: what was produced and neither acknowledged nor dead is delivered.
    pub(crate) fn drain_queues(&mut self) -> Checked {
        let groups: Vec<String> = self.model.groups.keys().cloned().collect();
        for connection in self.connections.clone() {
            self.subscription_gone(|(of, _)| of == connection);
            self.subscriptions.retain(|(of, _), _| *of != connection);
            self.asked.retain(|to, _| to.connection != connection);
            self.handle(dure_engine::Input::ConnectionClosed(connection));
        }
        self.settle_down()?;
        for name in groups {
            let Some(GroupShape { queue: Some(_) }) = self.model.groups[&name].shape.now else { continue };
            self.drain_group(&name)?;
        }
        Ok(())
    }

    fn drain_group(&mut self, name: &str) -> Checked {
        for _ in 0..DRAIN_ROUNDS_MAX {
            let described =
                match self.ask(Request::DescribeGroup(wire::DescribeGroup { name: name.into() }))? {
                    Response::Groups(mut groups) => groups.remove(0),
                    other => return Err(Violation(format!("{other:?}"))),
                };
            let behind = described.partitions.iter().filter(|row| row.lag > 0);
            let behind: Vec<String> = behind.map(|row| row.topic.clone()).collect();
            let Some(topic) = behind.first() else {
                self.check_queue_group(&described)?;
                return self.check_drained(name, &described);
            };
            self.held.clear();
            self.receive_all(name, topic)?;
            self.ack_all()?;
            self.advance(500);
            self.settle_down()?;
        }
        Err(Violation(format!("group `{name}` still has messages to do after {DRAIN_ROUNDS_MAX} rounds")))
    }

    /// Accepted = acknowledged + dead-lettered + remaining, of which there is nothing left: what nobody settled is
    /// not gone, and what was settled was either acknowledged or has died.
    fn check_drained(&mut self, name: &str, described: &wire::GroupDescription) -> Checked {
        let mut sums = [0_u64; 4];
        for row in &described.partitions {
            let Some(partition) = self.partition_of(row) else { continue };
            self.model.note_expired(name, partition, self.now.wall_ms);
            let (Some(view), Some(log)) = (self.views.get(&partition), self.model.logs.get(&partition))
            else {
                continue;
            };
            let part = self.model.groups[name].parts.get(&partition);
            for offset in view.log_start.0.max(log.purge_bound.0)..view.high_watermark.0 {
                let account = part.map_or(Account::Missing, |part| part.account_of(Offset(offset)));
                match account {
                    Account::Acked => sums[0] += 1,
                    Account::Dead => sums[1] += 1,
                    Account::Unknown => sums[2] += 1,
                    Account::Missing
                        if self.model.is_let_go(name, partition, Offset(offset), self.now.wall_ms) =>
                    {
                        sums[3] += 1;
                    }
                    Account::Missing => {
                        let what = format!("message {offset} of {partition} is settled in `{name}`");
                        return Err(Violation(format!("{what}, and nobody did that")));
                    }
                }
            }
        }
        for (kind, sum) in ["messages acked", "messages dead", "messages of unknown fate", "messages expired"]
            .into_iter()
            .zip(sums)
        {
            *self.totals.checks.entry(kind).or_default() += sum;
        }
        *self.totals.checks.entry("queues drained").or_default() += 1;
        Ok(())
    }
}
