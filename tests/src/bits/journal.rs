//! What the journal of a reference directory holds, read by its documented format and not by the engine.

use std::collections::BTreeMap;
use std::ops::Range;

use dure_proto::journal::{Event, event, queue_event};
use dure_proto::{EntryHeader, Offset, PartitionId, TopicId, TopicPartition};
use prost::Message;

const ALIGN: usize = 4096;
const HEADER_BYTES: usize = 64;

/// One commit of the journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Commit {
    pub(super) piece: String,
    /// Its bytes in the piece, without the padding.
    pub(super) bytes: Range<u64>,
    pub(super) seq: u64,
    pub(super) durable_upto: u64,
    pub(super) batches: Vec<(TopicPartition, Range<Offset>)>,
    pub(super) topics_created: Vec<TopicId>,
    /// Messages acknowledged or dead.
    pub(super) settled: Vec<(TopicPartition, Range<Offset>)>,
    pub(super) moves_offsets: bool,
}

/// The commits of all pieces that belong to them, by number.
pub(super) fn commits(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<u64, Commit> {
    let mut commits = BTreeMap::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.ends_with(".piece")) {
        let number =
            path.rsplit_once('/').and_then(|(_, name)| name.strip_suffix(".piece")?.parse::<u64>().ok());
        let mut at = 0;
        while at + ALIGN <= bytes.len() {
            let header = &bytes[at..at + HEADER_BYTES];
            if &header[..4] != b"DuCm" || Some(u64_at(header, 40)) != number {
                at += ALIGN;
                continue;
            }
            let end = at + HEADER_BYTES + u32_at(header, 12) as usize;
            let mut commit = Commit {
                piece: path.clone(),
                bytes: at as u64..end as u64,
                seq: u64_at(header, 24),
                durable_upto: u64_at(header, 32),
                ..Commit::default()
            };
            commit.read_body(&bytes[at + HEADER_BYTES..end]);
            commits.insert(commit.seq, commit);
            at = end.next_multiple_of(ALIGN);
        }
    }
    commits
}

impl Commit {
    fn read_body(&mut self, body: &[u8]) {
        let mut at = 0;
        while at < body.len() {
            let kind = body[at];
            let payload = &body[at + 8..at + 8 + u32_at(body, at + 4) as usize];
            at += 8 + payload.len();
            if kind == 1 {
                let partition = partition(u32_at(payload, 0), u32_at(payload, 4));
                let header = EntryHeader::parse(&payload[8..]).expect("the reference is whole");
                self.batches.push((partition, header.base_offset..header.end_offset()));
            } else {
                let event = Event::decode(payload).expect("the reference is whole");
                self.read_event(event.event.expect("of a known kind"));
            }
        }
    }

    fn read_event(&mut self, event: event::Event) {
        match event {
            event::Event::TopicCreated(created) => self.topics_created.push(TopicId(created.topic)),
            event::Event::OffsetsCommitted(_) => self.moves_offsets = true,
            event::Event::Queue(events) => {
                let partition = partition(events.topic, events.partition);
                for event in events.events.into_iter().filter_map(|event| event.event) {
                    let (from, count) = match event {
                        queue_event::Event::Settled(settled) => (settled.offset, u64::from(settled.count)),
                        queue_event::Event::Died(died) => (died.offset, 1),
                        _ => continue,
                    };
                    self.settled.push((partition, Offset(from)..Offset(from + count)));
                }
            }
            _ => {}
        }
    }
}

fn partition(topic: u32, partition: u32) -> TopicPartition {
    TopicPartition { topic: TopicId(topic), partition: PartitionId(partition) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
