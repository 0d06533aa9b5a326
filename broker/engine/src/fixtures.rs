//! The bytes of every on-disk format, kept for ever: a format may grow, but what was once written must read back, and
//! what is written today must not drift unnoticed. The fixture is written by hand into `tests/fixtures` when a format
//! gets a new version; the old one stays. `FORMAT.md` describes them, and `format_document` holds it to them.
#![allow(
    clippy::needless_update,
    reason = "a message that grows must not break the fixture of its old shape"
)]

use std::path::Path;

use bytes::Bytes;
use dure_proto::journal::{
    self, Checkpoint, DeadLetterLog, Event, GroupCreated, GroupSnapshot, LogSnapshot, OffsetsCommitted,
    ProducedBatch, ProducerSnapshot, QueueEvent, QueueMessageSnapshot, QueueSnapshot, SegmentSnapshot,
    TopicCreated, TopicDeleted, TopicSnapshot, event, queue_event,
};
use dure_proto::wire::{self, OffsetRange, QueueSettings, TopicConfig};
use dure_proto::{
    BatchHeader, BatchLimits, CommitSeq, ENTRY_HEADER_BYTES, EntryHeader, Epoch, Offset, PartitionId,
    Records, ShardId, TopicId, TopicPartition,
};
use prost::Message;
use roaring::RoaringTreemap;

use crate::disk::{AlignedBytes, Disk, RealDisk};
use crate::journal::{
    COMMIT_HEADER_BYTES, CommitBuilder, CommitHeader, CommitStamp, JournalEntry, decode_body,
};
use crate::letter::letter_batch;
use crate::log::{IndexWriter, SegmentId, SegmentIndex, is_header_of, segment_header};
use crate::shard::State;
use crate::time::Now;

pub(crate) const SALT: u64 = 7;
pub(crate) const BASE: Offset = Offset(1_000);
pub(crate) const PARTITION: TopicPartition = TopicPartition { topic: TopicId(3), partition: PartitionId(1) };
const NOW: Now = Now { mono_ms: 0, wall_ms: 0 };

/// The bytes of `tests/fixtures/{name}`, or of a path from there on.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn check(name: &str, bytes: &[u8]) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(bytes), hex(&fixture(name)), "the format of {name} has drifted");
}

fn stamp(opens_epoch: bool) -> CommitStamp {
    CommitStamp {
        salt: SALT,
        shard: ShardId(0),
        epoch: Epoch(2),
        seq: CommitSeq(41),
        durable_upto: CommitSeq(39),
        piece: 5,
        prev_checksum: 0xabcd,
        opens_epoch,
    }
}

/// Header and body of a commit, without its padding.
fn unpadded(commit: &[u8]) -> &[u8] {
    let (header, _) = CommitHeader::parse(commit, SALT).expect("a commit");
    assert!(commit[COMMIT_HEADER_BYTES + header.body_bytes as usize..].iter().all(|byte| *byte == 0));
    &commit[..COMMIT_HEADER_BYTES + header.body_bytes as usize]
}

/// The entries of a commit that was kept.
fn entries(commit: &[u8]) -> Vec<JournalEntry> {
    let (header, _) = CommitHeader::parse(commit, SALT).expect("a commit");
    let body = Bytes::copy_from_slice(header.body(commit).expect("whole"));
    decode_body(&body, header.entry_count).expect("entries")
}

/// A commit of these events is what was kept, and they come out of that again.
fn check_events(name: &str, events: Vec<event::Event>) {
    let mut builder = CommitBuilder::reuse(AlignedBytes::default());
    for event in events.clone() {
        builder.push_event(&Event { event: Some(event) });
    }
    let (bytes, _) = builder.finish(&stamp(false));
    check(name, unpadded(&bytes));
    let kept = entries(&fixture(name)).into_iter().map(|entry| match entry {
        JournalEntry::Event(event) => event.event.expect("a known kind"),
        JournalEntry::Batch { .. } => panic!("only events were written"),
    });
    assert_eq!(kept.collect::<Vec<_>>(), events);
}

