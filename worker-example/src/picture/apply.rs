//! The operations on pixels.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use libblur::{
    BlurImage, BlurImageMut, ConvolutionMode, EdgeMode, EdgeMode2D, FastBlurChannels, GaussianBlurParams,
    ThreadingPolicy,
};

use super::{ApplyError, Limits, PIXEL_BYTES, Picture};
use crate::ops::{Amount, Op, Rect, Sigma};

/// The blur that an unsharp mask takes away, in pixels: about the softness of a lens and of one
/// resampling.
const SHARPEN_SIGMA_PX: f64 = 1.0;

pub(super) fn apply(picture: Picture, ops: &[Op], limits: Limits) -> Result<Picture, ApplyError> {
    let mut picture = picture;
    for (i, &op) in ops.iter().enumerate() {
        let position = i + 1;
        let (width, height) = (picture.width, picture.height);
        let failed = |reason| ApplyError::Filter { position, op, reason };
        picture = match op {
            Op::CropFraction(fraction) => crop(picture, centred(width, height, fraction.get())),
            Op::CropRect(rect) => {
                if u64::from(rect.x()) + u64::from(rect.width()) > u64::from(width)
                    || u64::from(rect.y()) + u64::from(rect.height()) > u64::from(height)
                {
                    return Err(ApplyError::CropOutside { position, rect, width, height });
                }
                crop(picture, Area::from(rect))
            }
            Op::Blur(sigma) => blur(picture, sigma).map_err(failed)?,
            Op::Sharpen(amount) => sharpen(picture, amount).map_err(failed)?,
            Op::Resize(edge) => {
                let (width, height) = scaled(width, height, edge.get());
                if !limits.admit(width, height) {
                    return Err(ApplyError::TooLarge { position, op, width, height, limits });
                }
                resize(&picture, width, height).map_err(failed)?
            }
        };
    }
    Ok(picture)
}

pub(super) fn thumbnail(picture: &Picture, width_max: u32, height_max: u32) -> Picture {
    let (width, height) = (picture.width, picture.height);
    // Which edge touches the box first; as products, since fractions would round.
    let by_width = u64::from(width) * u64::from(height_max) >= u64::from(height) * u64::from(width_max);
    let (w, h) = if by_width {
        (width_max, proportional(height, width_max, width))
    } else {
        (proportional(width, height_max, height), height_max)
    };
    if w >= width || h >= height {
        return picture.clone();
    }
    resize(picture, w.max(1), h.max(1)).expect("an RGB picture is scaled to a size above zero")
}

/// What a crop keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    width: u32,
    height: u32,
    x: u32,
    y: u32,
}

impl From<Rect> for Area {
    fn from(r: Rect) -> Self {
        Self { width: r.width(), height: r.height(), x: r.x(), y: r.y() }
    }
}

fn centred(width: u32, height: u32, fraction: f64) -> Area {
    let keep = |edge: u32| ((f64::from(edge) * fraction).round() as u32).clamp(1, edge);
    let (w, h) = (keep(width), keep(height));
    Area { width: w, height: h, x: (width - w) / 2, y: (height - h) / 2 }
}

fn crop(picture: Picture, area: Area) -> Picture {
    if (area.width, area.height) == (picture.width, picture.height) {
        return picture;
    }
    let row_bytes = picture.row_bytes();
    let left = area.x as usize * PIXEL_BYTES;
    let wanted = left..left + area.width as usize * PIXEL_BYTES;
    let rows = picture.rgb.chunks_exact(row_bytes);
    let rows = rows.skip(area.y as usize).take(area.height as usize);
    let mut rgb = Vec::with_capacity(wanted.len() * area.height as usize);
    for row in rows {
        rgb.extend_from_slice(&row[wanted.clone()]);
    }
    Picture { width: area.width, height: area.height, rgb, ..picture }
}

/// `edge` scaled by `to / from`, rounded, at least 1.
fn proportional(edge: u32, to: u32, from: u32) -> u32 {
    let (edge, to, from) = (u64::from(edge), u64::from(to), u64::from(from));
    // Never more than `to`, since `edge` is the shorter one.
    (((2 * edge * to + from) / (2 * from)) as u32).max(1)
}

