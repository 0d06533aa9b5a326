//! Compressed batches that unpack to more than they may, in a process of their own, whose peak memory is looked
//! at.

mod common;

use std::io::Write;

use bytes::Bytes;
use common::raw_batch;
use dure_proto::{BatchError, BatchLimits, Records};
use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

const LZ4: u16 = 3;
const ZSTD: u16 = 4;
const BOMB_BYTES: usize = 128 << 20;

fn refusal(attributes: u16, body: &[u8], decompressed_bytes_max: usize) -> BatchError {
    let batch = Bytes::from(raw_batch(attributes, 1, body));
    let limits = BatchLimits { decompressed_bytes_max, ..BatchLimits::default() };
    Records::decode(&batch, &limits).expect_err("a bomb")
}

/// Peak resident memory of this process, where the system tells.
fn peak_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

fn lz4_bomb() -> Vec<u8> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    let chunk = [0; 64 * 1024];
    for _ in 0..BOMB_BYTES / chunk.len() {
        encoder.write_all(&chunk).expect("compresses");
    }
    encoder.finish().expect("compresses")
}

/// A zstd frame made by hand (RFC 8878): it declares a window and no content size, then repeats a zero byte,
/// 128 KiB in each block of four bytes. Making it takes no memory that could hide what refusing it takes.
fn zstd_bomb(window_log: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    let block_bytes: u32 = 128 * 1024;
    let blocks = BOMB_BYTES as u32 / block_bytes;
    for block in 1..=blocks {
        let header = u32::from(block == blocks) | 1 << 1 | block_bytes << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn bombs_are_refused_before_they_take_memory() {
    let lz4 = lz4_bomb();
    let zstd = zstd_bomb(20);
    let zstd_wide = zstd_bomb(27);
    let before = peak_bytes();

    let max = 1 << 20;
    assert_eq!(refusal(LZ4, &lz4, max), BatchError::DecompressedTooLarge { max });
    assert_eq!(refusal(ZSTD, &zstd, max), BatchError::DecompressedTooLarge { max });
    // A window of 128 MiB is refused by its size alone.
    assert!(matches!(refusal(ZSTD, &zstd_wide, max), BatchError::Decompress { .. }));

    // lz4 declares blocks of 4 MiB, which would be reserved whole.
    let mut wide_blocks =
        FrameEncoder::with_frame_info(FrameInfo::new().block_size(BlockSize::Max4MB), Vec::new());
    wide_blocks.write_all(&[0; 100]).expect("compresses");
    let wide_blocks = wide_blocks.finish().expect("compresses");
    assert_eq!(refusal(LZ4, &wide_blocks, max), BatchError::DecompressedTooLarge { max });

    if let (Some(before), Some(after)) = (before, peak_bytes()) {
        let grown = after - before;
        assert!(grown < 16 << 20, "{grown} bytes were taken under a limit of {max}");
    }
}

#[test]
fn frames_that_lie_about_their_size_are_refused() {
    let honest = zstd::bulk::compress(&[7; 1000], 3).expect("compresses");
    // Frame header: one segment, content size less 256 in two bytes.
    assert_eq!(honest[4] & 0b1110_0000, 0b0110_0000);
    assert_eq!(honest[5..7], 744u16.to_le_bytes());
    for lie in [0u16, 743, 745, u16::MAX] {
        let mut frame = honest.clone();
        frame[5..7].copy_from_slice(&lie.to_le_bytes());
        assert!(matches!(refusal(ZSTD, &frame, 1 << 20), BatchError::Decompress { .. }), "{lie}");
    }
    // The same frame saying that it holds 2^40 bytes, in eight bytes.
    let mut frame = honest[..4].to_vec();
    frame.push(0b1110_0000);
    frame.extend_from_slice(&(1u64 << 40).to_le_bytes());
    frame.extend_from_slice(&honest[7..]);
    assert!(matches!(refusal(ZSTD, &frame, 1 << 20), BatchError::Decompress { .. }));

    for lie in [0, 999, 1001, u64::MAX] {
        let info = FrameInfo::new().content_size(Some(1000));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&[7; 1000]).expect("compresses");
        let mut frame = encoder.finish().expect("compresses");
        frame[6..14].copy_from_slice(&u64::to_le_bytes(lie));
        assert!(matches!(refusal(LZ4, &frame, 1 << 20), BatchError::Decompress { .. }), "{lie}");
    }
}

#[test]
fn bytes_behind_a_frame_and_frames_cut_off_are_refused() {
    let body = [12, 0, 0, 0, 1, 1, 0];
    let mut lz4 = FrameEncoder::new(Vec::new());
    lz4.write_all(&body).expect("compresses");
    for (attributes, frame) in [
        (LZ4, lz4.finish().expect("compresses")),
        (ZSTD, zstd::bulk::compress(&body, 3).expect("compresses")),
    ] {
        let sound = Bytes::from(raw_batch(attributes, 1, &frame));
        assert!(Records::decode(&sound, &BatchLimits::default()).is_ok());
        let twice = [&frame[..], &frame[..]].concat();
        let expected = BatchError::TrailingBytes { position: frame.len(), bytes: frame.len() };
        assert_eq!(refusal(attributes, &twice, 1 << 20), expected);
        // lz4's four zeros at the end say only that nothing follows; everything before them must be there.
        for length in 7..frame.len() - if attributes == LZ4 { 4 } else { 0 } {
            let batch = Bytes::from(raw_batch(attributes, 1, &frame[..length]));
            assert!(Records::decode(&batch, &BatchLimits::default()).is_err(), "{attributes}, {length}");
        }
    }
}
