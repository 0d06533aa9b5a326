//! What fuzzing starts from: sound inputs of each target, made of the fixtures of the formats.
#![allow(clippy::needless_update, reason = "messages grow")]

use bytes::BytesMut;
use dure_proto::journal::{
    Died, Event, Leased, LogStartMoved, QueueEvent, QueueEvents, Settled, event, queue_event,
};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, Envelope};
use dure_proto::{BATCH_HEADER_BYTES, BatchBuilder, Compression, encode_frame_with};
use prost::Message;

macro_rules! hex {
    ($path:literal) => {
        unhex(include_str!(concat!("../../../", $path)))
    };
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

/// Sound inputs of a target.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "batch" => batches().into_iter().map(|batch| [&[0][..], &batch].concat()).collect(),
        "checkpoint" => checkpoints(),
        "config" => configurations(),
        "frame" => frames(),
        "index" => vec![[&[0, 2][..], &index_hints(), &segment_pieces()].concat()],
        "journal" => journals(),
        "letter" | "records" => vec![
            [&[4][..], &plain_records()].concat(),
            [&[1][..], &[14, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 1]].concat(),
        ],
        "request" => requests(),
        "segment" => (0..4).map(|control| [&[control, 0, 0][..], &segment_pieces()].concat()).collect(),
        "text" => ["3-1234567-9-77", "64KiB", "250ms", "zstd", "18446744073709551615", "7d"]
            .map(|text| text.as_bytes().to_vec())
            .into(),
        other => panic!("no seeds of {other}"),
    }
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("seeds are small").to_le_bytes()[..], bytes].concat()
}

fn batches() -> Vec<Vec<u8>> {
    let mut batches = vec![
        hex!("proto/tests/fixtures/batch-none.hex"),
        hex!("proto/tests/fixtures/batch-lz4.hex"),
        hex!("proto/tests/fixtures/batch-zstd.hex"),
        hex!("proto/tests/fixtures/kafka-python-none.hex"),
        hex!("proto/tests/fixtures/kafka-python-lz4.hex"),
        hex!("proto/tests/fixtures/kafka-python-zstd.hex"),
        hex!("proto/tests/fixtures/kafka-python-gzip.hex"),
        hex!("proto/tests/fixtures/kafka-python-producer.hex"),
    ];
    for compression in [Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new(compression);
        for nth in 0..40 {
            builder.push(Some(b"key"), Some(&[nth; 900]), &[(b"h", None)], nth.into()).expect("fits");
        }
        batches.push(builder.build(None).to_vec());
    }
    batches
}

/// Four records, as they stand in a batch.
fn plain_records() -> Vec<u8> {
    hex!("proto/tests/fixtures/batch-none.hex")[BATCH_HEADER_BYTES..].to_vec()
}

/// One record, as it stands in a batch.
const RECORD: [u8; 10] = [18, 0, 0, 0, 2, b'k', 2, b'v', 0, 0];

fn segment_pieces() -> Vec<u8> {
    let piece = |kind: u8, bytes: &[u8]| [&[kind][..], &field(bytes)].concat();
    [
        piece(0, &RECORD[..9]),
        piece(0, &RECORD[..9]),
        piece(1, &RECORD[..9]),
        piece(2, &RECORD[..9]),
        piece(3, b"DuEn is no entry"),
        piece(4, &RECORD[..9]),
        piece(5, &hex!("proto/tests/fixtures/batch-lz4.hex")),
    ]
    .concat()
}

fn index_hints() -> Vec<u8> {
    let hint = |offset: u32, position: u32, time: u64| {
        [&offset.to_le_bytes()[..], &position.to_le_bytes(), &time.to_le_bytes()].concat()
    };
    [hint(0, 64, 5), hint(1, 175, 6)].concat()
}

/// The event that fills the body of a commit that was kept.
fn kept_events() -> Vec<Vec<u8>> {
    let commit = hex!("broker/engine/tests/fixtures/events-v1.hex");
    let (mut at, mut events) = (64, Vec::new());
    while at + 8 <= commit.len() {
        let length = u32::from_le_bytes(commit[at + 4..at + 8].try_into().expect("four bytes")) as usize;
        events.push(commit[at + 8..at + 8 + length].to_vec());
        at += 8 + length;
    }
    events
}

