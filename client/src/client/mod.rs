//! The entry point: a handle on a broker that reconnects by itself.

mod builder;
mod call;
mod link;
mod metadata;

use std::sync::Arc;
use std::time::Duration;

use crate::admin::Admin;
use crate::error::Result;
use crate::producer::ProducerBuilder;
use crate::queue::QueueBuilder;
use crate::stream::StreamBuilder;

pub use builder::ClientBuilder;
pub(crate) use call::{Retries, first_answer};
use link::Link;
use metadata::MetadataCache;
pub(crate) use metadata::{TopicInfo, unexpected};

/// A handle on a broker. Clones share one connection, which is made anew whenever it is lost, and a second one if they
/// work queues.
///
/// Every operation ends within the client's `request_timeout` (30 s unless told otherwise) beyond what it was
/// asked to wait for: it succeeds, fails with a typed [`Error`](crate::Error), or says that its outcome is
/// unknown.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Link,
    /// Of queue consumers alone, whose connection has to go on whatever the client's runtime does. Not made before one
    /// subscribes.
    pub(crate) work_link: Link,
    pub(crate) metadata: MetadataCache,
    pub(crate) request_timeout: Duration,
}

impl Client {
    /// Connects to the first broker that answers of `"host:port[,host:port…]"`.
    ///
    /// # Errors
    /// [`Error::Disconnected`](crate::Error::Disconnected) if none does; it is not tried for longer than one
    /// round, see [`ClientBuilder::connect_wait`].
    pub async fn connect(servers: impl AsRef<str>) -> Result<Client> {
        Client::builder().servers(servers.as_ref()).connect().await
    }

    /// For everything that [`Client::connect`] leaves at its default.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Sends messages to a topic.
    #[must_use]
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// Reads a topic in order, alone or as a member of a stream group.
    #[must_use]
    pub fn stream(&self, topic: impl Into<String>) -> StreamBuilder {
        StreamBuilder::new(self.clone(), topic.into())
    }

    /// Works through a topic message by message, sharing it with the other workers of a queue group.
    #[must_use]
    pub fn queue(&self, topic: impl Into<String>, group: impl Into<String>) -> QueueBuilder {
        QueueBuilder::new(self.clone(), topic.into(), group.into())
    }

    /// Creates, describes, changes and deletes topics and groups.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// When there is none within the request timeout.
    pub async fn ping(&self) -> Result<()> {
        let body = dure_proto::wire::envelope::Body::Ping(dure_proto::wire::Ping {});
        self.call(body, Retries::Idempotent).await.map(drop)
    }

    /// Writes what is still queued, such as the releases of dropped jobs, and closes the connections. Whatever
    /// uses the client afterwards, or its clones, connects anew.
    pub async fn close(&self) {
        crate::queue::keeper::caught_up().await;
        self.inner.work_link.close().await;
        self.inner.link.close().await;
    }
}
