//! What can be set about a queue consumer, and how one starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::worker::Worker;
use super::{Core, Handle, JobStream, keeper, renewal, settler};
use crate::admin::GroupKind;
use crate::client::{Client, first_answer};
use crate::error::{Error, ErrorCode, Result, Retry};

const PREFETCH_DEFAULT: u32 = 16;
/// More than anyone keeps busy; a bound for tables and channels.
const PREFETCH_MAX: u32 = 10_000;
const PREFETCH_BYTES_DEFAULT: u64 = 32 << 20;

/// Settings of a [`JobStream`].
#[derive(Clone, Debug)]
pub struct QueueBuilder {
    client: Client,
    topic: String,
    group: String,
    prefetch: u32,
    prefetch_bytes: u64,
    lease: Option<Duration>,
}

impl QueueBuilder {
    pub(crate) fn new(client: Client, topic: String, group: String) -> Self {
        QueueBuilder {
            client,
            topic,
            group,
            prefetch: PREFETCH_DEFAULT,
            prefetch_bytes: PREFETCH_BYTES_DEFAULT,
            lease: None,
        }
    }

    /// How many messages may be leased by this worker at a time, those in its hands included; 16 unless set.
    /// With 1 it is given the next one only once the last is settled.
    #[must_use]
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.prefetch = messages;
        self
    }

    /// The same in bytes; 32 MiB unless set. One message is given in any case.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.prefetch_bytes = bytes;
        self
    }

    /// How long a lease runs, and so how soon the messages of a worker that vanished go to others; the group's
    /// setting (30 s by default) unless set. It is renewed at a third of that while the job is held.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Starts working. The group is created with the defaults if there is none.
    ///
    /// # Errors
    /// [`Error::Broker`] with `UNKNOWN_TOPIC` or `WRONG_GROUP_KIND`.
    pub async fn subscribe(self) -> Result<JobStream> {
        if self.prefetch == 0 || self.prefetch > PREFETCH_MAX {
            return Err(Error::invalid(format!("the prefetch is a number from 1 to {PREFETCH_MAX}")));
        }
        if self.lease.is_some_and(|lease| lease < Duration::from_millis(1)) {
            return Err(Error::invalid("a lease lasts at least a millisecond"));
        }
        let keeper = keeper::runtime()?;
        self.client.fresh_topic(&self.topic).await?;
        self.check_kind().await?;
        let request_timeout = self.client.inner.request_timeout;
        let core = Arc::new(Core {
            client: self.client,
            topic: self.topic.into(),
            group: self.group.into(),
            held: Held::new(self.prefetch, self.prefetch_bytes),
        });
        let (commands, settlements) = mpsc::unbounded_channel();
        let (out, ready) = mpsc::unbounded_channel();
        let (subscribed, first) = oneshot::channel();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        keeper.spawn(settler::run(Arc::clone(&core), settlements));
        keeper.spawn(renewal::run(Arc::clone(&core), commands.downgrade()));
        let worker =
            Worker { core: Arc::clone(&core), lease: self.lease, out, commands: commands.downgrade() };
        keeper.spawn(worker.run(subscribed, stop));
        first_answer(first, request_timeout).await?;
        Ok(JobStream { ready, handle: Arc::new(Handle { core, commands }), _stop: guard })
    }

    /// A subscription is not answered unless it fails, so the usual mistake is looked for before.
    async fn check_kind(&self) -> Result<()> {
        match self.client.admin().describe_group(&self.group).await {
            Ok(group) if group.kind != GroupKind::Queue => Err(Error::Broker {
                code: ErrorCode::WrongGroupKind,
                message: format!("group `{}` is a {} group, not a queue group", self.group, group.kind),
                retry: Retry::Never,
            }),
            Err(error) if error.code() != Some(ErrorCode::UnknownGroup) => Err(error),
            _ => Ok(()),
        }
    }
}
