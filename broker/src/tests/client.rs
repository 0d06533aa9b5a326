use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode};
use dure_proto::{BatchBuilder, Compression, FRAME_BYTES_MAX, Frame, FrameDecoder, encode_frame_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    next: u64,
    /// Pushes that came while an answer was waited for.
    pushes: Vec<(Body, Bytes)>,
}

impl Client {
    /// Without a Hello.
    pub(super) async fn raw(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        Client { stream, buffer: BytesMut::new(), decoder, next: 1, pushes: Vec::new() }
    }

    pub(super) async fn connect(address: SocketAddr) -> Client {
        let mut client = Client::raw(address).await;
        let hello =
            wire::Hello { version_min: 1, version_max: 9, client: "test".into(), features: Vec::new() };
        let Body::HelloReply(reply) = client.ask(Body::Hello(hello)).await else { panic!("no HelloReply") };
        assert_eq!(reply.version, 1);
        client
    }

    pub(super) async fn send(&mut self, correlation: u64, body: Body, attachment: &[u8]) {
        let mut bytes = BytesMut::new();
        let envelope = wire::Envelope { correlation, body: Some(body) };
        encode_frame_with(&mut bytes, &envelope, attachment).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            loop {
                if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                    return Some(frame);
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap() == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("something comes within 10 s")
    }

    pub(super) async fn ask_with(&mut self, body: Body, attachment: &[u8]) -> (Body, Bytes) {
        let correlation = self.next;
        self.next += 1;
        self.send(correlation, body, attachment).await;
        loop {
            let Frame { envelope, attachment } = self.next().await.expect("an answer");
            let body = envelope.body.unwrap();
            if envelope.correlation == correlation {
                return (body, attachment);
            }
            self.pushes.push((body, attachment));
        }
    }

    pub(super) async fn ask(&mut self, body: Body) -> Body {
        self.ask_with(body, &[]).await.0
    }

    pub(super) async fn push(&mut self) -> (Body, Bytes) {
        if !self.pushes.is_empty() {
            return self.pushes.remove(0);
        }
        let Frame { envelope, attachment } = self.next().await.expect("a push");
        assert_eq!(envelope.correlation, 0);
        (envelope.body.unwrap(), attachment)
    }

    pub(super) async fn done(&mut self, body: Body) {
        let answer = self.ask(body).await;
        assert!(matches!(answer, Body::Done(_)), "{answer:?}");
    }

    pub(super) async fn fails(&mut self, body: Body, code: ErrorCode) {
        match self.ask(body).await {
            Body::Error(error) => assert_eq!(error.code(), code, "{error:?}"),
            other => panic!("{other:?} in place of {code:?}"),
        }
    }

    /// Creates a topic and returns its number.
    pub(super) async fn topic(&mut self, name: &str, partitions: u32) -> u32 {
        let create = wire::CreateTopic { name: name.into(), partitions, config: None };
        self.done(Body::CreateTopic(create)).await;
        self.topic_id(name).await
    }

    pub(super) async fn topic_id(&mut self, name: &str) -> u32 {
        let metadata = Body::Metadata(wire::Metadata { topics: vec![name.into()] });
        let Body::MetadataReply(reply) = self.ask(metadata).await else { panic!("no metadata") };
        reply.topics[0].id
    }

    /// Produces one batch to partition 0 and returns its base offset.
    pub(super) async fn produce(&mut self, topic_id: u32, values: &[&str]) -> u64 {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        for value in values {
            builder.push(Some(b"k"), Some(value.as_bytes()), &[(b"h", None)], 7).unwrap();
        }
        let record_bytes_max = builder.record_bytes_max();
        let produce = wire::Produce {
            topic_id,
            partition: 0,
            keyed: true,
            record_bytes_max,
            all_keyed: false,
            expiring: false,
            identified: false,
            due: None,
        };
        match self.ask_with(Body::Produce(produce), &builder.build(None)).await.0 {
            Body::ProduceReply(reply) => reply.base_offset,
            other => panic!("{other:?}"),
        }
    }
}
