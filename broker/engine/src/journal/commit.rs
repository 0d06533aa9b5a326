//! The commit: what the journal writes and syncs as one.
//!
//! ```text
//! offset  size  field (little endian)
//!      0     4  magic "DuCm"
//!      4     4  checksum: CRC-32 of salt, bytes 8..64
//!      8     2  version, 1
//!     10     2  shard
//!     12     4  length of the body
//!     16     8  epoch
//!     24     8  sequence number, contiguous over the whole life of the shard
//!     32     8  durable_upto: the last sequence number known synced when this was written
//!     40     8  number of the piece that this was written to
//!     48     4  checksum of the commit before it
//!     52     4  CRC-32 of the body
//!     56     4  number of entries
//!     60     4  flags: 1 = opens an epoch
//!     64        body: entries
//!               zeroes up to the next multiple of 4096
//!
//! entry:  0     1  kind: 1 batch, 2 event
//!         1     3  zero
//!         4     4  length of the payload
//!         8        payload
//! batch payload:   topic u32 | partition u32 | entry header | record batch
//! event payload:   protobuf, `journal.proto` Event
//! ```
//!
//! A commit starts on a 4 KiB boundary, so that writing the next one cannot tear it. The piece's number tells a
//! frame from one that an earlier use of the same file left behind. The salt is secret to the data directory:
//! nobody can hide a commit that would be believed inside a message.

use std::ops::Range;

use bytes::Bytes;
use dure_proto::journal::Event;
use dure_proto::{
    CommitSeq, ENTRY_HEADER_BYTES, EntryHeader, Epoch, PartitionId, ShardId, TopicId, TopicPartition,
    patch_base,
};
use prost::Message;

use crate::disk::AlignedBytes;
use crate::mutant::{self, Mutant};

/// Commits start on multiples of this.
pub(crate) const COMMIT_ALIGN: usize = 4096;
/// Length of the header.
pub(crate) const COMMIT_HEADER_BYTES: usize = 64;
/// A commit takes nothing more once it has grown to this, unless the shard is told otherwise.
pub(crate) const COMMIT_BYTES_SOFT: usize = 4 << 20;
/// Bound of a whole commit: the soft bound plus the largest single thing that may come on top.
pub(crate) const COMMIT_BYTES_MAX: usize = COMMIT_BYTES_SOFT + dure_proto::BATCH_BYTES_MAX + (1 << 20);

/// No sequence number, epoch or piece is larger: a commit each nanosecond would take a hundred years.
pub(crate) const JOURNAL_NUMBER_MAX: u64 = 1 << 62;

const MAGIC: u32 = u32::from_le_bytes(*b"DuCm");
const VERSION: u16 = 1;
const FLAG_OPENS_EPOCH: u32 = 1;
const KIND_BATCH: u8 = 1;
const KIND_EVENT: u8 = 2;
const ENTRY_PREFIX_BYTES: usize = 8;
const BATCH_PREFIX_BYTES: usize = 8;

/// What stands before a commit's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: CommitSeq,
    pub(crate) durable_upto: CommitSeq,
    pub(crate) piece: u64,
    pub(crate) prev_checksum: u32,
    pub(crate) opens_epoch: bool,
    pub(crate) body_bytes: u32,
    pub(crate) body_checksum: u32,
    pub(crate) entry_count: u32,
}

impl CommitHeader {
    fn encode(&self, salt: u64) -> [u8; COMMIT_HEADER_BYTES] {
        let mut out = [0; COMMIT_HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &VERSION.to_le_bytes());
        put(10, &self.shard.0.to_le_bytes());
        put(12, &self.body_bytes.to_le_bytes());
        put(16, &self.epoch.0.to_le_bytes());
        put(24, &self.seq.0.to_le_bytes());
        put(32, &self.durable_upto.0.to_le_bytes());
        put(40, &self.piece.to_le_bytes());
        put(48, &self.prev_checksum.to_le_bytes());
        put(52, &self.body_checksum.to_le_bytes());
        put(56, &self.entry_count.to_le_bytes());
        put(60, &(if self.opens_epoch { FLAG_OPENS_EPOCH } else { 0 }).to_le_bytes());
        let checksum = header_checksum(salt, &out);
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header; `None` if there is none, or none that can be believed.
    pub(crate) fn parse(bytes: &[u8], salt: u64) -> Option<(CommitHeader, u32)> {
        let bytes: &[u8; COMMIT_HEADER_BYTES] = bytes.get(..COMMIT_HEADER_BYTES)?.try_into().ok()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let checksum = u32_at(4);
        if u32_at(0) != MAGIC || checksum != header_checksum(salt, bytes) || u16_at(8) != VERSION {
            return None;
        }
        let header = CommitHeader {
            shard: ShardId(u16_at(10)),
            epoch: Epoch(u64_at(16)),
            seq: CommitSeq(u64_at(24)),
            durable_upto: CommitSeq(u64_at(32)),
            piece: u64_at(40),
            prev_checksum: u32_at(48),
            opens_epoch: u32_at(60) & FLAG_OPENS_EPOCH != 0,
            body_bytes: u32_at(12),
            body_checksum: u32_at(52),
            entry_count: u32_at(56),
        };
        (header.padded_bytes() <= COMMIT_BYTES_MAX && header.is_possible()).then_some((header, checksum))
    }

    /// Counting on from any of its numbers does not run over.
    fn is_possible(&self) -> bool {
        let numbers = [self.seq.0, self.epoch.0, self.durable_upto.0, self.piece];
        self.seq.0 > 0 && numbers.iter().all(|number| *number <= JOURNAL_NUMBER_MAX)
    }

    /// Length of the commit on disk, padding included.
    pub(crate) fn padded_bytes(&self) -> usize {
        (COMMIT_HEADER_BYTES + self.body_bytes as usize).next_multiple_of(COMMIT_ALIGN)
    }

    /// The body, if it is all there and as it was written.
    pub(crate) fn body<'a>(&self, commit: &'a [u8]) -> Option<&'a [u8]> {
        let body = commit.get(COMMIT_HEADER_BYTES..COMMIT_HEADER_BYTES + self.body_bytes as usize)?;
        let whole = crc32fast::hash(body) == self.body_checksum || mutant::is(Mutant::BodyChecksumIgnored);
        whole.then_some(body)
    }
}

