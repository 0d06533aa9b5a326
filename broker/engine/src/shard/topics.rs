//! Requests about topics.

use std::collections::BTreeSet;

use dure_proto::journal::{LogStartMoved, TopicDeleted, event};
use dure_proto::{Offset, TopicPartition, wire};

use super::Shard;
use crate::catalogue::TopicInfo;
use crate::effect::Effect;
use crate::request::{ReplyTo, RequestError, Response};
use crate::time::Now;

impl Shard {
    pub(super) fn create_topic(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        create: &wire::CreateTopic,
    ) -> Result<(), RequestError> {
        let created = self.state.catalogue.decide_create(now, create)?;
        self.commit_event(now, event::Event::TopicCreated(created));
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    pub(super) fn alter_topic(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        alter: &wire::AlterTopic,
    ) -> Result<(), RequestError> {
        for altered in self.state.catalogue.decide_alter(alter)? {
            self.commit_event(now, event::Event::TopicAltered(altered));
        }
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    /// The dead letters of the topic go with it, which could not be redriven any more, and what waits for its time.
    pub(super) fn delete_topic(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        delete: &wire::DeleteTopic,
    ) -> Result<(), RequestError> {
        let topic = self.state.catalogue.find(&delete.name)?.id;
        let table = self.state.catalogue.table().clone();
        let hidden = table.iter().filter(|info| info.source() == Some(topic));
        self.delays.forget_topic(topic);
        self.end_takers_of_topic(topic, &RequestError::UnknownTopic(delete.name.clone()));
        for gone in hidden.map(|info| info.id).chain([topic]) {
            self.commit_event(now, event::Event::TopicDeleted(TopicDeleted { topic: gone.0 }));
        }
        self.count_delayed();
        self.stream_topics_changed(now);
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    /// Removes every message, those too that wait for their time; offsets go on where they were.
    pub(super) fn purge_topic(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        purge: &wire::PurgeTopic,
    ) -> Result<(), RequestError> {
        let topic = self.state.catalogue.find(&purge.name)?.clone();
        for partition in topic.all_partitions() {
            let waiting = self.state.catalogue.delay_logs(topic.id);
            let waiting: Vec<_> = waiting.map(|topic| TopicPartition { topic, ..partition }).collect();
            for log in waiting.into_iter().chain([partition]) {
                if let Some(log_end) = self.state.logs.get(&log).map(|log| log.layout.log_end()) {
                    self.move_log_start(now, log, log_end);
                }
            }
            self.delays.forget(partition);
        }
        self.count_delayed();
        self.reply_durably(reply_to, Response::Done);
        Ok(())
    }

    pub(super) fn move_log_start(&mut self, now: Now, partition: TopicPartition, offset: Offset) {
        let moved =
            LogStartMoved { topic: partition.topic.0, partition: partition.partition.0, offset: offset.0 };
        self.commit_event(now, event::Event::LogStartMoved(moved));
        self.touch_queues_of(partition.topic);
    }

    pub(super) fn describe_topics(
        &mut self,
        now: Now,
        reply_to: ReplyTo,
        describe: &wire::DescribeTopics,
    ) -> Result<(), RequestError> {
        let topics: Vec<_> = match describe.names.is_empty() {
            true => self.state.catalogue.table().iter().filter(|t| !t.is_hidden()).cloned().collect(),
            false => {
                // Each once, however often it is named: an answer is bounded by the topics that there are.
                let names: BTreeSet<&String> = describe.names.iter().collect();
                let find = |name: &&String| self.state.catalogue.find(name).cloned();
                let mut topics = names.iter().map(find).collect::<Result<Vec<_>, _>>()?;
                let place = |topic: &TopicInfo| describe.names.iter().position(|name| *name == topic.name);
                topics.sort_by_cached_key(|topic| place(topic));
                topics
            }
        };
        let descriptions = topics.iter().map(|topic| self.describe_topic(now, topic)).collect();
        self.effects.push(Effect::Reply { to: reply_to, result: Ok(Response::Topics(descriptions)) });
        Ok(())
    }

    fn describe_topic(&self, now: Now, topic: &TopicInfo) -> wire::TopicDescription {
        let partitions = topic.all_partitions().filter_map(|partition| {
            // Readers see what is durable, and so does a description.
            let view = self.writers.get(&partition)?.view();
            let layout = &self.state.logs.get(&partition)?.layout;
            let floors: Vec<(&str, Offset)> =
                self.state.floors(partition, |group| group.settings.hold).collect();
            let held_by_one = |floor| self.held_by(now, topic, partition, floor);
            let holders = floors.iter().filter(|(_, floor)| held_by_one(*floor).bytes > 0);
            let held_by: Vec<String> = holders.map(|(name, _)| (*name).to_owned()).collect();
            let held = floors.iter().map(|(_, floor)| *floor).min().map(held_by_one).unwrap_or_default();
            let lost = self.lost_ranges(partition).into_iter();
            let lost = lost.map(|r| wire::OffsetRange { from: r.start.0, to: r.end.0 });
            Some(wire::PartitionDescription {
                partition: partition.partition.0,
                log_start_offset: view.log_start.0,
                high_watermark: view.high_watermark.0,
                bytes: view.bytes,
                segments: layout.segments().len() as u32,
                lost: lost.collect(),
                held_bytes: held.bytes,
                held_since_ms: held.since_ms,
                held_by,
                compaction_failed: self.compaction_failure(partition).unwrap_or_default().to_owned(),
                unwritable: self.unwritable_for(partition).unwrap_or_default().to_owned(),
            })
        });
        wire::TopicDescription {
            name: topic.name.clone(),
            id: topic.id.0,
            config: Some(topic.config),
            partitions: partitions.collect(),
            scheduled: self.state.scheduled(topic.id),
        }
    }
}
