//! What has to be true of a log that is compacted: of each key the newest message is there, whatever else is gone.

use std::collections::BTreeMap;

use bytes::Bytes;
use dure_engine::LogView;
use dure_proto::{BatchLimits, EntryHeader, Offset, Records, TopicPartition};

use super::model::{Batch, Fate};
use super::world::World;
use super::{Checked, Violation, ensure};

impl World {
    /// Entries as they were read from `from` on, all of them unless a read failed on the way. That they follow each
    /// other without a gap was checked.
    pub(crate) fn check_compacted(
        &mut self,
        view: &LogView,
        from: Offset,
        entries: &[(EntryHeader, Bytes)],
        is_whole: bool,
    ) -> Checked {
        // By key: the newest offset that is there.
        let mut newest: BTreeMap<u8, Offset> = BTreeMap::new();
        for (header, batch) in entries {
            let Some(records) = self.check_compacted_entry(view, header, batch)? else { continue };
            for i in (0..records.len()).filter(|i| records.offset(*i) >= from) {
                let key = records.key(i).and_then(|key| key.first().copied());
                newest.insert(key.unwrap_or(u8::MAX), records.offset(i));
            }
        }
        if !is_whole {
            return Ok(());
        }
        *self.totals.checks.entry("compacted logs read").or_default() += 1;
        self.check_newest(view, from, &newest)
    }

    /// One entry by itself; `None` if no record is left in it.
    pub(super) fn check_compacted_entry(
        &mut self,
        view: &LogView,
        header: &EntryHeader,
        batch: &Bytes,
    ) -> Result<Option<Records>, Violation> {
        let records = Records::decode(batch, &BatchLimits::stored());
        let records = records.map_err(|error| Violation(format!("{}: {error}", view.partition)))?;
        if records.is_empty() {
            return Ok(None);
        }
        self.check_records(view, header, &records)?;
        Ok(Some(records))
    }

    /// What is left of a batch is as it was produced, at the offset at which it was.
    fn check_records(&mut self, view: &LogView, header: &EntryHeader, records: &Records) -> Checked {
        let (partition, base) = (view.partition, header.base_offset);
        let id = records.header().base_timestamp_ms as u64;
        let Some(batch) = self.model.batches.get(&id).filter(|batch| batch.partition == partition) else {
            return Err(Violation(format!("{partition}: nobody produced what is at {base}")));
        };
        ensure!(batch.fate != Fate::Refused, "batch {id} was refused, and is at {base} of {partition}");
        if let Fate::Acked(acked) = batch.fate {
            ensure!(acked == base, "batch {id} was acknowledged at {acked} and is at {base} of {partition}");
        }
        for record in records {
            let at = record.offset_delta as usize;
            let as_produced = batch.keys.get(at).copied().flatten().zip(batch.values.get(at)).is_some_and(
                |(key, value)| {
                    let value = (!key.deletes).then_some(value);
                    record.key.as_deref() == Some(&[key.key][..]) && record.value.as_ref() == value
                },
            );
            ensure!(
                as_produced,
                "record {at} of batch {id} at {base} of {partition} is not what was produced"
            );
        }
        let count = batch.values.len() as u32;
        let log = self.model.logs.entry(partition).or_default();
        log.place(base, id, count, header.append_time_ms)
    }

    /// The newest message of each key that was ever seen is there. A tombstone may be gone, and then nothing older is
    /// left of its key.
    fn check_newest(&self, view: &LogView, from: Offset, found: &BTreeMap<u8, Offset>) -> Checked {
        let Some(log) = self.model.logs.get(&view.partition) else { return Ok(()) };
        let mut wanted: BTreeMap<u8, (Offset, bool)> = BTreeMap::new();
        for (base, placed) in log.placed() {
            let keys = self.model.batches.get(&placed.batch).map(|batch| &batch.keys[..]).unwrap_or_default();
            for (key, i) in keys.iter().zip(0..).filter_map(|(key, i)| Some((key.as_ref()?, i))) {
                wanted.insert(key.key, (base.plus(i), key.deletes));
            }
        }
        let start = from.max(view.log_start);
        let shown = start..view.high_watermark;
        for (key, (offset, deletes)) in wanted.into_iter().filter(|(_, (offset, _))| shown.contains(offset)) {
            let name = view.partition;
            match found.get(&key) {
                Some(newest) => ensure!(
                    *newest >= offset,
                    "{name}: the newest message of key {key} is at {offset}, and {newest} is shown"
                ),
                None => ensure!(
                    deletes || self.may_be_deleted(name, key),
                    "{name}: the newest message of key {key}, at {offset}, is lost"
                ),
            }
        }
        Ok(())
    }

    /// A tombstone whose answer was lost may be in the log; it may have taken its key and gone before it was ever read.
    fn may_be_deleted(&self, partition: TopicPartition, key: u8) -> bool {
        let doubtful = |batch: &&Batch| batch.partition == partition && batch.fate == Fate::Unknown;
        let mut keys =
            self.model.batches.values().filter(doubtful).flat_map(|batch| batch.keys.iter().flatten());
        keys.any(|of| of.key == key && of.deletes)
    }
}