fn journals() -> Vec<Vec<u8>> {
    let entry = |kind: u8, payload: &[u8]| [&[kind][..], &field(payload)].concat();
    let commit = |control: u8, more: &[u8], entries: &[Vec<u8>]| {
        [&[control][..], more, &[entries.len() as u8], &entries.concat()].concat()
    };
    let of = |event: event::Event| entry(0, &Event { event: Some(event) }.encode_to_vec());
    let records = || entry(4, &RECORD[..9]);
    let moved = || {
        of(event::Event::LogStartMoved(LogStartMoved {
            topic: 1,
            partition: 0,
            offset: 2,
            ..Default::default()
        }))
    };
    let mut journals: Vec<Vec<u8>> =
        kept_events().iter().map(|event| commit(0, &[], &[entry(0, event)])).collect();
    journals.push([commit(0, &[], &[records(), records()]), commit(0, &[], &[records(), moved()])].concat());
    // Torn, corrupt, a new epoch in a new piece, a commit too far.
    journals.push([commit(0, &[], &[records()]), commit(32, &[], &[records()])].concat());
    journals.push(
        [commit(0, &[], &[records()]), commit(32, &[], &[records()]), commit(0, &[], &[records()])].concat(),
    );
    journals.push([commit(0, &[], &[records()]), commit(16 + 8 + 2, &[2], &[records()])].concat());
    journals.push([commit(1, &[3], &[records()]), commit(64, &[9, 0, 0, 0, 0, 0, 0, 0], &[])].concat());
    journals.push(queue_journal(&of, &commit, &records));
    journals
}

/// Makes a commit of a control byte, what goes before, and entries.
type CommitOf = dyn Fn(u8, &[u8], &[Vec<u8>]) -> Vec<u8>;

fn queue_journal(
    of: &dyn Fn(event::Event) -> Vec<u8>,
    commit: &CommitOf,
    records: &dyn Fn() -> Vec<u8>,
) -> Vec<u8> {
    use dure_proto::journal::{GroupCreated, GroupTopicAdded};
    let created = GroupCreated {
        group: 1,
        name: "g".into(),
        kind: wire::GroupKind::Queue as i32,
        queue: Some(dure_engine::default_queue_settings()),
        ..Default::default()
    };
    let added =
        GroupTopicAdded { group: 1, topic: 1, start: vec![0, 0], first_partition: 0, ..Default::default() };
    let happened = |event| QueueEvent { event: Some(event) };
    let leased = Leased {
        offset: 0,
        count: 2,
        epoch: 1,
        counter: 1,
        lease_ms: 30_000,
        started: true,
        ..Default::default()
    };
    let died =
        Died { offset: 1, letter: 0, attempts: 5, reason: "why".into(), wall_ms: 5, ..Default::default() };
    let events = vec![
        happened(queue_event::Event::Leased(leased)),
        happened(queue_event::Event::Settled(Settled { offset: 0, count: 1, ..Default::default() })),
        happened(queue_event::Event::Died(died)),
    ];
    let queue = QueueEvents { group: 1, topic: 1, partition: 0, events, ..Default::default() };
    let made = [of(event::Event::GroupCreated(created)), of(event::Event::GroupTopicAdded(added)), records()];
    [commit(0, &[], &made), commit(0, &[], &[records(), of(event::Event::Queue(queue))])].concat()
}

fn checkpoints() -> Vec<Vec<u8>> {
    let full = hex!("broker/engine/tests/fixtures/checkpoint-v1-full.hex");
    let small = hex!("broker/engine/tests/fixtures/checkpoint-v1.hex");
    let mut seeds = vec![
        [&[0][..], &field(&full[32..])].concat(),
        [&[3][..], &field(&full)].concat(),
        [&[2][..], &field(&small[32..])].concat(),
    ];
    seeds.push([&[2][..], &field(&full[32..]), &journals()[0]].concat());
    seeds
}

