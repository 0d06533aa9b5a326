//! Files that are cut short, damaged, too large or something else altogether.

mod common;

use common::*;
use photo_pipeline::picture::DecodeError;
use photo_pipeline::sample::PHOTOS;
use photo_pipeline::{OutputFormat, Picture, Quality};

fn jpeg_variants() -> Vec<(&'static str, Vec<u8>)> {
    let photo = photo();
    let encode = |progressive: bool, restart: u16| {
        let mut file = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut file, 85);
        encoder.set_progressive(progressive);
        if restart > 0 {
            encoder.set_restart_interval(restart);
        }
        let (w, h) = (photo.width() as u16, photo.height() as u16);
        encoder.encode(photo.rgb(), w, h, jpeg_encoder::ColorType::Rgb).unwrap();
        file
    };
    vec![
        ("china", PHOTOS[0].file.to_vec()),
        ("flower", PHOTOS[1].file.to_vec()),
        ("baseline", encode(false, 0)),
        ("restarts", encode(false, 8)),
        ("progressive", encode(true, 0)),
        ("progressive with restarts", encode(true, 8)),
    ]
}

#[test]
fn jpeg_cut_anywhere_is_an_error() {
    for (name, file) in jpeg_variants() {
        assert!(Picture::decode(&file).is_ok(), "{name}");
        let cuts = (0..file.len()).step_by(file.len() / 60).chain(file.len() - 40..file.len());
        for cut in cuts {
            let error = Picture::decode(&file[..cut]).expect_err(name);
            if cut > 3 {
                let expected = DecodeError::Truncated { format: "JPEG" };
                assert_eq!(error, expected, "{name} cut at {cut} of {}", file.len());
            }
        }
    }
}

/// Recovery tools and careless uploads leave such files: half of the picture, and a proper end.
#[test]
fn jpeg_cut_and_closed_again_is_an_error() {
    for (name, file) in jpeg_variants() {
        // Cut between two scans, a progressive file is a whole, coarser picture; and within a scan of
        // bare correction bits nothing tells that some are missing, nor can it be seen.
        let parts = if name.starts_with("progressive") { 1..5 } else { 1..40 };
        for part in parts {
            let cut = file.len() * part / 40;
            let closed = [&file[..cut], &[0xFF, 0xD9]].concat();
            assert!(Picture::decode(&closed).is_err(), "{name} cut at {cut} of {}", file.len());
        }
    }
}

/// A few bytes of entropy-coded data: the decoder's look-ahead reaches the end before it is done.
/// (Not covered: sequential files with one scan per component. zune-jpeg 0.5.15 leaves such a scan
/// when its look-ahead meets the next one, which spoils pictures of less than 32 bits a row of blocks.)
#[test]
fn tiny_and_even_jpegs_are_whole() {
    for (width, height) in [(1, 1), (8, 8), (9, 300), (300, 9), (64, 640)] {
        for restart in [0, 1, 7] {
            for progressive in [false, true] {
                let data = vec![200; width * height * 3];
                let mut file = Vec::new();
                let mut encoder = jpeg_encoder::Encoder::new(&mut file, 50);
                encoder.set_progressive(progressive);
                if restart > 0 {
                    encoder.set_restart_interval(restart);
                }
                encoder.encode(&data, width as u16, height as u16, jpeg_encoder::ColorType::Rgb).unwrap();
                let picture = Picture::decode(&file).unwrap();
                assert!(picture.rgb().iter().all(|v| v.abs_diff(200) < 4), "{width}x{height}");
            }
        }
    }
}

#[test]
fn jpeg_that_goes_on_after_its_end_is_fine() {
    for (name, mut file) in jpeg_variants() {
        let plain = Picture::decode(&file).unwrap();
        file.extend(b"trailing bytes \xFF\xD8\xFF as phones append them");
        assert_eq!(Picture::decode(&file).unwrap(), plain, "{name}");
    }
}

