//! Messages with ids: of those with one id that a topic accepts within its window there is one, and whoever sent another
//! was told where it is.

use dure_proto::{BatchLimits, IdHash, KeySeed, Records, TopicPartition, wire};

use super::knobs::SALT;
use super::model::{Accepted, Batch, read_value};
use super::world::World;
use super::{Checked, Violation, ensure};

/// Different ids: few, so that most are sent more than once.
const IDS: u8 = 12;

/// What the shard is told of the records' ids.
pub(super) fn hashes(ids: &[Option<u8>]) -> Vec<Option<IdHash>> {
    match ids.iter().all(Option::is_none) {
        true => Vec::new(),
        false => ids.iter().map(|id| id.map(|id| IdHash::of(&[id], KeySeed(SALT)))).collect(),
    }
}

impl World {
    /// The ids of a batch's records, which most batches do not have.
    pub(crate) fn choose_ids(&mut self, partition: TopicPartition, records: u32) -> Vec<Option<u8>> {
        let percent = self.knobs.id_percent;
        // What compaction leaves of a batch does not show what was left out of it before.
        if percent == 0 || self.is_compacted(partition) || self.rng.u32(0..100) >= percent {
            return vec![None; records as usize];
        }
        (0..records).map(|_| (self.rng.u8(0..5) > 0).then(|| self.rng.u8(0..IDS))).collect()
    }

    /// A batch was answered: what of it was appended is known from now on.
    pub(crate) fn duplicates_named(&mut self, id: u64, duplicates: &[wire::Duplicates]) -> Checked {
        let batch = &self.model.batches[&id];
        let (partition, ids) = (batch.partition, batch.ids.clone());
        let mut kept: Vec<usize> = Vec::new();
        let mut next = 0;
        for run in duplicates {
            let index = run.index as usize;
            ensure!(index >= next, "batch {id}: duplicates overlap: {duplicates:?}");
            kept.extend(next..index);
            next = index + run.count as usize;
            ensure!(next <= ids.len(), "batch {id} of {} records has duplicates {run:?}", ids.len());
            for nth in 0..run.count {
                let offset = run.offset.map(|offset| offset + u64::from(nth));
                let first = TopicPartition { partition: dure_proto::PartitionId(run.partition), ..partition };
                self.check_first(id, ids[index + nth as usize], first, offset)?;
                self.count("messages found to be duplicates");
            }
        }
        kept.extend(next..ids.len());
        let told = duplicates.to_vec();
        let batch = self.model.batches.get_mut(&id).expect("it was sent");
        let before = batch.duplicates.get_or_insert_with(|| told.clone());
        ensure!(
            *before == told,
            "batch {id} was answered with duplicates {before:?}, sent again with {told:?}"
        );
        self.keep(id, &kept)
    }

    /// What a duplicate is one of is there, unless it was removed since.
    fn check_first(
        &mut self,
        batch: u64,
        id: Option<u8>,
        at: TopicPartition,
        offset: Option<u64>,
    ) -> Checked {
        let Some(offset) = offset.map(dure_proto::Offset) else {
            return Err(Violation(format!("batch {batch}: nothing with an id was to wait")));
        };
        if self.damaged || self.topics.by_id(at.topic).is_none() {
            return Ok(());
        }
        let Some(view) = self.views.get(&at) else {
            return Err(Violation(format!(
                "batch {batch}: a duplicate of {at} {offset}, which is not shown"
            )));
        };
        ensure!(
            offset < view.high_watermark,
            "batch {batch}: a duplicate of {at} {offset}, and readers see no further than {}",
            view.high_watermark
        );
        if offset < view.log_start {
            return Ok(());
        }
        let Some(Some(value)) = read_value(view, offset)? else { return Ok(()) };
        let found = self.model.record_of(&value).and_then(|(batch, index)| batch.ids.get(index).copied());
        ensure!(
            id.is_some() && found == Some(id),
            "batch {batch}: what has the id {id:?} is called a duplicate of {at} {offset}, which has {found:?}"
        );
        Ok(())
    }