fn configurations() -> Vec<Vec<u8>> {
    let resolved = dure_broker::resolve(&[], [], None).expect("the defaults");
    let lines: Vec<String> =
        resolved.settings.iter().map(|s| format!("{} = \"{}\"\n", s.name, s.value)).collect();
    let mut seeds = vec![lines.concat().into_bytes()];
    seeds.push(b"connections-max = 7\ninsecure = true\nhttp-hosts = [\"a\", \"b\"]\n".to_vec());
    seeds.push(b"[table]\nx = 1.5\n".to_vec());
    seeds.extend(["127.0.0.1:0", "64MiB", "30s"].map(|text| text.as_bytes().to_vec()));
    seeds
}

/// Envelopes of a client that makes a topic, produces, works and goes.
fn bodies() -> Vec<Body> {
    let (topic, group) = (|| "t".to_owned(), || "g".to_owned());
    let item = wire::SettleItem { offset: 0, epoch: 1, counter: 1, ..wire::SettleItem::default() };
    vec![
        Body::CreateTopic(wire::CreateTopic {
            name: topic(),
            partitions: 2,
            config: None,
            ..Default::default()
        }),
        Body::Produce(wire::Produce {
            topic_id: 1,
            partition: 0,
            keyed: true,
            record_bytes_max: 2,
            ..Default::default()
        }),
        Body::Receive(wire::Receive { topic: topic(), group: group(), count: 2, ..Default::default() }),
        Body::Settle(wire::Settle {
            topic: topic(),
            group: group(),
            items: vec![item],
            ..Default::default()
        }),
        Body::WorkQueue(wire::WorkQueue {
            topic: topic(),
            group: group(),
            subscription: 1,
            credit_messages: 5,
            ..Default::default()
        }),
        Body::CreateGroup(wire::CreateGroup {
            name: "s".into(),
            topics: vec![topic()],
            ..Default::default()
        }),
        Body::JoinGroup(wire::JoinGroup { group: "s".into(), topics: vec![topic()], ..Default::default() }),
        Body::ListDeadLetters(wire::ListDeadLetters { topic: topic(), group: group(), ..Default::default() }),
        Body::Redrive(wire::Redrive { topic: topic(), group: group(), ..Default::default() }),
        Body::AlterTopic(wire::AlterTopic {
            name: topic(),
            partitions: Some(3),
            force: true,
            ..Default::default()
        }),
        Body::PurgeTopic(wire::PurgeTopic { name: topic(), ..Default::default() }),
        Body::DeleteGroup(wire::DeleteGroup { name: group(), ..Default::default() }),
        Body::DeleteTopic(wire::DeleteTopic { name: topic(), ..Default::default() }),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let request = |(nth, body): (usize, Body)| {
        let produces = matches!(body, Body::Produce(_));
        let envelope = Envelope { correlation: nth as u64 + 1, body: Some(body) }.encode_to_vec();
        let attachment = if produces { [&[2][..], &field(&RECORD[..9])].concat() } else { vec![0] };
        [&[9][..], &field(&envelope), &attachment].concat()
    };
    let each: Vec<Vec<u8>> = bodies().into_iter().enumerate().map(request).collect();
    let mut seeds = vec![each.concat()];
    let first = each[..3].concat();
    seeds.extend(each[3..].iter().map(|one| [&first[..], one, &[4]].concat()));
    seeds
}

fn frames() -> Vec<Vec<u8>> {
    let mut all = vec![7];
    let mut seeds = Vec::new();
    let hello = Body::Hello(wire::Hello { version_min: 1, version_max: 1, ..Default::default() });
    for body in [hello].into_iter().chain(bodies()) {
        let mut frame = BytesMut::new();
        let envelope = Envelope { correlation: 1, body: Some(body) };
        encode_frame_with(&mut frame, &envelope, b"attached").expect("small");
        all.extend_from_slice(&frame);
        seeds.push([&[0][..], &frame].concat());
    }
    seeds.push(all);
    seeds
}
