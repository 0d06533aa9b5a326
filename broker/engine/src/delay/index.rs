//! What waits, by due time: sixteen bytes for each batch, whatever it holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use dure_proto::{Offset, TopicId, TopicPartition};

use super::horizon::Horizon;

/// Due times are kept in 56 bits, which two million years from now will fill.
const DUE_MS_MAX: u64 = (1 << 56) - 1;
/// A heap gives memory back when it has shrunk to this fraction of it.
const SPARE_FRACTION: usize = 4;
/// But keeps room for so many.
const ROOM_KEPT: usize = 1024;

/// A batch that waits. In order: by due time, then by the time at which it came, which for one due time is the order of
/// offsets within a delay log, and from the farthest horizon to the nearest among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiting {
    /// The due time above eight bits of the horizon's rank.
    due_and_rank: u64,
    /// In its delay log.
    offset: Offset,
}

const _: () = assert!(size_of::<Waiting>() == 16, "ten million of them in 160 MB");

impl Waiting {
    pub(crate) fn new(due_ms: u64, horizon: Horizon, offset: Offset) -> Waiting {
        Waiting { due_and_rank: due_ms.min(DUE_MS_MAX) << 8 | u64::from(horizon.rank()), offset }
    }

    pub(crate) fn due_ms(self) -> u64 {
        self.due_and_rank >> 8
    }

    pub(crate) fn horizon(self) -> Horizon {
        Horizon::of_rank((self.due_and_rank & 0xff) as u8)
    }

    pub(crate) fn offset(self) -> Offset {
        self.offset
    }

    /// The same batch, to be looked at again at another time.
    pub(crate) fn again_at(self, due_ms: u64) -> Waiting {
        Waiting::new(due_ms, self.horizon(), self.offset)
    }
}

/// Everything that waits in a shard, by the partition that it waits for.
#[derive(Debug, Default)]
pub(crate) struct DelayIndex {
    /// None of them empty.
    heaps: BTreeMap<TopicPartition, BinaryHeap<Reverse<Waiting>>>,
    /// The first due time of each heap.
    heads: BTreeSet<(u64, TopicPartition)>,
}

impl DelayIndex {
    pub(crate) fn note(&mut self, partition: TopicPartition, waiting: Waiting) {
        let heap = self.heaps.entry(partition).or_default();
        let head = heap.peek().map(|first| first.0.due_ms());
        heap.push(Reverse(waiting));
        if head.is_none_or(|head| waiting.due_ms() < head) {
            head.map(|head| self.heads.remove(&(head, partition)));
            self.heads.insert((waiting.due_ms(), partition));
        }
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.heads.first().map(|(due_ms, _)| *due_ms)
    }

    /// Takes the next one out, if it is due at `wall_ms`. In the order of due times over all partitions.
    pub(crate) fn take_due(&mut self, wall_ms: u64) -> Option<(TopicPartition, Waiting)> {
        let (due_ms, partition) = *self.heads.first().filter(|(due_ms, _)| *due_ms <= wall_ms)?;
        self.heads.remove(&(due_ms, partition));
        let heap = self.heaps.get_mut(&partition).expect("what has a head has a heap");
        let Reverse(waiting) = heap.pop().expect("no heap is empty");
        match heap.peek() {
            Some(Reverse(next)) => {
                self.heads.insert((next.due_ms(), partition));
                if heap.len() < heap.capacity() / SPARE_FRACTION {
                    heap.shrink_to((heap.len() * 2).max(ROOM_KEPT));
                }
            }
            None => drop(self.heaps.remove(&partition)),
        }
        Some((partition, waiting))
    }

    /// Nothing waits for this partition any more.
    pub(crate) fn forget(&mut self, partition: TopicPartition) {
        if let Some(heap) = self.heaps.remove(&partition) {
            let Reverse(first) = heap.peek().expect("no heap is empty");
            self.heads.remove(&(first.due_ms(), partition));
        }
    }

