//! Small entries that lie one behind the other are written together: the system takes about as long for one of them as for
//! all, and with many producers a commit has many.

use std::borrow::Cow;

use dure_proto::{EntryHeader, TopicPartition};

use super::layout::Placement;

/// Above this an entry is written by itself: gathering copies.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// What is gathered.
const RUN_BYTES_MAX: usize = 256 << 10;

/// A durable entry and where the layout placed it.
#[derive(Clone, Copy)]
pub(crate) struct PlacedEntry<'a> {
    pub(crate) placement: Placement,
    pub(crate) header: EntryHeader,
    /// Header and batch.
    pub(crate) bytes: &'a [u8],
}

impl PlacedEntry<'_> {
    fn is_small(&self) -> bool {
        self.bytes.len() <= SMALL_BYTES_MAX
    }
}

/// Entries of one log, each right behind the one before.
pub(crate) struct EntryRun<'a> {
    pub(crate) partition: TopicPartition,
    first: PlacedEntry<'a>,
    others: Vec<PlacedEntry<'a>>,
    bytes: usize,
}

impl<'a> EntryRun<'a> {
    pub(crate) fn of(partition: TopicPartition, entry: PlacedEntry<'a>) -> EntryRun<'a> {
        EntryRun { partition, first: entry, others: Vec::new(), bytes: entry.bytes.len() }
    }

    /// Adds an entry, or gives it back if it cannot be written with these.
    pub(crate) fn push(
        &mut self,
        partition: TopicPartition,
        entry: PlacedEntry<'a>,
    ) -> Result<(), PlacedEntry<'a>> {
        let Placement { segment, position } = self.first.placement;
        let end = Placement { segment, position: position + self.bytes as u64 };
        let follows = partition == self.partition && entry.placement == end;
        let small = entry.is_small() && self.last().is_small();
        if !follows || !small || self.bytes + entry.bytes.len() > RUN_BYTES_MAX {
            return Err(entry);
        }
        self.bytes += entry.bytes.len();
        self.others.push(entry);
        Ok(())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &PlacedEntry<'a>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Where the first of them goes.
    pub(crate) fn placement(&self) -> Placement {
        self.first.placement
    }

    pub(crate) fn last(&self) -> &PlacedEntry<'a> {
        self.others.last().unwrap_or(&self.first)
    }

    /// How long they are together.
    pub(crate) fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// All of them, as they lie in the segment.
    pub(crate) fn bytes(&self) -> Cow<'a, [u8]> {
        if self.others.is_empty() {
            return Cow::Borrowed(self.first.bytes);
        }
        let mut gathered = Vec::with_capacity(self.bytes);
        self.entries().for_each(|entry| gathered.extend_from_slice(entry.bytes));
        Cow::Owned(gathered)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use dure_proto::{Offset, PartitionId};

    use super::super::tests::{PARTITION, entry};
    use super::*;

    pub(in crate::log) fn at(position: u64, bytes: &[u8]) -> PlacedEntry<'_> {
        let header = EntryHeader::parse(&entry(0, b"v").1).expect("an entry");
        PlacedEntry { placement: Placement { segment: Offset(0), position }, header, bytes }
    }

    #[test]
    fn small_ones_that_follow_are_gathered_in_order() {
        let mut run = EntryRun::of(PARTITION, at(64, b"abc"));
        assert!(matches!(run.bytes(), Cow::Borrowed(b"abc")), "one alone is not copied");
        assert!(run.push(PARTITION, at(67, b"de")).is_ok() && run.push(PARTITION, at(69, b"f")).is_ok());
        assert_eq!((&run.bytes()[..], run.len(), run.entries().count()), (&b"abcdef"[..], 6, 3));
    }

    #[test]
    fn what_lies_elsewhere_is_large_or_too_much_is_not_written_with_them() {
        let mut run = EntryRun::of(PARTITION, at(64, b"abc"));
        let other = TopicPartition { partition: PartitionId(1), ..PARTITION };
        let large = vec![0; SMALL_BYTES_MAX + 1];
        let next_segment =
            PlacedEntry { placement: Placement { segment: Offset(9), position: 67 }, ..at(67, b"d") };
        assert!(run.push(other, at(67, b"d")).is_err() && run.push(PARTITION, at(68, b"d")).is_err());
        assert!(run.push(PARTITION, next_segment).is_err() && run.push(PARTITION, at(67, &large)).is_err());
        assert_eq!(run.len(), 3);
        assert!(
            EntryRun::of(PARTITION, at(0, &large)).push(PARTITION, at(large.len() as u64, b"d")).is_err()
        );
        let small = vec![0; SMALL_BYTES_MAX];
        let mut run = EntryRun::of(PARTITION, at(0, &small));
        while run.push(PARTITION, at(run.len(), &small)).is_ok() {}
        assert_eq!(run.len(), RUN_BYTES_MAX as u64);
    }
}
