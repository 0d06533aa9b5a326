//! Following assignments: what is new is read, what is taken away is given up once the consumer is done with what
//! it was given of it.

use std::sync::Arc;
use std::time::Duration;

use dure_proto::wire;
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use super::builder::Start;
use super::reader::{Reader, ReaderConfig};
use super::session::{Coordinator, FOREVER};

const PARTITION_CREDIT_BYTES_MIN: u64 = 1 << 20;
/// How long giving up a partition waits for a commit under way, and for its own.
const REVOKE_COMMIT_MAX: Duration = Duration::from_secs(2);

/// A partition by its topic's name.
pub(super) type Place = (String, u32);

/// A partition that this member owns.
pub(super) struct Owned {
    lane: u64,
    topic_id: u32,
    /// It was taken away: nothing more of it is yielded, and it is given up once what was yielded is committed,
    /// at the latest then.
    closing_until: Option<Instant>,
    /// Stops its reader when dropped.
    _stop: DropGuard,
}

impl Coordinator {
    /// Starts what is new and begins to give up what is not assigned any more. The next heartbeat says so.
    pub(super) async fn follow(&mut self, assignment: wire::Assignment) {
        let current = self.membership.identity.borrow().generation;
        if assignment.group != self.membership.config.group || assignment.generation < current {
            return;
        }
        self.membership.identity.send_modify(|identity| identity.generation = assignment.generation);
        // The group waits for a whole session.
        let closing_until = Instant::now() + self.membership.config.session / 2;
        for (place, owned) in &mut self.owned {
            let kept = assignment.partitions.iter().any(|p| p.partition == place.1 && p.topic == place.0);
            if !kept && owned.closing_until.is_none() {
                owned.closing_until = Some(closing_until);
                self.membership.progress.lanes().close(owned.lane);
            }
        }
        self.finish_closing().await;
        let share = self.membership.config.credit_bytes / (assignment.partitions.len() as u64).max(1);
        for assigned in assignment.partitions {
            let place = (assigned.topic.clone(), assigned.partition);
            self.forget_if_another(&assigned);
            let before = match self.owned.remove(&place) {
                Some(owned) if owned.closing_until.is_none() => {
                    self.owned.insert(place, owned);
                    continue;
                }
                // It was taken away and comes back before it was given up.
                before => before.map(|owned| owned.lane),
            };
            let owned = self.read(assigned, before, share.max(PARTITION_CREDIT_BYTES_MIN));
            self.owned.insert(place, owned);
        }
    }

    /// A topic that was deleted and made again under its name begins at its own start.
    fn forget_if_another(&mut self, assigned: &wire::AssignedPartition) {
        let topic = &assigned.topic;
        let known = self.topic_ids.insert(topic.clone(), assigned.topic_id);
        if known.is_none_or(|id| id == assigned.topic_id) {
            return;
        }
        let another = |place: &Place, owned: &Owned| place.0 == *topic && owned.topic_id != assigned.topic_id;
        let mut lanes = self.membership.progress.lanes();
        self.owned.extract_if(|place, owned| another(place, owned)).for_each(|(_, owned)| {
            lanes.open.remove(&owned.lane);
        });
        lanes.forget_topic(topic);
    }

    fn read(&self, assigned: wire::AssignedPartition, before: Option<u64>, credit_bytes: u64) -> Owned {
        let wire::AssignedPartition { topic, topic_id, partition, committed } = assigned;
        let topic: Arc<str> = topic.into();
        let (lane, offset) = {
            let mut lanes = self.membership.progress.lanes();
            let reopened = before.and_then(|before| lanes.reopen(before));
            reopened.unwrap_or_else(|| {
                let committed = committed.max(lanes.last_commit(&topic, partition));
                let lane = lanes.add(Arc::clone(&topic), partition, None);
                lanes.committed_before(lane, committed);
                (lane, committed)
            })
        };
        let stop = self.stop.child_token();
        let config = &self.membership.config;
        let start = || config.subscription.start(&topic, config.start);
        let reader = Reader {
            lane,
            start: offset.map_or_else(start, Start::Offset),
            may_vanish: config.subscription.may_vanish(&topic),
            topic: Arc::clone(&topic),
            topic_id,
            partition,
            config: ReaderConfig {
                client: self.membership.client.clone(),
                credit_bytes,
                filters: config.filters.clone(),
                out: self.out.clone(),
                stop: stop.clone(),
            },
        };
        reader.start();
        Owned { lane, topic_id, closing_until: None, _stop: stop.drop_guard() }
    }

    /// When a partition has to be given up whether or not the consumer is done with it.
    pub(super) fn next_closing_end(&self) -> Instant {
        let ends = self.owned.values().filter_map(|owned| owned.closing_until);
        ends.min().unwrap_or_else(|| Instant::now() + FOREVER)
    }

    /// Gives up what is to be given up and can be. True if there was something.
    pub(super) async fn finish_closing(&mut self) -> bool {
        let commit = self.membership.config.auto_commit.is_some();
        let now = Instant::now();
        let done: Vec<Place> = {
            let lanes = self.membership.progress.lanes();
            let closing = self.owned.iter().filter(|(_, owned)| {
                owned.closing_until.is_some_and(|end| end <= now || lanes.is_done(owned.lane, commit))
            });
            closing.map(|(place, _)| place.clone()).collect()
        };
        if done.is_empty() {
            return false;
        }
        self.give_up(done, commit).await;
        true
    }

    /// How long a commit may hold up the rest, so that heartbeats go on.
    fn patience(&self) -> Duration {
        REVOKE_COMMIT_MAX.min(self.membership.config.session / 6)
    }

    pub(super) async fn give_up_all(&mut self, commit: bool) {
        let all = self.owned.keys().cloned().collect();
        self.give_up(all, commit).await;
    }

    /// Stops reading these partitions; what was fetched of them is not yielded any more.
    async fn give_up(&mut self, places: Vec<Place>, commit: bool) {
        let membership = Arc::clone(&self.membership);
        // The consumer's own commit may be on its way.
        let one = timeout(self.patience(), membership.committing.lock()).await;
        let lanes: Vec<u64> =
            places.iter().filter_map(|place| self.owned.remove(place)).map(|o| o.lane).collect();
        let handled = {
            let mut progress = membership.progress.lanes();
            let handled = progress.uncommitted(Some(&lanes));
            progress.open.retain(|lane, _| !lanes.contains(lane));
            handled
        };
        if commit && !handled.is_empty() {
            let acting = membership.identity.borrow().clone();
            match timeout(self.patience(), membership.send_commit(&acting, &handled)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "committing before giving up failed"),
                Err(_) => tracing::debug!("committing before giving up took too long"),
            }
        }
        drop(one);
    }

    /// What fails here is tried again with the next tick.
    pub(super) async fn commit_handled(&self) {
        let Ok(_one) = self.membership.committing.try_lock() else { return };
        let handled = self.membership.progress.lanes().uncommitted(None);
        if handled.is_empty() {
            return;
        }
        let acting = self.membership.identity.borrow().clone();
        match timeout(self.patience(), self.membership.send_commit(&acting, &handled)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "committing failed"),
            Err(_) => tracing::debug!("committing took too long"),
        }
    }
}
