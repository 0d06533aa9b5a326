//! Which offsets of a log are settled: a floor, and a compressed set above it.

use dure_proto::Offset;
use roaring::RoaringTreemap;

use crate::mutant::{self, Mutant};

/// Costs memory in proportion to the irregularity above the floor, not to its length.
#[derive(Clone, Debug)]
pub(crate) struct SettledSet {
    /// Everything below is settled, and this one is not.
    floor: Offset,
    /// Every member is above `floor`.
    above: RoaringTreemap,
    /// `above.len()`, which counts containers.
    above_count: u64,
    /// Members added since the containers were last made as small as they can be.
    loose_count: u64,
}

/// At least so many members are added between two times that the containers are made small.
const LOOSE_COUNT_MIN: u64 = 65_536;

impl SettledSet {
    pub(crate) fn new(floor: Offset) -> SettledSet {
        SettledSet { floor, above: RoaringTreemap::new(), above_count: 0, loose_count: 0 }
    }

    /// The set with this floor and these members above it; `None` if one of them is not above it.
    pub(crate) fn from_parts(floor: Offset, above: RoaringTreemap) -> Option<SettledSet> {
        let above_count = above.len();
        let set = SettledSet { floor, above, above_count, loose_count: 0 };
        set.above.min().is_none_or(|min| min > floor.0).then_some(set)
    }

    pub(crate) fn floor(&self) -> Offset {
        self.floor
    }

    pub(crate) fn above(&self) -> &RoaringTreemap {
        &self.above
    }

    pub(crate) fn above_count(&self) -> u64 {
        self.above_count
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        offset < self.floor || self.above.contains(offset.0)
    }

    /// Adds `from..to` and says how many of them were new.
    pub(crate) fn insert_range(&mut self, from: Offset, to: Offset) -> u64 {
        let from = from.max(self.floor);
        if from >= to {
            return 0;
        }
        if from > self.floor && !mutant::is(Mutant::SettledSetLosesGap) {
            let new = match to.since(from) {
                1 => u64::from(self.above.insert(from.0)),
                _ => self.above.insert_range(from.0..to.0),
            };
            self.above_count += new;
            self.loose_count += new;
            self.tighten();
            return new;
        }
        let known = self.above.remove_range(from.0..to.0);
        self.above_count -= known;
        self.floor = to;
        self.swallow();
        to.since(from) - known
    }

    /// The first offset from `offset` on that is not in the set.
    pub(crate) fn next_unsettled(&self, offset: Offset) -> Offset {
        let mut end = offset.max(self.floor).0;
        if !self.above.contains(end) {
            return Offset(end);
        }
        // A run may be a hundred million long: gallop, then halve.
        let mut step = 1;
        while self.above.contains_range(end..end + step) {
            end += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if self.above.contains_range(end..end + step) {
                end += step;
            }
        }
        Offset(end)
    }

    /// The floor moves up over what has become contiguous with it.
    fn swallow(&mut self) {
        let end = self.next_unsettled(self.floor);
        if end > self.floor {
            self.above_count -= self.above.remove_range(self.floor.0..end.0);
            self.floor = end;
        }
    }

    /// What was settled one by one lies in bitmaps; long runs cost next to nothing once they are stored as
    /// runs. That looks at every container, so it is done once for every eighth of the set.
    fn tighten(&mut self) {
        if self.loose_count >= LOOSE_COUNT_MIN.max(self.above_count / 8) {
            self.above.optimize();
            self.loose_count = 0;
        }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.above_count, self.above.len());
        assert!(self.above.min().is_none_or(|min| min > self.floor.0), "floor {} is settled", self.floor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gap_that_closes_lets_the_floor_run_to_the_next_gap() {
        let mut set = SettledSet::new(Offset(10));
        assert_eq!(set.insert_range(Offset(11), Offset(100_000_000)), 99_999_989);
        assert_eq!(set.insert_range(Offset(100_000_001), Offset(100_000_002)), 1);
        assert_eq!(set.next_unsettled(Offset(11)), Offset(100_000_000));
        assert_eq!(set.insert_range(Offset(10), Offset(11)), 1);
        assert_eq!((set.floor(), set.above_count()), (Offset(100_000_000), 1));
        assert_eq!(set.insert_range(Offset(0), Offset(100_000_003)), 2);
        assert_eq!((set.floor(), set.above_count()), (Offset(100_000_003), 0));
        set.check();
    }

    #[test]
    fn a_long_run_behind_a_gap_costs_next_to_nothing() {
        let mut set = SettledSet::new(Offset(0));
        for offset in 1..=2_000_000 {
            assert_eq!(set.insert_range(Offset(offset), Offset(offset + 1)), 1);
        }
        let bytes = set.above().serialized_size();
        assert!(bytes < 40_000, "{bytes} bytes, where bitmaps would take 250,000");
        assert_eq!(set.next_unsettled(Offset(7)), Offset(2_000_001));
        assert_eq!(set.insert_range(Offset(0), Offset(1)), 1);
        assert_eq!((set.floor(), set.above_count()), (Offset(2_000_001), 0));
        set.check();
    }

    proptest! {
        /// In steps of 1,000, so that arrays, bitmaps and runs all occur.
        #[test]
        fn it_holds_what_was_put_in(ranges in prop::collection::vec((0u64..200, 1u64..90, any::<bool>()), 1..20)) {
            let mut set = SettledSet::new(Offset(0));
            let mut naive = vec![false; 400_000];
            for (from, count, tighten) in ranges {
                let (from, to) = (from * 1_000, from * 1_000 + count * if tighten { 1_000 } else { 3 });
                let range = &mut naive[from as usize..to as usize];
                let new = range.iter().filter(|known| !**known).count() as u64;
                range.fill(true);
                prop_assert_eq!(set.insert_range(Offset(from), Offset(to)), new);
                if tighten {
                    set.above.optimize();
                }
                set.check();
                let next = |from: u64| (from..).find(|offset| !naive[*offset as usize]).map(Offset);
                prop_assert_eq!(Some(set.floor()), next(0));
                for probe in [0, from, from + 1, to, to + 1, 50_000] {
                    prop_assert_eq!(Some(set.next_unsettled(Offset(probe))), next(probe));
                    prop_assert_eq!(set.contains(Offset(probe)), naive[probe as usize]);
                }
            }
            let settled = naive.iter().filter(|known| **known).count() as u64;
            prop_assert_eq!(set.floor().0 + set.above_count(), settled);
        }
    }

    #[test]
    fn the_end_of_a_run_is_found_for_every_length() {
        for length in 1..300 {
            let mut set = SettledSet::new(Offset(0));
            set.insert_range(Offset(65_400), Offset(65_400 + length));
            for from in 65_400..65_400 + length {
                assert_eq!(set.next_unsettled(Offset(from)), Offset(65_400 + length));
            }
        }
    }
}
