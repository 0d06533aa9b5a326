//! Which topics a stream reads: by name, and by patterns, which mean others as topics come and go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Start;
use super::progress::Progress;
use super::reader::{Reader, ReaderConfig};
use crate::client::{Client, TopicInfo};
use crate::error::Result;

/// How often a stream without a group asks which topics its patterns mean by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a text is meant as a pattern. No topic's name is.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '>'])
}

/// The topics of a stream at its start.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) names: Vec<String>,
    pub(super) patterns: Vec<String>,
    /// What the patterns meant at the start.
    found: HashSet<String>,
}

impl Subscription {
    /// Asks what there is: every name has to be a topic, and every pattern well formed.
    pub(super) async fn resolve(
        client: &Client,
        topics: Vec<String>,
    ) -> Result<(Subscription, Vec<Arc<TopicInfo>>)> {
        let (patterns, names): (Vec<String>, Vec<String>) =
            topics.into_iter().partition(|text| is_pattern(text));
        let mut infos = Vec::new();
        for name in &names {
            infos.push(client.fresh_topic(name).await?);
        }
        let mut found = HashSet::new();
        if !patterns.is_empty() {
            for info in client.topics_meant(&patterns).await? {
                found.insert(info.name.to_string());
                if !names.iter().any(|name| **name == *info.name) {
                    infos.push(info);
                }
            }
        }
        Ok((Subscription { names, patterns, found }, infos))
    }

    /// What a member subscribes to.
    pub(super) fn topics(&self) -> Vec<String> {
        self.names.iter().chain(&self.patterns).cloned().collect()
    }

    /// A topic that vanishes is no failure of a stream that did not name it.
    pub(super) fn may_vanish(&self, topic: &str) -> bool {
        !self.names.iter().any(|name| name == topic)
    }

    /// One that appeared since is read from its first message on.
    pub(super) fn start(&self, topic: &str, start: Start) -> Start {
        let was_there = !self.may_vanish(topic) || self.found.contains(topic);
        if was_there { start } else { Start::Earliest }
    }
}

/// Starts to read what appears, for a stream without a group.
pub(super) struct Watcher {
    pub(super) client: Client,
    pub(super) patterns: Vec<String>,
    /// The numbers of the topics that are or were read.
    pub(super) known: HashSet<u32>,
    pub(super) progress: Arc<Progress>,
    pub(super) readers: ReaderConfig,
}

impl Watcher {
    pub(super) fn start(mut self) {
        let stop = self.readers.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run() => {}
            }
        });
    }

    async fn run(&mut self) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.readers.out.is_closed() {
            looks.tick().await;
            let topics = match self.client.topics_meant(&self.patterns).await {
                Ok(topics) => topics,
                // Whoever reads hears of a broker that is away from the readers.
                Err(error) => {
                    tracing::debug!(%error, "cannot ask for new topics");
                    continue;
                }
            };
            for topic in topics {
                if self.known.insert(topic.id) {
                    (0..topic.partitions).for_each(|partition| self.read(&topic, partition));
                }
            }
        }
    }

    fn read(&self, topic: &TopicInfo, partition: u32) {
        let lane = self.progress.lanes().add(Arc::clone(&topic.name), partition, None);
        Reader {
            lane,
            topic: Arc::clone(&topic.name),
            topic_id: topic.id,
            partition,
            start: Start::Earliest,
            may_vanish: true,
            config: self.readers.clone(),
        }
        .start();
    }
}