#[test]
fn a_commit_is_as_it_was() {
    let mut builder = CommitBuilder::reuse(AlignedBytes::default());
    builder.push_event(&Event { event: Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })) });
    let (bytes, _) = builder.finish(&stamp(false));
    let kept = fixture("commit-v1.hex");
    check("commit-v1.hex", &bytes[..kept.len()]);
    let [JournalEntry::Event(event)] = &entries(&kept)[..] else { panic!("one event") };
    assert_eq!(event.event, Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })));
}

/// Every field of header and entries has a value of its own.
#[test]
fn a_commit_with_entries_is_as_it_was() {
    let entry = fixture("../../../../proto/tests/fixtures/entry.hex");
    let header = EntryHeader::parse(&entry).expect("an entry");
    let stamp = CommitStamp { shard: ShardId(6), ..stamp(true) };
    let partition = TopicPartition { topic: TopicId(8), partition: PartitionId(9) };
    let mut builder = CommitBuilder::reuse(AlignedBytes::default());
    builder.push_batch(partition, &header, &entry[ENTRY_HEADER_BYTES..]);
    builder.push_event(&Event { event: Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })) });
    let (bytes, _) = builder.finish(&stamp);
    check("commit-v1-entries.hex", unpadded(&bytes));

    let kept = fixture("commit-v1-entries.hex");
    let (read, _) = CommitHeader::parse(&kept, SALT).expect("a commit");
    let expected = CommitHeader {
        shard: stamp.shard,
        epoch: stamp.epoch,
        seq: stamp.seq,
        durable_upto: stamp.durable_upto,
        piece: stamp.piece,
        prev_checksum: stamp.prev_checksum,
        opens_epoch: true,
        ..read
    };
    assert_eq!((read, read.entry_count), (expected, 2));
    let [JournalEntry::Batch { partition: found, header: found_header, bytes }, JournalEntry::Event(event)] =
        &entries(&kept)[..]
    else {
        panic!("a batch and an event")
    };
    assert_eq!((*found, *found_header, &bytes[..]), (partition, header, &entry[..]));
    assert_eq!(event.event, Some(event::Event::TopicDeleted(TopicDeleted { topic: 3 })));
}

/// One event of each kind, every field set to a value of its own.
pub(crate) fn events() -> Vec<event::Event> {
    use event::Event::*;
    let queue_event = |event| QueueEvent { event: Some(event) };
    let queue = vec![
        queue_event(queue_event::Event::Leased(journal::Leased {
            offset: 40,
            count: 2,
            epoch: 3,
            counter: 4,
            lease_ms: 30_000,
            started: true,
            ..Default::default()
        })),
        queue_event(queue_event::Event::Started(journal::Started { offset: 41, ..Default::default() })),
        queue_event(queue_event::Event::Settled(journal::Settled {
            offset: 42,
            count: 5,
            ..Default::default()
        })),
        queue_event(queue_event::Event::Returned(journal::Returned {
            offset: 40,
            due_wall_ms: 1_700_000_000_600,
            ..Default::default()
        })),
        queue_event(queue_event::Event::Extended(journal::Extended {
            offset: 41,
            lease_ms: 60_000,
            ..Default::default()
        })),
        queue_event(queue_event::Event::Died(journal::Died {
            offset: 41,
            letter: 7,
            attempts: 6,
            reason: "no attempts left".into(),
            wall_ms: 1_700_000_000_700,
            ..Default::default()
        })),
        queue_event(queue_event::Event::Redriven(journal::Redriven { offset: 41, ..Default::default() })),
        queue_event(queue_event::Event::DeadPurged(journal::DeadPurged { offset: 41, ..Default::default() })),
        queue_event(queue_event::Event::CursorMoved(journal::CursorMoved {
            offset: 43,
            ..Default::default()
        })),
    ];
    vec![
        EpochOpened(journal::EpochOpened {
            epoch: 2,
            last_kept: 40,
            wall_ms: 1_700_000_000_000,
            ..Default::default()
        }),
        TopicCreated(topic(3, Some(DeadLetterLog { group: 11, topic: 12, ..Default::default() }))),
        TopicAltered(journal::TopicAltered {
            topic: 3,
            partitions: 5,
            config: Some(config()),
            ..Default::default()
        }),
        TopicDeleted(journal::TopicDeleted { topic: 3, ..Default::default() }),
        LogStartMoved(journal::LogStartMoved { topic: 3, partition: 1, offset: 1_000, ..Default::default() }),
        GroupCreated(group(11)),
        GroupTopicAdded(journal::GroupTopicAdded {
            group: 11,
            topic: 3,
            start: vec![7, 0, 300],
            first_partition: 1,
            ..Default::default()
        }),
        GroupDeleted(journal::GroupDeleted { group: 11, ..Default::default() }),
        OffsetsCommitted(journal::OffsetsCommitted {
            group: 13,
            topic: 3,
            partition: 1,
            offset: 77,
            ..Default::default()
        }),
        Queue(journal::QueueEvents {
            group: 11,
            topic: 3,
            partition: 1,
            events: queue,
            ..Default::default()
        }),
        TopicKeyed(journal::TopicKeyed { topic: 3, ..Default::default() }),
    ]
}

