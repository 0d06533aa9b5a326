//! How long a message is good for: a header of its record, so that it passes through every batch format and client.

use bytes::Bytes;

/// The header that carries it: milliseconds from the broker's time of append on, in decimal digits.
pub const TTL_HEADER: &str = "dure-ttl-ms";

/// How long a record with these headers is good for; `None`: for ever. A header that holds no number says nothing.
#[must_use]
pub fn ttl_ms(headers: &[(Bytes, Option<Bytes>)]) -> Option<u64> {
    let (_, value) = headers.iter().find(|(name, _)| name == TTL_HEADER)?;
    std::str::from_utf8(value.as_ref()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_limits_a_life() {
        let with =
            |value: &'static str| ttl_ms(&[("a".into(), None), (TTL_HEADER.into(), Some(value.into()))]);
        assert_eq!((with("90000"), with("0")), (Some(90_000), Some(0)));
        assert_eq!((with("1h"), with(""), with("-1"), ttl_ms(&[])), (None, None, None, None));
        assert_eq!(ttl_ms(&[(TTL_HEADER.into(), None)]), None);
    }
}
