//! Reads frames off a connection: nothing is believed before it is checked, nothing takes for ever, and a connection
//! that sends nothing holds no buffer. A large frame is read into one that others were read into before.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dure_proto::{
    FRAME_HEADER_BYTES, FRAME_LENGTH_BYTES, Frame, FrameDecoder, FrameError, HELLO_BYTES_MAX, LargeFrame,
};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Room made before each read.
const READ_BYTES_MIN: usize = 8 << 10;
/// Frames above this take room in `assembling` before they are read further, so that slow senders of large frames
/// cannot fill the memory, and hold up nobody but senders of large frames.
const UNMETERED_BYTES_MAX: usize = 64 << 10;

pub(super) struct FrameReader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    decoder: FrameDecoder,
    frame_timeout: Duration,
    assembling: Arc<Semaphore>,
}

/// A frame, what it took, and its room while it was read.
pub(super) struct Received {
    pub(super) frame: Frame,
    pub(super) bytes: usize,
    /// Given back once the frame has found room among the requests in flight.
    pub(super) assembly: Option<OwnedSemaphorePermit>,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameFault {
    #[error("the connection closed in the middle of a frame")]
    CutOff,
    #[error(transparent)]
    Bad(#[from] FrameError),
    #[error("a frame took longer than {0:?}")]
    TooSlow(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameReader {
    /// Starts with the limits of a Hello.
    pub(super) fn new(
        stream: OwnedReadHalf,
        frame_timeout: Duration,
        assembling: Arc<Semaphore>,
    ) -> FrameReader {
        let decoder = FrameDecoder::new(HELLO_BYTES_MAX);
        FrameReader { stream, buffer: BytesMut::new(), decoder, frame_timeout, assembling }
    }

    /// The Hello has passed.
    pub(super) fn set_max(&mut self, bytes_max: usize) {
        self.decoder.set_max(bytes_max);
    }

    /// The next frame; `None` when the client closed between two.
    pub(super) async fn next(&mut self) -> Result<Option<Received>, FrameFault> {
        let mut deadline = None;
        loop {
            let declared = self.decoder.declared(&self.buffer)?.unwrap_or_default();
            if declared > UNMETERED_BYTES_MAX && self.buffer.len() >= FRAME_HEADER_BYTES {
                return self.next_large(declared).await.map(Some);
            }
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(Received { frame, bytes: declared, assembly: None }));
            }
            if self.buffer.is_empty() {
                if !self.read_first().await? {
                    return Ok(None);
                }
                continue;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.frame_timeout);
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN / 4 {
                self.buffer.reserve(READ_BYTES_MIN);
            }
            match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
                Err(_) => return Err(FrameFault::TooSlow(self.frame_timeout)),
                Ok(Ok(0)) => return Err(FrameFault::CutOff),
                Ok(read) => _ = read?,
            }
        }
    }

    /// The rest of a frame that takes room while it is read, of `declared` bytes behind its first length field.
    async fn next_large(&mut self, declared: usize) -> Result<Received, FrameFault> {
        let permits = u32::try_from(declared).expect("the decoder checked the limit");
        let assembly = self.assembling.clone().acquire_many_owned(permits).await.expect("never closed");
        let begun = self.buffer.len().min(FRAME_LENGTH_BYTES + declared);
        let mut frame = LargeFrame::begin(declared, &self.buffer.split_to(begun));
        let deadline = Instant::now() + self.frame_timeout;
        while !frame.is_whole() {
            match timeout_at(deadline, self.stream.read_buf(&mut frame.rest())).await {
                Err(_) => return Err(FrameFault::TooSlow(self.frame_timeout)),
                Ok(Ok(0)) => return Err(FrameFault::CutOff),
                Ok(read) => _ = read?,
            }
        }
        Ok(Received { frame: frame.parse()?, bytes: declared, assembly: Some(assembly) })
    }

    /// Throws away what still comes, so that closing does not reset the connection under an error that is on its way.
    pub(super) async fn drain(&mut self, bytes_max: usize) {
        let mut bytes = 0;
        while bytes < bytes_max {
            self.buffer.clear();
            self.buffer.reserve(READ_BYTES_MIN);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => bytes += read,
            }
        }
    }

    /// The first bytes of a frame, however long they take to come; `false` at the end of the stream.
    async fn read_first(&mut self) -> Result<bool, FrameFault> {
        loop {
            self.buffer.reserve(READ_BYTES_MIN);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(read) => return Ok(read > 0),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.buffer = BytesMut::new();
                    self.stream.readable().await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}
