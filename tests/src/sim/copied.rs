//! Dead letters that are copied to a topic: each is a message that died, and is there once.

use bytes::Bytes;
use dure_engine::{
    DEAD_GROUP_HEADER, DEAD_OFFSET_HEADER, DEAD_PARTITION_HEADER, DEAD_TIME_HEADER, DEAD_TOPIC_HEADER,
    Request, Response,
};
use dure_proto::{BatchLimits, EntryHeader, Offset, PartitionId, Record, Records, TopicPartition, wire};

use super::model::{Batch, Fate, Key};
use super::world::World;
use super::{Checked, Violation, ensure};

/// The group whose dead letters are copied, where the seed says so.
pub(super) const GROUP: &str = "archive";
/// And the topic that they are copied to.
pub(super) const GRAVES: &str = "maps";

/// Numbers of batches that are copies begin here.
const COPIES_FROM: u64 = 1 << 40;

fn text(record: &Record, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(found, _)| found == name)?;
    String::from_utf8(value.as_ref()?.to_vec()).ok()
}

/// The record of a batch that is a copy of a dead letter.
pub(super) fn copy_in(bytes: &[u8]) -> Option<Record> {
    let records = Records::decode(&Bytes::copy_from_slice(bytes), &BatchLimits::stored()).ok()?;
    records.get(0).filter(|record| text(record, DEAD_GROUP_HEADER).is_some())
}

impl World {
    /// Whether dead letters are copied into this log.
    pub(super) fn takes_copies(&self, partition: TopicPartition) -> bool {
        let topic = self.topics.by_id(partition.topic);
        self.knobs.copies_letters && topic.is_some_and(|topic| topic.name == GRAVES)
    }

    /// A copy is a message that died in the group, where and when it says, and stands at one place.
    pub(super) fn check_copy(
        &mut self,
        partition: TopicPartition,
        header: &EntryHeader,
        copy: &Record,
    ) -> Checked {
        if self.damaged {
            return Ok(());
        }
        let base = header.base_offset;
        let said = |name| {
            text(copy, name)
                .ok_or_else(|| Violation(format!("{partition}: the copy at {base} has no {name}")))
        };
        let number = |name| said(name).map(|value| value.parse::<u64>().unwrap_or(u64::MAX));
        let (group, topic) = (said(DEAD_GROUP_HEADER)?, said(DEAD_TOPIC_HEADER)?);
        ensure!(group == GROUP && topic != GRAVES, "{partition}: a copy of {topic} in {group} at {base}");
        let (from, offset) = (number(DEAD_PARTITION_HEADER)?, number(DEAD_OFFSET_HEADER)?);
        let died_ms = number(DEAD_TIME_HEADER)?;
        // Its source may be gone meanwhile, or be another topic of that name.
        let source = self.topics.by_name(&topic).map(|topic| topic.id);
        let source = source.map(|topic| TopicPartition { topic, partition: PartitionId(from as u32) });
        let named = copy.value.as_ref().and_then(|value| super::model::named_in(value));
        let original = named.and_then(|(batch, index)| Some((self.model.batches.get(&batch)?, index)));
        if let Some(value) = &copy.value {
            let same = original.is_some_and(|(batch, index)| batch.sent.get(index) == Some(value));
            ensure!(same, "{partition}: the copy at {base} is no message that was produced");
            let (batch, _) = original.expect("just looked");
            if Some(batch.partition) == source && batch.fate == Fate::Refused {
                return Err(Violation(format!(
                    "{partition}: what was refused died, says the copy at {base}"
                )));
            }
        }
        let instance = self.model.groups.get(GROUP).map_or(0, |group| group.instance);
        let topic_id = original.map(|(batch, _)| batch.partition.topic);
        let death = (instance, topic_id, from, offset, died_ms);
        let at = *self.model.copies.entry(death).or_insert((partition, base));
        ensure!(
            at == (partition, base),
            "message {offset} of {topic}/{from}, which died at {died_ms}, is copied twice: to {at:?} and to {partition} {base}"
        );
        let copies = &self.model.copied_at;
        let known = copies.get(&(partition, base)).copied();
        let nth = known.unwrap_or(COPIES_FROM + copies.len() as u64);
        if known.is_none() {
            self.model.copied_at.insert((partition, base), nth);
            self.model.batches.insert(nth, batch_of(partition, copy));
            self.count("dead letters copied");
        }
        let log = self.model.logs.entry(partition).or_default();
        log.place(base, nth, header.record_count, header.append_time_ms)
    }

    /// With nothing under way, all that can be copied is.
    pub(super) fn check_copied(&mut self) -> Checked {
        if !self.knobs.copies_letters {
            return Ok(());
        }
        let groups = match self.ask(Request::ListGroups)? {
            Response::Groups(groups) => groups,
            other => return Err(Violation(format!("{other:?}"))),
        };
        for group in groups {
            let rows = group.partitions.iter();
            let left = rows.filter(|row| row.uncopied > 0 && row.copies_wait.is_empty());
            let left: Vec<&wire::GroupPartition> = left.collect();
            ensure!(
                left.is_empty(),
                "dead letters of {} are not copied, and nothing is said: {left:?}",
                group.name
            );
        }
        Ok(())
    }
}

/// As others that work the topic see it.
fn batch_of(partition: TopicPartition, copy: &Record) -> Batch {
    let key = copy.key.as_ref().and_then(|key| key.first());
    let values: Vec<Bytes> = copy.value.iter().cloned().collect();
    Batch {
        partition,
        bytes: Bytes::new(),
        sent: values.clone(),
        ids: vec![None],
        kept: None,
        duplicates: None,
        asked_ms: None,
        values,
        keys: vec![key.map(|key| Key { key: *key, deletes: false })],
        ttls_ms: vec![None],
        record_bytes_max: 0,
        stamped: false,
        place: None,
        fate: Fate::Unknown,
        acked_with: None,
        delay: None,
    }
}

/// Where a message died, in which life of the group, and when.
pub(crate) type DeathKey = (u32, Option<dure_proto::TopicId>, u64, u64, u64);

/// Where it was copied to.
pub(crate) type CopyPlace = (TopicPartition, Offset);
