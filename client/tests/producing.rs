//! The producer against a scripted broker.

mod peer;

use std::time::Duration;

use bytes::Bytes;
use dure_client::{Compression, Error, ErrorCode, Message, Producer, Retry};
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{
    BATCHES_IN_FLIGHT_MAX, BatchHeader, BatchLimits, Frame, ProducerStamp, Records, partition_for_key,
};
use peer::{Conn, Peer, text};

async fn producer(peer: &Peer, partitions: usize) -> (Producer, Conn) {
    let (client, mut conn) = peer.client().await;
    let builder = client.producer("photos");
    let (producer, ()) = tokio::join!(builder.build(), conn.tell_topic(partitions));
    (producer.expect("built"), conn)
}

fn stamp(frame: &Frame) -> ProducerStamp {
    BatchHeader::parse(&frame.attachment).expect("a batch").producer.expect("stamped")
}

fn values(frame: &Frame) -> Vec<String> {
    let records = Records::decode(&frame.attachment, &BatchLimits::default()).expect("a valid batch");
    records.iter().map(|record| text(&record.value)).collect()
}

async fn append(conn: &mut Conn, frame: &Frame, base_offset: u64) {
    let reply = wire::ProduceReply { base_offset, append_time_ms: 42, due_ms: None, duplicates: Vec::new() };
    conn.reply(frame, Body::ProduceReply(reply)).await;
}

#[tokio::test]
async fn a_lone_message_goes_at_once_and_those_behind_it_share_a_batch() {
    let peer = Peer::bind().await;
    let (producer, mut conn) = producer(&peer, 1).await;
    let first = producer.enqueue(Message::new("a").key("k")).await.expect("enqueued");
    conn.tell_producer(1).await;
    let (frame, produce) = conn.expect_body(body!(Produce)).await;
    assert_eq!(values(&frame), ["a"]);
    assert_eq!(
        (produce.topic_id, produce.partition, produce.keyed, produce.record_bytes_max),
        (7, 0, true, 2)
    );
    let mut rest = Vec::new();
    for value in ["b", "c", "d"] {
        rest.push(producer.enqueue(Message::new(value)).await.expect("enqueued"));
    }
    conn.expect_silence(Duration::from_millis(50)).await;
    append(&mut conn, &frame, 10).await;
    let ack = first.await.expect("appended");
    assert_eq!((&*ack.topic, ack.partition, ack.offset, ack.append_time_ms), ("photos", 0, Some(10), 42));
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    assert_eq!(values(&frame), ["b", "c", "d"]);
    assert_eq!(stamp(&frame).sequence.0, 1);
    append(&mut conn, &frame, 11).await;
    let mut offsets = Vec::new();
    for delivery in rest {
        offsets.push(delivery.await.expect("appended").offset.expect("an offset"));
    }
    assert_eq!(offsets, [11, 12, 13]);
}

