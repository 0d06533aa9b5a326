//! Pictures into files.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Picture;

/// The format of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Baseline JPEG, the default.
    #[default]
    Jpeg,
    /// PNG, without loss; the quality is not used.
    Png,
}

impl OutputFormat {
    /// The extension of its files, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            OutputFormat::Jpeg => "jpg",
            OutputFormat::Png => "png",
        }
    }
}

/// JPEG quality, 1 to 100; 85 unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Quality(u8);

impl Quality {
    /// Takes 1 to 100.
    pub fn new(quality: u8) -> Option<Self> {
        (1..=100).contains(&quality).then_some(Self(quality))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Quality {
    fn default() -> Self {
        Self(85)
    }
}

impl TryFrom<u8> for Quality {
    type Error = &'static str;

    fn try_from(quality: u8) -> Result<Self, Self::Error> {
        Self::new(quality).ok_or("the quality is a number from 1 to 100")
    }
}

impl From<Quality> for u8 {
    fn from(quality: Quality) -> u8 {
        quality.0
    }
}

/// A picture could not be encoded; trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the picture cannot be encoded as {format}: {reason}")]
pub struct EncodeError {
    format: &'static str,
    reason: String,
}

pub(super) fn encode(
    picture: &Picture,
    format: OutputFormat,
    quality: Quality,
) -> Result<Vec<u8>, EncodeError> {
    match format {
        OutputFormat::Jpeg => encode_jpeg(picture, quality),
        OutputFormat::Png => {
            encode_png(picture).map_err(|e| EncodeError { format: "PNG", reason: e.to_string() })
        }
    }
}

fn encode_jpeg(picture: &Picture, quality: Quality) -> Result<Vec<u8>, EncodeError> {
    let error = |reason: String| EncodeError { format: "JPEG", reason };
    let edge = |px: u32| u16::try_from(px).map_err(|_| error(format!("an edge of {px} pixels is too long")));
    let (width, height) = (edge(picture.width())?, edge(picture.height())?);
    // About what a photo takes at the default quality, so that the buffer seldom grows.
    let mut file = Vec::with_capacity(picture.rgb().len() / 8);
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, quality.get());
    if let Some(icc) = picture.icc_profile() {
        encoder.add_icc_profile(icc).map_err(|e| error(e.to_string()))?;
    }
    encoder
        .encode(picture.rgb(), width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|e| error(e.to_string()))?;
    Ok(file)
}

fn encode_png(picture: &Picture) -> Result<Vec<u8>, png::EncodingError> {
    let mut info = png::Info::with_size(picture.width(), picture.height());
    info.color_type = png::ColorType::Rgb;
    info.bit_depth = png::BitDepth::Eight;
    info.icc_profile = picture.icc_profile().map(Cow::Borrowed);
    let mut file = Vec::with_capacity(picture.rgb().len() / 2);
    let mut encoder = png::Encoder::with_info(&mut file, info)?;
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.rgb())?;
    writer.finish()?;
    Ok(file)
}
