//! A journal of commits whose checksums hold: what is in them, and how they hang together, is the input.
//!
//! ```text
//! u8 control of each commit:
//!   bit 0  not the next sequence number: i8 more than it          bit 1  not the same epoch: u8 instead
//!   bit 2  not joined to the one before: a wrong checksum         bit 3  opens an epoch
//!   bit 4  a new piece begins                                     bit 5  damaged: a bit is flipped
//!   bit 6  durable upto: u64                                      bit 7  sequence number: u64
//! u8 entries, then for each
//!   u8 kind | field
//!   0..3 an event    4 a batch of these record bytes, at the next offset    5 a batch, sealed, at u64 offset
//!   6 bytes of an entry as they are    7 an entry of unknown kind
//! ```

use dure_engine::{SimDisk, dump};
use dure_proto::journal::{Event, TopicCreated, event};
use dure_proto::{Offset, PartitionId, TopicId, TopicPartition};
use prost::Message;

use super::input::Input;
use super::running::{SHARD_DIR, disk_with, live_through};
use super::seal::{SALT, Stamp, batch_of, commit, commit_entry, entry_of, placed, seal_batch};

const COMMITS_MAX: usize = 24;
const PIECES_MAX: u64 = 4;

pub(super) fn target(data: &[u8]) {
    let files = pieces(&mut Input::new(data));
    let disk = disk_with(&files);
    for (path, _) in &files {
        // A piece in which no commit is right is refused by name.
        let _ = dump(&disk, path, SALT, drop);
    }
    power_cut(&disk.fork());
    live_through(&disk);
}

/// A recovery that dies half way leaves nothing that the next one cannot go on from.
fn power_cut(disk: &SimDisk) {
    disk.power_off_after(3);
    let _ = super::running::Running::open(disk);
    disk.crash_process();
    live_through(disk);
}

/// The journal pieces of a data directory.
pub(super) fn pieces(input: &mut Input<'_>) -> Vec<(String, Vec<u8>)> {
    let mut writer = Writer { piece: 1, seq: 1, epoch: 1, checksum: 0, next_offset: 0, files: Vec::new() };
    writer.begin();
    let mut commits = 0;
    while !input.is_empty() && commits < COMMITS_MAX {
        writer.commit(input);
        commits += 1;
    }
    writer.files
}

/// Where the next commit goes, and what it would say in a sound journal.
struct Writer {
    piece: u64,
    seq: u64,
    epoch: u64,
    checksum: u32,
    next_offset: u64,
    files: Vec<(String, Vec<u8>)>,
}

impl Writer {
    /// One commit that makes a topic, so that there is something for the others to be about.
    fn begin(&mut self) {
        self.files.push((piece_path(1), Vec::new()));
        let created =
            TopicCreated { topic: 1, name: "t".into(), partitions: 2, wall_ms: 5, ..TopicCreated::default() };
        let event = Event { event: Some(event::Event::TopicCreated(created)) };
        self.append(1, 0, 1, false, &commit_entry(2, &event.encode_to_vec()), 1);
    }

    fn append(&mut self, flags: u32, durable: u64, seq: u64, damaged: bool, body: &[u8], entries: u32) {
        let stamp = Stamp {
            epoch: self.epoch,
            seq,
            durable_upto: durable,
            piece: self.piece,
            prev_checksum: self.checksum,
            flags,
            entries,
        };
        let (mut bytes, checksum) = commit(&stamp, body);
        if damaged {
            bytes[30] ^= 1;
        }
        self.files.last_mut().expect("there is a piece").1.extend_from_slice(&bytes);
        self.checksum = checksum;
        self.seq = seq.wrapping_add(1);
    }

    fn commit(&mut self, input: &mut Input<'_>) {
        let control = input.byte();
        let bit = |n: u8| control & 1 << n != 0;
        let mut seq = self.seq;
        if bit(0) {
            seq = seq.wrapping_add_signed(i64::from(input.byte() as i8));
        }
        if bit(1) {
            self.epoch = input.byte().into();
        }
        if bit(2) {
            self.checksum ^= 0xffff;
        }
        if bit(4) && self.piece < PIECES_MAX {
            self.piece += 1;
            self.files.push((piece_path(self.piece), Vec::new()));
        }
        let durable = if bit(6) { input.u64() } else { seq.saturating_sub(1) };
        if bit(7) {
            seq = input.u64();
        }
        let entries = input.byte() & 7;
        let body: Vec<u8> = (0..entries).flat_map(|_| self.entry(input)).collect();
        self.append(u32::from(bit(3)), durable, seq, bit(5), &body, entries.into());
    }

    fn entry(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let kind = input.byte() & 7;
        let field = input.field();
        let partition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
        let entry = match kind {
            4 => entry_of(&batch_of(0, 1, field), Offset(self.next_offset), 1_700_000_000_000),
            5 => {
                let mut batch = field.to_vec();
                seal_batch(&mut batch);
                entry_of(&batch, Offset(input.u64()), input.u64())
            }
            6 => return commit_entry(1, field),
            7 => return commit_entry(9, field),
            _ => return commit_entry(2, field),
        };
        let Some((header, bytes)) = entry else { return commit_entry(1, field) };
        self.next_offset = header.end_offset().0;
        commit_entry(1, &placed(partition, &bytes))
    }
}

fn piece_path(number: u64) -> String {
    format!("{SHARD_DIR}/journal/{number:010}.piece")
}
