//! Valid lengths and checksums around any content, as `broker/engine/FORMAT.md` has them.

use dure_proto::{BATCH_HEADER_BYTES, BatchHeader, EntryHeader, Offset, TopicPartition, patch_base};

/// Secret of the data directories that are made here.
pub(super) const SALT: u64 = 7;
/// Commits start on multiples of this.
const COMMIT_ALIGN: usize = 4096;
const COMMIT_HEADER_BYTES: usize = 64;
/// Length of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;

/// Makes magic, length and CRC-32C of a batch hold again, whatever else its header says.
pub(super) fn seal_batch(batch: &mut Vec<u8>) {
    if batch.len() < BATCH_HEADER_BYTES {
        batch.resize(BATCH_HEADER_BYTES, 0);
    }
    let length = i32::try_from(batch.len() - 12).expect("inputs are small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
}

/// A batch of `records` records around their encoded bytes.
pub(super) fn batch_of(attributes: u16, records: i32, body: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[23..27].copy_from_slice(&records.wrapping_sub(1).to_be_bytes());
    batch[43..57].fill(0xff);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    batch.extend_from_slice(body);
    seal_batch(&mut batch);
    batch
}

/// The entry of a batch at an offset, `None` if no broker could have written it.
pub(super) fn entry_of(batch: &[u8], base: Offset, append_time_ms: u64) -> Option<(EntryHeader, Vec<u8>)> {
    let parsed = BatchHeader::parse(batch).ok()?;
    if base.0.checked_add(parsed.record_count.into())? > Offset::MAX.0 {
        return None;
    }
    let mut batch = batch.to_vec();
    patch_base(&mut batch, base, 1);
    let header = EntryHeader::for_batch(&parsed, base, append_time_ms, 1);
    Some((header, [&header.encode()[..], &batch].concat()))
}

/// The header of a segment.
pub(super) fn segment_header(partition: TopicPartition, base: Offset) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..4].copy_from_slice(b"DuSg");
    header[8..12].copy_from_slice(&1u32.to_le_bytes());
    header[12..16].copy_from_slice(&partition.topic.0.to_le_bytes());
    header[16..20].copy_from_slice(&partition.partition.0.to_le_bytes());
    header[24..32].copy_from_slice(&base.0.to_le_bytes());
    let checksum = crc32fast::hash(&header[8..]);
    header[4..8].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// An index of these entries, each relative offset, position and largest time.
pub(super) fn index(base: Offset, entries: &[(u32, u32, u64)]) -> Vec<u8> {
    let mut bytes = [&b"DuIx"[..], &1u32.to_le_bytes(), &base.0.to_le_bytes()].concat();
    for (offset, position, largest_ms) in entries {
        let fields = [&offset.to_le_bytes()[..], &position.to_le_bytes(), &largest_ms.to_le_bytes()].concat();
        let checked = [&b"DuIx"[..], &base.0.to_le_bytes(), &fields].concat();
        bytes.extend_from_slice(&fields);
        bytes.extend_from_slice(&crc32fast::hash(&checked).to_le_bytes());
    }
    bytes
}

/// A checkpoint file around the body.
pub(super) fn checkpoint(seq: u64, body: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 32];
    file[..4].copy_from_slice(b"DuCk");
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    file[12..16].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    file[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    file[24..32].copy_from_slice(&seq.to_le_bytes());
    let checksum = crc32fast::hash(&file[8..]);
    file[4..8].copy_from_slice(&checksum.to_le_bytes());
    file.extend_from_slice(body);
    file
}

/// What a commit's header says beside lengths and checksums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) durable_upto: u64,
    pub(super) piece: u64,
    pub(super) prev_checksum: u32,
    pub(super) flags: u32,
    pub(super) entries: u32,
}

/// A commit, padded, and its checksum.
pub(super) fn commit(stamp: &Stamp, body: &[u8]) -> (Vec<u8>, u32) {
    let mut commit = vec![0; COMMIT_HEADER_BYTES];
    commit[..4].copy_from_slice(b"DuCm");
    commit[8..10].copy_from_slice(&1u16.to_le_bytes());
    commit[12..16].copy_from_slice(&u32::try_from(body.len()).expect("inputs are small").to_le_bytes());
    commit[16..24].copy_from_slice(&stamp.epoch.to_le_bytes());
    commit[24..32].copy_from_slice(&stamp.seq.to_le_bytes());
    commit[32..40].copy_from_slice(&stamp.durable_upto.to_le_bytes());
    commit[40..48].copy_from_slice(&stamp.piece.to_le_bytes());
    commit[48..52].copy_from_slice(&stamp.prev_checksum.to_le_bytes());
    commit[52..56].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    commit[56..60].copy_from_slice(&stamp.entries.to_le_bytes());
    commit[60..64].copy_from_slice(&stamp.flags.to_le_bytes());
    let checksum = crc32fast::hash(&[&SALT.to_le_bytes()[..], &commit[8..]].concat());
    commit[4..8].copy_from_slice(&checksum.to_le_bytes());
    commit.extend_from_slice(body);
    commit.resize(commit.len().next_multiple_of(COMMIT_ALIGN), 0);
    (commit, checksum)
}

/// An entry of a commit's body: 1 a batch behind its place, 2 an event.
pub(super) fn commit_entry(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("inputs are small");
    [&[kind, 0, 0, 0][..], &length.to_le_bytes(), payload].concat()
}

/// The payload of a batch in a commit.
pub(super) fn placed(partition: TopicPartition, entry: &[u8]) -> Vec<u8> {
    [&partition.topic.0.to_le_bytes()[..], &partition.partition.0.to_le_bytes(), entry].concat()
}
