use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode};
use dure_proto::{BatchBuilder, BatchLimits, Compression, Records, split_entries};

use super::client::Client;
use super::{start, stop};

fn read(subscription: u64, topic_id: u32, offset: u64, credit_bytes: u64) -> Body {
    Body::Read(wire::Read { subscription, topic_id, partition: 0, offset, credit_bytes, filters: Vec::new() })
}

/// The values in the pushes of a stream from an offset on, until there are `count`.
async fn values(client: &mut Client, count: usize) -> Vec<(u64, String)> {
    let mut values = Vec::new();
    while values.len() < count {
        let (body, entries) = client.push().await;
        assert!(matches!(body, Body::Records(_)), "{body:?}");
        for entry in split_entries(entries) {
            let (header, batch) = entry.unwrap();
            let records = Records::decode(&batch, &BatchLimits::default()).unwrap();
            for (i, record) in records.iter().enumerate() {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                values.push((header.base_offset.0 + i as u64, value));
            }
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_read_before_and_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let expected: Vec<_> = [(0, "a"), (1, "b"), (2, "c")].map(|(o, v)| (o, v.to_owned())).to_vec();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 2).await;
    client.send(0, read(5, id, 0, 1 << 20), &[]).await;
    assert_eq!(client.produce(id, &["a", "b"]).await, 0);
    assert_eq!(client.produce(id, &["c"]).await, 2);
    assert_eq!(values(&mut client, 3).await, expected);
    stop(running).await;

    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    assert_eq!(client.topic_id("t").await, id);
    client.send(0, read(1, id, 0, 1 << 20), &[]).await;
    assert_eq!(values(&mut client, 3).await, expected);
    assert_eq!(client.produce(id, &["d"]).await, 3);
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_pushed_without_credit() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 1).await;
    client.produce(id, &["a"]).await;
    client.produce(id, &["b"]).await;
    client.send(0, read(1, id, 0, 0), &[]).await;
    // An answer that comes first shows that no push went before it.
    client.done(Body::Ping(wire::Ping {})).await;
    client.send(0, Body::Credit(wire::Credit { subscription: 1, bytes: 1 << 20, messages: 0 }), &[]).await;
    assert_eq!(values(&mut client, 2).await.len(), 2);
    client.fails(read(1, id, 0, 1), ErrorCode::InvalidRequest).await;
    client.send(0, Body::Unsubscribe(wire::Unsubscribe { subscription: 1 }), &[]).await;
    client.send(0, read(1, id, 1, 1), &[]).await;
    assert_eq!(values(&mut client, 1).await, [(1, "b".to_owned())]);
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_topic_and_beyond_its_log() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let id = client.topic("t", 1).await;
    client.send(0, read(1, id, 7, 1), &[]).await;
    let (Body::SubscriptionEnded(ended), _) = client.push().await else { panic!("the stream goes on") };
    assert_eq!(ended.error.unwrap().code(), ErrorCode::OffsetOutOfRange);
    client.send(0, read(2, id, 0, 1), &[]).await;
    client.done(Body::DeleteTopic(wire::DeleteTopic { name: "t".into() })).await;
    let (Body::SubscriptionEnded(ended), _) = client.push().await else { panic!("the stream goes on") };
    assert_eq!((ended.subscription, ended.error.unwrap().code()), (2, ErrorCode::UnknownTopic));
    client.fails(read(3, id, 0, 1), ErrorCode::UnknownTopic).await;
    client.send(0, read(4, id, 0, 1), &[]).await;
    let (Body::SubscriptionEnded(ended), _) = client.push().await else { panic!("no end") };
    assert_eq!((ended.subscription, ended.error.unwrap().code()), (4, ErrorCode::UnknownTopic));
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_located_by_position_and_time() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let topic_id = client.topic("t", 1).await;
    client.produce(topic_id, &["a", "b"]).await;
    use wire::locate_offset::Position;
    let positions = [
        (Position::Earliest(wire::Done {}), 0),
        (Position::Latest(wire::Done {}), 2),
        (Position::TimeMs(0), 0),
    ];
    for (position, offset) in positions.into_iter().chain([(Position::TimeMs(u64::MAX), 2)]) {
        let locate = wire::LocateOffset { topic_id, partition: 0, position: Some(position) };
        match client.ask(Body::LocateOffset(locate)).await {
            Body::LocateOffsetReply(reply) => assert_eq!((reply.offset, reply.high_watermark), (offset, 2)),
            other => panic!("{other:?}"),
        }
    }
    let locate = wire::LocateOffset { topic_id, partition: 9, position: Some(Position::TimeMs(0)) };
    client.fails(Body::LocateOffset(locate), ErrorCode::UnknownPartition).await;
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_answers_what_is_in_flight_and_keeps_what_was_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let topic_id = client.topic("t", 1).await;
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(&[1; 1000]), &[], 0).unwrap();
    let batch = builder.build(None);
    let produce = || {
        Body::Produce(wire::Produce {
            topic_id,
            partition: 0,
            keyed: false,
            record_bytes_max: 1000,
            all_keyed: false,
            expiring: false,
            identified: false,
            due: None,
        })
    };
    for n in 0..2000 {
        client.send(1_000_000 + n, produce(), &batch).await;
        if n == 1000 {
            running.shutdown();
        }
    }
    let (mut acknowledged, mut refused) = (0, 0);
    while let Some(frame) = client.next().await {
        match frame.envelope.body.unwrap() {
            Body::ProduceReply(reply) => {
                assert_eq!(reply.base_offset, acknowledged);
                acknowledged += 1;
            }
            Body::Error(error) if error.code() == ErrorCode::ShuttingDown => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    tokio::time::timeout(std::time::Duration::from_secs(10), running.wait()).await.unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let position = Some(wire::locate_offset::Position::Latest(wire::Done {}));
    let locate = wire::LocateOffset { topic_id, partition: 0, position };
    let Body::LocateOffsetReply(reply) = client.ask(Body::LocateOffset(locate)).await else {
        panic!("no offset")
    };
    assert_eq!(reply.high_watermark, acknowledged, "{refused} refused");
    stop(running).await;
}
