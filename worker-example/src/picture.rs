//! Pictures: decode, change, encode. No file and no clock in here.

mod apply;
mod decode;
mod encode;
mod jpeg_walk;
mod orientation;

use std::fmt;

use crate::ops::{Op, Rect};

pub use encode::{EncodeError, OutputFormat, Quality};

/// Bytes of one pixel: red, green, blue.
const PIXEL_BYTES: usize = 3;

/// What a picture may measure; checked against the header, before memory is allocated for pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest edge in pixels.
    pub edge_px_max: u32,
    /// Width times height. A pixel takes 3 bytes, and twice that again while it is worked on.
    pub pixels_max: u64,
}

impl Default for Limits {
    /// 20,000 pixels an edge, 100 megapixels.
    fn default() -> Self {
        Self { edge_px_max: crate::ops::EDGE_PX_MAX, pixels_max: 100_000_000 }
    }
}

impl Limits {
    fn admit(self, width: u32, height: u32) -> bool {
        width.max(height) <= self.edge_px_max && u64::from(width) * u64::from(height) <= self.pixels_max
    }
}

/// A picture of 8-bit RGB pixels, the way it is meant to be looked at: its EXIF orientation is
/// applied, gray and CMYK are converted, and what was transparent lies on white.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    /// Row by row; exactly `width * height * PIXEL_BYTES` bytes.
    rgb: Vec<u8>,
    /// The RGB colour profile that the values refer to; without one they are sRGB.
    icc_profile: Option<Vec<u8>>,
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Picture {
    /// Takes pixels row by row, 3 bytes each.
    ///
    /// # Panics
    /// If a size is zero or the number of bytes does not fit it.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "a picture has at least one pixel");
        assert_eq!(rgb.len(), width as usize * height as usize * PIXEL_BYTES);
        Self { width, height, rgb, icc_profile: None }
    }

    /// Decodes a JPEG or PNG file within the default [`Limits`].
    pub fn decode(file: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_within(file, Limits::default())
    }

    /// Decodes a JPEG or PNG file. A file that is cut short or damaged is an error; nothing is
    /// made up for what is missing.
    pub fn decode_within(file: &[u8], limits: Limits) -> Result<Self, DecodeError> {
        decode::decode(file, limits)
    }

    /// Applies the operations in order, within the default [`Limits`].
    pub fn apply(self, ops: &[Op]) -> Result<Self, ApplyError> {
        self.apply_within(ops, Limits::default())
    }

    /// Applies the operations in order; no result in between exceeds the limits.
    pub fn apply_within(self, ops: &[Op], limits: Limits) -> Result<Self, ApplyError> {
        apply::apply(self, ops, limits)
    }

    /// Encodes the picture as a file. The same picture gives the same bytes. (Blurring and decoding
    /// may differ by one in a rare value between kinds of processors, as floating point does.)
    pub fn encode(&self, format: OutputFormat, quality: Quality) -> Result<Vec<u8>, EncodeError> {
        encode::encode(self, format, quality)
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels row by row, red, green and blue.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The ICC profile of the values, if there is one.
    pub fn icc_profile(&self) -> Option<&[u8]> {
        self.icc_profile.as_deref()
    }

    /// A copy that fits into a box, keeping the proportions; never larger than the picture itself.
    pub fn thumbnail(&self, width_max: u32, height_max: u32) -> Self {
        apply::thumbnail(self, width_max, height_max)
    }

    fn row_bytes(&self) -> usize {
        self.width as usize * PIXEL_BYTES
    }
}

/// Why a file is no picture for us. None of these can be helped by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Neither JPEG nor PNG, by its first bytes.
    #[error("not a JPEG or PNG file{}", found.map(|f| format!(" but {f}")).unwrap_or_default())]
    UnknownFormat {
        /// What it looks like, if that is known.
        found: Option<&'static str>,
    },
    /// The file ends before the picture does.
    #[error("the {format} file is cut short: it ends before the picture does")]
    Truncated {
        /// `JPEG` or `PNG`.
        format: &'static str,
    },
    /// Larger than the limits.
    #[error(
        "the picture measures {width}x{height} pixels; at most {} an edge and {} in all are taken",
        limits.edge_px_max, limits.pixels_max
    )]
    TooLarge {
        /// Width that the header states.
        width: u32,
        /// Height that the header states.
        height: u32,
        /// The limits that it exceeds.
        limits: Limits,
    },
    /// The content contradicts the format, or uses what is not supported.
    #[error("the {format} file cannot be decoded: {reason}")]
    Malformed {
        /// `JPEG` or `PNG`.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
}

/// Why an operation does not fit the picture. None of these can be helped by trying again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The rectangle does not lie within the picture at that step.
    #[error(
        "ops, step {position} `crop={rect}` is out of the picture, which measures {width}x{height} there; choose a rectangle within it"
    )]
    CropOutside {
        /// The step, counted from 1.
        position: usize,
        /// The rectangle.
        rect: Rect,
        /// Width of the picture when its turn came.
        width: u32,
        /// Height of the picture when its turn came.
        height: u32,
    },
    /// The result would exceed the limits.
    #[error(
        "ops, step {position} `{op}` makes a picture of {width}x{height} pixels; at most {} an edge and {} in all are taken",
        limits.edge_px_max, limits.pixels_max
    )]
    TooLarge {
        /// The step, counted from 1.
        position: usize,
        /// The operation.
        op: Op,
        /// Width that the result would have.
        width: u32,
        /// Height that the result would have.
        height: u32,
        /// The limits that it exceeds.
        limits: Limits,
    },
    /// A filter refused its input.
    #[error("ops, step {position} `{op}` failed: {reason}")]
    Filter {
        /// The step, counted from 1.
        position: usize,
        /// The operation.
        op: Op,
        /// What the filter said.
        reason: String,
    },
}
