//! One log as readers may see it.

use std::collections::BTreeMap;

use bytes::Bytes;
use dure_engine::{Cursor, LogView, ReadError, ReadOutcome, Wait};
use dure_proto::{EntryHeader, Offset, Records, split_entries};

use super::Place;
use crate::sim::{Checked, Violation, ensure};

/// Read at a time: small, so that many reads make a log.
const READ_BYTES: usize = 8 << 10;

/// Which batch is where, and how far the log reached. What was shown once is true for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogModel {
    /// By base offset: number of the batch (of a dead letter: its checksum), records, and time of append.
    placed: BTreeMap<u64, Placed>,
    bases: BTreeMap<u64, u64>,
    /// By sender, and by the place that a batch has among those that it sent: base offsets.
    order: BTreeMap<super::Sender, BTreeMap<u64, u64>>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    /// A purge that was acknowledged removed at least this.
    pub(crate) purged_upto: Offset,
    /// A purge may have removed this.
    pub(crate) purge_bound: Offset,
    /// All that was below was read, or was removed unread below `unread_upto`.
    pub(crate) read_upto: Offset,
    pub(crate) unread_upto: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) batch: u64,
    pub(crate) records: u32,
    pub(crate) append_ms: u64,
}

impl LogModel {
    /// A batch is at this offset, and at no other.
    pub(crate) fn place(&mut self, base: Offset, batch: u64, records: u32, append_ms: u64) -> Checked {
        let before = *self.placed.entry(base.0).or_insert(Placed { batch, records, append_ms });
        ensure!(
            (before.batch, before.records) == (batch, records),
            "two values at offset {base}: batch {} and batch {batch}",
            before.batch
        );
        let at = *self.bases.entry(batch).or_insert(base.0);
        ensure!(at == base.0, "batch {batch} is there twice, at {at} and at {base}");
        let end = base.plus(u64::from(records)).0;
        let next = self.placed.range(base.0 + 1..).next().map(|(next, _)| *next);
        ensure!(next.is_none_or(|next| end <= next), "batch {batch} at {base} to {end} overlaps {next:?}");
        let before = self.placed.range(..base.0).next_back();
        let before_end = before.map_or(0, |(base, placed)| base + u64::from(placed.records));
        ensure!(before_end <= base.0, "batch {batch} at {base} overlaps what ends at {before_end}");
        Ok(())
    }

    /// What one sender sends to one log is there in the order in which it was sent.
    pub(crate) fn place_in_order(&mut self, base: Offset, place: Place) -> Checked {
        let Place { sender, nth } = place;
        let sent = self.order.entry(sender).or_default();
        sent.insert(nth, base.0);
        let before = sent.range(..nth).next_back();
        let after = sent.range(nth + 1..).next();
        ensure!(
            before.is_none_or(|(_, at)| *at < base.0) && after.is_none_or(|(_, at)| base.0 < *at),
            "out of order: what {sender:?} sent as {nth} is at {base}, between {before:?} and {after:?}"
        );
        Ok(())
    }

    pub(crate) fn holds(&self, batch: u64) -> bool {
        self.bases.contains_key(&batch)
    }

    /// Everything from `from` on to `end` was read.
    pub(crate) fn was_read(&mut self, from: Offset, end: Offset) {
        if from <= self.read_upto {
            self.read_upto = self.read_upto.max(end);
        }
    }

    /// Where each batch is that was ever seen.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (Offset, Placed)> {
        self.placed.iter().map(|(base, placed)| (Offset(*base), *placed))
    }

    pub(crate) fn batch_at(&self, offset: Offset) -> Option<(Offset, u64)> {
        self.placed_at(offset).map(|(base, placed)| (base, placed.batch))
    }

    /// The batch that holds an offset, and where it begins.
    pub(crate) fn placed_at(&self, offset: Offset) -> Option<(Offset, Placed)> {
        let (base, placed) = self.placed.range(..=offset.0).next_back()?;
        (offset.0 < base + u64::from(placed.records)).then_some((Offset(*base), *placed))
    }

    /// Every offset that a batch was seen at.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = Offset> {
        self.placed().flat_map(|(base, placed)| (0..u64::from(placed.records)).map(move |nth| base.plus(nth)))
    }

    /// The batches that begin in a range.
    pub(crate) fn batches_in(&self, from: Offset, to: Offset) -> impl Iterator<Item = (Offset, Placed)> {
        self.placed.range(from.0..to.0.max(from.0)).map(|(base, placed)| (Offset(*base), *placed))
    }

    /// A view was published: nothing moves back.
    pub(crate) fn see(&mut self, view: &LogView) -> Checked {
        let name = view.partition;
        ensure!(
            view.log_start <= view.high_watermark,
            "{name}: the log starts at {} and ends at {}",
            view.log_start,
            view.high_watermark
        );
        ensure!(
            view.log_start >= self.start,
            "{name}: the log's start moved back from {} to {}",
            self.start,
            view.log_start
        );
        ensure!(
            view.high_watermark >= self.end,
            "{name}: readers saw offsets below {}, and now the log ends at {}",
            self.end,
            view.high_watermark
        );
        (self.start, self.end) = (view.log_start, view.high_watermark);
        if view.log_start > self.read_upto {
            (self.read_upto, self.unread_upto) = (view.log_start, view.log_start);
        }
        Ok(())
    }

    /// Every batch that was placed and not removed was found.
    pub(crate) fn check_end(&self, found_end: Offset) -> Checked {
        if let Some((base, placed)) = self.placed.last_key_value() {
            ensure!(
                base + u64::from(placed.records) <= found_end.0,
                "batch {} at offset {base} is lost: the log ends at {found_end}",
                placed.batch
            );
        }
        Ok(())
    }
}

