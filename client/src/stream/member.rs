//! A member of a stream group, as the stream holds it: commits, and leaves at the end.

use std::sync::Arc;
use std::time::Duration;

use dure_proto::wire::{self, envelope::Body};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::builder::Start;
use super::filter::Filters;
use super::progress::{Handled, Progress};
use super::reader::Fetched;
use super::session::Coordinator;
use super::subscription::Subscription;
use crate::client::{Client, Retries, first_answer};
use crate::error::{Error, ErrorCode, Result, Retry};

/// How long a fenced commit waits for the assignment that fenced it.
const NEW_GENERATION_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct MemberConfig {
    pub(super) group: String,
    /// One that outlives this process.
    pub(super) name: Option<String>,
    pub(super) subscription: Subscription,
    pub(super) start: Start,
    pub(super) credit_bytes: u64,
    pub(super) filters: Filters,
    pub(super) auto_commit: Option<Duration>,
    pub(super) session: Duration,
}

/// Under which name and generation the member acts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// Empty before it has joined.
    pub(super) member: String,
    pub(super) generation: u64,
    /// To the member's own name; 0 without one, and before it has joined.
    pub(super) claim: u64,
}

impl Identity {
    /// The group has forgotten the member. Its claim to a name stays, which is lower than that of whoever came since.
    pub(super) fn forget_member(&mut self) {
        *self = Identity { claim: self.claim, ..Identity::default() };
    }
}

/// What the stream and the coordinator share.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) client: Client,
    pub(super) config: MemberConfig,
    pub(super) progress: Arc<Progress>,
    pub(super) identity: watch::Sender<Identity>,
    /// One commit after the other, so that a late one cannot undo a newer one.
    pub(super) committing: Mutex<()>,
    /// Asks the coordinator for a heartbeat, which tells whether the member is fenced.
    pub(super) nudge: Notify,
}

#[derive(Debug)]
pub(super) struct Member {
    membership: Arc<Membership>,
    stop: CancellationToken,
    coordinator: JoinHandle<Result<()>>,
}

impl Member {
    /// Joins the group and starts the task that takes part in it.
    pub(super) async fn join(
        client: Client,
        config: MemberConfig,
        out: mpsc::UnboundedSender<Fetched>,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Result<Member> {
        let request_timeout = client.inner.request_timeout;
        let membership = Arc::new(Membership {
            client,
            config,
            progress,
            identity: watch::Sender::default(),
            committing: Mutex::new(()),
            nudge: Notify::new(),
        });
        let (joined, first) = oneshot::channel();
        let coordinator = Coordinator::new(Arc::clone(&membership), out, stop.clone());
        let abandon = stop.clone().drop_guard();
        let coordinator = tokio::spawn(coordinator.run(joined));
        first_answer(first, request_timeout).await?;
        abandon.disarm();
        Ok(Member { membership, stop, coordinator })
    }

    pub(super) async fn commit(&self, offsets: Vec<Handled>) -> Result<()> {
        self.membership.commit(offsets).await
    }

    pub(super) async fn close(self, progress: &Progress) -> Result<()> {
        let mut committed = Ok(());
        if self.membership.config.auto_commit.is_some() {
            let offsets = {
                let mut lanes = progress.lanes();
                lanes.handle_all();
                lanes.uncommitted(None)
            };
            committed = self.membership.commit(offsets).await;
        }
        self.stop.cancel();
        let left = self.coordinator.await.unwrap_or(Err(Error::Closed));
        committed.and(left)
    }
}

impl Membership {
    /// Commits offsets of partitions that the member owns. A new generation in between is waited for, once.
    pub(super) async fn commit(&self, mut offsets: Vec<Handled>) -> Result<()> {
        let _one = self.committing.lock().await;
        let mut identity = self.identity.subscribe();
        let (mut retried, mut doubt) = (false, false);
        loop {
            let acting = identity.borrow_and_update().clone();
            {
                let mut lanes = self.progress.lanes();
                for handled in &offsets {
                    if lanes.of(&handled.topic, handled.partition).is_none() {
                        let error = self.not_owned(handled);
                        return Err(if doubt { error.doubted() } else { error });
                    }
                }
                offsets.retain(|handled| {
                    lanes.of(&handled.topic, handled.partition).is_some_and(|l| l.committed < handled.offset)
                });
            }
            if offsets.is_empty() {
                return Ok(());
            }
            match self.send_commit(&acting, &offsets).await {
                Err(error) if is_fenced(&error) && !retried => {
                    retried = true;
                    doubt = error.is_outcome_unknown();
                    self.nudge.notify_one();
                    if timeout(NEW_GENERATION_MAX, identity.changed()).await.is_err() {
                        return Err(error);
                    }
                }
                outcome => return outcome.map_err(|error| if doubt { error.doubted() } else { error }),
            }
        }
    }

    /// One attempt under one identity.
    pub(super) async fn send_commit(&self, acting: &Identity, offsets: &[Handled]) -> Result<()> {
        let body = Body::CommitOffsets(wire::CommitOffsets {
            group: self.config.group.clone(),
            member: acting.member.clone(),
            generation: acting.generation,
            claim: acting.claim,
            offsets: offsets
                .iter()
                .map(|handled| wire::CommittedOffset {
                    topic: handled.topic.to_string(),
                    partition: handled.partition,
                    offset: handled.offset,
                })
                .collect(),
        });
        self.client.call(body, Retries::Repeatable).await?;
        self.progress.committed(offsets);
        Ok(())
    }

    fn not_owned(&self, handled: &Handled) -> Error {
        let Handled { topic, partition, .. } = handled;
        Error::Broker {
            code: ErrorCode::FencedGeneration,
            message: format!(
                "{topic}/{partition} belongs to another member of group `{}` by now: what is not committed is \
                 read again there",
                self.config.group
            ),
            retry: Retry::Never,
        }
    }
}

/// The broker goes by a later generation, or does not know the member any more.
pub(super) fn is_fenced(error: &Error) -> bool {
    matches!(error.code(), Some(ErrorCode::FencedGeneration | ErrorCode::UnknownMember))
}
