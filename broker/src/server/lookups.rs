//! Offsets by position or time: answered from published views, on a thread that may wait where the disk is asked.

use dure_engine::{LogView, Request, RequestError, SeekTo};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{Offset, PartitionId, TopicId, TopicPartition};
use tokio::task::spawn_blocking;

use super::connection::Connection;
use super::convert::{checked_offset, message, read_error};
use super::dispatch::Room;
use crate::runtime::{AnswerTo, OutgoingFrame, Pending};

type Handled = Result<(), (RequestError, Room)>;

impl Connection {
    pub(super) fn locate(&mut self, correlation: u64, locate: wire::LocateOffset, room: Room) -> Handled {
        use wire::locate_offset::Position;
        let partition =
            TopicPartition { topic: TopicId(locate.topic_id), partition: PartitionId(locate.partition) };
        let view = match self.broker.shards.view(partition) {
            Ok(view) => view,
            Err(error) => return Err((error, room)),
        };
        let high_watermark = view.high_watermark.0;
        let reply = move |offset: Offset| {
            Body::LocateOffsetReply(wire::LocateOffsetReply { offset: offset.0, high_watermark })
        };
        match locate.position {
            Some(Position::Earliest(_)) => self.done(correlation, reply(view.log_start), room),
            Some(Position::Latest(_)) => self.done(correlation, reply(view.high_watermark), room),
            None => {
                Err((RequestError::Invalid("no position: say earliest, latest or a time".to_owned()), room))
            }
            Some(Position::TimeMs(time_ms)) => {
                let outbox = self.outbox.clone();
                self.tasks.spawn(async move {
                    let body = at_time(view, time_ms).await.map_or_else(Body::Error, reply);
                    outbox.frame(OutgoingFrame::answer(correlation, body, Some(room.connection)));
                });
                Ok(())
            }
        }
    }

    pub(super) fn seek(&mut self, correlation: u64, seek: wire::SeekGroup, room: Room) -> Handled {
        use wire::seek_group::Position;
        let wire::SeekGroup { group, topic, position } = seek;
        let to = match position {
            Some(Position::Earliest(_)) => SeekTo::Earliest,
            Some(Position::Latest(_)) => SeekTo::Latest,
            Some(Position::Offset(offset)) => match checked_offset(offset) {
                Ok(offset) => SeekTo::Offset(offset),
                Err(error) => return Err((error, room)),
            },
            Some(Position::TimeMs(time_ms)) => {
                return self.seek_to_time(correlation, group, topic, time_ms, room);
            }
            None => {
                let text = "no position: say earliest, latest, an offset or a time".to_owned();
                return Err((RequestError::Invalid(text), room));
            }
        };
        self.ask(self.broker.shards.catalogue(), correlation, Request::SeekGroup { group, topic, to }, room);
        Ok(())
    }

    fn seek_to_time(
        &mut self,
        correlation: u64,
        group: String,
        topic: String,
        time_ms: u64,
        room: Room,
    ) -> Handled {
        let views = match self.views_of(&topic) {
            Ok(views) => views,
            Err(error) => return Err((error, room)),
        };
        let (id, shards, outbox) = (self.id, self.broker.shards.clone(), self.outbox.clone());
        self.tasks.spawn(async move {
            let mut offsets = Vec::with_capacity(views.len());
            for view in views {
                match at_time(view, time_ms).await {
                    Ok(offset) => offsets.push(offset),
                    Err(error) => {
                        let body = Body::Error(error);
                        return outbox.frame(OutgoingFrame::answer(correlation, body, Some(room.connection)));
                    }
                }
            }
            let request = Request::SeekGroup { group, topic, to: SeekTo::PerPartition(offsets) };
            let to = if correlation == 0 { AnswerTo::Nobody } else { AnswerTo::Client { correlation } };
            let pending = Pending::new(to, room.connection, room.global);
            if let Err(pending) = shards.catalogue().send(id, request, pending) {
                pending.refuse(&outbox, RequestError::ShuttingDown);
            }
        });
        Ok(())
    }

    fn views_of(&self, name: &str) -> Result<Vec<LogView>, RequestError> {
        let topics = self.broker.shards.topics();
        let topic = topics.by_name(name).ok_or_else(|| RequestError::UnknownTopic(name.to_owned()))?;
        let partition = |n| TopicPartition { topic: topic.id, partition: PartitionId(n) };
        (0..topic.partitions).map(|n| self.broker.shards.view(partition(n))).collect()
    }
}

async fn at_time(view: LogView, time_ms: u64) -> Result<Offset, wire::Error> {
    match spawn_blocking(move || view.locate_time(time_ms)).await {
        Ok(located) => located.map_err(|error| read_error(&error)),
        Err(error) => {
            Err(message(ErrorCode::ReadFailed, format!("looking up the time failed: {error}"), Retry::Later))
        }
    }
}
