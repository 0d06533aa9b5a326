//! The frame of the native protocol:
//!
//! ```text
//! 0 u32 LE  length of what follows this field
//! 4 u32 LE  length of the envelope
//! 8         Envelope, protobuf
//!           attachment, up to the end of the frame
//! ```
//!
//! No length is believed before it is compared with its limit, and a partial frame holds no more memory than
//! about twice what has arrived of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::batch::BATCH_BYTES_MAX;
use crate::entry::ENTRY_BYTES_MAX;
use crate::{ReusedBuffer, wire};

/// Size of the two lengths before the envelope.
pub const FRAME_HEADER_BYTES: usize = 8;
/// The largest frame, not counting its first length field.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest frame as the first one on a connection, counted likewise.
pub const HELLO_BYTES_MAX: usize = 4096;
/// The largest envelope. An empty message of two bytes decodes to up to 168, in a vector that doubles: this bounds
/// memory where the frame's limit does not.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

/// What a length field itself takes.
pub const FRAME_LENGTH_BYTES: usize = 4;
/// Room that is made for a frame at once; a larger one gets more as it arrives.
const RESERVE_BYTES: usize = 1024 * 1024;
/// Room for the rest of a frame below which more is made.
const ROOM_BYTES_MIN: usize = 64 * 1024;

const _: () = assert!(HELLO_BYTES_MAX < ENVELOPE_BYTES_MAX);
const _: () = assert!(
    FRAME_LENGTH_BYTES + ENVELOPE_BYTES_MAX + BATCH_BYTES_MAX <= FRAME_BYTES_MAX,
    "any batch can be produced"
);
const _: () = assert!(
    FRAME_LENGTH_BYTES + ENVELOPE_BYTES_MAX + ENTRY_BYTES_MAX <= FRAME_BYTES_MAX,
    "any entry can be delivered"
);
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);

/// One message and the bytes that travel with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The message.
    pub envelope: wire::Envelope,
    /// A slice of the buffer that the frame was read into, which it keeps alive; empty if there is none.
    pub attachment: Bytes,
}

impl Frame {
    /// Reads a whole frame; `content` is what follows its first length field.
    ///
    /// # Errors
    /// [`FrameError`], but not for its length as a whole.
    pub fn parse(mut content: Bytes) -> Result<Frame, FrameError> {
        let length = content.len();
        let envelope_bytes = length_at(&content, 0).ok_or(FrameError::TooShort { length })?;
        check_envelope(envelope_bytes, length)?;
        content.advance(FRAME_LENGTH_BYTES);
        let envelope = wire::Envelope::decode(&content[..envelope_bytes])?;
        content.advance(envelope_bytes);
        // An empty slice would still keep the buffer alive.
        let attachment = if content.is_empty() { Bytes::new() } else { content };
        Ok(Frame { envelope, attachment })
    }
}

/// A large frame while it is read, into memory that is taken for all of it at once and was used before.
#[derive(Debug)]
pub struct LargeFrame {
    /// From its first length field on.
    buffer: ReusedBuffer,
    bytes: usize,
}

impl LargeFrame {
    /// Of `declared` bytes, as [`FrameDecoder::declared`] says, the first of which are `begun`, length field included.
    #[must_use]
    pub fn begin(declared: usize, begun: &[u8]) -> LargeFrame {
        let bytes = FRAME_LENGTH_BYTES + declared;
        let mut buffer = ReusedBuffer::with_room(bytes);
        buffer.extend_from_slice(begun);
        LargeFrame { buffer, bytes }
    }

    /// Where the rest is to be put.
    pub fn rest(&mut self) -> impl BufMut {
        let missing = self.bytes - self.buffer.len();
        (&mut *self.buffer).limit(missing)
    }

    /// Whether all of it is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.buffer.len() == self.bytes
    }

    /// The frame, once it is whole.
    ///
    /// # Errors
    /// As [`Frame::parse`].
    pub fn parse(self) -> Result<Frame, FrameError> {
        let mut frame = self.buffer.freeze();
        frame.advance(FRAME_LENGTH_BYTES);
        Frame::parse(frame)
    }
}

/// Takes frames off the front of a buffer that a connection reads into.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    bytes_max: usize,
}