    /// Only these records of the batch were appended.
    fn keep(&mut self, id: u64, kept: &[usize]) -> Checked {
        let batch = self.model.batches.get_mut(&id).expect("it was sent");
        match &batch.kept {
            Some(before) => {
                ensure!(
                    before == kept,
                    "of batch {id} the records {before:?} were appended, and now {kept:?}"
                );
            }
            None => {
                batch.values = kept.iter().map(|index| batch.sent[*index].clone()).collect();
                batch.keys = kept.iter().map(|index| batch.keys[*index]).collect();
                batch.ttls_ms = kept.iter().map(|index| batch.ttls_ms[*index]).collect();
                batch.kept = Some(kept.to_vec());
            }
        }
        if self.damaged { Ok(()) } else { self.accept(id) }
    }

    /// Of one id there is one message in a window's time.
    fn accept(&mut self, id: u64) -> Checked {
        let batch = &self.model.batches[&id];
        let topic = batch.partition.topic;
        let configs = self.model.topics.values().find(|known| known.id == Some(topic));
        let windows = configs.into_iter().flat_map(|known| &known.configs);
        let window_ms = windows.map(|config| config.dedup_window_ms.unwrap_or(0)).min().unwrap_or(0);
        let seen_ms = self.ran_ms;
        let asked_ms = batch.asked_ms.unwrap_or(seen_ms);
        let kept = batch.kept.iter().flatten();
        let accepted: Vec<_> = kept.filter_map(|index| Some((batch.ids[*index]?, *index))).collect();
        for (message_id, index) in accepted {
            let known = self.model.accepted.entry((topic, message_id)).or_default();
            if known.iter().any(|other| (other.batch, other.index) == (id, index)) {
                continue;
            }
            for other in known.iter() {
                let apart_ms =
                    seen_ms.saturating_sub(other.asked_ms).max(other.seen_ms.saturating_sub(asked_ms));
                ensure!(
                    apart_ms >= window_ms,
                    "id {message_id} was accepted twice within {apart_ms} ms, in batch {} and in batch {id}",
                    other.batch
                );
            }
            known.push(Accepted { batch: id, index, asked_ms, seen_ms });
        }
        Ok(())
    }

    /// Whether these are the bytes of a batch, or of what was new of it.
    pub(crate) fn is_batch(&mut self, id: u64, bytes: &[u8]) -> Result<bool, Violation> {
        let batch = &self.model.batches[&id];
        if super::check::is_it(bytes, &batch.bytes, batch.delay.is_some()) {
            let all: Vec<usize> = (0..batch.ids.len()).collect();
            let identified = batch.ids.iter().any(Option::is_some);
            return if identified { self.keep(id, &all).map(|()| true) } else { Ok(true) };
        }
        let stored = bytes::Bytes::copy_from_slice(bytes);
        let records = Records::decode(&stored, &BatchLimits::default());
        let records = records.map_err(|error| Violation(format!("batch {id}: {error}")))?;
        let sent = Records::decode(&batch.bytes, &BatchLimits::default()).expect("it was built");
        let index_of = |index| {
            let record = records.get(index)?;
            let same = |at: &usize| {
                sent.get(*at).is_some_and(|sent| {
                    let alike = (&sent.key, &sent.value, &sent.headers);
                    alike == (&record.key, &record.value, &record.headers)
                        && sent.timestamp_ms == record.timestamp_ms
                })
            };
            (0..sent.len()).find(same)
        };
        let kept: Option<Vec<usize>> = (0..records.len()).map(index_of).collect();
        let Some(kept) = kept.filter(|_| records.header().producer.is_none()) else { return Ok(false) };
        let left_out = (0..batch.ids.len()).filter(|index| !kept.contains(index));
        if !kept.is_sorted() || left_out.clone().any(|index| batch.ids[index].is_none()) {
            return Ok(false);
        }
        self.keep(id, &kept).map(|()| true)
    }
}

impl super::model::Model {
    /// Which record of which batch has this value, by what it says of itself.
    fn record_of(&self, value: &[u8]) -> Option<(&Batch, usize)> {
        let (id, index) = super::model::named_in(value)?;
        self.batches.get(&id).map(|batch| (batch, index))
    }
}