#[test]
fn jpeg_thumbnail_does_not_pass_for_the_photo() {
    // A small JPEG within the EXIF block has an end-of-image marker of its own.
    let small = quarters(16, 16).encode(OutputFormat::Jpeg, Quality::default()).unwrap();
    let mut exif = exif_block(1, false);
    exif.extend(&small);
    let file = with_exif(PHOTOS[0].file, &exif);
    assert_eq!(Picture::decode(&file).unwrap(), photo());
    let cut = &file[..file.len() / 2];
    assert_eq!(Picture::decode(cut), Err(DecodeError::Truncated { format: "JPEG" }));
}

#[test]
fn png_cut_anywhere_is_an_error() {
    let file = apply(&photo(), "resize=200").encode(OutputFormat::Png, Quality::default()).unwrap();
    assert!(Picture::decode(&file).is_ok());
    for cut in (0..file.len()).step_by(file.len() / 60).chain(file.len() - 14..file.len()) {
        assert!(Picture::decode(&file[..cut]).is_err(), "cut at {cut} of {}", file.len());
    }
    let cut = &file[..file.len() / 2];
    assert_eq!(Picture::decode(cut), Err(DecodeError::Truncated { format: "PNG" }));
}

#[test]
fn png_with_a_flipped_bit_is_an_error() {
    let file = quarters(64, 64).encode(OutputFormat::Png, Quality::default()).unwrap();
    for at in 0..file.len() {
        let mut file = file.clone();
        file[at] ^= 0x10;
        if let Ok(picture) = Picture::decode(&file) {
            panic!("a flip at {at} went unnoticed: {picture:?}");
        }
    }
}

#[test]
fn jpeg_with_flipped_bits_never_panics() {
    let file = apply(&photo(), "resize=64").encode(OutputFormat::Jpeg, Quality::default()).unwrap();
    for at in 0..file.len() {
        for bit in [0x01, 0x80] {
            let mut file = file.clone();
            file[at] ^= bit;
            let _ = Picture::decode(&file);
        }
    }
}

/// A header that promises far more pixels than there are bytes.
#[test]
fn bombs_are_refused_by_their_header() {
    let mut png = png_file((16, 16), png::ColorType::Grayscale, png::BitDepth::One, &[0; 32]);
    png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let crc = crc32fast::hash(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = Picture::decode(&png).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { width: 60_000, height: 60_000, .. }), "{error}");

    let mut jpeg = quarters(16, 16).encode(OutputFormat::Jpeg, Quality::default()).unwrap();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    let error = Picture::decode(&jpeg).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { width: 65_535, height: 65_535, .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the picture measures 65535x65535 pixels; at most 20000 an edge and 100000000 in all are taken"
    );
}

#[test]
fn a_profile_that_unpacks_to_very_much_is_not_kept() {
    let mut info = png::Info::with_size(1, 1);
    info.color_type = png::ColorType::Rgb;
    info.icc_profile = Some(vec![0; 64 << 20].into());
    let mut file = Vec::new();
    let encoder = png::Encoder::with_info(&mut file, info).unwrap();
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3]).unwrap();
    if let Ok(picture) = Picture::decode(&file) {
        assert_eq!(picture.icc_profile(), None);
    }
}

#[test]
fn other_files_are_named() {
    let table: [(&[u8], &str); 5] = [
        (b"", "not a JPEG or PNG file but an empty file"),
        (b"hello", "not a JPEG or PNG file"),
        (b"GIF89a....", "not a JPEG or PNG file but a GIF"),
        (b"RIFF....WEBPVP8 ", "not a JPEG or PNG file but a WebP"),
        (b"\0\0\0\x18ftypheic", "not a JPEG or PNG file but a HEIC, AVIF or video file"),
    ];
    for (file, expected) in table {
        assert_eq!(Picture::decode(file).unwrap_err().to_string(), expected);
    }
}

#[test]
fn garbage_behind_the_right_beginning_is_an_error() {
    for start in [&b"\xFF\xD8\xFF"[..], b"\xFF\xD8\xFF\xE0", b"\x89PNG\r\n\x1a\n"] {
        for filler in [0x00, 0x41, 0xD9, 0xFF] {
            let mut file = start.to_vec();
            file.resize(5000, filler);
            assert!(Picture::decode(&file).is_err(), "{start:?} {filler}");
        }
    }
}
