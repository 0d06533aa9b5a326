//! Taking part in a stream group: joins, stays in touch, leaves. What it is assigned, [`super::ownership`] follows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::member::{Identity, Membership, is_fenced};
use super::ownership::{Owned, Place};
use super::reader::{Event, Fetched, NO_LANE};
use crate::backoff::Backoff;
use crate::client::{Retries, unexpected};
use crate::connection::{Connection, Reply};
use crate::error::{Error, ErrorCode, Result};
use crate::patience::Patience;

pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// If the broker names no interval.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(2);

pub(super) struct Coordinator {
    pub(super) membership: Arc<Membership>,
    pub(super) out: mpsc::UnboundedSender<Fetched>,
    pub(super) stop: CancellationToken,
    /// What the member owns, to the knowledge of the group, that which it is giving up included.
    pub(super) owned: HashMap<Place, Owned>,
    /// Of the topics that were assigned to it.
    pub(super) topic_ids: HashMap<String, u32>,
    /// Until then the group counts on this member. Counted from when the last answered heartbeat was sent.
    member_until: Instant,
}

/// Why a session came to its end.
enum Ended {
    /// The connection is gone; what is owned stays owned.
    Lost,
    /// The group went on without this member.
    Fenced(Error),
    Failed(Error),
}

impl Coordinator {
    pub(super) fn new(
        membership: Arc<Membership>,
        out: mpsc::UnboundedSender<Fetched>,
        stop: CancellationToken,
    ) -> Coordinator {
        let (owned, topic_ids) = Default::default();
        Coordinator { membership, out, stop, owned, topic_ids, member_until: Instant::now() }
    }

