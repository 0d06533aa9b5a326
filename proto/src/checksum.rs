//! CRC-32C (Castagnoli), the checksum of record batches.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// The CRC-32C of these bytes, as in RFC 3720, appendix B.4.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32Iscsi, bytes) as u32 // it has no more bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnolis_whatever_the_length_and_the_place() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4");
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in (0..600).chain([4_095, 4_096, 65_536, 69_000]) {
            for start in [0, 1, 7, 33] {
                let part = &bytes[start..start + length];
                assert_eq!(crc32c(part), crc32c::crc32c(part), "{length} from {start}");
            }
        }
    }
}
