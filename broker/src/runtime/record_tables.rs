//! Record tables for queue groups that look into messages: the shard says where, this reads and decodes.

use std::sync::Arc;

use dure_engine::FoundRecords;
use dure_proto::{GroupId, KeySeed, Offset, TopicPartition};
use tokio::sync::{Semaphore, mpsc};

use super::{Message, Shards};
use crate::records::RecordReader;

/// Read side by side; the rest wait their turn.
const TABLES_AT_ONCE: usize = 8;

/// See `Effect::FetchRecords`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordsRequest {
    pub(crate) group: GroupId,
    pub(crate) partition: TopicPartition,
    pub(crate) from: Offset,
    pub(crate) seed: KeySeed,
}

/// Runs until the shard that asks is gone. A group asks one thing at a time of each partition.
pub(crate) async fn fetch_records(
    mut requests: mpsc::UnboundedReceiver<RecordsRequest>,
    shards: Shards,
    records: Arc<RecordReader>,
) {
    let permits = Arc::new(Semaphore::new(TABLES_AT_ONCE));
    while let Some(request) = requests.recv().await {
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        let (shards, records) = (shards.clone(), records.clone());
        tokio::spawn(async move {
            let RecordsRequest { group, partition, from, seed } = request;
            let table = records.table(partition, from, seed).await;
            shards.of(partition).post(Message::Records(FoundRecords { group, partition, from, table }));
            drop(permit);
        });
    }
}