#[test]
fn events_are_as_they_were() {
    check_events("events-v1.hex", events());
}

/// What delayed messages added: the topic of a delay log, and what is done with of one.
fn delay_events() -> Vec<event::Event> {
    let delayed_of = Some(journal::DelayLog { topic: 3, horizon_ms: 3_600_000 });
    let batch =
        ProducedBatch { sequence: 99, records: 4, offset: 1_096, delayed: true, ..Default::default() };
    vec![
        event::Event::TopicCreated(TopicCreated { delayed_of, ..topic(4, None) }),
        event::Event::ProducerSeen(journal::ProducerSeen {
            topic: 3,
            partition: 1,
            producer: (2 << 32) | 5,
            epoch: 1,
            wall_ms: 1_700_000_000_800,
            batch: Some(batch),
        }),
        event::Event::DelaySettled(journal::DelaySettled { topic: 4, partition: 1, offset: 1_096, count: 4 }),
    ]
}

#[test]
fn events_of_delayed_messages_are_as_they_were() {
    check_events("events-v1-delay.hex", delay_events());
}

/// The log has four of 1,100 messages in the middle of it done with.
#[test]
fn the_checkpoint_of_a_delay_log_is_as_it_was() {
    let mut settled = Vec::new();
    RoaringTreemap::from_iter(1_040..1_044).serialize_into(&mut settled).expect("memory takes it");
    let delay = Some(journal::DelaySnapshot { floor: 1_000, settled });
    let created =
        TopicSnapshot { topic: delay_events().into_iter().find_map(created_in), ..Default::default() };
    let log = |partition| LogSnapshot {
        topic: 4,
        partition,
        log_end: 1_100,
        delay: delay.clone(),
        ..Default::default()
    };
    let checkpoint =
        Checkpoint { seq: 5, topics: vec![created], logs: vec![log(0), log(1)], ..Checkpoint::default() };
    check("checkpoint-v1-delay.hex", &crate::checkpoint::encode(&checkpoint));
    let kept = crate::checkpoint::decode(&fixture("checkpoint-v1-delay.hex")).expect("decodes");
    let restored = State::restore(&kept, NOW).expect("restores");
    assert_eq!(restored.snapshot(NOW).logs, kept.logs);
    assert_eq!(restored.scheduled(TopicId(3)), 2 * 96);
}

