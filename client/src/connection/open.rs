//! Making a connection: connect, greet, start the two tasks.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{FRAME_BYTES_MAX, Frame, FrameDecoder, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::incoming::Incoming;
use super::shared::{Limits, Shared};
use super::{Connection, reader, writer};
use crate::error::{Error, Result};

/// The version of the protocol that this crate speaks.
const VERSION: u32 = 1;
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Used if the broker names no limit.
const INFLIGHT_BYTES_DEFAULT: usize = 8 << 20;
/// Below this, not even the smallest requests fit.
const INFLIGHT_BYTES_MIN: usize = 64 << 10;

/// What this client says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    /// Shown in group descriptions.
    pub(crate) client: String,
}

impl Connection {
    /// Connects and greets. Fails within a few seconds.
    pub(crate) async fn open(address: &str, greeting: &Greeting) -> Result<Arc<Connection>> {
        match timeout(HANDSHAKE_MAX, handshake(address, greeting)).await {
            Ok(opened) => opened,
            Err(_) => {
                let after = HANDSHAKE_MAX.as_secs();
                Err(Error::disconnected(format!("{address}: no answer within {after} s")))
            }
        }
    }
}

async fn handshake(address: &str, greeting: &Greeting) -> Result<Arc<Connection>> {
    let lost = |error: std::io::Error| Error::disconnected(format!("{address}: {error}"));
    let mut socket = TcpStream::connect(address).await.map_err(lost)?;
    socket.set_nodelay(true).map_err(lost)?;

    let hello = wire::Hello {
        version_min: VERSION,
        version_max: VERSION,
        client: greeting.client.clone(),
        features: Vec::new(),
    };
    let envelope = wire::Envelope { correlation: 1, body: Some(Body::Hello(hello)) };
    let mut buffer = BytesMut::new();
    encode_frame(&mut buffer, &envelope, 0).map_err(|e| Error::invalid(e.to_string()))?;
    socket.write_all(&buffer).await.map_err(lost)?;
    buffer.clear();

    let mut decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let frame = loop {
        let garbled = |e| Error::disconnected(format!("{address}: this is not a DureMQ broker: {e}"));
        if let Some(frame) = decoder.decode(&mut buffer).map_err(garbled)? {
            break frame;
        }
        if socket.read_buf(&mut buffer).await.map_err(lost)? == 0 {
            return Err(Error::disconnected(format!("{address}: closed before it greeted")));
        }
    };
    let reply = greeted(address, frame)?;
    Ok(start(socket, Incoming::new(decoder, buffer), &reply))
}

fn greeted(address: &str, frame: Frame) -> Result<wire::HelloReply> {
    match frame.envelope.body {
        Some(Body::HelloReply(reply)) if reply.version == VERSION => Ok(reply),
        Some(Body::HelloReply(reply)) => {
            let version = reply.version;
            Err(Error::protocol(format!("{address} speaks version {version} of the protocol, not {VERSION}")))
        }
        Some(Body::Error(error)) => Err(Error::from_wire(error)),
        _ => Err(Error::protocol(format!("{address} did not answer the greeting"))),
    }
}

fn start(socket: TcpStream, incoming: Incoming, reply: &wire::HelloReply) -> Arc<Connection> {
    let or_default = |value: u32, default: usize| if value == 0 { default } else { value as usize };
    let limits = Limits {
        frame_bytes_max: or_default(reply.frame_bytes_max, FRAME_BYTES_MAX),
        inflight_bytes_max: or_default(reply.inflight_bytes_max, INFLIGHT_BYTES_DEFAULT)
            .max(INFLIGHT_BYTES_MIN),
    };
    let shared = Arc::new(Shared::new(limits));
    let (outbox, inbox) = mpsc::unbounded_channel();
    let (read, write) = socket.into_split();
    tokio::spawn(writer::run(write, inbox, Arc::clone(&shared)));
    tokio::spawn(reader::run(read, incoming, outbox.downgrade(), Arc::clone(&shared)));
    Arc::new(Connection { shared, outbox })
}
