//! Newtypes for everything that is counted, so that two bare integers never stand side by side.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Position of a record in its partition, counted in records from 0. At most [`Offset::MAX`].
    Offset(u64)
}
number! {
    /// Number of a topic, never used again after the topic is deleted. Starts at 1.
    TopicId(u32)
}
number! {
    /// Number of a partition within its topic, from 0.
    PartitionId(u32)
}
number! {
    /// Number of a consumer group, never used again. Starts at 1.
    GroupId(u32)
}
number! {
    /// Number of a shard within a data directory, from 0.
    ShardId(u16)
}
number! {
    /// Counts the openings of a shard; durable before anything is served under it. Starts at 1.
    Epoch(u64)
}
number! {
    /// Number of a commit in a shard's journal, contiguous from 1.
    CommitSeq(u64)
}
number! {
    /// Identity of a producer session, given out by the broker. Starts at 1.
    ProducerId(u64)
}
number! {
    /// Number of a record in the stream of one producer session to one partition, from 0, wrapping
    /// at 2^31 as in Kafka.
    Sequence(u32)
}
number! {
    /// Generation of a stream group's membership: the broker's epoch in the upper 32 bits and a
    /// counter in the lower, so that one from before a restart is always older.
    Generation(u64)
}

impl Offset {
    /// The first offset of a log.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset; the record batch stores offsets as signed 64-bit numbers.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// The offset `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> Offset {
        Offset(self.0 + records)
    }

    /// How many records lie between `earlier` and this offset; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One partition of one topic, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Names one grant of one message; never repeated, because the epoch is durable before the first
/// grant under it and the counter only rises within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken {
    /// Epoch of the shard that granted the lease.
    pub epoch: Epoch,
    /// Counts grants within the epoch, from 1.
    pub counter: u64,
}

impl LeaseToken {
    /// No grant at all.
    pub const NONE: LeaseToken = LeaseToken { epoch: Epoch(0), counter: 0 };
}

/// What a worker holds to settle a leased message, from any process: `partition-offset-epoch-counter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// Partition of the message.
    pub partition: PartitionId,
    /// Offset of the message.
    pub offset: Offset,
    /// The grant.
    pub token: LeaseToken,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Receipt { partition, offset, token } = self;
        write!(f, "{partition}-{offset}-{}-{}", token.epoch, token.counter)
    }
}

/// A text that is not a receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a receipt: expected PARTITION-OFFSET-EPOCH-COUNTER as printed by `dure receive`")]
pub struct ReceiptParseError(pub String);

impl FromStr for Receipt {
    type Err = ReceiptParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split('-');
            let partition = PartitionId(digits(parts.next()?)?.try_into().ok()?);
            let offset = Offset(digits(parts.next()?)?);
            let epoch = Epoch(digits(parts.next()?)?);
            let counter = digits(parts.next()?)?;
            let whole = parts.next().is_none() && offset <= Offset::MAX;
            whole.then_some(Receipt { partition, offset, token: LeaseToken { epoch, counter } })
        };
        parse().ok_or_else(|| ReceiptParseError(text.chars().take(80).collect()))
    }
}

/// `u64::from_str` takes a leading `+`; a receipt has one spelling only.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_reads_back_as_printed() {
        let receipt = Receipt {
            partition: PartitionId(3),
            offset: Offset(1_234_567),
            token: LeaseToken { epoch: Epoch(9), counter: 77 },
        };
        assert_eq!(receipt.to_string(), "3-1234567-9-77");
        assert_eq!("3-1234567-9-77".parse(), Ok(receipt));
    }

    #[test]
    fn what_is_not_a_receipt_is_refused() {
        for text in ["", "1", "1-2-3", "1-2-3-4-5", "+1-2-3-4", "1-2-3-x", "4294967296-1-1-1", "1--1-1"] {
            assert!(text.parse::<Receipt>().is_err(), "{text}");
        }
    }
}
