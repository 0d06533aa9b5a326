//! Decoded batches, bounded in bytes, the one used longest ago going first. Connections share it; shards never touch it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dure_engine::Cursor;
use dure_proto::{Offset, Records, TopicPartition};

/// One decoded batch.
#[derive(Debug)]
pub(super) struct CachedBatch {
    pub(super) base: Offset,
    pub(super) append_time_ms: u64,
    pub(super) records: Records,
}

#[derive(Debug)]
pub(super) struct BatchCache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By base offset within a partition.
    batches: HashMap<TopicPartition, BTreeMap<Offset, Slot>>,
    /// Every use in order; a slot is as old as its last one, earlier ones are passed over.
    uses: VecDeque<(TopicPartition, Offset, u64)>,
    use_next: u64,
    bytes: usize,
    /// How many batches there are.
    count: usize,
    /// Where sequential reading of a partition stopped.
    cursors: HashMap<TopicPartition, Cursor>,
}

#[derive(Debug)]
struct Slot {
    batch: Arc<CachedBatch>,
    last_use: u64,
}

const CURSORS_MAX: usize = 1024;
/// Passed-over uses are swept when there are this many for each batch, on average.
const USES_PER_BATCH_MAX: usize = 8;

impl CachedBatch {
    pub(super) fn holds(&self, offset: Offset) -> bool {
        self.base <= offset && offset < self.records.header().end_offset()
    }

    fn bytes(&self) -> usize {
        size_of::<CachedBatch>() + self.records.memory_bytes()
    }
}

impl BatchCache {
    pub(super) fn new(bytes_max: usize) -> BatchCache {
        BatchCache { bytes_max, state: Mutex::default() }
    }

    pub(super) fn get(&self, partition: TopicPartition, offset: Offset) -> Option<Arc<CachedBatch>> {
        let mut state = self.lock();
        let last_use = state.use_next;
        let (base, slot) = state.batches.get_mut(&partition)?.range_mut(..=offset).next_back()?;
        if !slot.batch.holds(offset) {
            return None;
        }
        let is_newest = slot.last_use + 1 == last_use;
        slot.last_use = if is_newest { slot.last_use } else { last_use };
        let (base, batch) = (*base, slot.batch.clone());
        if !is_newest {
            state.used(partition, base);
        }
        Some(batch)
    }

    pub(super) fn insert(&self, partition: TopicPartition, batch: Arc<CachedBatch>) {
        let (base, bytes) = (batch.base, batch.bytes());
        if bytes > self.bytes_max {
            return;
        }
        let mut state = self.lock();
        let slot = Slot { batch, last_use: state.use_next };
        state.bytes += bytes;
        state.count += 1;
        if let Some(replaced) = state.batches.entry(partition).or_default().insert(base, slot) {
            state.bytes -= replaced.batch.bytes();
            state.count -= 1;
        }
        state.used(partition, base);
        while state.bytes > self.bytes_max {
            state.evict();
        }
    }

    /// The cursor that stands at this offset, if reading stopped there.
    pub(super) fn take_cursor(&self, partition: TopicPartition, offset: Offset) -> Option<Cursor> {
        let mut state = self.lock();
        let at_offset = state.cursors.get(&partition).is_some_and(|cursor| cursor.offset() == offset);
        if at_offset { state.cursors.remove(&partition) } else { None }
    }

    pub(super) fn put_cursor(&self, partition: TopicPartition, cursor: Cursor) {
        let mut state = self.lock();
        if state.cursors.len() >= CURSORS_MAX {
            state.cursors.clear();
        }
        state.cursors.insert(partition, cursor);
    }

    /// What it holds is whole between any two statements that can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&mut self, partition: TopicPartition, base: Offset) {
        self.uses.push_back((partition, base, self.use_next));
        self.use_next += 1;
        if self.uses.len() > self.count.max(USES_PER_BATCH_MAX) * USES_PER_BATCH_MAX {
            let State { batches, uses, .. } = self;
            uses.retain(|(partition, base, at)| is_last(batches, partition, base, *at));
        }
    }

    /// Drops the batch used longest ago.
    fn evict(&mut self) {
        while let Some((partition, base, at)) = self.uses.pop_front() {
            if !is_last(&self.batches, &partition, &base, at) {
                continue;
            }
            let slots = self.batches.get_mut(&partition).expect("a last use is of a slot");
            let slot = slots.remove(&base).expect("a last use is of a slot");
            self.bytes -= slot.batch.bytes();
            self.count -= 1;
            if slots.is_empty() {
                self.batches.remove(&partition);
            }
            return;
        }
        unreachable!("every slot has a last use");
    }
}

fn is_last(
    batches: &HashMap<TopicPartition, BTreeMap<Offset, Slot>>,
    partition: &TopicPartition,
    base: &Offset,
    at: u64,
) -> bool {
    batches.get(partition).and_then(|slots| slots.get(base)).is_some_and(|slot| slot.last_use == at)
}

#[cfg(test)]
mod tests {
    use dure_proto::{BatchBuilder, BatchLimits, Compression, PartitionId, TopicId, patch_base};

    use super::*;

    const PARTITION: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };

    fn batch(base: u64, records: u64) -> Arc<CachedBatch> {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..records {
            builder.push(None, Some(&[7; 100]), &[], 0).unwrap();
        }
        let mut bytes = builder.build(None).to_vec();
        patch_base(&mut bytes, Offset(base), 1);
        let records = Records::decode(&bytes.into(), &BatchLimits::default()).unwrap();
        Arc::new(CachedBatch { base: Offset(base), append_time_ms: 0, records })
    }

    #[test]
    fn the_batch_used_longest_ago_goes_first() {
        let size = batch(0, 10).bytes();
        let cache = BatchCache::new(3 * size);
        for base in [0, 10, 20] {
            cache.insert(PARTITION, batch(base, 10));
        }
        assert!(cache.get(PARTITION, Offset(9)).is_some());
        cache.insert(PARTITION, batch(30, 10));
        assert!(cache.get(PARTITION, Offset(10)).is_none() && cache.get(PARTITION, Offset(19)).is_none());
        for offset in [0, 9, 20, 35] {
            assert!(cache.get(PARTITION, Offset(offset)).unwrap().holds(Offset(offset)));
        }
        assert!(cache.get(PARTITION, Offset(40)).is_none());
        assert_eq!(cache.lock().bytes, 3 * size);
    }

    #[test]
    fn memory_stays_bounded_under_use() {
        let size = batch(0, 10).bytes();
        let cache = BatchCache::new(2 * size + 1);
        for round in 0..1000 {
            cache.insert(PARTITION, batch(round % 7 * 10, 10));
            for _ in 0..10 {
                assert!(cache.get(PARTITION, Offset(round % 7 * 10)).is_some());
            }
        }
        let state = cache.lock();
        assert!(state.bytes <= 2 * size && state.uses.len() <= 80, "{} uses", state.uses.len());
    }
}