fn scaled(width: u32, height: u32, longest: u32) -> (u32, u32) {
    if width >= height {
        (longest, proportional(height, longest, width))
    } else {
        (proportional(width, longest, height), longest)
    }
}

fn resize(picture: &Picture, width: u32, height: u32) -> Result<Picture, String> {
    if (width, height) == (picture.width, picture.height) {
        return Ok(picture.clone());
    }
    let source = ImageRef::new(picture.width, picture.height, &picture.rgb, PixelType::U8x3)
        .map_err(|e| e.to_string())?;
    let mut target = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
    let icc_profile = picture.icc_profile.clone();
    Ok(Picture { icc_profile, ..Picture::new(width, height, target.into_vec()) })
}

fn blur(picture: Picture, sigma: Sigma) -> Result<Picture, String> {
    Ok(Picture { rgb: blurred(&picture, sigma.get())?, ..picture })
}

/// One thread: the pool has as many processes as there is work for.
fn blurred(picture: &Picture, sigma: f64) -> Result<Vec<u8>, String> {
    let mut rgb = vec![0; picture.rgb.len()];
    let (width, height) = (picture.width, picture.height);
    let source = BlurImage::borrow(&picture.rgb, width, height, FastBlurChannels::Channels3);
    let mut target = BlurImageMut::borrow(&mut rgb, width, height, FastBlurChannels::Channels3);
    libblur::gaussian_blur(
        &source,
        &mut target,
        GaussianBlurParams::new_from_sigma(sigma),
        EdgeMode2D::new(EdgeMode::Clamp),
        ThreadingPolicy::Single,
        // The fixed-point mode is little faster and wrong at both ends: it truncates its weights, so
        // that wide kernels darken the picture, and one weight of 1 overflows.
        ConvolutionMode::Exact,
    )
    .map_err(|e| e.to_string())?;
    Ok(rgb)
}

/// Unsharp mask: what a small blur takes away is the detail; it is added once more, times amount.
fn sharpen(picture: Picture, amount: Amount) -> Result<Picture, String> {
    const ONE: f64 = 256.0;
    let soft = blurred(&picture, SHARPEN_SIGMA_PX)?;
    let amount = (amount.get() * ONE).round() as i32;
    let mut picture = picture;
    for (pixel, soft) in picture.rgb.iter_mut().zip(soft) {
        let value = i32::from(*pixel);
        let detail = value - i32::from(soft);
        *pixel = (value + ((detail * amount + 128) >> 8)).clamp(0, 255) as u8;
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crop_is_centred_and_never_empty() {
        assert_eq!(centred(640, 427, 0.8), Area { width: 512, height: 342, x: 64, y: 42 });
        assert_eq!(centred(5, 5, 0.5), Area { width: 3, height: 3, x: 1, y: 1 });
        assert_eq!(centred(3, 1, 0.0001), Area { width: 1, height: 1, x: 1, y: 0 });
        assert_eq!(centred(640, 427, 1.0), Area { width: 640, height: 427, x: 0, y: 0 });
    }

    #[test]
    fn longest_edge_is_exact() {
        assert_eq!(scaled(640, 427, 1200), (1200, 801));
        assert_eq!(scaled(427, 640, 1200), (801, 1200));
        assert_eq!(scaled(20_000, 1, 10), (10, 1));
        assert_eq!(scaled(7, 7, 3), (3, 3));
    }

    #[test]
    fn one_pixel_survives_everything() {
        let one = Picture::new(1, 1, vec![10, 20, 30]);
        for ops in ["blur=100", "blur=0.1", "sharpen=10", "resize=1", "crop=0.01", "crop=1x1+0+0"] {
            let ops: crate::ops::Ops = ops.parse().unwrap();
            assert_eq!(one.clone().apply(ops.as_slice()).unwrap(), one, "{ops}");
        }
        let thin = Picture::new(3, 1, vec![200; 9]);
        let ops: crate::ops::Ops = "blur=50,sharpen=3,resize=30".parse().unwrap();
        let wide = thin.apply(ops.as_slice()).unwrap();
        assert_eq!((wide.width(), wide.height()), (30, 10));
    }
}
