//! Messages that are good for a while only: whoever is given one is given it in time, and one that nobody was given is
//! accounted for.

use dure_engine::{EXPIRED_REASON, LeaseGrant};
use dure_proto::{Offset, TopicPartition, wire};

use super::model::Model;
use super::world::World;
use super::{Checked, ensure};

impl Model {
    /// When a message expires, on the broker's wall clock; `None`: never, or it is not known yet where it is.
    pub(crate) fn expires_ms(&self, partition: TopicPartition, offset: Offset) -> Option<u64> {
        let (base, placed) = self.logs.get(&partition)?.placed_at(offset)?;
        let batch = self.batches.get(&placed.batch)?;
        let ttl_ms = (*batch.ttls_ms.get(offset.since(base) as usize)?)?;
        Some(placed.append_ms.saturating_add(ttl_ms))
    }

    /// What has expired by now may be settled, or dead, without anybody having said so.
    pub(crate) fn note_expired(&mut self, group: &str, partition: TopicPartition, wall_ms: u64) {
        let Some(log) = self.logs.get(&partition) else { return };
        let expired: Vec<Offset> = log
            .offsets()
            .filter(|offset| self.expires_ms(partition, *offset).is_some_and(|at| at <= wall_ms))
            .collect();
        let Some(group) = self.groups.get_mut(group) else { return };
        let part = group.parts.entry(partition).or_default();
        for offset in expired {
            part.messages.entry(offset.0).or_default().maybe_settled = true;
        }
    }

    /// Whether expired messages of this group go to the dead letters.
    fn expired_die(&self, group: &str) -> bool {
        let shape = self.groups.get(group).and_then(|group| group.shape.now.as_ref());
        let queue = shape.and_then(|shape| shape.queue.as_ref());
        queue.is_some_and(|queue| queue.expired() == wire::Expired::DeadLetter)
    }

    /// It expired, and the group lets such messages go.
    pub(crate) fn is_let_go(
        &self,
        group: &str,
        partition: TopicPartition,
        offset: Offset,
        wall_ms: u64,
    ) -> bool {
        self.expires_ms(partition, offset).is_some_and(|at| at <= wall_ms) && !self.expired_die(group)
    }
}

impl World {
    /// Nobody is given a message that has expired, unless somebody fetched it back from the dead letters.
    pub(crate) fn check_in_time(&self, group: &str, lease: &LeaseGrant) -> Checked {
        let LeaseGrant { partition, offset, .. } = *lease;
        let redriven = lease.bytes_at.0 != partition;
        let Some(at) = self.model.expires_ms(partition, offset).filter(|_| !redriven) else { return Ok(()) };
        ensure!(
            self.now.wall_ms < at || self.damaged,
            "{partition}: message {offset} was given out in `{group}` {} ms after it expired",
            self.now.wall_ms - at
        );
        Ok(())
    }

    /// Whether a dead letter may say that it expired.
    pub(crate) fn may_have_expired(&self, group: &str, partition: TopicPartition, offset: Offset) -> bool {
        let at = self.model.expires_ms(partition, offset);
        at.is_some_and(|at| at <= self.now.wall_ms) && self.model.expired_die(group)
    }

    /// No more is said to have expired than could.
    pub(crate) fn check_expired_count(
        &self,
        group: &str,
        partition: TopicPartition,
        row: &wire::GroupPartition,
    ) -> Checked {
        let Some(log) = self.model.logs.get(&partition) else { return Ok(()) };
        let at = |offset| self.model.expires_ms(partition, offset);
        let could = log.offsets().filter(|offset| at(*offset).is_some_and(|at| at <= self.now.wall_ms));
        let could = could.count() as u64;
        // A cursor that is moved back lets a message expire again.
        let moved = self.model.groups.get(group).and_then(|group| group.parts.get(&partition));
        let moved = moved.is_some_and(|part| part.seeks > 0);
        ensure!(
            row.expired <= could || moved || self.damaged,
            "{partition}: {} messages are said to have expired in `{group}`, and {could} could",
            row.expired
        );
        Ok(())
    }
}

/// Whether this is what the broker says of a message that expired.
pub(crate) fn says_expired(reason: &str) -> bool {
    reason == EXPIRED_REASON
}
