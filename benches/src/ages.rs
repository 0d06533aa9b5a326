//! How old messages were when they arrived: since the time at which each was to be sent, so that a sender that is held up
//! counts as latency, and not as a pause.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Bytes at the start of a payload that say when it was to be sent.
pub const STAMP_BYTES: usize = 8;

/// Ages to three digits, in microseconds.
#[derive(Clone, Debug)]
pub struct Ages(Histogram<u64>);

impl Default for Ages {
    fn default() -> Ages {
        Ages(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Ages {
    /// Notes one.
    pub fn record(&mut self, age: Duration) {
        self.0.record(age.as_micros() as u64).expect("it grows with what is recorded");
    }

    /// Takes in what another one noted.
    pub fn add(&mut self, other: &Ages) {
        self.0.add(&other.0).expect("they are of one kind");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Milliseconds that this share of them does not exceed, from 0 to 1; none if there are none.
    #[must_use]
    pub fn at_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1e3)
    }
}

/// Writes and reads stamps: microseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// What a payload that is to be sent then begins with.
    #[must_use]
    pub fn stamp(&self, intended: Instant) -> [u8; STAMP_BYTES] {
        (intended.saturating_duration_since(self.began).as_micros() as u64).to_le_bytes()
    }

    /// How long before `now` a payload was to be sent; `None` if it is too short to say so.
    #[must_use]
    pub fn age(&self, payload: &[u8], now: Instant) -> Option<Duration> {
        let since = Duration::from_micros(u64::from_le_bytes(*payload.first_chunk()?));
        Some(now.saturating_duration_since(self.began).saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_count_from_when_a_message_was_to_be_sent() {
        let clock = Clock::start();
        let intended = clock.began + Duration::from_millis(10);
        let mut payload = vec![7; 20];
        payload[..STAMP_BYTES].copy_from_slice(&clock.stamp(intended));
        // It went out late, which nobody asks for: only when it was due and when it arrived.
        let arrived = intended + Duration::from_millis(3);
        assert_eq!(clock.age(&payload, arrived), Some(Duration::from_millis(3)));
        assert_eq!(clock.age(&[0; 3], arrived), None);
    }

    #[test]
    fn one_slow_message_of_a_hundred_is_the_last_hundredth() {
        let mut ages = Ages::default();
        assert_eq!(ages.at_ms(0.5), None);
        (0..99).for_each(|_| ages.record(Duration::from_millis(1)));
        let mut slow = Ages::default();
        slow.record(Duration::from_millis(500));
        ages.add(&slow);
        let at = |share| ages.at_ms(share).unwrap().round();
        assert_eq!((ages.count(), at(0.5), at(0.99), at(0.995)), (100, 1.0, 1.0, 500.0));
    }
}
