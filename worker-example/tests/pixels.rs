//! What the operations do to pixels, and what kinds of files are understood.

mod common;

use common::*;
use photo_pipeline::ops::{LongestEdge, Op};
use photo_pipeline::picture::{ApplyError, Limits};
use photo_pipeline::{OutputFormat, Picture, Quality};

#[test]
fn crop_sizes_are_exact() {
    let photo = photo();
    let (w, h) = (photo.width(), photo.height());
    for percent in 1..=100_u32 {
        let fraction = f64::from(percent) / 100.0;
        let cropped = apply(&photo, &format!("crop={fraction}"));
        let expected = |edge: u32| ((f64::from(edge) * fraction).round() as u32).max(1);
        assert_eq!((cropped.width(), cropped.height()), (expected(w), expected(h)), "{fraction}");
    }
    let cropped = apply(&photo, "crop=101x57+13+29");
    assert_eq!((cropped.width(), cropped.height()), (101, 57));
    let at = |p: &Picture, x: usize, y: usize| {
        let at = (y * p.width() as usize + x) * 3;
        p.rgb()[at..at + 3].to_vec()
    };
    for (x, y) in [(0, 0), (100, 0), (0, 56), (100, 56), (50, 20)] {
        assert_eq!(at(&cropped, x, y), at(&photo, x + 13, y + 29));
    }
}

#[test]
fn crop_size_survives_the_file() {
    let photo = photo();
    for format in [OutputFormat::Jpeg, OutputFormat::Png] {
        for text in ["crop=0.37", "crop=1x1+5+5", "crop=17x9+600+400", "resize=333,crop=0.5"] {
            let cropped = apply(&photo, text);
            let file = cropped.encode(format, Quality::default()).unwrap();
            let again = Picture::decode(&file).unwrap();
            assert_eq!((again.width(), again.height()), (cropped.width(), cropped.height()), "{text}");
            if format == OutputFormat::Png {
                assert_eq!(again, cropped);
            }
        }
    }
}

#[test]
fn crop_out_of_the_picture_is_refused() {
    let photo = photo();
    let (w, h) = (photo.width(), photo.height());
    let whole = apply(&photo, &format!("crop={w}x{h}+0+0"));
    assert_eq!(whole, photo);
    for text in [
        format!("crop={}x{h}+0+0", w + 1),
        format!("crop={w}x{h}+0+1"),
        format!("crop=1x1+{w}+0"),
        "crop=20000x20000+20000+20000".into(),
        format!("crop=0.5,crop={w}x{h}+0+0"),
    ] {
        let error = photo.clone().apply(ops(&text).as_slice()).unwrap_err();
        assert!(matches!(error, ApplyError::CropOutside { .. }), "{text}: {error}");
    }
    let error = photo.clone().apply(ops("crop=0.5,crop=400x10+0+0").as_slice()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ops, step 2 `crop=400x10+0+0` is out of the picture, which measures 320x214 there; \
         choose a rectangle within it"
    );
}

#[test]
fn blur_lowers_and_sharpen_raises_the_laplacian() {
    let photo = photo();
    let sharpness = laplacian_variance(&photo);
    let mut before = sharpness;
    for sigma in ["0.5", "1", "2", "4", "8", "16"] {
        let after = laplacian_variance(&apply(&photo, &format!("blur={sigma}")));
        assert!(after < before, "blur={sigma}: {before} -> {after}");
        before = after;
    }
    let mut before = sharpness;
    for amount in ["0.2", "0.5", "1", "2", "4"] {
        let after = laplacian_variance(&apply(&photo, &format!("sharpen={amount}")));
        assert!(after > before, "sharpen={amount}: {before} -> {after}");
        before = after;
    }
    // The order counts, as written.
    assert_ne!(apply(&photo, "blur=2,sharpen=1"), apply(&photo, "sharpen=1,blur=2"));
}

