//! The part of the tar format (POSIX.1-1988, "ustar") that an archive needs: plain files with short names. Every byte
//! but name, length and checksum is fixed, so that a header is right only if it is the one that would be written.
//!
//! ```text
//!   0 100  name, zero-padded
//! 100   8  mode "0000644\0"
//! 108  16  owner, group "0000000\0" twice
//! 124  12  length, 11 octal digits and a zero
//! 136  12  time "00000000000\0"
//! 148   8  sum of all bytes, these as spaces: 6 octal digits, a zero, a space
//! 156   1  kind '0'
//! 157 100  zero
//! 257   8  "ustar\0" "00"
//! 265 247  zero
//! 512      content, zero-padded to a multiple of 512
//! ```
//!
//! Two blocks of zeroes end the archive.

/// Everything is a multiple of it.
pub(super) const BLOCK_BYTES: usize = 512;
/// What ends an archive.
pub(super) const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];

const NAME_BYTES: usize = 100;
const LENGTH: std::ops::Range<usize> = 124..135;
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Eleven octal digits.
const LENGTH_MAX: u64 = (1 << 33) - 1;

pub(super) type Block = [u8; BLOCK_BYTES];

/// The header of a file.
///
/// # Panics
/// If the name or the length does not fit; those of a data directory do.
pub(super) fn header(name: &str, bytes: u64) -> Block {
    assert!(name.len() < NAME_BYTES && bytes <= LENGTH_MAX, "`{name}` of {bytes} bytes");
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    // A zero behind each number is there already.
    put(100, b"0000644");
    put(108, b"0000000");
    put(116, b"0000000");
    put(LENGTH.start, format!("{bytes:011o}").as_bytes());
    put(136, b"00000000000\0        0");
    put(257, b"ustar");
    put(263, b"00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Name and length in a header; `None` if it is not one that [`header`] makes.
pub(super) fn parse(block: &Block) -> Option<(String, u64)> {
    let name = block[..NAME_BYTES].split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() < NAME_BYTES)?;
    let bytes = u64::from_str_radix(std::str::from_utf8(&block[LENGTH]).ok()?, 8).ok()?;
    (bytes <= LENGTH_MAX && header(name, bytes) == *block).then(|| (name.to_owned(), bytes))
}

/// How many zeroes follow a content of this length.
pub(super) fn padding(bytes: u64) -> usize {
    (bytes.next_multiple_of(BLOCK_BYTES as u64) - bytes) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_any_flipped_bit_is_none() {
        let block = header("shard-0000/checkpoint", 0o1234567);
        assert_eq!(parse(&block), Some(("shard-0000/checkpoint".to_owned(), 0o1234567)));
        for bit in 0..BLOCK_BYTES * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&flipped), None, "bit {bit}");
        }
        assert_eq!(parse(&[0; BLOCK_BYTES]), None);
    }
}
