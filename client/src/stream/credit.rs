//! How a consumer's progress gets back to the broker as credit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts the bytes that have been consumed, until the reader collects them.
#[derive(Debug, Default)]
pub(super) struct Returned {
    bytes: AtomicU64,
    news: Notify,
}

impl Returned {
    /// What was returned since the last call.
    pub(super) fn collect(&self) -> u64 {
        self.bytes.swap(0, Ordering::AcqRel)
    }

    pub(super) async fn some(&self) {
        self.news.notified().await;
    }
}

/// Bytes that wait for the consumer; dropping it returns them.
#[derive(Debug)]
pub(super) struct Held {
    bytes: u64,
    returned: Arc<Returned>,
}

impl Held {
    pub(super) fn new(bytes: u64, returned: &Arc<Returned>) -> Held {
        Held { bytes, returned: Arc::clone(returned) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.returned.bytes.fetch_add(self.bytes, Ordering::AcqRel);
        self.returned.news.notify_one();
    }
}