#[test]
fn blur_is_a_gaussian() {
    // A white line on black spreads as the integral of the bell over each pixel; kernels that
    // sample the bell at pixel centres differ from that by little at this width.
    let (size, sigma) = (101_usize, 3.0_f64);
    let mut rgb = vec![0; size * size * 3];
    for row in rgb.chunks_exact_mut(size * 3) {
        row[size / 2 * 3..size / 2 * 3 + 3].fill(255);
    }
    let line = Picture::new(size as u32, size as u32, rgb);
    let blurred = apply(&line, "blur=3");
    let middle = &blurred.rgb()[size / 2 * size * 3..][..size * 3];
    for x in 0..size {
        let d = x as f64 - (size / 2) as f64;
        let bell = (-d * d / (2.0 * sigma * sigma)).exp() / (sigma * (2.0 * std::f64::consts::PI).sqrt());
        let value = f64::from(middle[x * 3]);
        assert!((value - 255.0 * bell).abs() < 1.5, "at {d}: {value} for {}", 255.0 * bell);
    }
}

#[test]
fn an_even_surface_stays_as_it_is() {
    for value in [0, 1, 127, 128, 254, 255] {
        let even = Picture::new(61, 47, vec![value; 61 * 47 * 3]);
        for text in ["blur=0.1", "blur=0.7", "blur=5", "blur=100", "sharpen=0.01", "sharpen=10"] {
            assert_eq!(apply(&even, text), even, "{text} on {value}");
        }
    }
}

#[test]
fn resize_gives_the_longest_edge_and_is_bounded() {
    let photo = photo();
    for edge in [1, 2, 99, 640, 641, 1200] {
        let resized = apply(&photo, &format!("resize={edge}"));
        assert_eq!(resized.width().max(resized.height()), edge);
    }
    let error = photo.apply(&[Op::Resize(LongestEdge::new(20_000).unwrap())]).unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { position: 1, .. }), "{error}");
}

#[test]
fn exif_orientation_is_respected() {
    // CIPA DC-008, table 4: which edges the first row and the first column belong to.
    let expected = ["RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB"];
    // Both larger and smaller than the tiles in which pixels are moved.
    for (width, height) in [(48, 32), (200, 99)] {
        let file = quarters(width, height).encode(OutputFormat::Jpeg, Quality::new(95).unwrap()).unwrap();
        for (orientation, expected) in (1_u16..).zip(expected) {
            for big_endian in [false, true] {
                let file = with_exif(&file, &exif_block(orientation, big_endian));
                let picture = Picture::decode(&file).unwrap();
                let size = if orientation < 5 { (width, height) } else { (height, width) };
                assert_eq!((picture.width(), picture.height()), size, "{orientation}");
                assert_eq!(corners(&picture), expected, "{orientation}");
            }
        }
    }
}

#[test]
fn exif_orientation_moves_every_pixel_to_its_place() {
    let photo = photo();
    let tag = |n: u16| {
        let mut info = png::Info::with_size(photo.width(), photo.height());
        info.color_type = png::ColorType::Rgb;
        info.exif_metadata = Some(exif_block(n, false).into());
        let mut file = Vec::new();
        let encoder = png::Encoder::with_info(&mut file, info).unwrap();
        encoder.write_header().unwrap().write_image_data(photo.rgb()).unwrap();
        Picture::decode(&file).unwrap()
    };
    let turned = tag(6);
    let (w, h) = (photo.width() as usize, photo.height() as usize);
    for y in 0..w {
        for x in 0..h {
            let there = (y * h + x) * 3;
            let here = ((h - 1 - x) * w + y) * 3;
            assert_eq!(turned.rgb()[there..there + 3], photo.rgb()[here..here + 3], "{x} {y}");
        }
    }
}

#[test]
fn nonsense_in_exif_does_not_hide_the_photo() {
    let file = quarters(48, 32).encode(OutputFormat::Jpeg, Quality::default()).unwrap();
    let plain = Picture::decode(&file).unwrap();
    let mut endless = exif_block(6, false);
    let end = endless.len();
    endless[end - 4..].copy_from_slice(&8_u32.to_le_bytes());
    let blocks = [vec![], b"II".to_vec(), vec![0xFF; 300], exif_block(0, false), exif_block(9, true)];
    for block in blocks {
        assert_eq!(Picture::decode(&with_exif(&file, &block)).unwrap(), plain, "{block:?}");
    }
    // A directory that leads back to itself: the tag was read before, or nothing is.
    assert!(Picture::decode(&with_exif(&file, &endless)).is_ok());
}