    /// Takes part until it is stopped or there is no point in trying. `joined` hears how the first join went.
    pub(super) async fn run(mut self, joined: oneshot::Sender<Result<()>>) -> Result<()> {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.take_part(joined) => {}
        }
        let commit_by_itself = self.membership.config.auto_commit.is_some();
        self.give_up_all(commit_by_itself).await;
        self.leave().await
    }

    async fn take_part(&mut self, joined: oneshot::Sender<Result<()>>) {
        let mut joined = Some(joined);
        let mut backoff = Backoff::later();
        let mut patience = Patience::new(self.membership.client.inner.request_timeout);
        loop {
            // What is owned without the group's knowledge is somebody else's soon.
            let until = if self.owned.is_empty() { Instant::now() + FOREVER } else { self.member_until };
            let connected = timeout_at(until, self.connect()).await;
            let ended = match connected {
                Ok(Ok((connection, heartbeat))) => self.session(&connection, heartbeat, &mut joined).await,
                Ok(Err(ended)) => ended,
                Err(_) => Ended::Fenced(Error::timeout("reaching the broker before the session ran out")),
            };
            let error = match ended {
                Ended::Lost => {
                    patience.works();
                    continue;
                }
                Ended::Fenced(error) => {
                    tracing::debug!(%error, group = self.membership.config.group, "joining again");
                    self.give_up_all(false).await;
                    self.membership.progress.lanes().forget_commits();
                    if error.code() == Some(ErrorCode::UnknownMember) {
                        self.membership.identity.send_modify(Identity::forget_member);
                    }
                    sleep(backoff.next_delay()).await;
                    continue;
                }
                Ended::Failed(error) => error,
            };
            if let Some(joined) = joined.take() {
                let _ = joined.send(Err(error));
                return;
            }
            let last = !error.is_retriable() && !matches!(error, Error::Protocol { .. });
            if let Some(unseen) = patience.tell(&error, last) {
                let event = Event::Failed { error, last, _unseen: unseen };
                let _ = self.out.send(Fetched { lane: NO_LANE, event });
            }
            if last {
                return;
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// A connection on which the member has joined, and how often to send a heartbeat.
    async fn connect(&mut self) -> Result<(Arc<Connection>, Duration), Ended> {
        let client = &self.membership.client;
        let connection = client.connection_by(client.deadline()).await.map_err(Ended::Failed)?;
        let asked = Instant::now();
        let heartbeat = self.join(&connection).await.map_err(|error| match error {
            error if is_fenced(&error) => Ended::Fenced(error),
            Error::Broker { .. } | Error::Protocol { .. } => Ended::Failed(error),
            _ => Ended::Lost,
        })?;
        // It prolongs nothing that was owned before: that may have been taken away meanwhile.
        if self.owned.is_empty() {
            self.member_until = asked + self.membership.config.session;
        }
        Ok((connection, heartbeat))
    }

    /// One connection's time in the group.
    async fn session(
        &mut self,
        connection: &Arc<Connection>,
        heartbeat: Duration,
        joined: &mut Option<oneshot::Sender<Result<()>>>,
    ) -> Ended {
        let membership = Arc::clone(&self.membership);
        let member = membership.identity.borrow().member.clone();
        let Ok(mut assignments) = connection.listen_for_assignments(&member) else { return Ended::Lost };
        if let Some(joined) = joined.take() {
            let _ = joined.send(Ok(()));
        }
        let mut heartbeats = ticking(heartbeat);
        let mut commits = ticking(membership.config.auto_commit.unwrap_or(Duration::from_secs(3600)));
        let mut beating: Option<BoxFuture<'static, Result<Reply>>> = None;
        let mut beat_again = false;
        let mut beat_sent = Instant::now();
        loop {
            tokio::select! {
                assignment = assignments.recv() => {
                    let Some(assignment) = assignment else { return Ended::Lost };
                    self.follow(assignment).await;
                    heartbeats.reset_immediately();
                }
                () = membership.nudge.notified() => heartbeats.reset_immediately(),
                _ = heartbeats.tick() => match beating {
                    Some(_) => beat_again = true,
                    None => {
                        beat_sent = Instant::now();
                        beating = Some(self.heartbeat(connection));
                    }
                },
                beat = poll_optional(&mut beating) => {
                    beating = None;
                    match beat {
                        Ok(_) => self.member_until = beat_sent + membership.config.session,
                        Err(error) if is_fenced(&error) => return Ended::Fenced(error),
                        Err(error) if error.is_passing() => {}
                        Err(error) if error.code().is_some() => return Ended::Failed(error),
                        Err(_) => return Ended::Lost,
                    }
                    if std::mem::take(&mut beat_again) {
                        heartbeats.reset_immediately();
                    }
                }
                () = membership.progress.changed() => {
                    if self.finish_closing().await {
                        heartbeats.reset_immediately();
                    }
                }
                () = sleep_until(self.next_closing_end()) => {
                    if self.finish_closing().await {
                        heartbeats.reset_immediately();
                    }
                }
                () = sleep_until(self.member_until), if !self.owned.is_empty() => {
                    return Ended::Fenced(Error::timeout("waiting for a heartbeat's answer"));
                }
                _ = commits.tick(), if membership.config.auto_commit.is_some() => {
                    self.commit_handled().await;
                }
            }
        }
    }

    async fn join(&self, connection: &Arc<Connection>) -> Result<Duration> {
        let config = &self.membership.config;
        let Identity { member, claim, .. } = self.membership.identity.borrow().clone();
        let body = Body::JoinGroup(wire::JoinGroup {
            group: config.group.clone(),
            topics: config.subscription.topics(),
            member,
            session_ms: config.session.as_millis() as u64,
            name: config.name.clone().unwrap_or_default(),
            claim,
        });
        match connection.request(body, Bytes::new()).await?.body {
            Body::JoinGroupReply(reply) => {
                self.membership.identity.send_modify(|identity| {
                    identity.member = reply.member;
                    identity.claim = reply.claim;
                });
                let heartbeat = Duration::from_millis(reply.heartbeat_ms);
                Ok(if heartbeat.is_zero() { HEARTBEAT_DEFAULT } else { heartbeat })
            }
            other => Err(unexpected("JoinGroup", &other)),
        }
    }

    fn heartbeat(&self, connection: &Arc<Connection>) -> BoxFuture<'static, Result<Reply>> {
        let Identity { member, generation, claim } = self.membership.identity.borrow().clone();
        let owned = self.owned.keys();
        let owned = owned.map(|(topic, partition)| wire::TopicPartitionName {
            topic: topic.clone(),
            partition: *partition,
        });
        let group = self.membership.config.group.clone();
        let body =
            Body::Heartbeat(wire::Heartbeat { group, member, generation, owned: owned.collect(), claim });
        let connection = Arc::clone(connection);
        Box::pin(async move { connection.request(body, Bytes::new()).await })
    }

    async fn leave(&self) -> Result<()> {
        let membership = &self.membership;
        let Identity { member, claim, .. } = membership.identity.borrow().clone();
        // Whoever comes next under a name of its own finds everything as it was.
        if member.is_empty() || membership.config.name.is_some() {
            return Ok(());
        }
        let group = membership.config.group.clone();
        let body = Body::LeaveGroup(wire::LeaveGroup { group, member, claim });
        let deadline = Instant::now() + LEAVE_MAX;
        match membership.client.call_by(deadline, body, Retries::Idempotent).await {
            Err(error) if !is_fenced(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn ticking(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

/// Waits for ever if there is nothing to wait for.
async fn poll_optional<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
