//! A run's own topic and group, taken away again behind it.

use std::time::Duration;

use dure_client::{Admin, ErrorCode, QueueSettings, TopicConfig};
use tokio::time::{Instant, sleep};

use super::super::args::ServerArgs;
use super::super::failure::{Failure, Outcome, note};

const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

/// A topic with a group that nobody else has.
pub(super) struct Scratch {
    admin: Admin,
    pub(super) topic: String,
    pub(super) group: String,
    /// The topic is somebody's.
    lent: bool,
}

impl Scratch {
    /// `queue`: the settings of the group, which is a queue group then; otherwise it is made by who joins it.
    pub(super) async fn new(
        server: &ServerArgs,
        partitions: u32,
        queue: Option<QueueSettings>,
    ) -> Outcome<Scratch> {
        let admin = server.connect().await?.admin();
        let topic = format!("bench-{:012x}", fastrand::u64(..) >> 16);
        let created = admin.create_topic(&topic, partitions, &TopicConfig::default()).await;
        created.map_err(|error| Failure::cannot(format!("create topic `{topic}`"), &error))?;
        note(format!(
            "topic `{topic}` is removed at the end; if interrupted: dure topic delete {topic} --yes"
        ));
        let scratch = Scratch { admin, group: topic.clone(), topic, lent: false };
        if let Some(settings) = queue {
            scratch.create_group(&settings).await?;
        }
        Ok(scratch)
    }

    /// A queue group of its own on a topic that is there.
    pub(super) async fn on(server: &ServerArgs, topic: &str, settings: &QueueSettings) -> Outcome<Scratch> {
        let admin = server.connect().await?.admin();
        let group = format!("bench-{:012x}", fastrand::u64(..) >> 16);
        let scratch = Scratch { admin, topic: topic.to_owned(), group, lent: true };
        scratch.create_group(settings).await?;
        Ok(scratch)
    }

    async fn create_group(&self, settings: &QueueSettings) -> Outcome {
        let created = self.admin.create_queue_group(&self.group, &[self.topic.as_str()], settings).await;
        created.map_err(|error| Failure::cannot(format!("create group `{}`", self.group), &error))
    }

    /// How many messages the topic holds.
    pub(super) async fn messages(&self) -> Outcome<u64> {
        let described = self.admin.describe_topic(&self.topic).await;
        let described =
            described.map_err(|error| Failure::cannot(format!("describe `{}`", self.topic), &error))?;
        Ok(described.messages)
    }

    /// Removes what it made.
    pub(super) async fn remove(self) -> Outcome {
        let Scratch { admin, topic, group, lent } = self;
        let until = Instant::now() + PATIENCE;
        loop {
            match admin.delete_group(&group).await {
                // Not every run gets as far as having a group.
                Ok(()) => break,
                Err(error) if error.code() == Some(ErrorCode::UnknownGroup) => break,
                // The broker has not noticed yet that its workers are gone.
                Err(_) if Instant::now() < until => sleep(AGAIN).await,
                Err(error) => return Err(Failure::cannot(format!("delete group `{group}`"), &error)),
            }
        }
        if lent {
            return Ok(());
        }
        let deleted = admin.delete_topic(&topic).await;
        deleted.map_err(|error| Failure::cannot(format!("delete topic `{topic}`"), &error))
    }
}
