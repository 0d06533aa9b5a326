//! Waiting for a moment, to a tenth of a millisecond: the runtime's own timers are ten times as coarse, and what they add
//! would be taken for the server's.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const TICK: Duration = Duration::from_micros(100);

/// Ticks as long as somebody holds it.
#[derive(Clone, Debug)]
pub struct Pace {
    ticks: Arc<Notify>,
}

impl Pace {
    /// Starts its thread.
    #[must_use]
    pub fn start() -> Pace {
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

    /// Returns at once if it has come already.
    pub async fn wait_until(&self, moment: Instant) {
        while Instant::now() < moment {
            self.ticks.notified().await;
        }
    }
}

/// When each message of a load at a fixed rate is to be sent, whatever the server does meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the first one is.
    pub began: Instant,
    /// Messages per second.
    pub rate: f64,
    /// For so long.
    pub time: Duration,
}

impl Schedule {
    /// How many messages it has.
    #[must_use]
    pub fn messages(&self) -> u64 {
        (self.rate * self.time.as_secs_f64()).round() as u64
    }

    /// When the message with this number is to be sent, from 0.
    #[must_use]
    pub fn due(&self, number: u64) -> Instant {
        self.began + Duration::from_secs_f64(number as f64 / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_depend_on_what_was_sent() {
        let schedule = Schedule { began: Instant::now(), rate: 1000.0, time: Duration::from_millis(2500) };
        assert_eq!(schedule.messages(), 2500);
        assert_eq!(schedule.due(0), schedule.began);
        assert_eq!(schedule.due(1500) - schedule.began, Duration::from_millis(1500));
    }

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