#[test]
fn gray_palette_alpha_and_deep_png_are_understood() {
    use png::{BitDepth, ColorType};
    let one = |colour, depth, data: &[u8]| {
        let picture = Picture::decode(&png_file((2, 1), colour, depth, data)).unwrap();
        picture.rgb().to_vec()
    };
    assert_eq!(one(ColorType::Grayscale, BitDepth::Eight, &[7, 9]), [7, 7, 7, 9, 9, 9]);
    assert_eq!(one(ColorType::Grayscale, BitDepth::One, &[0b0100_0000]), [0, 0, 0, 255, 255, 255]);
    // Transparent is white, half transparent half way there.
    let gray_alpha = one(ColorType::GrayscaleAlpha, BitDepth::Eight, &[0, 0, 0, 128]);
    assert_eq!(gray_alpha, [255, 255, 255, 127, 127, 127]);
    let rgba = one(ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 255, 1, 2, 3, 0]);
    assert_eq!(rgba, [1, 2, 3, 255, 255, 255]);
    let palette = one(ColorType::Indexed, BitDepth::Eight, &[0, 1]);
    assert_eq!(palette, [255, 0, 0, 255, 255, 255]);
    let deep = one(ColorType::Rgb, BitDepth::Sixteen, &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
    assert_eq!(deep, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn gray_and_cmyk_jpeg_are_understood() {
    let encode = |data: &[u8], colour| {
        let mut file = Vec::new();
        jpeg_encoder::Encoder::new(&mut file, 100).encode(data, 16, 16, colour).unwrap();
        Picture::decode(&file).unwrap().rgb()[..3].to_vec()
    };
    let near = |found: Vec<u8>, expected: [u8; 3]| {
        let close = found.iter().zip(expected).all(|(&f, e)| f.abs_diff(e) <= 4);
        assert!(close, "{found:?} for {expected:?}");
    };
    near(encode(&[77; 256], jpeg_encoder::ColorType::Luma), [77, 77, 77]);
    // No cyan, full magenta and yellow: red. Half black on white paper: gray.
    for colour in [jpeg_encoder::ColorType::Cmyk, jpeg_encoder::ColorType::CmykAsYcck] {
        near(encode(&[0, 255, 255, 0].repeat(256), colour), [255, 0, 0]);
        near(encode(&[0, 0, 0, 128].repeat(256), colour), [127, 127, 127]);
    }
}

#[test]
fn colour_profile_goes_along() {
    let mut profile = vec![0; 400];
    profile[16..20].copy_from_slice(b"RGB ");
    let mut file = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut file, 90);
    encoder.add_icc_profile(&profile).unwrap();
    encoder.encode(&[99; 32 * 32 * 3], 32, 32, jpeg_encoder::ColorType::Rgb).unwrap();
    let picture = apply(&Picture::decode(&file).unwrap(), "resize=20,crop=0.5,blur=1,sharpen=1");
    assert_eq!(picture.icc_profile(), Some(&profile[..]));
    for format in [OutputFormat::Jpeg, OutputFormat::Png] {
        let file = picture.encode(format, Quality::default()).unwrap();
        assert_eq!(Picture::decode(&file).unwrap().icc_profile(), Some(&profile[..]), "{format:?}");
    }
}

#[test]
fn limits_hold_for_what_lies_between() {
    let limits = Limits { edge_px_max: 700, pixels_max: 300_000 };
    let photo = photo();
    let ok = photo.clone().apply_within(ops("resize=600,crop=0.5").as_slice(), limits);
    assert!(ok.is_ok());
    let error = photo.apply_within(ops("resize=700,crop=0.1").as_slice(), limits).unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { width: 700, height: 467, .. }), "{error}");
}
