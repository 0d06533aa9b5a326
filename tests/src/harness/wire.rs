//! The protocol by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{Envelope, Error, Hello};
use dure_proto::{FRAME_BYTES_MAX, Frame, FrameDecoder, encode_frame_with};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection on which anything can be sent.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    decoder: FrameDecoder,
    received: BytesMut,
    correlation: u64,
}

impl RawClient {
    /// Connects and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn silent(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
        RawClient { stream, decoder, received: BytesMut::new(), correlation: 0 }
    }

    /// Connects and greets.
    ///
    /// # Panics
    /// If the broker does not greet back.
    #[must_use]
    pub fn connect(address: SocketAddr) -> RawClient {
        let mut client = RawClient::silent(address);
        let hello = Hello { version_min: 1, version_max: 1, client: "raw".into(), features: Vec::new() };
        let reply = client.ask(Body::Hello(hello), &[]);
        assert!(matches!(reply, Body::HelloReply(_)), "{reply:?}");
        client
    }

    /// Sends these bytes; false if the other side has closed.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A request as it goes over the wire.
    ///
    /// # Panics
    /// If it is too large.
    pub fn encoded(&mut self, body: Body, attachment: &[u8]) -> Vec<u8> {
        self.correlation += 1;
        let envelope = Envelope { correlation: self.correlation, body: Some(body) };
        let mut bytes = BytesMut::new();
        encode_frame_with(&mut bytes, &envelope, attachment).expect("it fits");
        bytes.into()
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Panics
    /// If the connection ends before it.
    pub fn ask(&mut self, body: Body, attachment: &[u8]) -> Body {
        let bytes = self.encoded(body, attachment);
        assert!(self.send_bytes(&bytes), "the broker closed the connection");
        loop {
            let envelope = self.frame().expect("an answer before the end").envelope;
            if envelope.correlation == self.correlation {
                return envelope.body.expect("a body");
            }
        }
    }

    /// The next frame, `None` at the end of the connection.
    ///
    /// # Panics
    /// If there is neither for 20 s, or it cannot be read.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) =
                self.decoder.decode(&mut self.received).expect("the broker sends good frames")
            {
                return Some(frame);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(bytes) => self.received.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither an answer nor an end: {error}"),
            }
        }
    }

    /// What the broker says before it closes the connection, if anything.
    pub fn last_words(&mut self) -> Option<Error> {
        let mut words = None;
        while let Some(frame) = self.frame() {
            if let Some(Body::Error(error)) = frame.envelope.body {
                words = Some(error);
            }
        }
        words
    }
}