fn header_checksum(salt: u64, header: &[u8; COMMIT_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&header[8..]);
    hasher.finalize()
}

/// A commit while it takes entries.
#[derive(Debug)]
pub(crate) struct CommitBuilder {
    bytes: AlignedBytes,
    entry_count: u32,
}

/// What a commit is stamped with when it is closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitStamp {
    pub(crate) salt: u64,
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) seq: CommitSeq,
    pub(crate) durable_upto: CommitSeq,
    pub(crate) piece: u64,
    pub(crate) prev_checksum: u32,
    pub(crate) opens_epoch: bool,
}

impl CommitBuilder {
    /// An empty commit in a buffer used before, whose memory is warm.
    pub(crate) fn reuse(mut bytes: AlignedBytes) -> CommitBuilder {
        bytes.clear();
        bytes.resize(COMMIT_HEADER_BYTES);
        CommitBuilder { bytes, entry_count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// Whether it has taken as much as one commit should carry.
    pub(crate) fn is_full(&self, bytes_soft: usize) -> bool {
        self.bytes.len() >= bytes_soft
    }

    /// Length on disk if it were closed now.
    pub(crate) fn padded_bytes(&self) -> usize {
        self.bytes.len().next_multiple_of(COMMIT_ALIGN)
    }

    pub(crate) fn push_event(&mut self, event: &Event) {
        let length = event.encoded_len();
        self.push_prefix(KIND_EVENT, length);
        let at = self.bytes.len();
        self.bytes.resize(at + length);
        event.encode(&mut &mut self.bytes[at..]).expect("as long as it said");
    }

    /// Takes a batch under its entry header, with base offset and epoch patched in. Returns where header and
    /// batch lie in the closed commit: the very bytes that go to the segment.
    pub(crate) fn push_batch(
        &mut self,
        partition: TopicPartition,
        header: &EntryHeader,
        batch: &[u8],
    ) -> Range<usize> {
        self.push_prefix(KIND_BATCH, BATCH_PREFIX_BYTES + ENTRY_HEADER_BYTES + batch.len());
        self.bytes.extend_from_slice(&partition.topic.0.to_le_bytes());
        self.bytes.extend_from_slice(&partition.partition.0.to_le_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&header.encode());
        let batch_start = self.bytes.len();
        self.bytes.extend_from_slice(batch);
        patch_base(&mut self.bytes[batch_start..], header.base_offset, header.epoch);
        start..self.bytes.len()
    }

    fn push_prefix(&mut self, kind: u8, length: usize) {
        self.bytes.extend_from_slice(&[kind, 0, 0, 0]);
        self.bytes.extend_from_slice(&(length as u32).to_le_bytes());
        self.entry_count += 1;
    }

    /// Closes the commit: its bytes, padded, and its checksum.
    pub(crate) fn finish(mut self, stamp: &CommitStamp) -> (AlignedBytes, u32) {
        let body = &self.bytes[COMMIT_HEADER_BYTES..];
        let header = CommitHeader {
            shard: stamp.shard,
            epoch: stamp.epoch,
            seq: stamp.seq,
            durable_upto: stamp.durable_upto,
            piece: stamp.piece,
            prev_checksum: stamp.prev_checksum,
            opens_epoch: stamp.opens_epoch,
            body_bytes: body.len() as u32,
            body_checksum: crc32fast::hash(body),
            entry_count: self.entry_count,
        };
        assert!(header.padded_bytes() <= COMMIT_BYTES_MAX, "a commit of {} bytes", self.bytes.len());
        let encoded = header.encode(stamp.salt);
        self.bytes[..COMMIT_HEADER_BYTES].copy_from_slice(&encoded);
        self.bytes.resize(self.bytes.len().next_multiple_of(COMMIT_ALIGN));
        let checksum = u32::from_le_bytes(encoded[4..8].try_into().expect("four bytes"));
        (self.bytes, checksum)
    }
}

/// One entry of a commit, as read back.
#[derive(Clone, Debug)]
pub(crate) enum JournalEntry {
    Batch {
        partition: TopicPartition,
        header: EntryHeader,
        /// Entry header and batch.
        bytes: Bytes,
    },
    Event(Box<Event>),
}

/// What is wrong with a body whose checksum was right: a bug, or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} of the commit cannot be read: {what}")]
pub(crate) struct BodyError {
    pub(crate) index: u32,
    pub(crate) what: String,
}

/// Reads the entries of a body.
pub(crate) fn decode_body(body: &Bytes, entry_count: u32) -> Result<Vec<JournalEntry>, BodyError> {
    let mut entries = Vec::with_capacity(entry_count.min(65_536) as usize);
    let mut at = 0;
    while at < body.len() {
        let index = entries.len() as u32;
        let fail = |what: String| BodyError { index, what };
        let prefix = body.get(at..at + ENTRY_PREFIX_BYTES).ok_or_else(|| fail("cut off".into()))?;
        let length = u32::from_le_bytes(prefix[4..8].try_into().expect("four bytes")) as usize;
        let start = at + ENTRY_PREFIX_BYTES;
        let end = start.checked_add(length).filter(|end| *end <= body.len());
        let end = end.ok_or_else(|| fail("longer than the commit".into()))?;
        entries.push(match prefix[0] {
            KIND_BATCH => decode_batch(&body.slice(start..end)).map_err(fail)?,
            KIND_EVENT => JournalEntry::Event(Box::new(
                Event::decode(&body[start..end]).map_err(|e| fail(e.to_string()))?,
            )),
            kind => return Err(fail(format!("of unknown kind {kind}"))),
        });
        at = end;
    }
    if entries.len() != entry_count as usize {
        let what = format!("{} entries where {entry_count} were written", entries.len());
        return Err(BodyError { index: entries.len() as u32, what });
    }
    Ok(entries)
}

fn decode_batch(payload: &Bytes) -> Result<JournalEntry, String> {
    let prefix = payload.get(..BATCH_PREFIX_BYTES).ok_or("cut off")?;
    let u32_at = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("four bytes"));
    let partition = TopicPartition { topic: TopicId(u32_at(0)), partition: PartitionId(u32_at(4)) };
    let bytes = payload.slice(BATCH_PREFIX_BYTES..);
    let header = EntryHeader::parse(&bytes).map_err(|e| e.to_string())?;
    if bytes.len() != ENTRY_HEADER_BYTES + header.batch_bytes as usize {
        return Err(format!("{} bytes where its header says {}", bytes.len(), header.batch_bytes));
    }
    Ok(JournalEntry::Batch { partition, header, bytes })
}

#[cfg(test)]
mod tests {
    use dure_proto::journal::{TopicDeleted, event};

