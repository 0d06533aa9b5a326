//! One segment with an index beside it, under a checkpoint that says how long it is.
//!
//! ```text
//! u8 control | u8 log start | u8 index entries, each u8 offset u16 position | then pieces of the segment:
//! u8 kind | field
//!   0 an entry of the record bytes in the field, at the next offset    1 the same, its last byte flipped
//!   2 an entry with a gap before it                                    3 bytes as they are
//!   4 an entry inside the message of an entry                          5 an entry of a whole batch, sealed
//! ```
#![allow(clippy::needless_update, reason = "messages grow")]

use dure_proto::journal::{Checkpoint, LogSnapshot, SegmentSnapshot, TopicCreated, TopicSnapshot};
use dure_proto::{Offset, PartitionId, TopicId, TopicPartition};
use prost::Message;

use super::input::Input;
use super::running::{SHARD_DIR, disk_with, live_through};
use super::seal::{batch_of, checkpoint, entry_of, index, seal_batch, segment_header};

pub(super) const PARTITION: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
/// Of the one segment.
pub(super) const BASE: Offset = Offset(100);
const APPEND_MS: u64 = 1_700_000_000_000;

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let control = input.byte();
    let log_start = Offset(u64::from(input.byte()) + if control & 4 == 0 { 0 } else { 90 });
    let hints = input.byte() & 15;
    let hints: Vec<_> = (0..hints).map(|nth| (input.byte().into(), input.u16().into(), nth.into())).collect();
    let (segment, end) = segment(&mut input);
    // The checkpoint may have seen less of it than is there, or more.
    let bytes = match control & 3 {
        0 | 1 => segment.len() as u64,
        2 => segment.len() as u64 / 2,
        _ => segment.len() as u64 + 100,
    };
    live_through(&disk_with(&data_dir(segment, &hints, log_start, end, bytes)));
}

/// The bytes of a segment, and the offset behind its last entry.
pub(super) fn segment(input: &mut Input<'_>) -> (Vec<u8>, Offset) {
    let mut bytes = segment_header(PARTITION, BASE).to_vec();
    let mut next = BASE;
    let mut entries = 0_u64;
    while !input.is_empty() && entries < 64 {
        entries += 1;
        let kind = input.byte() % 6;
        let field = input.field();
        let at = if kind == 2 { next.plus(3) } else { next };
        let entry = match kind {
            3 => {
                bytes.extend_from_slice(field);
                continue;
            }
            4 => {
                let inner = entry_of(&batch_of(0, 1, field), next.plus(2), APPEND_MS);
                let inner = inner.map(|(_, bytes)| bytes).unwrap_or_default();
                entry_of(&batch_of(0, 1, &inner), at, APPEND_MS)
            }
            5 => {
                let mut batch = field.to_vec();
                seal_batch(&mut batch);
                entry_of(&batch, at, APPEND_MS + entries)
            }
            _ => entry_of(&batch_of(0, 1, field), at, APPEND_MS + entries),
        };
        // As many records as a batch can say may not be had here: the others need offsets as well.
        let Some((header, mut entry)) = entry.filter(|(header, _)| header.record_count < 1 << 20) else {
            continue;
        };
        if kind == 1 || (kind == 4 && field.len().is_multiple_of(2)) {
            *entry.last_mut().expect("an entry has bytes") ^= 1;
        }
        bytes.extend_from_slice(&entry);
        next = header.end_offset();
    }
    (bytes, next)
}

/// Files of a shard that holds one topic with one segment.
pub(super) fn data_dir(
    segment: Vec<u8>,
    hints: &[(u32, u32, u64)],
    log_start: Offset,
    end: Offset,
    bytes: u64,
) -> Vec<(String, Vec<u8>)> {
    let log = LogSnapshot {
        topic: PARTITION.topic.0,
        partition: PARTITION.partition.0,
        log_start: log_start.min(end).0,
        log_end: end.0,
        segments: vec![SegmentSnapshot {
            base: BASE.0,
            end: end.0,
            bytes,
            first_ms: APPEND_MS,
            last_ms: APPEND_MS + 64,
            ..Default::default()
        }],
        ..LogSnapshot::default()
    };
    let topic =
        TopicCreated { topic: PARTITION.topic.0, name: "t".into(), partitions: 1, ..Default::default() };
    let body = Checkpoint {
        seq: 10,
        epoch: 1,
        piece: 1,
        topic_next: 2,
        topics: vec![TopicSnapshot { topic: Some(topic), keyed: false, ..Default::default() }],
        logs: if end > BASE { vec![log] } else { Vec::new() },
        ..Checkpoint::default()
    };
    let dir = format!("{SHARD_DIR}/log/{}/{}", PARTITION.topic, PARTITION.partition);
    vec![
        (format!("{SHARD_DIR}/checkpoint/{:020}.checkpoint", 10), checkpoint(10, &body.encode_to_vec())),
        (format!("{dir}/{BASE:020}.log"), segment),
        (format!("{dir}/{BASE:020}.index"), index(BASE, hints)),
    ]
}