/// What ids of messages added: two that were accepted, one of them to wait; that some are forgotten; and what was a duplicate
/// of a session's batch.
fn id_events() -> Vec<event::Event> {
    let duplicates = vec![
        wire::Duplicates { index: 1, count: 2, partition: 0, offset: Some(77), ..Default::default() },
        wire::Duplicates { index: 3, count: 1, partition: 1, offset: None, ..Default::default() },
    ];
    let batch =
        ProducedBatch { sequence: 99, records: 4, offset: 1_096, duplicates, ..ProducedBatch::default() };
    let ids = |offset, at_ms, ids: &[u128]| journal::MessageIds {
        topic: 3,
        partition: 1,
        offset,
        at_ms,
        ids: ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        ..Default::default()
    };
    vec![
        event::Event::MessageIds(ids(Some(1_096), 90_000, &[0x0102_0304 << 96, 7])),
        event::Event::MessageIds(ids(None, 90_001, &[8])),
        event::Event::ProducerSeen(journal::ProducerSeen {
            topic: 3,
            partition: 1,
            producer: (2 << 32) | 5,
            epoch: 1,
            wall_ms: 1_700_000_000_800,
            batch: Some(batch),
            ..Default::default()
        }),
        event::Event::MessageIdsExpired(journal::MessageIdsExpired {
            topic: 3,
            before_ms: 60_000,
            at_ms: 180_000,
            ..Default::default()
        }),
    ]
}

#[test]
fn events_of_message_ids_are_as_they_were() {
    check_events("events-v1-ids.hex", id_events());
}

#[test]
fn the_checkpoint_of_message_ids_is_as_it_was() {
    let ids = id_events().into_iter().filter_map(|event| match event {
        event::Event::MessageIds(ids) => Some(ids),
        _ => None,
    });
    let checkpoint = Checkpoint {
        seq: 5,
        id_clock_ms: 90_500,
        message_ids: ids.collect(),
        topics: vec![TopicSnapshot { topic: Some(topic(3, None)), ..Default::default() }],
        ..Checkpoint::default()
    };
    check("checkpoint-v1-ids.hex", &crate::checkpoint::encode(&checkpoint));
    let kept = crate::checkpoint::decode(&fixture("checkpoint-v1-ids.hex")).expect("decodes");
    let restored = State::restore(&kept, NOW).expect("restores");
    assert_eq!(restored.snapshot(NOW).message_ids, kept.message_ids);
    assert_eq!((restored.dedup.len(), restored.dedup.clock_ms()), (3, 90_500));
}

/// What named dead-letter topics added: how far letters are copied, in an event and in a checkpoint.
#[test]
fn what_is_copied_is_as_it_was() {
    let copied = journal::LettersCopied { upto: 7, ..Default::default() };
    let copied = QueueEvent { event: Some(queue_event::Event::LettersCopied(copied)) };
    let events = journal::QueueEvents {
        group: 11,
        topic: 3,
        partition: 1,
        events: vec![copied],
        ..Default::default()
    };
    let event = Event { event: Some(event::Event::Queue(events)) };
    check("event-v1-copied.hex", &event.encode_to_vec());
    let table =
        QueueSnapshot { topic: 3, partition: 1, floor: 1_000, letters_copied: 7, ..Default::default() };
    check("queue-v1-copied.hex", &table.encode_to_vec());
}

fn created_in(event: event::Event) -> Option<TopicCreated> {
    match event {
        event::Event::TopicCreated(created) => Some(created),
        _ => None,
    }
}

#[test]
fn a_segment_header_is_as_it_was() {
    let bytes = segment_header(PARTITION, SegmentId::appended(BASE));
    check("segment-header-v1.hex", &bytes);
    let kept = fixture("segment-header-v1.hex");
    assert!(is_header_of(&kept, PARTITION, SegmentId::appended(BASE)));
    assert!(!is_header_of(&kept, PARTITION, SegmentId::appended(Offset(1_001))));
}

/// The two entries of the index that is kept: position, offset and append time.
pub(crate) const INDEXED: [(u64, Offset, u64); 2] =
    [(64, BASE, 1_700_000_000_000), (9_000, Offset(1_044), 1_700_000_000_500)];

