//! Waiting for a moment, to a tenth of a millisecond: the runtime's own timers are ten times as coarse, and what they
//! add would be taken for the broker's.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const TICK: Duration = Duration::from_micros(100);

/// A clock that ticks as long as somebody holds it.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    ticks: Arc<Notify>,
}

impl Pace {
    pub(super) fn start() -> Pace {
        let ticks = Arc::new(Notify::new());
        let waiting = Arc::downgrade(&ticks);
        thread::spawn(move || {
            while let Some(ticks) = waiting.upgrade() {
                ticks.notify_waiters();
                drop(ticks);
                thread::sleep(TICK);
            }
        });
        Pace { ticks }
    }

    pub(super) async fn wait_until(&self, moment: Instant) {
        while Instant::now() < moment {
            self.ticks.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_never_comes_too_early() {
        let pace = Pace::start();
        for _ in 0..20 {
            let moment = Instant::now() + Duration::from_micros(350);
            pace.wait_until(moment).await;
            assert!(Instant::now() >= moment);
        }
    }
}