    pub(crate) fn forget_topic(&mut self, topic: TopicId) {
        let gone: Vec<_> = self.heaps.keys().filter(|partition| partition.topic == topic).copied().collect();
        gone.into_iter().for_each(|partition| self.forget(partition));
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::PartitionId;
    use proptest::prelude::*;

    use super::*;

    fn partition(n: u32) -> TopicPartition {
        TopicPartition { topic: TopicId(1 + n % 2), partition: PartitionId(n / 2) }
    }

    #[test]
    fn of_those_due_at_once_the_first_sent_comes_first() {
        let mut index = DelayIndex::default();
        let (near, far) = (Horizon::of(1), Horizon::of(1 << 40));
        for (horizon, offset) in [(near, 0), (far, 9), (near, 1)] {
            index.note(partition(0), Waiting::new(50, horizon, Offset(offset)));
        }
        assert_eq!(index.take_due(49), None);
        let order = std::iter::from_fn(|| index.take_due(50));
        let order: Vec<_> = order.map(|(_, w)| (w.horizon(), w.offset().0)).collect();
        assert_eq!(order, [(far, 9), (near, 0), (near, 1)]);
        assert_eq!((index.next_due(), index.heaps.len()), (None, 0));
    }

    #[test]
    fn what_was_due_gives_its_memory_back() {
        let mut index = DelayIndex::default();
        for i in 0..100_000 {
            index.note(partition(0), Waiting::new(i % 977, Horizon::of(1), Offset(i)));
        }
        let mut last = 0;
        for _ in 0..99_990 {
            let due_ms = index.take_due(1_000).expect("due").1.due_ms();
            assert!(last <= due_ms);
            last = due_ms;
        }
        assert!(index.heaps[&partition(0)].capacity() <= 4 * ROOM_KEPT);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Note { partition: u32, due_ms: u64, horizon: u64 },
        Take { wall_ms: u64 },
        Forget { partition: u32 },
        ForgetTopic { topic: u32 },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0u32..4, 0u64..40, 0u64..3)
                .prop_map(|(partition, due_ms, horizon)| Op::Note { partition, due_ms, horizon }),
            6 => (0u64..40).prop_map(|wall_ms| Op::Take { wall_ms }),
            1 => (0u32..4).prop_map(|partition| Op::Forget { partition }),
            1 => (1u32..3).prop_map(|topic| Op::ForgetTopic { topic }),
        ]
    }

    proptest! {
        /// Against a sorted list.
        #[test]
        fn everything_comes_once_and_in_order(ops in prop::collection::vec(op(), 1..120)) {
            let mut index = DelayIndex::default();
            let mut model: Vec<(TopicPartition, Waiting)> = Vec::new();
            for (number, op) in (0..).zip(ops) {
                match op {
                    Op::Note { partition: p, due_ms, horizon } => {
                        let horizon = Horizon::of(60_000 * 60_u64.pow(horizon as u32));
                        let waiting = Waiting::new(due_ms, horizon, Offset(number));
                        index.note(partition(p), waiting);
                        model.push((partition(p), waiting));
                    }
                    Op::Take { wall_ms } => {
                        // Within a partition in order; among partitions by due time.
                        let first = model.iter().copied().min_by_key(|(p, w)| (w.due_ms(), *p, *w));
                        let first = first.filter(|(_, waiting)| waiting.due_ms() <= wall_ms);
                        prop_assert_eq!(index.take_due(wall_ms), first);
                        model.retain(|waiting| Some(*waiting) != first);
                    }
                    Op::Forget { partition: p } => {
                        index.forget(partition(p));
                        model.retain(|(of, _)| *of != partition(p));
                    }
                    Op::ForgetTopic { topic } => {
                        index.forget_topic(TopicId(topic));
                        model.retain(|(of, _)| of.topic != TopicId(topic));
                    }
                }
                prop_assert_eq!(index.next_due(), model.iter().map(|(_, w)| w.due_ms()).min());
            }
        }
    }
}
