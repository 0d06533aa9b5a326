//! Walks over the markers of a JPEG file (ITU-T T.81, annex B) without decoding it.
//!
//! Two questions have to be answered before the decoder is let at it: how large the picture claims
//! to be, so that nothing is allocated for a bomb, and whether the file reaches its end-of-image
//! marker. Decoders fill what is missing at the end with gray, and even a strict one does not look
//! behind the last row.

use super::DecodeError;

const FORMAT: &str = "JPEG";

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// What the walk finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where the end-of-image marker begins.
    end: usize,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// All ones, byte-stuffed. No Huffman code consists of ones alone (T.81, annex C), so a decoder that
/// still wants a block when it gets here fails at once; one that is through only ever looks ahead
/// into it. Longer than any look-ahead. What it cannot find out is a progressive file that was closed
/// between two scans or within one of bare correction bits: a whole, if coarser, picture.
const STOPPER: [u8; 32] = {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = 0xFF;
        at += 2;
    }
    bytes
};

/// The file up to its end of image, with a stopper before it.
///
/// A file that was cut and closed again with an end-of-image marker looks whole from outside; our
/// decoder, like most, reads zeroes from that marker on and calls what comes out a picture.
pub(super) fn with_stopper(file: &[u8], frame: Frame) -> Vec<u8> {
    [&file[..frame.end], &STOPPER, &[0xFF, EOI]].concat()
}

/// Walks from the first marker to the end of the image.
pub(super) fn walk(file: &[u8]) -> Result<Frame, DecodeError> {
    let mut frame = None;
    let mut at = 2;
    let end = loop {
        let (marker, after) = next_marker(file, at)?;
        at = after;
        match marker {
            EOI => break after - 2,
            // Markers without a length: they stand alone.
            SOI | 0x01 | 0xD0..=0xD7 => continue,
            _ => {}
        }
        let segment = segment(file, at)?;
        at += segment.len();
        match marker {
            // SOF0 to SOF15 but for DHT (C4), JPG (C8) and DAC (CC).
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                frame.get_or_insert(read_frame(segment)?);
            }
            SOS => at = skip_entropy_coded(file, at)?,
            _ => {}
        }
    };
    let (width, height) = frame.ok_or_else(|| malformed("it has no frame header"))?;
    Ok(Frame { end, width, height })
}

/// The next marker at or after `at`, and where its content begins. Stray bytes before it are left
/// for the decoder to judge.
fn next_marker(file: &[u8], at: usize) -> Result<(u8, usize), DecodeError> {
    let mut at = at;
    loop {
        at += find_ff(file, at)?;
        match file.get(at + 1) {
            None => return Err(truncated()),
            // 00 is a stuffed byte, FF a fill byte.
            Some(0x00) => at += 2,
            Some(0xFF) => at += 1,
            Some(&marker) => return Ok((marker, at + 2)),
        }
    }
}

/// The length field and what it covers.
fn segment(file: &[u8], at: usize) -> Result<&[u8], DecodeError> {
    let length = file.get(at..at + 2).ok_or_else(truncated)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length < 2 {
        return Err(malformed("a segment is shorter than its length field"));
    }
    file.get(at..at + length).ok_or_else(truncated)
}

/// Width and height.
fn read_frame(segment: &[u8]) -> Result<(u32, u32), DecodeError> {
    // Length (2), precision (1), height (2), width (2), components (1).
    let [_, _, _, h1, h0, w1, w0, _, ..] = *segment else {
        return Err(malformed("its frame header is too short"));
    };
    Ok((u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0]))))
}

/// Entropy-coded data goes on up to a marker that is no restart.
fn skip_entropy_coded(file: &[u8], at: usize) -> Result<usize, DecodeError> {
    let mut at = at;
    loop {
        at += find_ff(file, at)?;
        match file.get(at + 1) {
            None => return Err(truncated()),
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            Some(_) => return Ok(at),
        }
    }
}

fn find_ff(file: &[u8], at: usize) -> Result<usize, DecodeError> {
    let rest = file.get(at..).ok_or_else(truncated)?;
    rest.iter().position(|&b| b == 0xFF).ok_or_else(truncated)
}

fn truncated() -> DecodeError {
    DecodeError::Truncated { format: FORMAT }
}

fn malformed(reason: &str) -> DecodeError {
    DecodeError::Malformed { format: FORMAT, reason: reason.into() }
}
