//! EXIF orientation: how the camera was held (tag 0x0112, CIPA DC-008).

use super::{PIXEL_BYTES, Picture};

/// Side of the square of pixels that is moved at a time when rows become columns: its source rows
/// and its target rows stay in the first-level cache together.
const TILE_PX: usize = 32;

/// Where the stored picture's upper left corner belongs; the eight values of the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation {
    /// First rows and columns change places …
    transpose: bool,
    /// … then the result is mirrored left to right …
    mirror: bool,
    /// … and upside down.
    flip: bool,
}

impl Orientation {
    const UPRIGHT: Self = Self { transpose: false, mirror: false, flip: false };

    /// Reads a TIFF block as EXIF has it. One that is damaged or has no such tag means upright: a
    /// photo is worth showing even if its camera wrote nonsense beside it.
    pub(super) fn from_exif(tiff: &[u8]) -> Self {
        // JPEG decoders strip this prefix, PNG writers sometimes keep it by mistake.
        let tiff = tiff.strip_prefix(b"Exif\0\0").unwrap_or(tiff);
        let mut reader = exif::Reader::new();
        let read = reader.continue_on_error(true).read_raw(tiff.to_vec());
        let Ok(exif) = read.or_else(|e| e.distill_partial_result(|_| ())) else {
            return Self::UPRIGHT;
        };
        let field = exif.get_field(exif::Tag::Orientation, exif::In::PRIMARY);
        Self::from_tag(field.and_then(|f| f.value.get_uint(0)).unwrap_or(1))
    }

    fn from_tag(value: u32) -> Self {
        let (transpose, mirror, flip) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => return Self::UPRIGHT,
        };
        Self { transpose, mirror, flip }
    }

    /// Turns the picture upright.
    pub(super) fn apply(self, picture: Picture) -> Picture {
        if self == Self::UPRIGHT {
            return picture;
        }
        let (source_width, source_height) = (picture.width as usize, picture.height as usize);
        let (width, height) =
            if self.transpose { (source_height, source_width) } else { (source_width, source_height) };
        let mut rgb = vec![0; picture.rgb.len()];
        for tile_y in (0..height).step_by(TILE_PX) {
            for tile_x in (0..width).step_by(TILE_PX) {
                for y in tile_y..(tile_y + TILE_PX).min(height) {
                    for x in tile_x..(tile_x + TILE_PX).min(width) {
                        let u = if self.mirror { width - 1 - x } else { x };
                        let v = if self.flip { height - 1 - y } else { y };
                        let (u, v) = if self.transpose { (v, u) } else { (u, v) };
                        let from = (v * source_width + u) * PIXEL_BYTES;
                        let to = (y * width + x) * PIXEL_BYTES;
                        rgb[to..to + PIXEL_BYTES].copy_from_slice(&picture.rgb[from..from + PIXEL_BYTES]);
                    }
                }
            }
        }
        Picture { width: width as u32, height: height as u32, rgb, ..picture }
    }
}
