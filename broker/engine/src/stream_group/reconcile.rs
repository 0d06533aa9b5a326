//! From what should be towards what is, one step at a time: revoke, wait, grant.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Generation, TopicPartition};

use super::assign::{Known, assign};
use super::group::StreamGroup;
use super::member::{Holding, MemberId, Revoking};
use crate::mutant::{self, Mutant};
use crate::time::Now;

impl StreamGroup {
    /// Members or topics changed: new targets, and the first step towards them. `changed` are members whose
    /// assignment goes out in any case.
    pub(crate) fn rebalance(&mut self, now: Now, changed: BTreeSet<MemberId>) {
        self.retarget();
        self.reconcile(now, self.slots.keys().copied().collect(), changed);
    }

    fn retarget(&mut self) {
        let (ids, subscriptions): (Vec<&MemberId>, Vec<_>) =
            self.members.iter().filter(|(_, m)| !m.fenced).map(|(id, m)| (id, &m.topics)).unzip();
        let seats: BTreeMap<&MemberId, usize> =
            ids.iter().enumerate().map(|(seat, id)| (*id, seat)).collect();
        let seat = |id: &Option<MemberId>| id.as_ref().and_then(|id| seats.get(id).copied());
        let known = self.slots.iter().map(|(partition, slot)| {
            let target = seat(&slot.target);
            let holder = if slot.holder == slot.target { target } else { seat(&slot.holder) };
            (*partition, Known { target, holder })
        });
        let targets = assign(&subscriptions, known);
        let ids: Vec<MemberId> = ids.into_iter().cloned().collect();
        for slot in self.slots.values_mut() {
            slot.target = None;
        }
        for (partition, seat) in targets {
            self.slots.get_mut(&partition).expect("only slots are assigned").target = Some(ids[seat].clone());
        }
    }

    /// Brings these partitions as far towards their targets as is safe now.
    pub(crate) fn reconcile(
        &mut self,
        now: Now,
        partitions: Vec<TopicPartition>,
        mut changed: BTreeSet<MemberId>,
    ) {
        let next = Generation(self.generation.0 + 1);
        for partition in partitions {
            let slot = self.slots.get_mut(&partition).expect("only slots are reconciled");
            if let Some(id) = &slot.holder {
                let member = self.members.get_mut(id).expect("a holder is a member");
                let holding = member.holdings.get_mut(&partition).expect("a holder knows what it holds");
                let stays = slot.target.as_ref() == Some(id);
                if stays == holding.revoking.is_none() {
                    continue;
                }
                changed.insert(id.clone());
                if stays {
                    holding.revoking = None;
                } else if holding.granted_at > member.pushed || mutant::is(Mutant::TwoOwners) {
                    // It never heard of the grant.
                    member.holdings.remove(&partition);
                    slot.holder = None;
                } else {
                    // Its session may be longer than what it asks for now.
                    let deadline_ms =
                        now.mono_ms.saturating_add(member.session_ms).max(member.session_deadline_ms);
                    holding.revoking = Some(Revoking { since: next, deadline_ms });
                    self.wake_ms = self.wake_ms.min(deadline_ms);
                }
            }
            if slot.holder.is_none()
                && let Some(id) = &slot.target
            {
                let member = self.members.get_mut(id).expect("a target is a member");
                member.holdings.insert(partition, Holding { granted_at: next, revoking: None });
                changed.insert(id.clone());
                slot.holder = Some(id.clone());
            }
        }
        if changed.is_empty() {
            return;
        }
        self.generation = next;
        for id in changed {
            let member = self.members.get_mut(&id).expect("members changed");
            member.generation = next;
            member.expect_confirmation(now.mono_ms);
            self.wake_ms = self.wake_ms.min(member.next_deadline_ms());
            self.outbox.insert(id);
        }
    }

    /// The member does not read these any more.
    pub(crate) fn release(&mut self, id: &MemberId, partitions: &[TopicPartition]) {
        let member = self.members.get_mut(id).expect("a member releases");
        for partition in partitions {
            member.holdings.remove(partition).expect("it released what it held");
            let slot = self.slots.get_mut(partition).expect("only slots are held");
            assert_eq!(slot.holder.take().as_ref(), Some(id), "{partition} is held by another");
        }
    }

    /// The member is gone with all that it held. Targets are to be computed anew.
    pub(crate) fn remove(&mut self, id: &MemberId) {
        let held: Vec<TopicPartition> = self.members[id].holdings.keys().copied().collect();
        self.release(id, &held);
        self.members.remove(id);
        self.outbox.remove(id);
        // There may be room for what its patterns meant.
        if !self.left_out.is_empty() {
            self.resolve();
        }
    }
}
