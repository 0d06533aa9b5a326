//! A run's own topic and group, taken away again behind it.

use dure_client::{Admin, QueueSettings, TopicConfig};

use super::super::args::ServerArgs;
use super::super::failure::{Failure, Outcome, note};

/// A topic with a group that nobody else has.
pub(super) struct Scratch {
    admin: Admin,
    pub(super) topic: String,
    pub(super) group: String,
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
        let scratch = Scratch { admin, group: topic.clone(), topic };
        if let Some(settings) = queue {
            let created =
                scratch.admin.create_queue_group(&scratch.group, &[scratch.topic.as_str()], &settings).await;
            created.map_err(|error| Failure::cannot(format!("create group `{}`", scratch.group), &error))?;
        }
        Ok(scratch)
    }

    /// Removes both.
    pub(super) async fn remove(self) -> Outcome {
        let Scratch { admin, topic, group } = self;
        // Not every run gets as far as having a group.
        let _ = admin.delete_group(&group).await;
        let deleted = admin.delete_topic(&topic).await;
        deleted.map_err(|error| Failure::cannot(format!("delete topic `{topic}`"), &error))
    }
}