impl FrameDecoder {
    /// A decoder for frames of at most `bytes_max`, not counting the first length field.
    ///
    /// # Panics
    /// If `bytes_max` is more than [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn new(bytes_max: usize) -> FrameDecoder {
        assert!(bytes_max <= FRAME_BYTES_MAX, "frames are at most {FRAME_BYTES_MAX} bytes, not {bytes_max}");
        FrameDecoder { bytes_max }
    }

    /// Changes the limit, once the Hello has passed.
    ///
    /// # Panics
    /// As [`FrameDecoder::new`].
    pub fn set_max(&mut self, bytes_max: usize) {
        *self = FrameDecoder::new(bytes_max);
    }

    /// Takes the first frame off `buffer`, or makes room for more of it and returns `None`.
    ///
    /// # Errors
    /// [`FrameError`]; the connection cannot go on then, since where the next frame starts is unknown.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.declared(buffer)? else {
            return Ok(None);
        };
        let missing = (FRAME_LENGTH_BYTES + length).saturating_sub(buffer.len());
        if missing > 0 {
            // Doubling, and only when little room is left, so that no frame is paid for before it arrives.
            if buffer.capacity() - buffer.len() < missing.min(ROOM_BYTES_MIN) {
                buffer.reserve(missing.min(RESERVE_BYTES.max(buffer.len())));
            }
            return Ok(None);
        }
        let mut frame = buffer.split_to(FRAME_LENGTH_BYTES + length);
        frame.advance(FRAME_LENGTH_BYTES);
        Frame::parse(frame.freeze()).map(Some)
    }

    /// What follows the first length field of the frame at the front of `buffer`, in bytes, if that field has arrived:
    /// within the limit, and with room for the envelope, as far as that is known.
    ///
    /// # Errors
    /// As [`FrameDecoder::decode`].
    pub fn declared(&self, buffer: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(length) = length_at(buffer, 0) else {
            return Ok(None);
        };
        if length > self.bytes_max {
            return Err(FrameError::TooLarge { length, max: self.bytes_max });
        }
        if length < FRAME_LENGTH_BYTES {
            return Err(FrameError::TooShort { length });
        }
        if let Some(envelope) = length_at(buffer, FRAME_LENGTH_BYTES) {
            check_envelope(envelope, length)?;
        }
        Ok(Some(length))
    }
}

/// Appends a frame up to its attachment of `attachment_bytes`, which the caller writes behind it.
///
/// # Errors
/// [`FrameError::TooLarge`] and [`FrameError::EnvelopeTooLarge`]; nothing is appended then.
pub fn encode_frame(
    out: &mut BytesMut,
    envelope: &wire::Envelope,
    attachment_bytes: usize,
) -> Result<(), FrameError> {
    let envelope_bytes = envelope.encoded_len();
    if envelope_bytes > ENVELOPE_BYTES_MAX {
        return Err(FrameError::EnvelopeTooLarge { length: envelope_bytes, max: ENVELOPE_BYTES_MAX });
    }
    let length = (FRAME_LENGTH_BYTES + envelope_bytes).saturating_add(attachment_bytes);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { length, max: FRAME_BYTES_MAX });
    }
    out.reserve(FRAME_HEADER_BYTES + envelope_bytes);
    out.put_u32_le(length as u32);
    out.put_u32_le(envelope_bytes as u32);
    // Into room that is there: a buffer that might have to grow is asked for it with every byte.
    let start = out.len();
    out.resize(start + envelope_bytes, 0);
    envelope.encode_raw(&mut &mut out[start..]);
    Ok(())
}

/// Appends a whole frame.
///
/// # Errors
/// As [`encode_frame`].
pub fn encode_frame_with(
    out: &mut BytesMut,
    envelope: &wire::Envelope,
    attachment: &[u8],
) -> Result<(), FrameError> {
    encode_frame(out, envelope, attachment.len())?;
    out.put_slice(attachment);
    Ok(())
}

/// Why bytes are not a frame, or a message cannot be sent as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit; nothing was allocated for it.
    #[error("frame of {length} bytes is larger than the limit of {max}")]
    TooLarge {
        /// What follows the first length field.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// Too short to say how long its envelope is; also what zeros are told.
    #[error("frame of {length} bytes has no envelope")]
    TooShort {
        /// What follows the first length field.
        length: usize,
    },
    /// The envelope is longer than the limit.
    #[error("envelope of {length} bytes is larger than the limit of {max}")]
    EnvelopeTooLarge {
        /// Size of the envelope.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The envelope says that it ends behind its frame.
    #[error("envelope of {envelope} bytes in a frame of {frame} bytes")]
    EnvelopeBeyondFrame {
        /// Size of the envelope as stated.
        envelope: usize,
        /// What follows the first length field.
        frame: usize,
    },
    /// The envelope is no `Envelope` message.
    #[error("cannot decode the envelope: {0}")]
    Envelope(#[from] prost::DecodeError),
}

fn check_envelope(envelope: usize, frame: usize) -> Result<(), FrameError> {
    if envelope > frame - FRAME_LENGTH_BYTES {
        return Err(FrameError::EnvelopeBeyondFrame { envelope, frame });
    }
    if envelope > ENVELOPE_BYTES_MAX {
        return Err(FrameError::EnvelopeTooLarge { length: envelope, max: ENVELOPE_BYTES_MAX });
    }
    Ok(())
}

/// The length field at `at`, if it has arrived.
fn length_at(buffer: &[u8], at: usize) -> Option<usize> {
    let field = buffer.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field) as usize)
}
