//! What happens by itself when time passes.

use std::collections::BTreeSet;

use dure_proto::TopicPartition;

use super::group::StreamGroup;
use super::member::MemberId;
use crate::time::Now;

impl StreamGroup {
    /// When [`StreamGroup::handle_timeout`] is to be called, in monotonic milliseconds. It may come earlier
    /// than anything is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        (!self.members.is_empty()).then_some(self.wake_ms)
    }

    /// Members whose session ran out go. Those that did not give up a partition, or did not confirm an
    /// assignment, within a session time are fenced: the partition is taken, the rest follows when their
    /// session ends.
    ///
    /// What has arrived should be handled before this is called: a heartbeat that waited behind a slow disk
    /// then still counts.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.mono_ms < self.wake_ms {
            return;
        }
        let due: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.next_deadline_ms() <= now.mono_ms)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &due {
            let member = self.members.get_mut(id).expect("it was listed");
            if member.session_deadline_ms <= now.mono_ms {
                self.remove(id);
                continue;
            }
            member.fenced = true;
            member.behind_deadline_ms = None;
            let overdue: Vec<TopicPartition> = member
                .holdings
                .iter()
                .filter(|(_, holding)| holding.revoking.is_some_and(|r| r.deadline_ms <= now.mono_ms))
                .map(|(partition, _)| *partition)
                .collect();
            self.release(id, &overdue);
        }
        if !due.is_empty() {
            self.rebalance(now, BTreeSet::new());
        }
        self.wake_ms =
            self.members.values().map(|member| member.next_deadline_ms()).min().unwrap_or(u64::MAX);
    }
}
