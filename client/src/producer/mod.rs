//! Sending messages: batched per partition, several batches in flight, each appended exactly once.
//!
//! [`Producer::enqueue`] encodes a message into the open batch of its partition; one task takes batches from
//! there and keeps them in order on the wire ([`sender`]); [`line`] decides what a failure means for the batches
//! behind it.

mod accumulator;
mod builder;
mod delivery;
mod line;
mod sender;

use std::sync::Arc;

use dure_proto::partition_for_key;

use crate::client::TopicInfo;
use crate::error::{Error, Result};
use crate::message::{Ack, Message};
use accumulator::Accumulator;

pub use builder::ProducerBuilder;
pub use delivery::Delivery;

/// Sends messages to one topic. Clones share batches and order.
///
/// Messages to one partition are appended in the order in which they were enqueued. While this producer lives,
/// none is appended twice, whatever is retried on the way.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Dropping the last one lets the sender finish what is enqueued and end.
#[derive(Debug)]
struct Handle {
    topic: Arc<TopicInfo>,
    accumulator: Arc<Accumulator>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.accumulator.close();
    }
}

impl Producer {
    /// Sends a message and waits until the broker has it, as durably as the topic is set to (by default:
    /// synced to disk).
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if it was sent and the broker could not be asked again in time;
    /// [`Error::InvalidArgument`] or [`Error::Broker`] if it cannot be appended; it was not then.
    pub async fn send(&self, message: Message) -> Result<Ack> {
        self.enqueue(message).await?.await
    }

    /// Puts a message into a batch and returns a future of its acknowledgement, so that many can be under way.
    /// The message is sent whether or not the future is polled. Waits while `inflight_bytes_max` are under way.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it can never be sent, [`Error::Closed`] after [`Producer::close`].
    pub async fn enqueue(&self, message: Message) -> Result<Delivery> {
        let topic = &self.handle.topic;
        let partition = self.partition_of(&message)?;
        dure_proto::message_id(&message.headers).map_err(|error| Error::invalid(error.to_string()))?;
        let bytes = message.bytes();
        let bytes_max = topic.message_bytes_max as usize;
        if bytes_max > 0 && bytes > bytes_max {
            return Err(Error::Broker {
                code: crate::error::ErrorCode::MessageTooLarge,
                message: format!(
                    "a message of {bytes} bytes is more than the {bytes_max} that topic `{}` allows \
                     (`--max-message`)",
                    topic.name
                ),
                retry: crate::error::Retry::Never,
            });
        }
        self.handle.accumulator.append(&topic.name, partition, message).await
    }

    /// Sends without further delay what is enqueued, and waits until all of it is acknowledged or has failed.
    ///
    /// # Errors
    /// The first failure among these messages; each one's own is in its [`Delivery`].
    pub async fn flush(&self) -> Result<()> {
        self.handle.accumulator.flush().await
    }

    /// [`flush`](Self::flush), after which nothing more can be enqueued.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn close(self) -> Result<()> {
        let flushed = self.flush().await;
        self.handle.accumulator.close();
        flushed
    }

    /// The number of partitions that messages are spread over.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.handle.topic.partitions
    }

    /// `None`: whichever is filled at present.
    fn partition_of(&self, message: &Message) -> Result<Option<u32>> {
        let TopicInfo { name, partitions, .. } = &*self.handle.topic;
        match (message.partition, &message.key) {
            (Some(partition), _) if partition >= *partitions => Err(Error::invalid(format!(
                "topic `{name}` has no partition {partition}: it has {partitions}, counted from 0"
            ))),
            (Some(partition), _) => Ok(Some(partition)),
            (None, Some(key)) => Ok(Some(partition_for_key(key, *partitions).0)),
            (None, None) => Ok(None),
        }
    }
}
