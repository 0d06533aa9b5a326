//! What can be set about a producer.

use std::sync::Arc;
use std::time::Duration;

use dure_proto::{BATCH_BYTES_MAX, Compression};

use super::accumulator::{Accumulator, Batching};
use super::{Handle, Producer, sender};
use crate::client::Client;
use crate::error::{Error, Result};

const BATCH_BYTES_DEFAULT: usize = 1 << 20;
const INFLIGHT_BYTES_DEFAULT: usize = 32 << 20;
/// What a semaphore's permits can count.
const INFLIGHT_BYTES_MAX: usize = 1 << 30;

/// Settings of a [`Producer`].
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    client: Client,
    topic: String,
    compression: Compression,
    linger: Duration,
    batch_bytes_max: usize,
    inflight_bytes_max: usize,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        ProducerBuilder {
            client,
            topic,
            compression: Compression::None,
            linger: Duration::ZERO,
            batch_bytes_max: BATCH_BYTES_DEFAULT,
            inflight_bytes_max: INFLIGHT_BYTES_DEFAULT,
        }
    }

    /// How batches are compressed; not at all unless set.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How long a message may wait for others to share its batch. Zero unless set: a lone message goes at
    /// once, and those that come while it is under way share the next batch.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The size, before compression, at which a batch is full; 1 MiB unless set. A larger message has a batch
    /// of its own.
    #[must_use]
    pub fn batch_bytes(mut self, batch_bytes_max: usize) -> Self {
        self.batch_bytes_max = batch_bytes_max;
        self
    }

    /// How many bytes of messages may be enqueued and not yet acknowledged; 32 MiB unless set.
    #[must_use]
    pub fn inflight_bytes(mut self, inflight_bytes_max: usize) -> Self {
        self.inflight_bytes_max = inflight_bytes_max;
        self
    }

    /// Looks the topic up and starts the producer.
    ///
    /// # Errors
    /// [`Error::Broker`] with `UNKNOWN_TOPIC` if there is no such topic; producing never creates one.
    pub async fn build(self) -> Result<Producer> {
        if self.inflight_bytes_max == 0 || self.batch_bytes_max == 0 {
            return Err(Error::invalid("a producer needs room for at least one byte"));
        }
        let topic = self.client.fresh_topic(&self.topic).await?;
        let batching = Batching {
            compression: self.compression,
            linger: self.linger,
            batch_bytes_max: self.batch_bytes_max.min(BATCH_BYTES_MAX),
            inflight_bytes_max: self.inflight_bytes_max.min(INFLIGHT_BYTES_MAX),
            timeout: self.client.inner.request_timeout,
        };
        let accumulator = Arc::new(Accumulator::new(topic.partitions, batching));
        sender::start(self.client, Arc::clone(&topic), Arc::clone(&accumulator));
        Ok(Producer { handle: Arc::new(Handle { topic, accumulator }) })
    }
}
