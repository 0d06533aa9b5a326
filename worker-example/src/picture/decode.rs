//! Files into pictures.

use std::io::Cursor;

use png::{ColorType, DecodingError};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::orientation::Orientation;
use super::{DecodeError, Limits, PIXEL_BYTES, Picture, jpeg_walk};

/// Largest colour profile that is kept. Real ones have 0.5 to 600 KiB.
const ICC_PROFILE_BYTES_MAX: usize = 1 << 20;
/// What a PNG file's text, profile and other side chunks may take while it is read.
const PNG_CHUNK_BYTES_MAX: usize = 16 << 20;

pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    if file.starts_with(&[0xFF, 0xD8, 0xFF]) {
        decode_jpeg(file, limits)
    } else if file.starts_with(b"\x89PNG\r\n\x1a\n") {
        decode_png(file, limits)
    } else {
        Err(DecodeError::UnknownFormat { found: guess(file) })
    }
}

/// Names what people most likely hand in by mistake.
fn guess(file: &[u8]) -> Option<&'static str> {
    match file {
        [] => Some("an empty file"),
        [b'G', b'I', b'F', b'8', ..] => Some("a GIF"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("a WebP"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("a HEIC, AVIF or video file"),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Some("a TIFF or raw photo"),
        [b'B', b'M', ..] => Some("a BMP"),
        _ => None,
    }
}

fn admit(width: u32, height: u32, limits: Limits) -> Result<(), DecodeError> {
    if limits.admit(width, height) { Ok(()) } else { Err(DecodeError::TooLarge { width, height, limits }) }
}

fn decode_jpeg(file: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    let frame = jpeg_walk::walk(file)?;
    admit(frame.width, frame.height, limits)?;
    let file = jpeg_walk::with_stopper(file, frame);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits.edge_px_max as usize)
        .set_max_height(limits.edge_px_max as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&file), options);
    let rgb = decoder.decode().map_err(jpeg_error)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    // The decoder reads the same header as the walk did, unless the file has two.
    if (width, height) != (frame.width as usize, frame.height as usize)
        || rgb.is_empty()
        || rgb.len() != width * height * PIXEL_BYTES
    {
        return Err(jpeg_error(DecodeErrors::FormatStatic("its headers contradict each other")));
    }
    let icc_profile = decoder.icc_profile().filter(|icc| is_rgb_profile(icc));
    let orientation = decoder.exif().map(|tiff| Orientation::from_exif(tiff));
    let picture = Picture { width: frame.width, height: frame.height, rgb, icc_profile };
    Ok(match orientation {
        Some(orientation) => orientation.apply(picture),
        None => picture,
    })
}

fn jpeg_error(error: DecodeErrors) -> DecodeError {
    const FORMAT: &str = "JPEG";
    match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => DecodeError::Truncated { format: FORMAT },
        // Its `Display` is its `Debug`; these two carry a sentence.
        DecodeErrors::FormatStatic(reason) => {
            DecodeError::Malformed { format: FORMAT, reason: reason.into() }
        }
        DecodeErrors::Format(reason) => DecodeError::Malformed { format: FORMAT, reason },
        other => DecodeError::Malformed { format: FORMAT, reason: format!("{other:?}") },
    }
}

fn decode_png(file: &[u8], limits: Limits) -> Result<Picture, DecodeError> {
    let mut decoder =
        png::Decoder::new_with_limits(Cursor::new(file), png::Limits { bytes: PNG_CHUNK_BYTES_MAX });
    decoder.set_ignore_text_chunk(true);
    // Palettes become colours, 1 to 4 bits 8, 16 bits 8, a transparent colour an alpha channel.
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(png_error)?;
    let (width, height) = (header.width, header.height);
    admit(width, height, limits)?;

    let mut reader = decoder.read_info().map_err(png_error)?;
    let size = reader.output_buffer_size().ok_or(DecodeError::TooLarge { width, height, limits })?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(png_error)?;
    // Reads on to the end, so that a file without one is found out.
    reader.finish().map_err(png_error)?;
    pixels.truncate(frame.buffer_size());

    let info = reader.info();
    let icc_profile = info.icc_profile.as_deref().filter(|icc| is_rgb_profile(icc));
    let icc_profile = icc_profile.map(<[u8]>::to_vec);
    let orientation = info.exif_metadata.as_deref().map(Orientation::from_exif);
    let rgb = match frame.color_type {
        ColorType::Rgb => pixels,
        ColorType::Rgba => flatten::<4>(&pixels, |p| ([p[0], p[1], p[2]], p[3])),
        ColorType::Grayscale => flatten::<1>(&pixels, |p| ([p[0]; 3], u8::MAX)),
        ColorType::GrayscaleAlpha => flatten::<2>(&pixels, |p| ([p[0]; 3], p[1])),
        ColorType::Indexed => {
            let reason = "its palette was not expanded".into();
            return Err(DecodeError::Malformed { format: "PNG", reason });
        }
    };
    let picture = Picture { icc_profile, ..Picture::new(width, height, rgb) };
    Ok(match orientation {
        Some(orientation) => orientation.apply(picture),
        None => picture,
    })
}

/// Lays pixels of `N` bytes on white.
fn flatten<const N: usize>(pixels: &[u8], split: impl Fn(&[u8; N]) -> ([u8; 3], u8)) -> Vec<u8> {
    let (pixels, _) = pixels.as_chunks::<N>();
    let mut rgb = Vec::with_capacity(pixels.len() * PIXEL_BYTES);
    for pixel in pixels {
        let (colour, alpha) = split(pixel);
        let (alpha, white) = (u32::from(alpha), 255 * (255 - u32::from(alpha)));
        rgb.extend(colour.map(|c| ((u32::from(c) * alpha + white + 127) / 255) as u8));
    }
    rgb
}

fn png_error(error: DecodingError) -> DecodeError {
    const FORMAT: &str = "PNG";
    match &error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format: FORMAT }
        }
        _ => DecodeError::Malformed { format: FORMAT, reason: error.to_string() },
    }
}

/// A profile is kept only if it speaks of the colours that the picture now has.
fn is_rgb_profile(icc: &[u8]) -> bool {
    icc.len() <= ICC_PROFILE_BYTES_MAX && icc.get(16..20) == Some(b"RGB ")
}
