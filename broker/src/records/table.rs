//! What queue groups that look into messages have to know of the records of a log.

use std::sync::Arc;

use dure_engine::{RECORD_TABLE_MAX, RecordFacts, RecordTable};
use dure_proto::{KeySeed, Offset, TopicPartition};

use super::cache::CachedBatch;
use super::{RecordReader, Unreadable};

impl RecordReader {
    /// The records from `from` on, up to the end of the log or as many as one table holds.
    pub(crate) async fn table(&self, partition: TopicPartition, from: Offset, seed: KeySeed) -> RecordTable {
        let mut facts = Vec::new();
        let mut next = from;
        while facts.len() < RECORD_TABLE_MAX as usize {
            // The first one is there; of those behind it some may not be.
            if next > from && self.shards.view(partition).is_ok_and(|view| view.high_watermark <= next) {
                break;
            }
            let batch = match self.batch_of(partition, next).await {
                Ok(batch) => batch,
                // What was found so far is good; the next table begins with what is not.
                Err(_) if next > from => break,
                Err(error) => return unreadable(error),
            };
            let room = RECORD_TABLE_MAX as usize - facts.len();
            facts.extend(RecordFacts::of_batch(&batch.records, next, batch.append_time_ms, seed).take(room));
            next = from.plus(facts.len() as u64);
        }
        RecordTable::Records(facts)
    }

    async fn batch_of(
        &self,
        partition: TopicPartition,
        offset: Offset,
    ) -> Result<Arc<CachedBatch>, Unreadable> {
        let view = self.published(partition, offset).await?;
        match self.cache.get(partition, offset) {
            Some(batch) => Ok(batch),
            None => self.load(view, offset).await,
        }
    }
}

/// A record that is lost for good dies, and the rest of its batch with it.
fn unreadable(error: Unreadable) -> RecordTable {
    let reason = error.to_string();
    match error {
        Unreadable::Undecodable { end, .. } => RecordTable::Undecodable { end, reason },
        Unreadable::Corrupt { offset, .. } => RecordTable::Undecodable { end: offset.plus(1), reason },
        Unreadable::Gone { .. } | Unreadable::Failed { .. } => RecordTable::Failed,
    }
}
