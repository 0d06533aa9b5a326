//! Topics, groups and dead letters: made, looked at, changed, deleted; and backups of all of them. The descriptions serialize with the field
//! names of `-o json`.

mod backup;
mod dead_letters;
mod groups;
mod topics;

use dure_proto::wire::envelope::Body;

use crate::client::{Client, Retries, unexpected};
use crate::error::Result;

pub use backup::{Backup, BackupEnd};
pub use dead_letters::{DeadLetter, DeadLetterPage};
pub use groups::{
    Expired, GroupDescription, GroupKind, GroupPartition, GroupState, HotKey, MemberDescription, Ordering,
    QueueSettings, TopicPartitionName,
};
pub use topics::{
    Cleanup, Durability, Located, OffsetRange, PartitionDescription, TopicChange, TopicConfig,
    TopicDescription, UnknownName,
};

/// Operations on topics, groups and dead letters. What changes something and loses its answer ends in
/// [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown) rather than being done twice.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Admin {
        Admin { client }
    }

    /// A change that is answered with nothing but that it is done.
    async fn change(&self, body: Body) -> Result<()> {
        self.client.call(body, Retries::Once).await.map(drop)
    }

    /// A change that is answered with how many it touched.
    async fn counted(&self, request: &str, body: Body) -> Result<u64> {
        match self.client.call(body, Retries::Once).await?.body {
            Body::Count(count) => Ok(count.count),
            other => Err(unexpected(request, &other)),
        }
    }
}