#[test]
fn an_index_is_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::open(dir.path()).expect("a disk");
    let mut index = IndexWriter::open(&disk, "i", BASE, 0).expect("an index");
    for (position, offset, append_time_ms) in INDEXED {
        index.note([(position, offset, append_time_ms)]).expect("written");
    }
    check("index-v1.hex", &disk.read_past_cache("i").expect("read"));

    std::fs::write(dir.path().join("kept"), fixture("index-v1.hex")).expect("written");
    let kept = SegmentIndex::read(&disk, "kept", BASE);
    let read: Vec<_> = kept.entries().flatten().map(|e| (e.position, e.offset, e.largest_ms)).collect();
    assert_eq!(read, INDEXED);
    assert_eq!(kept.before_offset(Offset(1_050)), 9_000);
}

#[test]
fn a_checkpoint_is_as_it_was() {
    let checkpoint =
        Checkpoint { seq: 5, epoch: 2, checksum: 9, piece: 1, topic_next: 3, ..Checkpoint::default() };
    let bytes = crate::checkpoint::encode(&checkpoint);
    assert_eq!(crate::checkpoint::decode(&bytes), Ok(checkpoint));
    check("checkpoint-v1.hex", &bytes);
}

/// Every field of every message in it has a value, and the state can be restored from it.
#[test]
fn a_full_checkpoint_is_as_it_was() {
    check("checkpoint-v1-full.hex", &crate::checkpoint::encode(&full_checkpoint()));
    let kept = crate::checkpoint::decode(&fixture("checkpoint-v1-full.hex")).expect("decodes");
    assert_eq!(kept, full_checkpoint());
    let restored = State::restore(&kept, NOW).expect("restores").snapshot(NOW);
    assert_eq!((restored.logs, restored.topic_next, restored.group_next), (kept.logs, 13, 14));
    assert_eq!(restored.groups, kept.groups);
}

fn config() -> TopicConfig {
    TopicConfig {
        retention_ms: Some(86_400_000),
        retention_bytes: Some(1 << 30),
        segment_bytes: 64 << 20,
        durability: wire::Durability::Interval as i32,
        interval_ms: 500,
        cleanup: wire::Cleanup::DeleteWhenSettled as i32,
        message_bytes_max: 1 << 20,
        ..Default::default()
    }
}

fn topic(number: u32, dead_letters_of: Option<DeadLetterLog>) -> TopicCreated {
    TopicCreated {
        topic: number,
        name: format!("topic-{number}"),
        partitions: 2,
        config: Some(config()),
        wall_ms: 1_700_000_000_100,
        dead_letters_of,
        ..Default::default()
    }
}

