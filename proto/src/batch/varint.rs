//! Zigzag varints as in Protocol Buffers (`sint32`, `sint64`), and a cursor that reads them.

use std::ops::Range;

use super::RecordFault;

/// Appends `value`. A 32-bit number takes the same bytes as it would in its own type.
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// How many bytes [`put_varint`] appends.
pub(super) fn varint_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Reads fields from `at` on; never beyond `bytes`.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Cursor<'_> {
    pub(super) fn varint(&mut self) -> Result<i32, RecordFault> {
        let raw = u32::try_from(self.raw(5)?).map_err(|_| RecordFault::Varint)?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    pub(super) fn varlong(&mut self) -> Result<i64, RecordFault> {
        let raw = self.raw(10)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A length that may not be negative.
    pub(super) fn length(&mut self) -> Result<usize, RecordFault> {
        let length = self.varint()?;
        usize::try_from(length).map_err(|_| RecordFault::Length(length))
    }

    /// A field with its length before it.
    pub(super) fn field(&mut self) -> Result<Range<usize>, RecordFault> {
        let length = self.length()?;
        self.skip(length)
    }

    /// A field with its length before it, -1 for null.
    pub(super) fn nullable_field(&mut self) -> Result<Option<Range<usize>>, RecordFault> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| RecordFault::Length(length))?;
                self.skip(length).map(Some)
            }
        }
    }

    /// The range of the next `length` bytes, which must be there.
    pub(super) fn skip(&mut self, length: usize) -> Result<Range<usize>, RecordFault> {
        if length > self.bytes.len() - self.at {
            return Err(RecordFault::Truncated);
        }
        let start = self.at;
        self.at += length;
        Ok(start..self.at)
    }

    fn raw(&mut self, bytes_max: u32) -> Result<u64, RecordFault> {
        let mut value = 0u64;
        for index in 0..bytes_max {
            let byte = *self.bytes.get(self.at).ok_or(RecordFault::Truncated)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte of a 64-bit number has room for one bit.
            if index == 9 && bits > 1 {
                return Err(RecordFault::Varint);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(RecordFault::Varint)
    }
}
