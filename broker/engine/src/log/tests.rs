//! Reading a log whose segment is damaged.

use std::sync::Arc;

use dure_proto::wire::TopicConfig;
use dure_proto::{
    BatchBuilder, BatchHeader, Compression, ENTRY_HEADER_BYTES, EntryHeader, Offset, PartitionId, TopicId,
    TopicPartition, patch_base, split_entries,
};

use super::{
    Cursor, DirtyFile, EntryRun, LateEntry, LogLayout, LogView, LogWriter, Nameless, PlacedEntry, Placement,
    ReadOutcome, SEGMENT_HEADER_BYTES, SegmentId, Wait, WrittenPart, log_dir, segment_path, written,
};
use crate::disk::{Disk, DiskRef, FaultRule, OpenMode, SimDisk, SimFaults};
use crate::inspect::dump;

pub(super) const PARTITION: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };

pub(super) fn entry(base: u64, value: &[u8]) -> (EntryHeader, Vec<u8>) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(value), &[], 0).expect("fits");
    let mut batch = builder.build(None).to_vec();
    let header = EntryHeader::for_batch(&BatchHeader::parse(&batch).expect("a batch"), Offset(base), 5, 1);
    patch_base(&mut batch, Offset(base), 1);
    (header, [&header.encode()[..], &batch].concat())
}

fn write(writer: &mut LogWriter, placement: Placement, header: EntryHeader, bytes: &[u8]) {
    writer.write(&EntryRun::of(PARTITION, PlacedEntry { placement, header, bytes }));
}

/// A log of these messages, and where each entry begins in its one segment.
fn log(values: &[&[u8]]) -> (SimDisk, LogView, Vec<u64>) {
    let disk = SimDisk::new(1);
    let shared: DiskRef = Arc::new(disk.clone());
    let mut layout = LogLayout::new();
    let mut writer = LogWriter::restore(shared, "shard-0000", PARTITION, &layout);
    let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    let mut positions = Vec::new();
    for (base, value) in values.iter().enumerate() {
        let (header, bytes) = entry(base as u64, value);
        let placement = layout.append(&header, &config);
        positions.push(placement.position);
        write(&mut writer, placement, header, &bytes);
    }
    disk.open(&path(), OpenMode::ReadWrite).and_then(|file| file.sync()).expect("synced");
    (disk, writer.view(), positions)
}

fn path() -> String {
    segment_path(&log_dir("shard-0000", PARTITION), SegmentId::appended(Offset::ZERO))
}

/// What a reader gets: offsets, or ranges that are lost.
fn read(view: &LogView) -> Vec<(&'static str, u64, u64)> {
    let (mut cursor, mut seen) = (Cursor::at(Offset::ZERO), Vec::new());
    loop {
        match view.read(&mut cursor, 64 << 10, Wait::MayWait).expect("reads") {
            ReadOutcome::Entries(entries) => {
                for item in split_entries(entries) {
                    let (header, _) = item.expect("whole");
                    seen.push(("entry", header.base_offset.0, header.end_offset().0));
                }
            }
            ReadOutcome::Lost(range) => seen.push(("lost", range.start.0, range.end.0)),
            ReadOutcome::AtEnd => return seen,
            ReadOutcome::WouldWait => panic!("it may wait"),
        }
    }
}

#[test]
fn an_entry_inside_a_message_was_served_behind_damage() {
    let (_, forged) = entry(2, b"forged");
    let (disk, view, positions) = log(&[b"zero", &forged, b"two", b"three"]);
    let last_byte = positions[2] - 1;
    disk.flip_bit(&path(), last_byte, 0).expect("flipped");
    let expected = [("entry", 0, 1), ("lost", 1, 2), ("entry", 2, 3), ("entry", 3, 4)];
    assert_eq!(read(&view), expected);

    let mut cursor = Cursor::at(Offset(2));
    let Ok(ReadOutcome::Entries(entries)) = view.read(&mut cursor, 64 << 10, Wait::MayWait) else {
        panic!("entries")
    };
    assert!(entries.windows(3).any(|bytes| bytes == b"two"));
    assert!(!entries.windows(6).any(|bytes| bytes == b"forged"));
    let mut dumped = Vec::new();
    dump(&disk, &path(), 0, |line| dumped.push(line)).expect("shown");
    assert_eq!(dumped.iter().filter(|line| line.kind == "entry").count(), 3);
}

#[test]
fn damage_in_a_row_is_passed_over_entry_by_entry() {
    let (disk, view, positions) = log(&[b"zero", b"one", b"two", b"three"]);
    for damaged in [1, 2] {
        let in_batch = positions[damaged] + ENTRY_HEADER_BYTES as u64 + 65;
        disk.flip_bit(&path(), in_batch, 3).expect("flipped");
    }
    assert_eq!(read(&view), [("entry", 0, 1), ("lost", 1, 3), ("entry", 3, 4)]);
}

