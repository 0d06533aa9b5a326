//! What every listener shares.

use std::sync::Arc;

use dure_engine::DiskRef;
use tokio::sync::Semaphore;

use crate::config::ServeOptions;
use crate::data_dir::Format;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::records::RecordReader;
use crate::runtime::Shards;

/// The running broker, as listeners see it.
pub(crate) struct Broker {
    pub(crate) options: ServeOptions,
    /// The data directory, for those who read its files as they are.
    pub(crate) disk: DiskRef,
    /// Its identity.
    pub(crate) format: Format,
    pub(crate) shards: Shards,
    pub(crate) records: Arc<RecordReader>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    /// Bytes of requests that the shards have not answered.
    pub(crate) inflight: Arc<Semaphore>,
    /// Bytes of large frames that are still being received.
    pub(crate) assembling: Arc<Semaphore>,
    /// The newest epoch among the shards.
    pub(crate) epoch: u64,
}
