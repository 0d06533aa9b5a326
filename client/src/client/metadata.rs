//! What is known about topics, until the broker says that it no longer holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_proto::wire::{self, envelope::Body};

use super::{Client, Retries};
use crate::error::{Error, Result};

/// A topic as producers and readers need to know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicInfo {
    pub(crate) name: Arc<str>,
    pub(crate) id: u32,
    /// At least 1.
    pub(crate) partitions: u32,
    pub(crate) message_bytes_max: u32,
}

#[derive(Debug, Default)]
pub(crate) struct MetadataCache {
    topics: Mutex<HashMap<String, Arc<TopicInfo>>>,
}

impl MetadataCache {
    fn topics(&self) -> MutexGuard<'_, HashMap<String, Arc<TopicInfo>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when the broker does not know a topic or a partition any more.
    pub(crate) fn forget(&self, topic: &str) {
        self.topics().remove(topic);
    }
}

impl Client {
    /// The topic, from the cache if it is there.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<TopicInfo>> {
        let known = self.inner.metadata.topics().get(name).cloned();
        match known {
            Some(info) => Ok(info),
            None => self.fresh_topic(name).await,
        }
    }

    /// The topic as the broker knows it now.
    pub(crate) async fn fresh_topic(&self, name: &str) -> Result<Arc<TopicInfo>> {
        self.inner.metadata.forget(name);
        let body = Body::Metadata(wire::Metadata { topics: vec![name.to_owned()] });
        let reply = match self.call(body, Retries::Idempotent).await?.body {
            Body::MetadataReply(reply) => reply,
            other => return Err(unexpected("Metadata", &other)),
        };
        let topic = reply.topics.into_iter().find(|topic| topic.name == name);
        self.learn(topic.ok_or_else(|| Error::unknown_topic(name))?)
    }

    /// The topics that these patterns mean now.
    pub(crate) async fn topics_meant(&self, patterns: &[String]) -> Result<Vec<Arc<TopicInfo>>> {
        let body = Body::Metadata(wire::Metadata { topics: patterns.to_vec() });
        match self.call(body, Retries::Idempotent).await?.body {
            Body::MetadataReply(reply) => reply.topics.into_iter().map(|topic| self.learn(topic)).collect(),
            other => Err(unexpected("Metadata", &other)),
        }
    }

    fn learn(&self, topic: wire::TopicMetadata) -> Result<Arc<TopicInfo>> {
        if topic.partitions.is_empty() {
            return Err(Error::protocol(format!("topic `{}` has no partitions", topic.name)));
        }
        let info = Arc::new(TopicInfo {
            name: topic.name.as_str().into(),
            id: topic.id,
            partitions: topic.partitions.len() as u32,
            message_bytes_max: topic.config.unwrap_or_default().message_bytes_max,
        });
        self.inner.metadata.topics().insert(topic.name, Arc::clone(&info));
        Ok(info)
    }
}

/// An answer of the wrong kind.
pub(crate) fn unexpected(request: &str, body: &Body) -> Error {
    let body = format!("{body:?}");
    let kind = body.split(['(', ' ']).next().unwrap_or_default();
    Error::protocol(format!("{request} was answered with {kind}"))
}
