//! Reads frames off a connection: nothing is believed before it is checked, nothing takes for ever, and a connection
//! that sends nothing holds no buffer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use dure_proto::{Frame, FrameDecoder, FrameError, HELLO_BYTES_MAX};
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
    bytes_max: usize,
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
        FrameReader {
            stream,
            buffer: BytesMut::new(),
            decoder,
            bytes_max: HELLO_BYTES_MAX,
            frame_timeout,
            assembling,
        }
    }

    /// The Hello has passed.
    pub(super) fn set_max(&mut self, bytes_max: usize) {
        self.decoder.set_max(bytes_max);
        self.bytes_max = bytes_max;
    }

    /// The next frame; `None` when the client closed between two.
    pub(super) async fn next(&mut self) -> Result<Option<Received>, FrameFault> {
        let mut assembly = None;
        let mut deadline = None;
        loop {
            let declared = self.declared();
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(Received { frame, bytes: declared.unwrap_or_default(), assembly }));
            }
            if let Some(length) =
                declared.filter(|length| *length > UNMETERED_BYTES_MAX && assembly.is_none())
            {
                let length = u32::try_from(length).expect("the decoder checked the limit");
                assembly =
                    Some(self.assembling.clone().acquire_many_owned(length).await.expect("never closed"));
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

    /// What the frame at the front takes, if that is known and within the limit.
    fn declared(&self) -> Option<usize> {
        let length = u32::from_le_bytes(*self.buffer.first_chunk()?) as usize;
        (length <= self.bytes_max).then_some(length)
    }
}
