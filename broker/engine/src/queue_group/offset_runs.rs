//! Ascending offsets that come in at one end and go out at the other, in a few bytes for each run of them.

use std::collections::VecDeque;
use std::ops::Range;

use dure_proto::Offset;

/// A hundred million contiguous offsets cost as much as one; of scattered ones each costs 2 to 4 bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct OffsetRuns {
    /// The lowest run. Empty only if nothing is held.
    first: Range<u64>,
    /// Runs between the first and the last: for each its distance from the end of the one before and its length, less
    /// one each, as LEB128.
    between: VecDeque<u8>,
    /// The end of the run before `last`.
    last_follows: u64,
    /// The highest run, if there are two.
    last: Range<u64>,
    /// How many are held.
    len: u64,
}

impl OffsetRuns {
    /// The lowest offset.
    pub(crate) fn front(&self) -> Option<Offset> {
        (!self.first.is_empty()).then_some(Offset(self.first.start))
    }

    /// How many are held.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends an offset, which is above all that are held.
    pub(crate) fn push(&mut self, offset: Offset) {
        let offset = offset.0;
        self.len += 1;
        if self.first.is_empty() {
            self.first = offset..offset + 1;
            return;
        }
        let highest = if self.last.is_empty() { &mut self.first } else { &mut self.last };
        assert!(offset >= highest.end, "offset {offset} came behind {highest:?}");
        if highest.end == offset {
            highest.end += 1;
            return;
        }
        let follows = highest.end;
        if !self.last.is_empty() {
            put(&mut self.between, self.last.start - self.last_follows - 1);
            put(&mut self.between, self.last.end - self.last.start - 1);
        }
        self.last_follows = follows;
        self.last = offset..offset + 1;
    }

    /// Drops every offset below `to`.
    pub(crate) fn drop_below(&mut self, to: Offset) {
        while !self.first.is_empty() && self.first.start < to.0 {
            if self.first.end > to.0 {
                self.len -= to.0 - self.first.start;
                self.first.start = to.0;
                return;
            }
            self.len -= self.first.end - self.first.start;
            self.first = self.take_second();
        }
        // A key that was hot once does not keep its memory.
        if self.between.len() * 4 < self.between.capacity() {
            self.between.shrink_to(self.between.len() * 2);
        }
    }

    /// All of them, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Offset> {
        let mut rest = self.clone();
        std::iter::from_fn(move || {
            let front = rest.front()?;
            rest.drop_below(front.plus(1));
            Some(front)
        })
    }

    /// Bytes on the heap, at most twice as many while it grows.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.between.len()
    }

    fn take_second(&mut self) -> Range<u64> {
        match take(&mut self.between) {
            Some(distance) => {
                let start = self.first.end + distance + 1;
                let length = take(&mut self.between).expect("runs are stored in pairs") + 1;
                start..start + length
            }
            None => std::mem::take(&mut self.last),
        }
    }
}

fn put(bytes: &mut VecDeque<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push_back(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push_back(number as u8);
}

fn take(bytes: &mut VecDeque<u8>) -> Option<u64> {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes.pop_front()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hundred_thousand_of_a_kind_cost_nothing_and_scattered_ones_few_bytes() {
        let mut runs = OffsetRuns::default();
        (5..100_005).for_each(|offset| runs.push(Offset(offset)));
        assert_eq!((runs.front(), runs.heap_bytes()), (Some(Offset(5)), 0));
        let mut runs = OffsetRuns::default();
        (0..100_000).for_each(|nth| runs.push(Offset(nth * 1_000)));
        assert!(runs.heap_bytes() <= 300_000, "{} bytes", runs.heap_bytes());
        runs.drop_below(Offset(99_990_000));
        assert!(runs.between.capacity() < 10_000, "memory came back");
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_in(steps in prop::collection::vec((1u64..300, 0u64..4, 0u64..500), 1..200)) {
            let (mut runs, mut naive, mut end) = (OffsetRuns::default(), Vec::new(), 0);
            for (gap, count, drop) in steps {
                end += gap;
                for _ in 0..count {
                    runs.push(Offset(end));
                    naive.push(end);
                    end += 1;
                }
                if drop < 200 {
                    let below = naive.first().copied().unwrap_or(0) + drop;
                    runs.drop_below(Offset(below));
                    naive.retain(|offset| *offset >= below);
                }
                prop_assert_eq!(runs.front(), naive.first().copied().map(Offset));
                prop_assert_eq!(runs.iter().map(|offset| offset.0).collect::<Vec<_>>(), naive.clone());
            }
        }
    }
}