/// Reads a log from `from` on to its end, and checks that offsets are gapless. `None`: the disk refused to read.
pub(crate) fn read_log(
    view: &LogView,
    from: Offset,
    mut each: impl FnMut(EntryHeader, Bytes) -> Checked,
) -> Result<Option<Offset>, Violation> {
    let mut cursor = Cursor::at(from);
    let mut next: Option<Offset> = None;
    loop {
        let entries = match read_as_a_broker(view, &mut cursor) {
            Ok(ReadOutcome::Entries(entries)) => entries,
            Ok(ReadOutcome::AtEnd) => break,
            Err(ReadError::Disk { .. }) => return Ok(None),
            other => return Err(Violation(format!("{}: reading at {from}: {other:?}", view.partition))),
        };
        for entry in split_entries(entries) {
            let (header, batch) = entry
                .map_err(|error| Violation(format!("{}: an entry that is none: {error}", view.partition)))?;
            let base = header.base_offset;
            match next {
                Some(end) => ensure!(base == end, "{}: {base} follows where {end} was due", view.partition),
                None => ensure!(
                    base <= from && header.end_offset() > from,
                    "{}: reading at {from} began with {base} to {}",
                    view.partition,
                    header.end_offset()
                ),
            }
            next = Some(header.end_offset());
            each(header, batch)?;
        }
    }
    let end = next.unwrap_or(from);
    ensure!(
        end == view.high_watermark,
        "{}: entries end at {end}, the high watermark is {}",
        view.partition,
        view.high_watermark
    );
    Ok(Some(end))
}

/// From memory, and only where that does not do it, from the disk.
pub(crate) fn read_as_a_broker(view: &LogView, cursor: &mut Cursor) -> Result<ReadOutcome, ReadError> {
    match view.read(cursor, READ_BYTES, Wait::CachedOnly) {
        Ok(ReadOutcome::WouldWait) => view.read(cursor, READ_BYTES, Wait::MayWait),
        other => other,
    }
}

/// The value of one record. `None`: the disk refused to read.
pub(crate) fn read_value(view: &LogView, offset: Offset) -> Result<Option<Option<Bytes>>, Violation> {
    let records = read_batch(view, offset)?;
    Ok(records.map(|(header, records)| records.value(offset.since(header.base_offset) as usize)))
}

/// The batch of one record. `None`: the disk refused to read.
pub(crate) fn read_batch(
    view: &LogView,
    offset: Offset,
) -> Result<Option<(EntryHeader, Records)>, Violation> {
    let mut cursor = Cursor::at(offset);
    let entries = match view.read(&mut cursor, 1, Wait::MayWait) {
        Ok(ReadOutcome::Entries(entries)) => entries,
        Err(ReadError::Disk { .. }) => return Ok(None),
        other => return Err(Violation(format!("{}: record {offset}: {other:?}", view.partition))),
    };
    let unreadable = |what: String| Violation(format!("{}: record {offset}: {what}", view.partition));
    let entry = split_entries(entries).next().ok_or_else(|| unreadable("no entry".into()))?;
    let (header, batch) = entry.map_err(|error| unreadable(error.to_string()))?;
    let records = Records::decode(&batch, &dure_proto::BatchLimits::stored())
        .map_err(|error| unreadable(error.to_string()))?;
    let index = offset.since(header.base_offset) as usize;
    ensure!(index < records.len(), "{}: record {offset} is not in its batch", view.partition);
    Ok(Some((header, records)))
}
