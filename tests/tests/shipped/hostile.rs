//! Input that no client sends, and what it does to those who behave: nothing.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode};
use dure_proto::{BatchBuilder, Compression};
use dure_tests::harness::{Broker, RawClient, eventually, http_get};

/// Produces and reads back through the command line: the broker is as well as ever.
fn check_alive(broker: &Broker) {
    let ack = broker.dure("produce t").stdin("alive\n").json();
    let read = broker.json(&format!("consume t --from offset:{}", ack["offset"]));
    assert_eq!(read["value"], "alive");
}

fn broker_with_topic() -> Broker {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker
}

fn resident_bytes(broker: &mut Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

fn batch_of(value: &[u8]) -> (wire::Produce, bytes::Bytes) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(None, Some(value), &[], 0).unwrap();
    let record_bytes_max = builder.record_bytes_max();
    (
        wire::Produce {
            topic_id: 1,
            partition: 0,
            keyed: false,
            all_keyed: false,
            record_bytes_max,
            expiring: false,
            identified: false,
            due: None,
        },
        builder.build(None),
    )
}

#[test]
fn garbage_http_and_huge_frames_get_a_typed_error_and_hurt_nobody() {
    let mut broker = broker_with_topic();
    let mut good = RawClient::connect(broker.native());
    let before = resident_bytes(&mut broker);
    let mut noise = vec![0_u8; 4096];
    let mut state = 7_u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let mut endless = vec![0xff_u8; 4];
    endless.extend_from_slice(&[4, 0, 0, 0]);
    let cases: [(&str, Vec<u8>); 6] = [
        ("noise", noise),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a frame of 4 GiB", endless),
        ("zeros", vec![0; 64]),
        ("an envelope longer than its frame", [8_u32.to_le_bytes(), 200_u32.to_le_bytes(), [0; 4]].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
    ];
    for greeted in [false, true] {
        for (name, bytes) in &cases {
            let mut client = match greeted {
                true => RawClient::connect(broker.native()),
                false => RawClient::silent(broker.native()),
            };
            client.send_bytes(bytes);
            let words = client.last_words().unwrap_or_else(|| panic!("{name}: closed without a word"));
            let expected = [ErrorCode::MalformedFrame, ErrorCode::FrameTooLarge];
            assert!(expected.contains(&words.code()), "{name}: {words:?}");
            assert!(!words.message.is_empty());
        }
    }
    let grown = resident_bytes(&mut broker).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more after a few bad frames");
    assert!(matches!(good.ask(Body::Ping(wire::Ping {}), &[]), Body::Done(_)));
    check_alive(&broker);
}

/// Each of a connection's streams read its first entry before it asked whether there was room for it.
#[test]
fn streams_that_nobody_reads_hold_no_more_than_a_connection_may() {
    let mut broker = broker_with_topic();
    let (produce, batch) = batch_of(&vec![7; 900_000]);
    let mut client = RawClient::connect(broker.native());
    assert!(matches!(client.ask(Body::Produce(produce), &batch), Body::ProduceReply(_)));
    let before = resident_bytes(&mut broker);
    for subscription in 1..=500 {
        let read = wire::Read {
            subscription,
            topic_id: 1,
            partition: 0,
            offset: 0,
            credit_bytes: 1 << 20,
            filters: Vec::new(),
        };
        let bytes = client.encoded(Body::Read(read), &[]);
        client.send_bytes(&bytes);
    }
    std::thread::sleep(Duration::from_secs(1));
    let grown = resident_bytes(&mut broker).saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for 500 streams of one connection", grown >> 20);
    check_alive(&broker);
}

#[test]
fn a_native_client_on_the_http_port_hurts_nobody() {
    let broker = broker_with_topic();
    let mut client = RawClient::silent(broker.http());
    client.send_bytes(&[40, 0, 0, 0, 30, 0, 0, 0, 8, 1, 26, 4]);
    drop(client);
    assert_eq!(http_get(broker.http(), "/livez").0, 200);
    check_alive(&broker);
}

#[test]
fn who_does_not_greet_in_time_is_told_so_and_closed() {
    let broker = Broker::builder().flags("--hello-timeout 500ms --frame-timeout 500ms").start();
    broker.dure("topic create t").ok();
    let mut idle = RawClient::connect(broker.native());
    let mut silent = RawClient::silent(broker.native());
    let started = Instant::now();
    assert_eq!(silent.last_words().map(|words| words.code()), Some(ErrorCode::MalformedFrame));
    assert!(started.elapsed() < Duration::from_secs(5));
    // One byte at a time is no greeting either.
    let mut slow = RawClient::silent(broker.native());
    let started = Instant::now();
    for byte in [30_u8, 0, 0, 0, 20, 0, 0, 0, 8, 1, 26, 4, 8, 1] {
        if !slow.send_bytes(&[byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    slow.last_words();
    assert!(started.elapsed() < Duration::from_secs(5));
    // A frame that never ends, from one who did greet.
    let mut stuck = RawClient::connect(broker.native());
    stuck.send_bytes(&[200, 0, 0]);
    assert_eq!(stuck.last_words().map(|words| words.code()), Some(ErrorCode::MalformedFrame));
    // Who says nothing between frames is left alone.
    assert!(matches!(idle.ask(Body::Ping(wire::Ping {}), &[]), Body::Done(_)));
    check_alive(&broker);
}

#[test]
fn a_client_gone_in_the_middle_of_a_frame_appended_nothing() {
    let broker = broker_with_topic();
    let topic_id = broker.json("topic describe t")["id"].as_u64().unwrap() as u32;
    let (produce, batch) = batch_of(&[7; 10_000]);
    let produce = wire::Produce { topic_id, ..produce };
    for cut in [1, 8, 20, 100, 5_000] {
        let mut client = RawClient::connect(broker.native());
        let frame = client.encoded(Body::Produce(produce), &batch);
        client.send_bytes(&frame[..frame.len() - cut]);
        drop(client);
    }
    // The same frame whole: it was not the frame.
    let mut client = RawClient::connect(broker.native());
    let Body::ProduceReply(reply) = client.ask(Body::Produce(produce), &batch) else { panic!("refused") };
    assert_eq!(reply.base_offset, 0);
    assert_eq!(broker.json("topic describe t")["partitions"][0]["high_watermark"], 1);
}

#[test]
fn a_damaged_batch_is_refused_and_the_connection_goes_on() {
    let broker = broker_with_topic();
    let topic_id = broker.json("topic describe t")["id"].as_u64().unwrap() as u32;
    let mut client = RawClient::connect(broker.native());
    let (produce, batch) = batch_of(b"value");
    let produce = wire::Produce { topic_id, ..produce };
    for position in [0, 8, 20, 60, batch.len() - 1] {
        let mut damaged = batch.to_vec();
        damaged[position] ^= 0x10;
        let answer = client.ask(Body::Produce(produce), &damaged);
        // The base offset is not the client's to say.
        let taken = matches!(answer, Body::ProduceReply(_));
        let refused = matches!(&answer, Body::Error(error) if error.code() == ErrorCode::InvalidBatch);
        assert!(refused || (taken && position < 8), "byte {position}: {answer:?}");
    }
    assert!(matches!(client.ask(Body::Ping(wire::Ping {}), &[]), Body::Done(_)));
    check_alive(&broker);
}

/// A batch of format v2 that says it holds one small record and unpacks to 512 MiB of zeros.
fn bomb() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.push(None, Some(b"small"), &[], 0).unwrap();
    let mut batch = builder.build(None)[..61].to_vec();
    let mut packed = zstd::Encoder::new(&mut batch, 3).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(512 << 20), &mut packed).unwrap();
    packed.finish().unwrap();
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    batch
}

#[test]
fn a_decompression_bomb_is_nobodys_message_and_takes_no_memory() {
    let mut broker = broker_with_topic();
    let topic_id = broker.json("topic describe t")["id"].as_u64().unwrap() as u32;
    let mut client = RawClient::connect(broker.native());
    let bomb = bomb();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let before = resident_bytes(&mut broker);
    let produce = wire::Produce {
        topic_id,
        partition: 0,
        keyed: false,
        all_keyed: false,
        record_bytes_max: 5,
        expiring: false,
        identified: false,
        due: None,
    };
    // Nothing is unpacked on the way in, so it is taken; who reads it is told what it is.
    let taken = client.ask(Body::Produce(produce), &bomb);
    assert!(matches!(taken, Body::ProduceReply(_)), "{taken:?}");
    broker.dure("produce t").stdin("good\n").ok();
    let jobs = broker.json_lines("receive t --group g --count 2 --wait 10s --ack");
    let jobs = if jobs.is_empty() { broker.json_lines("receive t --group g --wait 10s --ack") } else { jobs };
    assert_eq!((jobs.len(), &jobs[0]["value"]), (1, &"good".into()), "{jobs:?}");
    eventually(Duration::from_secs(5), "the bomb is a dead letter", || {
        let group = broker.json("group describe g");
        (group["dead"] == 1 && group["lag"] == 0).then_some(())
    });
    let letters = broker.json_lines("dlq list t --group g");
    assert!(letters[0]["reason"].as_str().unwrap().contains("decode"), "{letters:?}");
    let read = broker.dure("consume t -o json").run();
    assert!(read.text().contains("good"), "what follows is read: {read}");
    let grown = resident_bytes(&mut broker).saturating_sub(before);
    assert!(grown < 128 << 20, "{grown} bytes more");
    check_alive(&broker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_idle_connections_do_not_slow_an_established_client() {
    let broker = broker_with_topic();
    let client = broker.client().await;
    let producer = client.producer("t").build().await.unwrap();
    let latency = async || {
        let mut took = Vec::new();
        for n in 0..200 {
            let started = Instant::now();
            producer.send(dure_client::Message::new(format!("{n}"))).await.unwrap();
            took.push(started.elapsed());
        }
        took.sort();
        took[took.len() / 2]
    };
    let before = latency().await;
    // Half of them never say a word, half of them greet and then do nothing.
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(broker.native()).unwrap()).collect();
    let greeted: Vec<_> = (0..200).map(|_| RawClient::connect(broker.native())).collect();
    let during = latency().await;
    // What a figure promises is for the benches; this is about standing still.
    assert!(during < before * 10 + Duration::from_millis(50), "{before:?} became {during:?}");
    let mut newcomer = RawClient::connect(broker.native());
    assert!(matches!(newcomer.ask(Body::Ping(wire::Ping {}), &[]), Body::Done(_)));
    drop(greeted);
    for mut stream in silent {
        // Told why, then closed: the default is 5 s.
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut words = Vec::new();
        stream.read_to_end(&mut words).expect("an end");
    }
    latency().await;
}