fn group(number: u32) -> GroupCreated {
    GroupCreated {
        group: number,
        name: format!("group-{number}"),
        kind: wire::GroupKind::Queue as i32,
        queue: Some(QueueSettings {
            lease_ms: 30_000,
            attempts_max: 6,
            backoff_first_ms: 1_000,
            backoff_max_ms: 300_000,
            ordering: wire::Ordering::Key as i32,
            dead_letter_topic: "graves".into(),
            hold: true,
            start_latest: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn log(topic: u32) -> LogSnapshot {
    let segment = |base, end, bytes| SegmentSnapshot {
        base,
        end,
        bytes,
        first_ms: 1_700_000_000_000 + base,
        last_ms: 1_700_000_000_000 + end,
        ..Default::default()
    };
    LogSnapshot {
        topic,
        partition: 1,
        log_start: 1_000,
        log_end: 1_100,
        segments: vec![segment(1_000, 1_050, 9_999), segment(1_060, 1_100, 777)],
        lost: vec![OffsetRange { from: 1_050, to: 1_060, ..Default::default() }],
        producers: vec![ProducerSnapshot {
            producer: 4711,
            epoch: 3,
            seen_wall_ms: 1_700_000_001_000,
            batches: vec![ProducedBatch { sequence: 99, records: 4, offset: 1_096, ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn full_checkpoint() -> Checkpoint {
    let mut settled = Vec::new();
    let above: RoaringTreemap = [1_005, 1_006, 1_009, 1_020].into_iter().collect();
    above.serialize_into(&mut settled).expect("a Vec takes everything");
    let leased = QueueMessageSnapshot {
        offset: 1_003,
        attempts: 2,
        epoch: 2,
        counter: 17,
        lease_ms: 30_000,
        started: true,
        ..Default::default()
    };
    let waiting = QueueMessageSnapshot {
        offset: 1_004,
        attempts: 1,
        epoch: 2,
        counter: 16,
        due_wall_ms: 1_700_000_002_000,
        ..Default::default()
    };
    let redriven =
        QueueMessageSnapshot { offset: 1_005, letter: Some(7), redriven: true, ..Default::default() };
    let dead = QueueMessageSnapshot {
        offset: 1_009,
        attempts: 6,
        letter: Some(8),
        reason: "no attempts left".into(),
        dead_wall_ms: 1_700_000_003_000,
        ..Default::default()
    };
    let table = |partition, floor, settled, messages| QueueSnapshot {
        topic: 3,
        partition,
        floor,
        settled,
        messages,
        ..Default::default()
    };
    let mut nothing = Vec::new();
    RoaringTreemap::new().serialize_into(&mut nothing).expect("a Vec takes everything");
    let stream = GroupCreated { kind: wire::GroupKind::Stream as i32, queue: None, ..group(13) };
    let committed =
        OffsetsCommitted { group: 13, topic: 3, partition: 1, offset: 1_077, ..Default::default() };
    Checkpoint {
        seq: 42,
        epoch: 2,
        checksum: 0xdead_beef,
        piece: 5,
        topic_next: 13,
        group_next: 14,
        wall_ms: 1_700_000_004_000,
        topics: vec![
            TopicSnapshot { topic: Some(topic(3, None)), keyed: true, ..Default::default() },
            TopicSnapshot {
                topic: Some(topic(12, Some(DeadLetterLog { group: 11, topic: 3, ..Default::default() }))),
                ..Default::default()
            },
        ],
        logs: vec![log(3), log(12)],
        groups: vec![
            GroupSnapshot {
                group: Some(group(11)),
                queues: vec![
                    table(0, 20, nothing, vec![]),
                    table(1, 1_003, settled, vec![leased, waiting, redriven, dead]),
                ],
                ..Default::default()
            },
            GroupSnapshot { group: Some(stream), committed: vec![committed], ..Default::default() },
        ],
        ..Default::default()
    }
}

#[test]
fn a_dead_letter_is_as_it_was() {
    check("letter-unreadable-v1.hex", &letter_batch(Err("checksum is wrong")));
    let kept = Bytes::from(fixture("letter-unreadable-v1.hex"));
    let letter = Records::decode(&kept, &BatchLimits::default()).expect("a batch").get(0).expect("a record");
    assert_eq!((letter.key, letter.value), (None, None));
    let why = (Bytes::from_static(b"dure-unreadable"), Some(Bytes::from_static(b"checksum is wrong")));
    assert_eq!(letter.headers, [why]);

    let entry = Bytes::from(fixture("../../../../proto/tests/fixtures/entry.hex"));
    let source =
        Records::decode(&entry.slice(ENTRY_HEADER_BYTES..), &BatchLimits::default()).expect("a batch");
    let record = source.get(1).expect("a record");
    let batch = letter_batch(Ok(&record));
    assert_eq!(BatchHeader::parse(&batch).expect("a batch").record_count, 1);
    let letter = Records::decode(&batch, &BatchLimits::default()).expect("a batch").get(0).expect("a record");
    assert_eq!(letter, dure_proto::Record { offset_delta: 0, ..record });
}
