//! A peer that a test plays the broker's part with: it accepts, greets, and then sends and expects what the test
//! says, frame by frame.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses a part of it")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dure_client::{Client, ErrorCode, Retry};
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{
    BatchBuilder, BatchHeader, Compression, EntryHeader, FRAME_BYTES_MAX, Frame, FrameDecoder, Offset,
    encode_frame_with, patch_base,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Nothing that is expected takes longer.
pub const SOON: Duration = Duration::from_secs(5);

pub struct Peer {
    listener: TcpListener,
}

pub struct Conn {
    socket: TcpStream,
    decoder: FrameDecoder,
    buffer: BytesMut,
}

impl Peer {
    pub async fn bind() -> Peer {
        Peer { listener: TcpListener::bind("127.0.0.1:0").await.expect("a port") }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().expect("bound").to_string()
    }

    pub async fn accept(&self) -> Conn {
        let (socket, _) = timeout(SOON, self.listener.accept()).await.expect("in time").expect("accepted");
        let mut conn = Conn { socket, decoder: FrameDecoder::new(FRAME_BYTES_MAX), buffer: BytesMut::new() };
        let hello = conn.expect().await;
        assert!(matches!(hello.envelope.body, Some(Body::Hello(_))), "{hello:?}");
        let reply = wire::HelloReply {
            version: 1,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            inflight_bytes_max: 16 << 20,
            ..Default::default()
        };
        conn.reply(&hello, Body::HelloReply(reply)).await;
        conn
    }

    /// A client that is connected, and the peer's end.
    pub async fn client(&self) -> (Client, Conn) {
        self.client_with(Duration::from_secs(10)).await
    }

    pub async fn client_with(&self, request_timeout: Duration) -> (Client, Conn) {
        let builder = Client::builder().servers(self.address()).request_timeout(request_timeout);
        let (client, conn) = tokio::join!(builder.connect(), self.accept());
        (client.expect("connects"), conn)
    }
}

impl Conn {
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).expect("well-formed") {
                return Some(frame);
            }
            if self.socket.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    pub async fn expect(&mut self) -> Frame {
        timeout(SOON, self.next()).await.expect("in time").expect("not closed")
    }

    /// Nothing comes for a while.
    pub async fn expect_silence(&mut self, while_: Duration) {
        if let Ok(frame) = timeout(while_, self.next()).await {
            panic!("unexpected: {frame:?}");
        }
    }

    pub async fn send(&mut self, correlation: u64, body: Body, attachment: &[u8]) {
        let mut bytes = BytesMut::new();
        let envelope = wire::Envelope { correlation, body: Some(body) };
        encode_frame_with(&mut bytes, &envelope, attachment).expect("encodes");
        self.socket.write_all(&bytes).await.expect("written");
    }

    pub async fn push(&mut self, body: Body, attachment: &[u8]) {
        self.send(0, body, attachment).await;
    }

    pub async fn reply(&mut self, request: &Frame, body: Body) {
        self.send(request.envelope.correlation, body, &[]).await;
    }

    pub async fn done(&mut self, request: &Frame) {
        self.reply(request, Body::Done(wire::Done {})).await;
    }

    pub async fn fail(&mut self, request: &Frame, code: ErrorCode, retry: Retry) {
        let error = wire::Error {
            code: code.into(),
            message: "scripted".to_owned(),
            retry: retry.into(),
            address: String::new(),
        };
        self.reply(request, Body::Error(error)).await;
    }

    /// Answers the question for the topic `photos`.
    pub async fn tell_topic(&mut self, partitions: usize) {
        let request = self.expect().await;
        assert!(matches!(request.envelope.body, Some(Body::Metadata(_))), "{request:?}");
        let topic = wire::TopicMetadata {
            name: "photos".to_owned(),
            id: 7,
            config: Some(wire::TopicConfig { message_bytes_max: 1000, ..Default::default() }),
            partitions: vec![wire::PartitionMetadata::default(); partitions],
        };
        self.reply(&request, Body::MetadataReply(wire::MetadataReply { topics: vec![topic] })).await;
    }

    pub async fn tell_producer(&mut self, producer_id: u64) {
        let request = self.expect().await;
        assert!(matches!(request.envelope.body, Some(Body::InitProducer(_))), "{request:?}");
        let reply = wire::InitProducerReply { producer_id, producer_epoch: 0 };
        self.reply(&request, Body::InitProducerReply(reply)).await;
    }

    pub async fn tell_offset(&mut self, offset: u64, high_watermark: u64) {
        let request = self.expect().await;
        assert!(matches!(request.envelope.body, Some(Body::LocateOffset(_))), "{request:?}");
        let reply = wire::LocateOffsetReply { offset, high_watermark };
        self.reply(&request, Body::LocateOffsetReply(reply)).await;
    }

    /// The next request, with its body taken apart by `pick`.
    pub async fn expect_body<T>(&mut self, pick: impl FnOnce(&Body) -> Option<T>) -> (Frame, T) {
        let frame = self.expect().await;
        let picked = frame.envelope.body.as_ref().and_then(pick);
        let Some(picked) = picked else { panic!("unexpected: {frame:?}") };
        (frame, picked)
    }
}

/// What a variant holds, cloned.
#[macro_export]
macro_rules! body {
    ($variant:ident) => {
        |body: &dure_proto::wire::envelope::Body| match body {
            dure_proto::wire::envelope::Body::$variant(inner) => Some(inner.clone()),
            _ => None,
        }
    };
}

/// A log entry with these values from `base` on.
pub fn entry(base: u64, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(Some(b"key"), Some(value.as_bytes()), &[], 5).expect("small");
    }
    let mut batch = BytesMut::from(&builder.build(None)[..]);
    let header = BatchHeader::parse(&batch).expect("a batch");
    patch_base(&mut batch, Offset(base), 1);
    let header = EntryHeader::for_batch(&header, Offset(base), 99, 1);
    let mut entry = BytesMut::from(&header.encode()[..]);
    entry.extend_from_slice(&batch);
    entry.freeze()
}

pub fn text(bytes: &Option<Bytes>) -> String {
    String::from_utf8(bytes.clone().expect("not null").to_vec()).expect("UTF-8")
}

impl Conn {
    pub async fn garbage(&mut self) {
        self.socket.write_all(&[0xff; 64]).await.expect("written");
    }
}
