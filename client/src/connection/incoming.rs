//! What has been read of a connection and is not dispatched yet.

use std::io;

use bytes::{BufMut, BytesMut};
use dure_proto::{FRAME_HEADER_BYTES, FRAME_LENGTH_BYTES, Frame, FrameDecoder, FrameError, LargeFrame};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A read that finds less room than this gets more.
const READ_BYTES_MIN: usize = 32 << 10;
const READ_BYTES: usize = 256 << 10;
/// Frames above this are read into memory of their own.
const LARGE_BYTES_MIN: usize = 128 << 10;
/// Behind a large frame another is likely: little of it is read into memory that it has to be moved out of.
const BEHIND_LARGE_BYTES: usize = 4 << 10;

pub(super) struct Incoming {
    decoder: FrameDecoder,
    /// What stands before `buffer`, and is not whole while that is empty.
    large: Option<LargeFrame>,
    buffer: BytesMut,
    behind_large: bool,
}

impl Incoming {
    /// `buffer`: what was read already.
    pub(super) fn new(decoder: FrameDecoder, buffer: BytesMut) -> Incoming {
        Incoming { decoder, large: None, buffer, behind_large: false }
    }

    /// Reads some more and returns how much, 0 at the end. Nothing is lost when it is cancelled.
    pub(super) async fn read(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if let Some(large) = &mut self.large {
            return socket.read_buf(&mut large.rest()).await;
        }
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
        let bytes_max = if self.behind_large { BEHIND_LARGE_BYTES } else { READ_BYTES };
        socket.read_buf(&mut (&mut self.buffer).limit(bytes_max)).await
    }

    /// The next frame that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(large) = &self.large
            && !large.is_whole()
        {
            return Ok(None);
        }
        if let Some(whole) = self.large.take() {
            self.behind_large = true;
            return whole.parse().map(Some);
        }
        let declared = self.decoder.declared(&self.buffer)?.unwrap_or_default();
        let is_large = declared > LARGE_BYTES_MIN;
        if is_large && (FRAME_HEADER_BYTES..FRAME_LENGTH_BYTES + declared).contains(&self.buffer.len()) {
            self.large = Some(LargeFrame::begin(declared, &self.buffer.split()));
            return Ok(None);
        }
        let frame = self.decoder.decode(&mut self.buffer)?;
        if frame.is_some() {
            self.behind_large = is_large;
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::wire::{Envelope, Ping, envelope::Body};
    use dure_proto::{FRAME_BYTES_MAX, encode_frame_with};

    use super::*;

    /// Frames whose attachments have these lengths, one behind the other.
    fn encoded(lengths: &[usize]) -> BytesMut {
        let mut out = BytesMut::new();
        for (correlation, length) in (1..).zip(lengths) {
            let envelope = Envelope { correlation, body: Some(Body::Ping(Ping {})) };
            let attachment: Vec<u8> = (0..*length).map(|at| (at + correlation as usize) as u8).collect();
            encode_frame_with(&mut out, &envelope, &attachment).unwrap();
        }
        out
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_whole_and_in_order_however_they_arrive() {
        let large = LARGE_BYTES_MIN;
        let lengths = [0, 10, large + 1, 0, large - 20, large, 1 << 20, 300_000, 1, 3 << 20, 5];
        for pipe_bytes in [1 << 10, 7_001, 256 << 10, 8 << 20] {
            let mut sent = encoded(&lengths);
            let begun = sent.split_to(5);
            let (mut far, mut near) = tokio::io::duplex(pipe_bytes);
            let sending = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await.unwrap();
            });
            let mut incoming = Incoming::new(FrameDecoder::new(FRAME_BYTES_MAX), begun);
            let mut seen = Vec::new();
            loop {
                while let Some(frame) = incoming.next().unwrap() {
                    let at = frame.envelope.correlation as usize;
                    assert_eq!(at, seen.len() + 1);
                    let whole = (0..).zip(&frame.attachment).all(|(i, byte)| *byte == (i + at) as u8);
                    assert!(whole, "frame {at} by {pipe_bytes}");
                    seen.push(frame.attachment.len());
                }
                if incoming.read(&mut near).await.unwrap() == 0 {
                    break;
                }
            }
            assert_eq!(seen, lengths);
            sending.await.unwrap();
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_before_anything_is_taken_for_it() {
        let mut incoming = Incoming::new(FrameDecoder::new(200_000), encoded(&[300_000]).split_to(8));
        assert!(matches!(incoming.next(), Err(FrameError::TooLarge { .. })));
    }
}
