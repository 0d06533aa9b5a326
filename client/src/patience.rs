//! Which failures of a background task its consumer hears of, and when.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorCode};

/// Held by a failure until the consumer has taken it.
pub(crate) type Unseen = Arc<()>;

/// A restart of the broker is waited out in silence; what does not pass is told, one failure at a time.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    failing_since: Option<Instant>,
    told: Weak<()>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Patience {
        Patience { limit, failing_since: None, told: Weak::new() }
    }

    /// It works, or did for a while.
    pub(crate) fn works(&mut self) {
        self.failing_since = None;
    }

    /// Whether to tell of this failure, of which the task goes on after some time if it is not the last.
    pub(crate) fn tell(&mut self, error: &Error, last: bool) -> Option<Unseen> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let at_once = match error {
            // Connecting was tried for as long as an operation may take.
            Error::Disconnected { .. } => true,
            Error::Broker { code: ErrorCode::ReadFailed, .. } => true,
            error => !error.is_retriable(),
        };
        let due = at_once || since.elapsed() >= self.limit;
        if !last && (!due || self.told.strong_count() > 0) {
            return None;
        }
        let unseen = Arc::new(());
        self.told = Arc::downgrade(&unseen);
        Some(unseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    fn stopping() -> Error {
        Error::Broker { code: ErrorCode::ShardStopped, message: String::new(), retry: Retry::Unknown }
    }

    #[tokio::test]
    async fn a_restart_is_not_told_and_a_long_failure_is_once_until_it_was_heard() {
        let mut patience = Patience::new(Duration::from_millis(20));
        assert!(patience.tell(&stopping(), false).is_none());
        patience.works();
        assert!(patience.tell(&stopping(), false).is_none());
        tokio::time::sleep(Duration::from_millis(25)).await;
        let heard = patience.tell(&stopping(), false).expect("it has lasted");
        assert!(patience.tell(&stopping(), false).is_none());
        drop(heard);
        assert!(patience.tell(&stopping(), false).is_some());
    }

    #[tokio::test]
    async fn what_ends_the_task_is_always_told() {
        let mut patience = Patience::new(Duration::from_secs(30));
        assert!(patience.tell(&stopping(), true).is_some());
    }
}