    use super::*;

    fn stamp() -> CommitStamp {
        CommitStamp {
            salt: 7,
            shard: ShardId(0),
            epoch: Epoch(2),
            seq: CommitSeq(41),
            durable_upto: CommitSeq(39),
            piece: 5,
            prev_checksum: 0xabcd,
            opens_epoch: false,
        }
    }

    fn commit() -> Vec<u8> {
        let mut builder = CommitBuilder::reuse(AlignedBytes::default());
        builder.push_event(&Event { event: Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })) });
        builder.finish(&stamp()).0.to_vec()
    }

    #[test]
    fn a_commit_reads_back_as_written() {
        let bytes = commit();
        assert_eq!(bytes.len(), COMMIT_ALIGN);
        let (header, _) = CommitHeader::parse(&bytes, 7).expect("valid");
        assert_eq!((header.seq, header.epoch, header.piece), (CommitSeq(41), Epoch(2), 5));
        let body = Bytes::copy_from_slice(header.body(&bytes).expect("whole"));
        let entries = decode_body(&body, header.entry_count).expect("entries");
        assert!(matches!(&entries[..], [JournalEntry::Event(_)]));
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let bytes = commit();
        let (whole, _) = CommitHeader::parse(&bytes, 7).expect("valid");
        for bit in 0..(COMMIT_HEADER_BYTES + whole.body_bytes as usize) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = CommitHeader::parse(&flipped, 7).and_then(|(h, _)| h.body(&flipped).map(<[u8]>::len));
            assert_eq!(read, None, "bit {bit}");
        }
    }

    #[test]
    fn another_salt_zeroes_and_short_input_are_nothing() {
        assert!(CommitHeader::parse(&commit(), 8).is_none());
        assert!(CommitHeader::parse(&[0; COMMIT_ALIGN], 0).is_none());
        for length in 0..COMMIT_HEADER_BYTES {
            assert!(CommitHeader::parse(&commit()[..length], 7).is_none());
        }
    }
}