#[tokio::test]
async fn keys_decide_the_partition_as_in_kafka_and_an_explicit_one_wins() {
    let peer = Peer::bind().await;
    let (producer, mut conn) = producer(&peer, 8).await;
    let _by_key = producer.enqueue(Message::new("a").key("user-7")).await.expect("enqueued");
    conn.tell_producer(1).await;
    let (_, produce) = conn.expect_body(body!(Produce)).await;
    assert_eq!(produce.partition, partition_for_key(b"user-7", 8).0);
    let other = (produce.partition + 1) % 8;
    let message = Message::new("a").key("user-7").partition(other);
    let _explicit = producer.enqueue(message).await.expect("enqueued");
    let (_, produce) = conn.expect_body(body!(Produce)).await;
    assert_eq!(produce.partition, other);
    let error = producer.send(Message::new("a").partition(8)).await.expect_err("there is none");
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[tokio::test]
async fn an_oversize_message_is_refused_before_it_is_sent() {
    let peer = Peer::bind().await;
    let (producer, mut conn) = producer(&peer, 1).await;
    let error = producer.send(Message::new(vec![0; 1001])).await.expect_err("too large");
    assert_eq!(error.code(), Some(ErrorCode::MessageTooLarge));
    conn.expect_silence(Duration::from_millis(30)).await;
}

#[tokio::test]
async fn after_a_lost_connection_the_same_batch_is_sent_with_the_same_sequence() {
    let peer = Peer::bind().await;
    let (producer, mut conn) = producer(&peer, 1).await;
    let first = producer.enqueue(Message::new("a")).await.expect("enqueued");
    conn.tell_producer(9).await;
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    append(&mut conn, &frame, 0).await;
    first.await.expect("appended");
    let second = producer.enqueue(Message::new("b")).await.expect("enqueued");
    let (before, _) = conn.expect_body(body!(Produce)).await;
    drop(conn);

    let mut conn = peer.accept().await;
    let (after, _) = conn.expect_body(body!(Produce)).await;
    assert_eq!(after.attachment, before.attachment);
    assert_eq!((stamp(&after).producer.0, stamp(&after).sequence.0), (9, 1));
    append(&mut conn, &after, 1).await;
    assert_eq!(second.await.expect("appended").offset, Some(1));
}

#[tokio::test]
async fn a_rejected_batch_fails_alone_and_the_next_has_a_new_session() {
    let peer = Peer::bind().await;
    let (producer, mut conn) = producer(&peer, 1).await;
    let first = producer.enqueue(Message::new("a")).await.expect("enqueued");
    conn.tell_producer(1).await;
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    let second = producer.enqueue(Message::new("b")).await.expect("enqueued");
    conn.fail(&frame, ErrorCode::DiskFull, Retry::Later).await;
    let error = first.await.expect_err("rejected");
    assert_eq!(error.code(), Some(ErrorCode::DiskFull));
    conn.tell_producer(2).await;
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    assert_eq!(values(&frame), ["b"]);
    assert_eq!((stamp(&frame).producer.0, stamp(&frame).sequence.0), (2, 0));
    append(&mut conn, &frame, 5).await;
    assert_eq!(second.await.expect("appended").offset, Some(5));
}

#[tokio::test]
async fn without_an_answer_the_outcome_is_unknown() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client_with(Duration::from_millis(300)).await;
    let builder = client.producer("photos");
    let (producer, ()) = tokio::join!(builder.build(), conn.tell_topic(1));
    let producer = producer.expect("built");
    let delivery = producer.enqueue(Message::new("a")).await.expect("enqueued");
    conn.tell_producer(1).await;
    conn.expect_body(body!(Produce)).await;
    let error = delivery.await.expect_err("no answer");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn full_batches_are_pipelined_and_stay_in_order() {
    const MESSAGES: usize = 40 * BATCHES_IN_FLIGHT_MAX / 5;
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let builder = client.producer("photos").batch_bytes(300).compression(Compression::Lz4);
    let (producer, ()) = tokio::join!(builder.build(), conn.tell_topic(1));
    let producer = producer.expect("built");
    let mut deliveries = Vec::new();
    for n in 0..MESSAGES {
        let value = format!("{n:0100}");
        deliveries.push(producer.enqueue(Message::new(value)).await.expect("enqueued"));
    }
    conn.tell_producer(1).await;
    let mut in_flight = std::collections::VecDeque::new();
    for _ in 0..BATCHES_IN_FLIGHT_MAX {
        in_flight.push_back(conn.expect_body(body!(Produce)).await.0);
    }
    conn.expect_silence(Duration::from_millis(50)).await;
    let full = values(&in_flight[0]).len();
    let (mut next, mut seen) = (0_u64, Vec::new());
    while let Some(frame) = in_flight.pop_front() {
        assert_eq!(u64::from(stamp(&frame).sequence.0), next);
        let batch = values(&frame);
        append(&mut conn, &frame, next).await;
        next += batch.len() as u64;
        seen.extend(batch);
        let sent = seen.len() + in_flight.iter().map(|frame| values(frame).len()).sum::<usize>();
        // The last one may still be filled, and goes when nothing is under way any more.
        if MESSAGES - sent > full || (in_flight.is_empty() && sent < MESSAGES) {
            in_flight.push_back(conn.expect_body(body!(Produce)).await.0);
        }
    }
    assert_eq!(seen, (0..MESSAGES).map(|n| format!("{n:0100}")).collect::<Vec<_>>());
    for (n, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(delivery.await.expect("appended").offset, Some(n as u64));
    }
}

#[tokio::test]
async fn flush_waits_for_what_lingers_and_close_ends_the_producer() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let builder = client.producer("photos").linger(Duration::from_secs(60));
    let (producer, ()) = tokio::join!(builder.build(), conn.tell_topic(1));
    let producer = producer.expect("built");
    let delivery = producer.enqueue(Message::new("a")).await.expect("enqueued");
    conn.expect_silence(Duration::from_millis(50)).await;
    let flushing = producer.clone();
    let flushing = tokio::spawn(async move { flushing.flush().await });
    conn.tell_producer(1).await;
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    append(&mut conn, &frame, 0).await;
    flushing.await.expect("no panic").expect("flushed");
    assert_eq!(delivery.await.expect("appended").offset, Some(0));
    let other = producer.clone();
    producer.close().await.expect("closed");
    assert!(matches!(other.send(Message::new("b")).await, Err(Error::Closed)));
}

#[tokio::test]
async fn enqueueing_waits_for_room() {
    let peer = Peer::bind().await;
    let (client, mut conn) = peer.client().await;
    let builder = client.producer("photos").inflight_bytes(200);
    let (producer, ()) = tokio::join!(builder.build(), conn.tell_topic(1));
    let producer = producer.expect("built");
    let body = Bytes::from(vec![b'x'; 150]);
    let _first = producer.enqueue(Message::new(body.clone())).await.expect("enqueued");
    conn.tell_producer(1).await;
    let (frame, _) = conn.expect_body(body!(Produce)).await;
    let second = tokio::spawn(async move { producer.enqueue(Message::new(body)).await.map(drop) });
    conn.expect_silence(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    append(&mut conn, &frame, 0).await;
    second.await.expect("no panic").expect("enqueued");
}
