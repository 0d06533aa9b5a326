//! How far each partition of a stream has been read: shared by the stream and the task that commits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// One partition that is being read.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// The next offset to yield.
    pub(super) position: u64,
    /// Yielding stops here.
    pub(super) end: Option<u64>,
    /// Everything below was yielded, and the consumer came back for more or said that it is done with it.
    /// `handled ≤ position`.
    pub(super) handled: u64,
    /// The broker was told that everything below is handled.
    pub(super) committed: u64,
    /// The offset behind the message yielded last.
    pub(super) yielded: Option<u64>,
    /// It belongs to another member soon: nothing more is yielded.
    pub(super) closing: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lane_next: u64,
    /// What is not in here is not yielded, even if it was fetched already.
    pub(super) open: HashMap<u64, Lane>,
    /// What this member committed, while it has been one: an assignment may have been written before that.
    last_commits: HashMap<(Arc<str>, u32), u64>,
}

/// The lanes behind their lock.
#[derive(Debug, Default)]
pub(super) struct Progress {
    lanes: Mutex<Lanes>,
    /// Something that a closing lane may wait for has happened.
    changed: Notify,
}

impl Progress {
    /// No user code runs under the lock.
    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer is done with what this lane yielded.
    pub(super) fn handled(&self, lane: u64) {
        let mut lanes = self.lanes();
        let Some(lane) = lanes.open.get_mut(&lane) else { return };
        lane.handled = lane.position;
        if lane.closing {
            self.changed.notify_one();
        }
    }

    pub(super) fn committed(&self, offsets: &[Handled]) {
        self.lanes().committed(offsets);
        self.changed.notify_one();
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A partition and the offset up to which it is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handled {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) offset: u64,
}

impl Lanes {
    /// Opens a partition under a number of its own, so that what an earlier reader of it left is told apart.
    pub(super) fn add(&mut self, topic: Arc<str>, partition: u32, end: Option<u64>) -> u64 {
        self.lane_next += 1;
        let lane = Lane {
            topic,
            partition,
            position: 0,
            end,
            handled: 0,
            committed: 0,
            yielded: None,
            closing: false,
        };
        self.open.insert(self.lane_next, lane);
        self.lane_next
    }

    pub(super) fn of(&mut self, topic: &str, partition: u32) -> Option<&mut Lane> {
        self.open.values_mut().find(|lane| lane.partition == partition && &*lane.topic == topic)
    }

    /// Every lane has reached its end.
    pub(super) fn at_end(&self) -> bool {
        self.open.values().all(|lane| lane.end.is_some_and(|end| lane.position >= end))
    }

    /// What is handled and not yet committed, of these lanes or of all.
    pub(super) fn uncommitted(&self, only: Option<&[u64]>) -> Vec<Handled> {
        self.open
            .iter()
            .filter(|(id, lane)| lane.handled > lane.committed && only.is_none_or(|only| only.contains(id)))
            .map(|(_, lane)| Handled {
                topic: Arc::clone(&lane.topic),
                partition: lane.partition,
                offset: lane.handled,
            })
            .collect()
    }

    fn committed(&mut self, offsets: &[Handled]) {
        for Handled { topic, partition, offset } in offsets {
            let last = self.last_commits.entry((Arc::clone(topic), *partition)).or_default();
            *last = (*last).max(*offset);
            if let Some(lane) = self.of(topic, *partition) {
                lane.committed = lane.committed.max(*offset);
            }
        }
    }

    pub(super) fn committed_before(&mut self, lane: u64, offset: Option<u64>) {
        if let Some(lane) = self.open.get_mut(&lane) {
            lane.committed = offset.unwrap_or(0);
        }
    }

    pub(super) fn close(&mut self, lane: u64) {
        if let Some(lane) = self.open.get_mut(&lane) {
            lane.closing = true;
        }
    }

    /// What a closing lane yielded is dealt with: handled, if that is committed by itself, or committed.
    pub(super) fn is_done(&self, lane: u64, commits_by_itself: bool) -> bool {
        self.open.get(&lane).is_none_or(|lane| {
            let reached = if commits_by_itself { lane.handled } else { lane.committed };
            lane.yielded.is_none_or(|yielded| reached >= yielded)
        })
    }

    /// A closing lane goes on, under a new number, where it stopped yielding. Returns the offset to read from, if
    /// it had one.
    pub(super) fn reopen(&mut self, lane: u64) -> Option<(u64, Option<u64>)> {
        let lane = self.open.remove(&lane)?;
        lane.yielded?;
        self.lane_next += 1;
        let offset = lane.position;
        self.open.insert(self.lane_next, Lane { closing: false, ..lane });
        Some((self.lane_next, Some(offset)))
    }

    pub(super) fn last_commit(&self, topic: &Arc<str>, partition: u32) -> Option<u64> {
        self.last_commits.get(&(Arc::clone(topic), partition)).copied()
    }

    /// There is another topic of this name.
    pub(super) fn forget_topic(&mut self, topic: &str) {
        self.last_commits.retain(|(of, _), _| **of != *topic);
    }

    /// The group may go on anywhere without this member.
    pub(super) fn forget_commits(&mut self) {
        self.last_commits.clear();
    }

    /// The consumer is done with everything that it was given.
    pub(super) fn handle_all(&mut self) {
        for lane in self.open.values_mut() {
            lane.handled = lane.position;
        }
    }
}
