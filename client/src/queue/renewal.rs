//! The task that keeps leases alive, independent of what the handlers do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Core;
use super::command::Command;

/// How often one looks whether the stream is gone while nothing is held.
const IDLE: Duration = Duration::from_secs(1);
const TICK_MIN: Duration = Duration::from_millis(5);
const TICK_MAX: Duration = Duration::from_secs(5);

/// Renews at a third of the lease, and looks six times per lease.
pub(super) async fn run(core: Arc<Core>, commands: mpsc::WeakUnboundedSender<Command>) {
    loop {
        match core.held.shortest_lease() {
            Some(lease) => sleep((lease / 6).clamp(TICK_MIN, TICK_MAX)).await,
            None => {
                let _ = timeout(IDLE, core.held.added()).await;
            }
        }
        let Some(commands) = commands.upgrade() else { return };
        for (receipt, lease) in core.held.due_for_renewal(Instant::now()) {
            // The settler outlives every sender.
            let _ = commands.send(Command::renew(receipt, lease));
        }
    }
}
