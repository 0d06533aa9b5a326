//! How far ahead a due time may lie, and which delay log a batch waits in.

/// A message may be sent this far ahead: a year, be it a leap year.
pub const DELAY_MS_MAX: u64 = 366 * DAY_MS;

const DAY_MS: u64 = 24 * 3_600_000;

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// So many milliseconds after the broker took it.
    After(u64),
    /// At this time, in milliseconds since the Unix epoch, on the broker's clock.
    At(u64),
}

impl Due {
    /// The due time of a message that is taken at `wall_ms`; `None` if that is too far ahead.
    pub(crate) fn at(self, wall_ms: u64) -> Option<u64> {
        let due_ms = match self {
            Due::After(delay_ms) => wall_ms.checked_add(delay_ms)?,
            Due::At(due_ms) => due_ms,
        };
        (due_ms.saturating_sub(wall_ms) <= DELAY_MS_MAX).then_some(due_ms)
    }
}

/// Which delay log of a partition a batch waits in. A log is let go from its start on, so batches that wait a minute do
/// not share one with those that wait a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Horizon(u8);

/// The longest that a batch waits in each, ascending. What lies on disk names its horizon by this number.
const HORIZONS_MS: [u64; 5] = [60_000, 3_600_000, DAY_MS, 7 * DAY_MS, DELAY_MS_MAX];

impl Horizon {
    pub(crate) fn all() -> impl Iterator<Item = Horizon> {
        (0..HORIZONS_MS.len() as u8).map(Horizon)
    }

    /// The smallest one that holds a batch for so long.
    pub(crate) fn of(delay_ms: u64) -> Horizon {
        let at = HORIZONS_MS.partition_point(|longest| *longest < delay_ms);
        Horizon(at.min(HORIZONS_MS.len() - 1) as u8)
    }

    pub(crate) fn ms(self) -> u64 {
        HORIZONS_MS[usize::from(self.0)]
    }

    /// The one with this number; `None` if this version knows none.
    pub(crate) fn from_ms(ms: u64) -> Option<Horizon> {
        Horizon::all().find(|horizon| horizon.ms() == ms)
    }

    /// From the farthest on: of two batches due at once, the one that has waited longer was sent first.
    pub(super) fn rank(self) -> u8 {
        HORIZONS_MS.len() as u8 - 1 - self.0
    }

    pub(super) fn of_rank(rank: u8) -> Horizon {
        Horizon(HORIZONS_MS.len() as u8 - 1 - rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_waits_in_the_nearest_log_that_is_far_enough() {
        let of = |ms| Horizon::of(ms).ms();
        assert_eq!([of(0), of(60_000), of(60_001)], [60_000, 60_000, 3_600_000]);
        assert_eq!([of(8 * DAY_MS), of(DELAY_MS_MAX)], [DELAY_MS_MAX, DELAY_MS_MAX]);
        for horizon in Horizon::all() {
            assert_eq!(Horizon::of_rank(horizon.rank()), horizon);
            assert_eq!(Horizon::from_ms(horizon.ms()), Some(horizon));
        }
        assert_eq!(Horizon::from_ms(61_000), None);
    }

    #[test]
    fn a_year_ahead_is_the_farthest_and_the_past_is_now() {
        assert_eq!(Due::After(DELAY_MS_MAX).at(5), Some(5 + DELAY_MS_MAX));
        assert_eq!(Due::After(DELAY_MS_MAX + 1).at(5), None);
        assert_eq!(Due::After(u64::MAX).at(5), None);
        assert_eq!(Due::At(3).at(5), Some(3));
        assert_eq!(Due::At(u64::MAX).at(5), None);
    }
}
