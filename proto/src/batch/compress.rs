//! The codecs of a batch's records: the lz4 frame format with independent blocks, which is all that Kafka's own
//! clients read, and zstd.

use std::fmt;
use std::io::{BufRead, Read, Write};
use std::str::FromStr;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::BatchError;

/// How the records of a batch are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// lz4 frame format.
    Lz4,
    /// zstd.
    Zstd,
}

impl Compression {
    /// The code in the batch attributes.
    pub(super) fn code(self) -> u16 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    pub(super) fn from_code(code: u16) -> Result<Compression, BatchError> {
        match code {
            0 => Ok(Compression::None),
            1 => Err(BatchError::UnsupportedCompression { name: "gzip" }),
            2 => Err(BatchError::UnsupportedCompression { name: "snappy" }),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            code => Err(BatchError::UnknownCompression { code }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        })
    }
}

/// A text that names no supported compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no supported compression: use none, lz4 or zstd")]
pub struct CompressionParseError(pub String);

impl FromStr for Compression {
    type Err = CompressionParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Compression::None),
            "lz4" => Ok(Compression::Lz4),
            "zstd" => Ok(Compression::Zstd),
            _ => Err(CompressionParseError(text.chars().take(80).collect())),
        }
    }
}

/// zstd's default level, as in Kafka's clients.
const ZSTD_LEVEL: i32 = 3;

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Unpacked records grow by at most this much before the limit is looked at again.
const CHUNK_BYTES: usize = 64 * 1024;

/// `prefix_bytes` zeros and the compressed `body`, or `None` if that is not smaller than `body` itself.
pub(super) fn compress(compression: Compression, body: &[u8], prefix_bytes: usize) -> Option<Vec<u8>> {
    let out = match compression {
        Compression::None => return None,
        Compression::Lz4 => lz4(body, prefix_bytes)?,
        Compression::Zstd => {
            // The room given is one byte less than `body` takes, so that zstd itself stops when it does not pay.
            let mut out = vec![0; prefix_bytes + body.len().saturating_sub(1)];
            let mut encoder = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?;
            let written = encoder.compress_to_buffer(body, &mut out[prefix_bytes..]).ok()?;
            out.truncate(prefix_bytes + written);
            out
        }
    };
    (out.len() - prefix_bytes < body.len()).then_some(out)
}

/// `prefix_bytes` zeros and an lz4 frame of nothing.
pub(super) fn nothing(prefix_bytes: usize) -> Vec<u8> {
    lz4(&[], prefix_bytes).expect("memory takes a few bytes")
}

fn lz4(body: &[u8], prefix_bytes: usize) -> Option<Vec<u8>> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, vec![0; prefix_bytes]);
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Unpacks exactly one frame of `compression`. Beside the result, which stays within `bytes_max`, memory goes to
/// the codec: up to three blocks of lz4 or one window of zstd, none of them larger than `bytes_max` or 64 KiB.
pub(super) fn decompress(
    compression: Compression,
    body: &[u8],
    bytes_max: usize,
) -> Result<Vec<u8>, BatchError> {
    match compression {
        Compression::None => unreachable!("records that are not compressed are sliced, not copied"),
        Compression::Lz4 => decompress_lz4(body, bytes_max),
        Compression::Zstd => decompress_zstd(body, bytes_max),
    }
}

fn decompress_lz4(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let fault = |reason: String| BatchError::Decompress { compression: Compression::Lz4, reason };
    // The decoder also takes the legacy format, which is not Kafka's and has blocks of 8 MiB.
    if body.len() < 7 || body[..4] != LZ4_MAGIC {
        return Err(fault("no lz4 frame".to_owned()));
    }
    // It reserves whole blocks of the size that the frame declares, before it sees one.
    let block_bytes = 1usize << (8 + 2 * u32::from(body[5] >> 4 & 0b111));
    if block_bytes > bytes_max.max(CHUNK_BYTES) {
        return Err(BatchError::DecompressedTooLarge { max: bytes_max });
    }
    let mut decoder = FrameDecoder::new(body);
    let mut out = Vec::with_capacity(body.len().saturating_mul(2).min(bytes_max));
    loop {
        let chunk = decoder.fill_buf().map_err(|error| fault(error.to_string()))?;
        if chunk.is_empty() {
            break;
        }
        extend(&mut out, chunk, bytes_max)?;
        let bytes = chunk.len();
        decoder.consume(bytes);
    }
    match decoder.get_ref().len() {
        0 => Ok(out),
        bytes => Err(BatchError::TrailingBytes { position: body.len() - bytes, bytes }),
    }
}

fn decompress_zstd(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let fault = |error: std::io::Error| BatchError::Decompress {
        compression: Compression::Zstd,
        reason: error.to_string(),
    };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(fault)?.single_frame();
    // A frame that asks for a larger window than its records could fill is refused before it is allocated.
    let window_log = bytes_max.max(1).ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
    decoder.window_log_max(window_log).map_err(fault)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut out = Vec::with_capacity(body.len().saturating_mul(2).min(bytes_max));
    loop {
        let bytes = decoder.read(&mut chunk).map_err(fault)?;
        if bytes == 0 {
            break;
        }
        extend(&mut out, &chunk[..bytes], bytes_max)?;
    }
    match decoder.finish().len() {
        0 => Ok(out),
        bytes => Err(BatchError::TrailingBytes { position: body.len() - bytes, bytes }),
    }
}

/// The smallest window that zstd lets one ask for.
const WINDOW_LOG_MIN: u32 = 10;
/// The largest window that zstd decodes by itself.
const WINDOW_LOG_MAX: u32 = 27;

/// Appends within the limit; the capacity never grows beyond it either.
fn extend(out: &mut Vec<u8>, chunk: &[u8], bytes_max: usize) -> Result<(), BatchError> {
    let needed = out.len() + chunk.len();
    if needed > bytes_max {
        return Err(BatchError::DecompressedTooLarge { max: bytes_max });
    }
    if needed > out.capacity() {
        let capacity = needed.max(2 * out.capacity()).min(bytes_max);
        out.reserve_exact(capacity - out.len());
    }
    out.extend_from_slice(chunk);
    Ok(())
}
