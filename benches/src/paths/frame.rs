//! Frames of the native protocol, as client and broker write and read them.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, Envelope};
use dure_proto::{FRAME_BYTES_MAX, FrameDecoder, encode_frame_with};

use super::payload;
use super::{Path, Round};

/// Messages of the frames that carry leases and acks.
const MESSAGES: usize = 64;
const BATCH_BYTES: usize = 64 << 10;

const OF_MESSAGES: Path = Path {
    name: "",
    operation: "message",
    operations: MESSAGES as u64,
    bytes: 0,
    prepare: encode_settle,
    only: None,
};
const OF_A_BATCH: Path = Path {
    name: "",
    operation: "frame",
    operations: 1,
    bytes: BATCH_BYTES as u64,
    prepare: || encode(produce()),
    only: None,
};

pub(super) const PATHS: &[Path] = &[
    Path { name: "frame-encode-produce", ..OF_A_BATCH },
    Path { name: "frame-decode-produce", prepare: || decode(&produce()), ..OF_A_BATCH },
    Path { name: "frame-encode-jobs", prepare: || encode(jobs()), ..OF_MESSAGES },
    Path { name: "frame-decode-jobs", prepare: || decode(&jobs()), ..OF_MESSAGES },
    Path { name: "frame-encode-settle", ..OF_MESSAGES },
    Path { name: "frame-decode-settle", prepare: || decode(&settle(MESSAGES)), ..OF_MESSAGES },
    Path { name: "frame-decode-settle-of-one", operations: 1, prepare: || decode(&settle(1)), ..OF_MESSAGES },
];

type Whole = (Envelope, Bytes);

fn produce() -> Whole {
    let produce =
        wire::Produce { topic_id: 1, partition: 3, record_bytes_max: 1024, ..wire::Produce::default() };
    let envelope = Envelope { correlation: 77, body: Some(Body::Produce(produce)) };
    (envelope, payload::bytes(BATCH_BYTES).into())
}

fn jobs() -> Whole {
    let job = |offset| wire::Job {
        partition: 3,
        offset,
        epoch: 5,
        counter: offset,
        attempt: 1,
        lease_ms: 30_000,
        lease_deadline_ms: 1_700_000_030_000,
        append_time_ms: 1_700_000_000_000,
        value_bytes: Some(100),
        ..wire::Job::default()
    };
    let jobs = wire::Jobs { subscription: 1, jobs: (0..MESSAGES as u64).map(job).collect() };
    (Envelope { correlation: 0, body: Some(Body::Jobs(jobs)) }, payload::bytes(100 * MESSAGES).into())
}

fn settle(messages: usize) -> Whole {
    let item = |offset| wire::SettleItem {
        action: wire::SettleAction::SettleAck.into(),
        partition: 3,
        offset,
        epoch: 5,
        counter: offset,
        ..wire::SettleItem::default()
    };
    let items = (0..messages as u64).map(item).collect();
    let settle = wire::Settle { topic: "photos".into(), group: "resize".into(), items };
    (Envelope { correlation: 77, body: Some(Body::Settle(settle)) }, Bytes::new())
}

fn encode_settle() -> Round {
    encode(settle(MESSAGES))
}

/// Into a buffer whose memory is warm, as on a connection.
fn encode((envelope, attachment): Whole) -> Round {
    let mut out = BytesMut::with_capacity(1 << 20);
    Box::new(move || {
        out.clear();
        encode_frame_with(&mut out, black_box(&envelope), &attachment).expect("it fits");
        black_box(&out);
    })
}

fn decode((envelope, attachment): &Whole) -> Round {
    let mut frame = BytesMut::new();
    encode_frame_with(&mut frame, envelope, attachment).expect("it fits");
    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    Box::new(move || {
        let mut arrived = BytesMut::from(black_box(&frame[..]));
        _ = black_box(decoder.decode(&mut arrived).expect("a frame").expect("a whole one"));
    })
}
