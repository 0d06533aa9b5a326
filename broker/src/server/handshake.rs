//! The first exchange on a connection: small, soon, and in a version that both know.

use bytes::BytesMut;
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{FRAME_BYTES_MAX, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::convert::{message, truncate};
use super::frames::{FrameFault, FrameReader, Received};
use crate::broker::Broker;

/// The one version so far.
const VERSION: u32 = 1;
const CLIENT_NAME_BYTES_MAX: usize = 255;
/// What is read and thrown away before a connection is closed on an error.
const DRAIN_BYTES_MAX: usize = 256 << 10;

/// What a client said of itself.
pub(super) struct Greeted {
    pub(super) client: String,
    /// The reply that is still to be sent.
    pub(super) reply: wire::Envelope,
}

/// Reads the Hello. `Ok(None)`: the client closed without a word.
pub(super) async fn greet(frames: &mut FrameReader, broker: &Broker) -> Result<Option<Greeted>, wire::Error> {
    let timeout = broker.options.hello_timeout;
    let frame = match tokio::time::timeout(timeout, frames.next()).await {
        Err(_) => {
            let text = format!("no Hello within {timeout:?}");
            return Err(message(ErrorCode::MalformedFrame, text, Retry::Never));
        }
        Ok(Err(fault)) => return Err(fault_message(&fault)),
        Ok(Ok(None)) => return Ok(None),
        Ok(Ok(Some(Received { frame, .. }))) => frame,
    };
    let correlation = frame.envelope.correlation;
    let Some(Body::Hello(hello)) = frame.envelope.body else {
        let text = "the first message must be a Hello; is this a DureMQ client?".to_owned();
        return Err(message(ErrorCode::MalformedFrame, text, Retry::Never));
    };
    let wire::Hello { version_min, version_max, mut client, .. } = hello;
    if !(version_min..=version_max).contains(&VERSION) {
        let text = format!(
            "this broker speaks version {VERSION} of the protocol, not {version_min} to {version_max}"
        );
        return Err(message(ErrorCode::UnsupportedVersion, text, Retry::Never));
    }
    truncate(&mut client, CLIENT_NAME_BYTES_MAX);
    let reply = wire::HelloReply {
        version: VERSION,
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: broker.epoch,
        frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).expect("a frame's length has 32 bits"),
        inflight_bytes_max: broker.options.connection_inflight_bytes_max,
        features: Vec::new(),
    };
    frames.set_max(FRAME_BYTES_MAX);
    Ok(Some(Greeted { client, reply: wire::Envelope { correlation, body: Some(Body::HelloReply(reply)) } }))
}

/// What a client is told of a frame that cannot be read.
pub(super) fn fault_message(fault: &FrameFault) -> wire::Error {
    use dure_proto::FrameError;
    let code = match fault {
        FrameFault::Bad(FrameError::TooLarge { .. } | FrameError::EnvelopeTooLarge { .. }) => {
            ErrorCode::FrameTooLarge
        }
        _ => ErrorCode::MalformedFrame,
    };
    message(code, fault.to_string(), Retry::Never)
}

/// Tells a connection why it is not served, and closes it.
pub(super) async fn refuse(stream: TcpStream, error: wire::Error) {
    let (mut read, mut write) = stream.into_split();
    send_last(&mut write, error).await;
    let mut scrap = [0; 1024];
    while let Ok(1..) = read.read(&mut scrap).await {}
}

/// Writes an error as the last thing that is sent.
pub(super) async fn send_last(write: &mut OwnedWriteHalf, error: wire::Error) {
    let mut bytes = BytesMut::new();
    let envelope = wire::Envelope { correlation: 0, body: Some(Body::Error(error)) };
    encode_frame(&mut bytes, &envelope, 0).expect("an error is small");
    // The client may be gone already.
    let _ = write.write_all(&bytes).await;
    let _ = write.shutdown().await;
}

pub(super) async fn drain(frames: &mut FrameReader) {
    frames.drain(DRAIN_BYTES_MAX).await;
}
