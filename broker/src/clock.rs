//! The only place that asks the clocks.

use std::time::{Duration, Instant, SystemTime};

use dure_engine::Now;

/// Reads the machine's clocks. Copies share their zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    zero: Instant,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { zero: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: millis(self.zero.elapsed()), wall_ms: millis(wall) }
    }

    /// The instant at which [`Now::mono_ms`] will be `mono_ms`.
    pub(crate) fn instant(&self, mono_ms: u64) -> Instant {
        // A timer further away than this is asked for again when it fires.
        const FAR_MS: u64 = 1 << 40;
        self.zero + Duration::from_millis(mono_ms.min(FAR_MS))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
