//! Helpers that several tests share.

#![allow(dead_code, reason = "each test binary uses some of them")]

use photo_pipeline::sample::PHOTOS;
use photo_pipeline::{Job, Ops, OutputFormat, Picture, Quality, Store};

/// Parses operations.
pub(crate) fn ops(text: &str) -> Ops {
    text.parse().unwrap()
}

/// Applies operations to a picture.
pub(crate) fn apply(picture: &Picture, text: &str) -> Picture {
    picture.clone().apply(ops(text).as_slice()).unwrap()
}

/// A real photograph.
pub(crate) fn photo() -> Picture {
    Picture::decode(PHOTOS[0].file).unwrap()
}

/// Stores a file and makes a JPEG job of it.
pub(crate) fn job(store: &Store, file: &[u8], input: &str, text: &str) -> Job {
    Job {
        photo: store.put(file).unwrap(),
        input: input.into(),
        ops: ops(text),
        format: OutputFormat::Jpeg,
        quality: Quality::default(),
    }
}

/// How sharp a picture is: the variance of its luma's Laplacian (the kernel 0 1 0, 1 -4 1, 0 1 0),
/// over all pixels that have four neighbours. Pech-Pacheco et al., ICPR 2000.
pub(crate) fn laplacian_variance(picture: &Picture) -> f64 {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let luma: Vec<f64> = picture
        .rgb()
        .chunks_exact(3)
        .map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]))
        .collect();
    let mut values = Vec::new();
    for y in 1..height - 1 {
        for x in 1..width - 1 {
            let at = y * width + x;
            let around = luma[at - 1] + luma[at + 1] + luma[at - width] + luma[at + width];
            values.push(around - 4.0 * luma[at]);
        }
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
}

/// Four quarters: red and green above, blue and white below.
pub(crate) fn quarters(width: u32, height: u32) -> Picture {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            rgb.extend(match (x < width / 2, y < height / 2) {
                (true, true) => [255, 0, 0],
                (false, true) => [0, 255, 0],
                (true, false) => [0, 0, 255],
                (false, false) => [255, 255, 255],
            });
        }
    }
    Picture::new(width, height, rgb)
}

/// The colours in the corners, read row by row, as letters: `RGBW` for [`quarters`] as it is.
pub(crate) fn corners(picture: &Picture) -> String {
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    let letter = |x: usize, y: usize| {
        let at = (y * w + x) * 3;
        match picture.rgb()[at..at + 3].iter().map(|&v| v > 127).collect::<Vec<_>>()[..] {
            [true, false, false] => 'R',
            [false, true, false] => 'G',
            [false, false, true] => 'B',
            [true, true, true] => 'W',
            _ => '?',
        }
    };
    [(2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3)].map(|(x, y)| letter(x, y)).iter().collect()
}

/// A TIFF block with nothing but the orientation.
pub(crate) fn exif_block(orientation: u16, big_endian: bool) -> Vec<u8> {
    let two = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let four = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut tiff = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    tiff.extend(two(42));
    tiff.extend(four(8)); // Where the directory begins,
    tiff.extend(two(1)); // its one entry:
    tiff.extend(two(0x0112)); // Orientation,
    tiff.extend(two(3)); // SHORT,
    tiff.extend(four(1)); // one of them,
    tiff.extend(two(orientation)); // the value,
    tiff.extend(two(0));
    tiff.extend(four(0)); // and no directory after it.
    tiff
}

/// Puts an EXIF block into a JPEG file, right behind its start.
pub(crate) fn with_exif(jpeg: &[u8], tiff: &[u8]) -> Vec<u8> {
    let mut file = jpeg[..2].to_vec();
    file.extend([0xFF, 0xE1]);
    file.extend(u16::try_from(2 + 6 + tiff.len()).unwrap().to_be_bytes());
    file.extend(b"Exif\0\0");
    file.extend(tiff);
    file.extend(&jpeg[2..]);
    file
}

/// Encodes rows as PNG in a given colour type and depth.
pub(crate) fn png_file(
    size: (u32, u32),
    colour: png::ColorType,
    depth: png::BitDepth,
    data: &[u8],
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size.0, size.1);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(&[255, 0, 0, 0, 0, 255][..]);
        encoder.set_trns(&[255, 0][..]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    file
}

/// Width and height that a PNG file's header states, read without our decoder.
pub(crate) fn png_size(file: &[u8]) -> (u32, u32) {
    assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
