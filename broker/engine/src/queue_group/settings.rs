//! What bounds a lease table, and how long a message waits after a failure.

use dure_proto::wire;

use super::window::WINDOW_BYTES_MAX;
use crate::mutant::{self, Mutant};

/// Longest lease: a day.
pub const LEASE_MS_MAX: u64 = 24 * 3_600_000;
/// Longest wait after a release: a week.
pub const RELEASE_DELAY_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// Longest reason kept with a dead letter.
pub const REASON_BYTES_MAX: usize = 1024;
/// Messages that one lease table knows singly, unless it is told otherwise.
pub const TABLE_MESSAGES_MAX: usize = 262_144;
/// Dead letters that one lease table knows, unless it is told otherwise: about 150 bytes each. At the bound what would die
/// waits. All of them can be purged in one commit.
pub const DEAD_LETTERS_MAX: usize = 524_288;
const _: () = assert!(DEAD_LETTERS_MAX * 16 <= dure_proto::BATCH_BYTES_MAX);
/// Leases and waits that one [`LeaseTable::handle_timeout`](super::LeaseTable::handle_timeout) ends.
pub const TIMEOUTS_PER_TURN_MAX: usize = 4096;

/// How a queue group leases and retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Length of a lease for which nobody names another.
    pub lease_ms: u64,
    /// Started deliveries after which a message dies; at least 1.
    pub attempts_max: u32,
    /// Wait after the first failed attempt; doubled with each further one.
    pub backoff_first_ms: u64,
    /// Bound of that wait; at least `backoff_first_ms`.
    pub backoff_max_ms: u64,
    /// Messages that a table knows singly: leased, waiting, tried before, redriven. At the bound it grants no
    /// fresh ones.
    pub messages_max: usize,
    /// Dead letters. At the bound a message that is to die waits for one of them to be purged or redriven.
    pub dead_max: usize,
    /// Messages of one key are granted one at a time and in order.
    pub by_key: bool,
    /// Urgent messages are granted before others. Not together with `by_key`.
    pub by_priority: bool,
    /// Expired messages go to the dead letters; else they are settled and gone.
    pub expired_die: bool,
    /// What a table may take in memory, about, for messages that wait behind others of their key.
    pub window_bytes_max: usize,
}

impl Default for LeaseSettings {
    fn default() -> LeaseSettings {
        LeaseSettings {
            lease_ms: 30_000,
            attempts_max: 5,
            backoff_first_ms: 1_000,
            backoff_max_ms: 300_000,
            messages_max: TABLE_MESSAGES_MAX,
            dead_max: DEAD_LETTERS_MAX,
            by_key: false,
            by_priority: false,
            expired_die: false,
            window_bytes_max: WINDOW_BYTES_MAX,
        }
    }
}

impl From<&wire::QueueSettings> for LeaseSettings {
    /// Validated settings as they are; out of bounds, the nearest that is within them.
    fn from(wire: &wire::QueueSettings) -> LeaseSettings {
        let backoff_first_ms = wire.backoff_first_ms.min(RELEASE_DELAY_MS_MAX);
        LeaseSettings {
            lease_ms: wire.lease_ms.clamp(1, LEASE_MS_MAX),
            attempts_max: wire.attempts_max.max(1) + u32::from(mutant::is(Mutant::DeadLetterOneTooLate)),
            backoff_first_ms,
            backoff_max_ms: wire.backoff_max_ms.clamp(backoff_first_ms, RELEASE_DELAY_MS_MAX),
            by_key: wire.ordering() == wire::Ordering::Key,
            by_priority: wire.ordering() == wire::Ordering::Priority,
            expired_die: wire.expired() == wire::Expired::DeadLetter,
            ..LeaseSettings::default()
        }
    }
}

/// A random number from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter(pub u64);

impl Jitter {
    /// A number of its own for each message (splitmix64), so that what failed together does not return
    /// together.
    #[must_use]
    pub fn of(self, offset: dure_proto::Offset) -> Jitter {
        let mut z = self.0 ^ offset.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Jitter(z ^ (z >> 31))
    }
}

impl LeaseSettings {
    /// Messages are looked at before they are granted, whatever is in them.
    pub(crate) fn looks_inside(&self) -> bool {
        self.by_key || self.by_priority
    }

    /// The wait after `attempts` failed ones: doubling from first to max, up to a quarter of it random, and
    /// never outside of first to max.
    #[must_use]
    pub fn backoff_ms(&self, attempts: u32, jitter: Jitter) -> u64 {
        let doublings = attempts.saturating_sub(1).min(63);
        let base = u128::from(self.backoff_first_ms) << doublings;
        let base = base.min(u128::from(self.backoff_max_ms)) as u64;
        let upper = (base + base / 4).min(self.backoff_max_ms);
        let lower = (upper - upper / 5).max(self.backoff_first_ms).min(upper);
        lower + jitter.0 % (upper - lower + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_jitter_and_stays_between_first_and_max() {
        let settings = LeaseSettings::default();
        let range = |attempts| {
            let all = (0..5000).map(|n| settings.backoff_ms(attempts, Jitter(n * 7919)));
            (all.clone().min().unwrap(), all.max().unwrap())
        };
        assert_eq!(range(1), (1_000, 1_250));
        let (low, high) = range(3);
        assert!((4_000..4_010).contains(&low) && (4_990..=5_000).contains(&high), "{low} {high}");
        let (low, high) = range(30);
        assert!((240_000..=250_000).contains(&low) && high <= 300_000, "{low} {high}");
        let fixed = LeaseSettings { backoff_first_ms: 0, backoff_max_ms: 0, ..settings };
        assert_eq!(fixed.backoff_ms(4, Jitter(99)), 0);
    }
}