#[test]
fn a_damaged_header_hides_nothing_behind_it() {
    let (disk, view, positions) = log(&[b"zero", b"one", b"two"]);
    for byte in 0..ENTRY_HEADER_BYTES as u64 {
        disk.flip_bit(&path(), positions[1] + byte, 1).expect("flipped");
        assert_eq!(read(&view), [("entry", 0, 1), ("lost", 1, 2), ("entry", 2, 3)], "byte {byte}");
        disk.flip_bit(&path(), positions[1] + byte, 1).expect("flipped back");
    }
    disk.flip_bit(&path(), positions[2] + 50, 1).expect("flipped");
    assert_eq!(read(&view), [("entry", 0, 1), ("entry", 1, 2), ("lost", 2, 3)]);
}

/// A log of entries that were written at places of the test's own choosing: base offset, bytes before it.
fn misplaced(entries: &[(u64, u64)]) -> (SimDisk, LogView) {
    let disk = SimDisk::new(1);
    let shared: DiskRef = Arc::new(disk.clone());
    let mut writer = LogWriter::restore(shared, "shard-0000", PARTITION, &LogLayout::new());
    let mut position = SEGMENT_HEADER_BYTES as u64;
    for (base, before) in entries {
        let (header, bytes) = entry(*base, b"value");
        let placement = Placement { segment: Offset::ZERO, position: position + before };
        write(&mut writer, placement, header, &bytes);
        position = placement.position + bytes.len() as u64;
    }
    (disk, writer.view())
}

#[test]
fn bytes_before_an_entry_hid_it() {
    let (_disk, view) = misplaced(&[(0, 0), (1, 50), (2, 0)]);
    assert_eq!(read(&view), [("entry", 0, 1), ("entry", 1, 2), ("entry", 2, 3)]);
}

#[test]
fn offsets_that_come_again_were_served_again() {
    let (_disk, view) = misplaced(&[(0, 0), (1, 0), (0, 0), (1, 0), (2, 0)]);
    assert_eq!(read(&view), [("entry", 0, 1), ("entry", 1, 2), ("entry", 2, 3)]);
}

/// A read of 256 KiB met a batch of 1 MiB, was thrown away and made again: before each of them.
#[test]
fn a_reader_of_large_entries_reads_each_once() {
    let value = vec![b'v'; 100_000];
    let values: [&[u8]; 6] = [&value; 6];
    let (disk, view, positions) = log(&values);
    let (mut cursor, before) = (Cursor::at(Offset::ZERO), disk.io_counts());
    let mut read = |entries| {
        for _ in 0..entries {
            let outcome = view.read(&mut cursor, 64 << 10, Wait::MayWait).expect("reads");
            assert!(matches!(outcome, ReadOutcome::Entries(_)), "{outcome:?}");
        }
        disk.io_counts().read_bytes - before.read_bytes
    };
    let first = read(1);
    let each = (positions[2] - positions[1]).next_multiple_of(4096);
    assert_eq!(read(4) - first, 4 * each);
}

#[test]
fn a_byte_behind_a_cursor_is_asked_for_only_where_that_is_known() {
    let (_disk, view, _) = log(&[b"zero", b"one", b"two"]);
    let mut cursor = Cursor::at(Offset::ZERO);
    assert!(!view.is_cached(&cursor, 0), "its place is not known");
    let first = view.read(&mut cursor, 1, Wait::MayWait).expect("reads");
    assert!(matches!(first, ReadOutcome::Entries(_)));
    assert!(view.is_cached(&cursor, 0) && view.is_cached(&cursor, usize::MAX >> 1));
    let (_other, end) = (view.read(&mut cursor, 1 << 20, Wait::MayWait), cursor);
    assert_eq!(end.offset(), view.high_watermark);
    assert!(!view.is_cached(&end, 0), "nothing is there");
}

#[test]
fn what_is_late_comes_back_from_a_checkpoint_and_what_has_no_place_does_not() {
    let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    let mut layout = LogLayout::new();
    let mut late = Vec::new();
    for base in 0..3 {
        let (header, bytes) = entry(base, b"value");
        let placement = layout.append(&header, &config);
        late.push(LateEntry { placement, header, bytes: bytes.into() }.snapshot());
    }
    let mut log = layout.snapshot(PARTITION);
    log.late = late.split_off(1);
    // The log's start may lie among them.
    for log_start in [0, 1, 2] {
        log.log_start = log_start;
        let restored = LateEntry::restore(&log).expect("they have their places");
        assert_eq!(restored.iter().map(|late| late.header.base_offset.0).collect::<Vec<_>>(), [1, 2]);
        let on_disk = LogLayout::restore(&written(&log)).expect("it is sound");
        let first = on_disk.segment(0);
        assert_eq!((first.end, first.bytes), (Offset(1), restored[0].placement.position));
    }
    let changes: [fn(&mut dure_proto::journal::LateEntrySnapshot); 4] = [
        |late| late.position = 0,
        |late| late.position = u64::MAX,
        |late| late.segment = 1,
        |late| late.entry[70] ^= 1,
    ];
    for (nth, change) in changes.iter().enumerate() {
        let mut log = log.clone();
        change(&mut log.late[1]);
        assert!(LateEntry::restore(&log).is_err(), "change {nth}");
    }
}

