//! Describing a queue group: the shard says where a message of each hot key lies, the key is read from it here.

use std::sync::Arc;

use dure_engine::{Request, RequestError, Response};
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{Offset, PartitionId, TopicPartition};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::convert::error_message;
use super::dispatch::Room;
use crate::broker::Broker;
use crate::runtime::{AnswerTo, OutgoingFrame, Pending};

/// Of a key that is longer only so much is shown.
const KEY_BYTES_MAX: usize = 1024;

impl Connection {
    pub(super) fn describe_group(&mut self, correlation: u64, describe: wire::DescribeGroup, room: Room) {
        let Room { connection: permit, global } = room;
        let (answer, answered) = oneshot::channel();
        let pending = Pending::metered_globally(AnswerTo::Local(answer), global);
        self.submit(self.broker.shards.catalogue(), Request::DescribeGroup(describe), pending);
        let (broker, outbox) = (self.broker.clone(), self.outbox.clone());
        self.tasks.spawn(async move {
            let body = match answered.await.unwrap_or(Err(RequestError::ShuttingDown)) {
                Ok(Response::Groups(mut groups)) => {
                    for group in &mut groups {
                        group.hottest_keys = named(&broker, std::mem::take(&mut group.hottest_keys)).await;
                    }
                    Body::GroupDescriptions(wire::GroupDescriptions { groups })
                }
                Ok(other) => unreachable!("a question for a group was answered with {other:?}"),
                Err(error) => Body::Error(error_message(&error)),
            };
            outbox.frame(OutgoingFrame::answer(correlation, body, Some(permit)));
        });
    }
}

/// Those whose message can be read: it may have been removed meanwhile.
async fn named(broker: &Arc<Broker>, keys: Vec<wire::HotKey>) -> Vec<wire::HotKey> {
    let mut named = Vec::with_capacity(keys.len());
    for mut hot in keys {
        let Some(topic) = broker.shards.topics().by_name(&hot.topic).map(|topic| topic.id) else { continue };
        let partition = TopicPartition { topic, partition: PartitionId(hot.partition) };
        let Ok(stored) = broker.records.read(partition, Offset(hot.offset)).await else { continue };
        let Some(key) = stored.record.key else { continue };
        hot.key = key[..key.len().min(KEY_BYTES_MAX)].to_vec();
        named.push(hot);
    }
    named
}
