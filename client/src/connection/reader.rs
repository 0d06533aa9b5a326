//! The reading half, which also notices a peer that has gone silent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{FRAME_HEADER_BYTES, FRAME_LENGTH_BYTES, FrameDecoder, FrameError, LargeFrame};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::shared::Shared;
use super::writer::Outgoing;

/// A read that finds less room than this gets more.
const READ_BYTES_MIN: usize = 32 << 10;
const READ_BYTES: usize = 256 << 10;
/// Frames above this are read into memory of their own.
const LARGE_BYTES_MIN: usize = 128 << 10;
/// Behind a large frame another is likely: little of it is read into memory that it has to be moved out of.
const BEHIND_LARGE_BYTES: usize = 4 << 10;

/// After this long without a byte the peer is asked for a sign of life, every time again.
const SILENCE: Duration = Duration::from_secs(10);
/// So many silences in a row and the connection is given up.
const SILENCES_MAX: u32 = 3;
/// Nobody waits for the answer to a ping under this id.
const PING_CORRELATION: u64 = u64::MAX;

pub(super) async fn run(
    mut socket: OwnedReadHalf,
    decoder: FrameDecoder,
    buffer: BytesMut,
    outbox: mpsc::WeakUnboundedSender<Outgoing>,
    shared: Arc<Shared>,
) {
    let mut tick = interval(SILENCE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut silences = 0;
    let mut incoming = Incoming { decoder, buffer, large: None, behind_large: false };
    let reason = loop {
        if let Err(reason) = incoming.dispatch_all(&shared) {
            break reason;
        }
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            read = incoming.read(&mut socket) => match read {
                Ok(0) => break "the broker closed the connection".to_owned(),
                Ok(_) => silences = 0,
                Err(error) => break format!("reading failed: {error}"),
            },
            _ = tick.tick() => {
                silences += 1;
                if silences > SILENCES_MAX {
                    break format!("no sign of life for {} s", (SILENCE * silences).as_secs());
                }
                // With nobody left to send for, the writer is closing.
                let Some(outbox) = outbox.upgrade() else { continue };
                let body = Some(Body::Ping(wire::Ping {}));
                let envelope = wire::Envelope { correlation: PING_CORRELATION, body };
                let _ = outbox.send(Outgoing { envelope, attachment: bytes::Bytes::new() });
            }
        }
    };
    tracing::debug!(%reason, "connection lost");
    shared.die(&reason);
}

/// What has been read and is not dispatched.
struct Incoming {
    decoder: FrameDecoder,
    buffer: BytesMut,
    /// What stands before `buffer`.
    large: Option<LargeFrame>,
    behind_large: bool,
}

impl Incoming {
    /// Reads some more; nothing is lost when it is cancelled.
    async fn read(&mut self, socket: &mut OwnedReadHalf) -> io::Result<usize> {
        if let Some(large) = &mut self.large {
            return socket.read_buf(&mut large.rest()).await;
        }
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
        let bytes_max = if self.behind_large { BEHIND_LARGE_BYTES } else { usize::MAX };
        socket.read_buf(&mut (&mut self.buffer).limit(bytes_max)).await
    }

    /// Dispatches all frames that are whole.
    fn dispatch_all(&mut self, shared: &Shared) -> Result<(), String> {
        let garbled = |error: FrameError| format!("the broker's bytes make no sense: {error}");
        loop {
            if let Some(whole) = self.large.take_if(|large| large.is_whole()) {
                self.behind_large = true;
                shared.dispatch(whole.parse().map_err(garbled)?)?;
            }
            let declared = self.decoder.declared(&self.buffer).map_err(garbled)?.unwrap_or_default();
            let bytes = FRAME_LENGTH_BYTES + declared;
            if declared > LARGE_BYTES_MIN && (FRAME_HEADER_BYTES..bytes).contains(&self.buffer.len()) {
                self.large = Some(LargeFrame::begin(declared, &self.buffer.split()));
                return Ok(());
            }
            match self.decoder.decode(&mut self.buffer).map_err(garbled)? {
                Some(frame) => {
                    self.behind_large = declared > LARGE_BYTES_MIN;
                    shared.dispatch(frame)?;
                }
                None => return Ok(()),
            }
        }
    }
}
