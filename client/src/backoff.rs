//! Waiting longer after each failure, each waiter a little differently.

use std::time::Duration;

/// Exponential backoff with jitter: the n-th delay lies between half of `first · 2ⁿ` and all of it, and never
/// beyond `max`.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// For a broker that is not there.
    pub(crate) fn reconnecting() -> Backoff {
        Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2), failures: 0 }
    }

    /// For a broker that is there and says "later".
    pub(crate) fn later() -> Backoff {
        Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1), failures: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures += 1;
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit() {
        let mut backoff = Backoff::reconnecting();
        for expected_ms in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            let delay = backoff.next_delay();
            let whole = Duration::from_millis(expected_ms);
            assert!(delay <= whole && delay >= whole / 2, "{delay:?} for {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(50));
    }
}
