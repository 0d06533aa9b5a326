//! An index is a hint: whatever stands in it, the same is read as without one.
//!
//! ```text
//! u8 control | u8 length in 16 bytes of the index, then either its bytes or entries of
//! u32 offset u32 position u64 time, sealed | then a segment as in `segment`
//! ```

use dure_engine::{Cursor, Disk, ReadOutcome, SimDisk, Wait, dump};
use dure_proto::Offset;

use super::input::Input;
use super::running::{Running, SHARD_DIR, disk_with};
use super::segment::{BASE, PARTITION, data_dir, segment};

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let control = input.byte();
    let length = usize::from(input.byte()) * 16;
    let mut hint = Input::new(input.bytes(length));
    let (segment, end) = segment(&mut input);
    let bytes = segment.len() as u64;
    let mut entries = Vec::new();
    let mut raw = None;
    if control & 1 == 0 {
        while !hint.is_empty() {
            let (place, time) = (hint.u64(), hint.u64());
            entries.push((place as u32 % 1024, (place >> 32) as u32, time));
        }
    } else {
        raw = Some(hint.rest().to_vec());
    }
    let mut files = data_dir(segment, &entries, Offset::ZERO, end, bytes);
    if let Some(raw) = raw {
        files[2].1 = raw;
    }
    let with = disk_with(&files);
    files.pop();
    let without = disk_with(&files);
    let _ = dump(
        &with,
        &format!("{SHARD_DIR}/log/{}/{}/{BASE:020}.index", PARTITION.topic, PARTITION.partition),
        0,
        drop,
    );
    assert_eq!(reads(&with), reads(&without), "the index changed what is read");
}

/// What is read from each offset on, one read each.
fn reads(disk: &SimDisk) -> Vec<(Offset, Offset, Option<Vec<u8>>)> {
    let running = Running::open(disk).expect("it opens");
    assert!(disk.list(SHARD_DIR).is_ok());
    let Some(view) = running.views.get(&PARTITION) else { return Vec::new() };
    let last = view.high_watermark.min(BASE.plus(64));
    let mut seen = Vec::new();
    let mut from = view.log_start.max(Offset(BASE.0 - 1));
    while from < last {
        let mut cursor = Cursor::at(from);
        let bytes = match view.read(&mut cursor, 1, Wait::MayWait).expect("the file is there") {
            ReadOutcome::Entries(entries) => Some(entries.to_vec()),
            ReadOutcome::Lost(_) => None,
            other => panic!("{other:?} at {from}"),
        };
        seen.push((from, cursor.offset(), bytes));
        from = from.plus(1);
    }
    seen
}
