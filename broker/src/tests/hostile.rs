use std::time::Duration;

use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode};
use dure_proto::{BatchBuilder, Compression};

use super::client::Client;
use super::{options, start, stop};
use crate::{DataDirError, ServeError, serve};

/// What a connection is told before it is closed.
async fn last_words(client: &mut Client) -> ErrorCode {
    let frame = client.next().await.expect("a word before the end");
    let Some(Body::Error(error)) = frame.envelope.body else { panic!("no error") };
    assert!(client.next().await.is_none(), "the connection is closed");
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_gets_a_typed_error_and_hurts_nobody() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut good = Client::connect(running.native()).await;
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], ErrorCode::FrameTooLarge),
        (&[0; 64], ErrorCode::MalformedFrame),
        (&[8, 0, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255], ErrorCode::MalformedFrame),
        (&[255; 100], ErrorCode::FrameTooLarge),
    ] {
        let mut client = Client::raw(running.native()).await;
        client.send_bytes(bytes).await;
        assert_eq!(last_words(&mut client).await, code);
        // The same behind a good Hello.
        let mut client = Client::connect(running.native()).await;
        client.send_bytes(bytes).await;
        last_words(&mut client).await;
    }
    let mut client = Client::raw(running.native()).await;
    client.send(1, Body::Ping(wire::Ping {}), &[]).await;
    assert_eq!(last_words(&mut client).await, ErrorCode::MalformedFrame);
    let mut client = Client::raw(running.native()).await;
    let hello = wire::Hello { version_min: 2, version_max: 3, ..wire::Hello::default() };
    client.send(1, Body::Hello(hello), &[]).await;
    assert_eq!(last_words(&mut client).await, ErrorCode::UnsupportedVersion);
    good.done(Body::Ping(wire::Ping {})).await;
    stop(running).await;
}

/// A mebibyte of names would have become gigabytes of descriptions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_named_many_times_was_described_each_time() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    for name in ["b", "a"] {
        client.topic(name, 2).await;
    }
    let names: Vec<String> =
        (0..100_000).map(|nth| if nth % 2 == 0 { "b" } else { "a" }.to_owned()).collect();
    let metadata = Body::Metadata(wire::Metadata { topics: names.clone() });
    let Body::MetadataReply(reply) = client.ask(metadata).await else { panic!("no metadata") };
    assert_eq!(reply.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let describe = Body::DescribeTopics(wire::DescribeTopics { names });
    let Body::TopicDescriptions(reply) = client.ask(describe).await else { panic!("no descriptions") };
    assert_eq!(reply.topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_connections_are_closed_and_idle_ones_are_not() {
    let data = tempfile::tempdir().unwrap();
    let mut options = options(data.path());
    options.hello_timeout = Duration::from_millis(200);
    options.frame_timeout = Duration::from_millis(200);
    let running = serve(options).await.unwrap();
    let mut idle = Client::connect(running.native()).await;
    let mut silent = Client::raw(running.native()).await;
    assert_eq!(last_words(&mut silent).await, ErrorCode::MalformedFrame);
    let mut slow = Client::connect(running.native()).await;
    slow.send_bytes(&[200, 0, 0]).await;
    assert_eq!(last_words(&mut slow).await, ErrorCode::MalformedFrame);
    // A large frame that never comes, too.
    let mut slow = Client::connect(running.native()).await;
    slow.send_bytes(&(8u32 << 20).to_le_bytes()).await;
    assert_eq!(last_words(&mut slow).await, ErrorCode::MalformedFrame);
    idle.done(Body::Ping(wire::Ping {})).await;
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_batch_is_refused_and_the_connection_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let topic_id = client.topic("t", 1).await;
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(b"x"), &[], 0).unwrap();
    let mut batch = builder.build(None).to_vec();
    *batch.last_mut().unwrap() ^= 1;
    let produce = |topic_id, record_bytes_max| {
        Body::Produce(wire::Produce {
            topic_id,
            partition: 0,
            keyed: false,
            record_bytes_max,
            all_keyed: false,
            expiring: false,
            identified: false,
            due: None,
        })
    };
    for attachment in [&batch[..], &[], &[0; 100]] {
        let (Body::Error(error), _) = client.ask_with(produce(topic_id, 1), attachment).await else {
            panic!("taken")
        };
        assert_eq!(error.code(), ErrorCode::InvalidBatch);
    }
    *batch.last_mut().unwrap() ^= 1;
    let (Body::Error(error), _) = client.ask_with(produce(99, 1), &batch).await else { panic!("taken") };
    assert_eq!(error.code(), ErrorCode::UnknownTopic);
    let (Body::Error(error), _) = client.ask_with(produce(topic_id, 2 << 20), &batch).await else {
        panic!("taken")
    };
    assert_eq!(error.code(), ErrorCode::MessageTooLarge);
    assert_eq!(client.produce(topic_id, &["y"]).await, 0);
    client.fails(Body::Done(wire::Done {}), ErrorCode::InvalidRequest).await;
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_of_connections_the_next_is_told_so_and_the_others_go_on() {
    let data = tempfile::tempdir().unwrap();
    let mut options = options(data.path());
    options.connections_max = 2;
    let running = serve(options).await.unwrap();
    let mut first = Client::connect(running.native()).await;
    let second = Client::connect(running.native()).await;
    let mut third = Client::raw(running.native()).await;
    assert_eq!(last_words(&mut third).await, ErrorCode::Busy);
    first.done(Body::Ping(wire::Ping {})).await;
    drop(second);
    tokio::time::sleep(Duration::from_millis(300)).await;
    Client::connect(running.native()).await.done(Body::Ping(wire::Ping {})).await;
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_are_bounded_and_all_answered() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let mut client = Client::connect(running.native()).await;
    let topic_id = client.topic("t", 1).await;
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(&vec![7; 900_000]), &[], 0).unwrap();
    let (record_bytes_max, batch) = (builder.record_bytes_max(), builder.build(None));
    // 36 MB in a pipeline whose room is 16 MiB.
    for n in 0..40 {
        let produce = wire::Produce {
            topic_id,
            partition: 0,
            keyed: false,
            record_bytes_max,
            all_keyed: false,
            expiring: false,
            identified: false,
            due: None,
        };
        client.send(1000 + n, Body::Produce(produce), &batch).await;
    }
    for n in 0..40 {
        let envelope = client.next().await.unwrap().envelope;
        let Some(Body::ProduceReply(reply)) = envelope.body else { panic!("{:?}", envelope.body) };
        assert_eq!((envelope.correlation, reply.base_offset), (1000 + n, n));
    }
    stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_one_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let running = start(data.path()).await;
    let refused = serve(options(data.path())).await;
    assert!(matches!(refused, Err(ServeError::DataDir(DataDirError::InUse { .. }))), "{refused:?}");
    stop(running).await;
    stop(start(data.path()).await).await;
}
