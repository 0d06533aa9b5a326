//! The published views of a shard's logs. The shard's thread writes, everyone reads; what both touch is watch channels.

use std::collections::HashMap;
use std::sync::Arc;

use dure_engine::LogView;
use dure_proto::TopicPartition;
use tokio::sync::watch;

/// All logs at one moment.
pub(crate) type LogTable = HashMap<TopicPartition, watch::Receiver<LogView>>;

/// The readers' side.
#[derive(Clone)]
pub(crate) struct Logs {
    table: watch::Receiver<Arc<LogTable>>,
}

/// The shard's side.
pub(super) struct LogPublisher {
    logs: HashMap<TopicPartition, watch::Sender<LogView>>,
    table: watch::Sender<Arc<LogTable>>,
    /// Logs came or went since the table was published.
    changed: bool,
    /// Logs that went; their readers hear of it once the table, and the topics, no longer hold them.
    gone: Vec<watch::Sender<LogView>>,
}

pub(super) fn new() -> (LogPublisher, Logs) {
    let (sender, table) = watch::channel(Arc::default());
    (LogPublisher { logs: HashMap::new(), table: sender, changed: false, gone: Vec::new() }, Logs { table })
}

impl Logs {
    pub(crate) fn get(&self, partition: TopicPartition) -> Option<watch::Receiver<LogView>> {
        self.table.borrow().get(&partition).cloned()
    }

    pub(crate) fn all(&self) -> Arc<LogTable> {
        self.table.borrow().clone()
    }
}

impl LogPublisher {
    pub(super) fn publish(&mut self, view: LogView) {
        match self.logs.get(&view.partition) {
            Some(log) => {
                log.send_replace(view);
            }
            None => {
                self.logs.insert(view.partition, watch::Sender::new(view));
                self.changed = true;
            }
        }
    }

    pub(super) fn unpublish(&mut self, partition: TopicPartition) {
        let gone = self.logs.remove(&partition);
        self.changed |= gone.is_some();
        self.gone.extend(gone);
    }

    /// Makes logs that came or went visible; many at once cost one copy of the table.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.changed) {
            let table = self.logs.iter().map(|(partition, log)| (*partition, log.subscribe())).collect();
            self.table.send_replace(Arc::new(table));
        }
        self.gone.clear();
    }
}
