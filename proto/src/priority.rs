//! How urgent a message is: a header of its record, so that it passes through every batch format and client.

use bytes::Bytes;

/// The header that carries it: one decimal digit.
pub const PRIORITY_HEADER: &str = "dure-priority";

/// How urgent a message is, from 0 to 9: the higher, the sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The least urgent.
    pub const MIN: Priority = Priority(0);
    /// The most urgent.
    pub const MAX: Priority = Priority(9);

    /// That of a level from 0 to 9; `None` if it is above.
    #[must_use]
    pub fn of_level(level: u8) -> Option<Priority> {
        (level <= Self::MAX.0).then_some(Priority(level))
    }

    /// From 0 to 9.
    #[must_use]
    pub fn level(self) -> u8 {
        self.0
    }

    /// That of a record with these headers. A header that holds no digit says nothing.
    #[must_use]
    pub fn of_record(headers: &[(Bytes, Option<Bytes>)]) -> Priority {
        let value =
            headers.iter().find(|(name, _)| name == PRIORITY_HEADER).and_then(|(_, value)| value.as_ref());
        match value.map(|value| &value[..]) {
            Some([digit @ b'0'..=b'9']) => Priority(digit - b'0'),
            _ => Priority::default(),
        }
    }
}

impl Default for Priority {
    /// In the middle, so that something can be less urgent than what says nothing.
    fn default() -> Priority {
        Priority(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_digit_is_a_priority() {
        let with = |value: Option<&'static str>| {
            Priority::of_record(&[("a".into(), None), (PRIORITY_HEADER.into(), value.map(Into::into))])
                .level()
        };
        assert_eq!((with(Some("0")), with(Some("9"))), (0, 9));
        assert_eq!(
            (with(Some("10")), with(Some("")), with(Some("-1")), with(Some("x")), with(None)),
            (4, 4, 4, 4, 4)
        );
        assert_eq!(Priority::of_record(&[]), Priority::default());
        assert_eq!((Priority::of_level(9), Priority::of_level(10)), (Some(Priority::MAX), None));
    }
}
