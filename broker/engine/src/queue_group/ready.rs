//! What the partitions of a topic have for a group, as the [`Dispatcher`](super::Dispatcher) shares it out.

use std::collections::BTreeMap;
use std::ops::Bound;

use dure_proto::PartitionId;

/// How many messages [could be granted](super::LeaseTable::grantable) from each partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadyMessages {
    /// Without those that have none.
    by_partition: BTreeMap<PartitionId, u64>,
    /// The sum of `by_partition`.
    total: u64,
}

impl ReadyMessages {
    /// A partition has so many from now on.
    pub fn set(&mut self, partition: PartitionId, messages: u64) {
        let before = match messages {
            0 => self.by_partition.remove(&partition),
            _ => self.by_partition.insert(partition, messages),
        };
        self.total = self.total - before.unwrap_or(0) + messages;
    }

    /// How many a partition has.
    #[must_use]
    pub fn of(&self, partition: PartitionId) -> u64 {
        self.by_partition.get(&partition).copied().unwrap_or(0)
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Takes up to `count_max`, at least 1, from the first partition behind `last`, around the end, that has any.
    pub(super) fn take(&mut self, last: Option<PartitionId>, count_max: u64) -> Option<(PartitionId, u64)> {
        let behind =
            last.and_then(|last| self.by_partition.range((Bound::Excluded(last), Bound::Unbounded)).next());
        let (partition, messages) = behind.or(self.by_partition.first_key_value())?;
        let (partition, messages) = (*partition, *messages);
        let count = count_max.min(messages);
        self.set(partition, messages - count);
        Some((partition, count))
    }

    /// Panics if an invariant that is written on the fields does not hold.
    pub fn check(&self) {
        assert!(self.by_partition.values().all(|messages| *messages > 0));
        assert_eq!(self.total, self.by_partition.values().sum::<u64>());
    }
}
