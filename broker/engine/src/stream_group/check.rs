//! The invariants, as one function that tests call after every step.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Offset, PartitionId, TopicId, TopicPartition};

use super::group::StreamGroup;
use super::join::MEMBERS_MAX;
use super::member::MemberId;

impl StreamGroup {
    /// Panics if an invariant that is written on the fields does not hold. Walks everything: for tests.
    pub fn check(&self) {
        self.check_slots();
        self.check_members();
        self.check_balance();
        assert!(self.committed.values().all(|offset| *offset <= Offset::MAX));
    }

    fn check_slots(&self) {
        let expected: BTreeSet<TopicPartition> = self
            .topics
            .iter()
            .flat_map(|(topic, known)| {
                (0..known.partitions).map(|p| TopicPartition { topic: *topic, partition: PartitionId(p) })
            })
            .collect();
        assert!(self.slots.keys().eq(expected.iter()), "slots are the partitions of the topics");
        let wanted: BTreeSet<TopicId> =
            self.members.values().filter(|m| !m.fenced).flat_map(|m| m.topics.iter().copied()).collect();
        for (partition, slot) in &self.slots {
            assert_eq!(slot.target.is_some(), wanted.contains(&partition.topic), "{partition}: target");
            assert!(
                slot.target.is_none() || slot.holder.is_some(),
                "{partition} is neither owned nor pending"
            );
            if let Some(id) = &slot.target {
                let member = &self.members[id];
                assert!(
                    !member.fenced && member.topics.contains(&partition.topic),
                    "{partition}: wrong target"
                );
            }
            if let Some(id) = &slot.holder {
                let holding = &self.members[id].holdings[partition];
                assert_eq!(
                    holding.revoking.is_some(),
                    slot.target.as_ref() != Some(id),
                    "{partition}: revoking"
                );
            }
        }
    }

    fn check_members(&self) {
        assert!(self.members.len() <= MEMBERS_MAX);
        for (id, member) in &self.members {
            for (topic, known) in self.topics.iter().filter(|(topic, _)| !self.left_out.contains(topic)) {
                let wanted = member.subscription.means(*topic, &known.name);
                assert_eq!(member.topics.contains(topic), wanted, "{id}: {}", known.name);
            }
            for (partition, holding) in &member.holdings {
                assert_eq!(self.slots[partition].holder.as_ref(), Some(id), "{partition} has two holders");
                assert!(holding.granted_at <= member.generation);
                if let Some(revoking) = holding.revoking {
                    assert!(holding.granted_at < revoking.since && revoking.since <= member.generation);
                    assert!(holding.granted_at <= member.pushed, "{id} never heard of {partition}");
                }
            }
            assert!(member.confirmed <= member.pushed && member.pushed <= member.generation);
            assert!(member.generation <= self.generation);
            assert!(member.claim <= Some(self.claim_last), "{id}: a claim that nobody gave out");
            let behind = member.confirmed < member.generation && !member.fenced;
            assert_eq!(member.behind_deadline_ms.is_some(), behind, "{id}: confirmation");
            assert!(self.wake_ms <= member.next_deadline_ms(), "{id} would be forgotten");
            let unsent = member.pushed < member.generation && member.connection.is_some();
            assert!(!unsent || self.outbox.contains(id), "{id} is not told");
        }
        assert!(self.outbox.iter().all(|id| self.members.contains_key(id)));
    }

    /// Members of one subscription should own as many, give or take one.
    fn check_balance(&self) {
        let mut loads: BTreeMap<&MemberId, usize> =
            self.members.iter().filter(|(_, m)| !m.fenced).map(|(id, _)| (id, 0)).collect();
        for id in self.slots.values().filter_map(|slot| slot.target.as_ref()) {
            *loads.get_mut(id).expect("a target is a member") += 1;
        }
        let mut bounds: BTreeMap<&BTreeSet<TopicId>, (usize, usize)> = BTreeMap::new();
        for (id, load) in loads {
            let (least, most) = bounds.entry(&self.members[id].topics).or_insert((load, load));
            (*least, *most) = (load.min(*least), load.max(*most));
        }
        for (topics, (least, most)) in bounds {
            assert!(most - least <= 1, "from {least} to {most} partitions with subscription {topics:?}");
        }
    }
}