/// One write for all of them: either they are in the segment or none of them is, and readers see no difference.
#[test]
fn a_run_that_the_disk_refuses_is_late_as_a_whole_and_read_in_order() {
    let disk = SimDisk::new(1);
    let shared: DiskRef = Arc::new(disk.clone());
    let mut layout = LogLayout::new();
    let mut writer = LogWriter::restore(shared, "shard-0000", PARTITION, &layout);
    let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    let mut write_three = |writer: &mut LogWriter, from: u64| {
        let entries: Vec<_> = (from..from + 3).map(|base| entry(base, &[b'v'; 3000])).collect();
        let placements: Vec<_> = entries.iter().map(|(header, _)| layout.append(header, &config)).collect();
        let mut placed = entries.iter().zip(placements).map(|((header, bytes), placement)| PlacedEntry {
            placement,
            header: *header,
            bytes,
        });
        let mut run = EntryRun::of(PARTITION, placed.next().expect("three"));
        placed.for_each(|entry| assert!(run.push(PARTITION, entry).is_ok(), "one behind the other"));
        writer.write(&run);
    };
    let seen = |writer: &LogWriter| read(&writer.view()).iter().map(|(_, from, _)| *from).collect::<Vec<_>>();
    write_three(&mut writer, 0);
    assert_eq!((seen(&writer), writer.is_late()), (vec![0, 1, 2], false));
    disk.set_faults(SimFaults { fail_write: FaultRule::From(1), ..SimFaults::default() });
    write_three(&mut writer, 3);
    assert_eq!((seen(&writer), writer.late().count()), ((0..6).collect(), 3));
    disk.set_faults(SimFaults::default());
    writer.write_late(u64::MAX);
    assert_eq!((seen(&writer), writer.is_late()), ((0..6).collect(), false));
}

/// Whoever holds a view may be in the middle of a segment; nobody can come to it any more who does not.
#[test]
fn a_removed_segment_is_cut_up_only_when_nobody_reads_it() {
    let disk = SimDisk::new(1);
    let shared: DiskRef = Arc::new(disk.clone());
    let mut layout = LogLayout::new();
    let mut writer = LogWriter::restore(shared, "shard-0000", PARTITION, &layout);
    let config = TopicConfig { segment_bytes: 3 << 20, ..TopicConfig::default() };
    for base in 0..60 {
        let (header, bytes) = entry(base, &vec![b'v'; 100_000]);
        write(&mut writer, layout.append(&header, &config), header, &bytes);
    }
    let path = |base| segment_path(&log_dir("shard-0000", PARTITION), SegmentId::appended(base));
    let sealed: Vec<Offset> = layout.sealed().map(|segment| segment.base).collect();
    assert_eq!(sealed.len(), 1, "of two");
    let old_view = writer.view();
    let entries = || read(&old_view).iter().filter(|(what, _, _)| *what == "entry").count();
    assert_eq!(entries(), 60);
    let mut remove = |upto, base| {
        let file = disk.open(&path(base), OpenMode::Read).expect("it is there");
        let nameless = writer.move_start(upto, &[base]).run(&disk).expect("removed");
        assert!(disk.open(&path(base), OpenMode::Read).is_err_and(|error| error.is_not_found()));
        (file, nameless)
    };
    let (file, nameless) = remove(Offset(40), sealed[0]);
    let whole = file.len().expect("a length");
    nameless.into_iter().for_each(Nameless::free_gently);
    assert_eq!(file.len().expect("a length"), whole);
    assert_eq!(entries(), 60, "of which the first have no name");
    drop(old_view);
    let (file, nameless) = remove(Offset(60), layout.segment(1).base);
    nameless.into_iter().for_each(Nameless::free_gently);
    assert!(file.len().expect("a length") <= 1 << 20);
}

#[test]
fn a_checkpoint_is_told_which_part_of_a_segment_was_written_since_the_last() {
    let shared: DiskRef = Arc::new(SimDisk::new(1));
    let mut layout = LogLayout::new();
    let mut writer = LogWriter::restore(shared, "shard-0000", PARTITION, &layout);
    let config = TopicConfig { segment_bytes: 1 << 20, ..TopicConfig::default() };
    let mut written_upto = SEGMENT_HEADER_BYTES as u64;
    for base in 0..3 {
        let (header, bytes) = entry(base, b"message");
        let placement = layout.append(&header, &config);
        write(&mut writer, placement, header, &bytes);
        let (dirty, _) = writer.take_dirty();
        let parts: Vec<_> = dirty.iter().map(DirtyFile::part).collect();
        let bytes = bytes.len() as u64;
        written_upto += bytes;
        assert_eq!(parts, [WrittenPart { path: path(), upto: written_upto, bytes }]);
    }
    assert!(writer.take_dirty().0.is_empty(), "nothing was written since");
}
