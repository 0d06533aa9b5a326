//! The batch in which a dead letter is kept, and the one in which it is copied to a topic.

use bytes::Bytes;
use dure_proto::{BatchBuilder, BatchError, Compression, Offset, PartitionId, Record, TTL_HEADER};

/// What the copy of a dead letter in a topic says of its death, beside its own headers.
pub const DEAD_REASON_HEADER: &str = "dure-dead-reason";
/// How often it was tried, in decimal digits.
pub const DEAD_ATTEMPTS_HEADER: &str = "dure-dead-attempts";
/// The group in which it died.
pub const DEAD_GROUP_HEADER: &str = "dure-dead-group";
/// The topic that it is of.
pub const DEAD_TOPIC_HEADER: &str = "dure-dead-topic";
/// Its partition there.
pub const DEAD_PARTITION_HEADER: &str = "dure-dead-partition";
/// Its offset there.
pub const DEAD_OFFSET_HEADER: &str = "dure-dead-offset";
/// When it died, in milliseconds since the Unix epoch.
pub const DEAD_TIME_HEADER: &str = "dure-dead-time-ms";
/// On a letter whose record could not be read any more: why.
const UNREADABLE_HEADER: &str = "dure-unreadable";

/// How a message died.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death<'a> {
    pub(crate) group: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
    pub(crate) wall_ms: u64,
}

/// A batch of one record for a dead-letter topic: the record as it was, and how it died. What an earlier death said of it
/// goes, and so does its time to live: it has been.
pub(crate) fn copy_batch(
    record: Result<&Record, &str>,
    death: &Death<'_>,
) -> Result<BatchBuilder, BatchError> {
    let numbers = [
        death.attempts.to_string(),
        death.partition.to_string(),
        death.offset.to_string(),
        death.wall_ms.to_string(),
    ];
    let [attempts, partition, offset, time] = numbers;
    let said = [
        (DEAD_REASON_HEADER, death.reason),
        (DEAD_ATTEMPTS_HEADER, &attempts),
        (DEAD_GROUP_HEADER, death.group),
        (DEAD_TOPIC_HEADER, death.topic),
        (DEAD_PARTITION_HEADER, &partition),
        (DEAD_OFFSET_HEADER, &offset),
        (DEAD_TIME_HEADER, &time),
    ];
    let is_old = |name: &[u8]| {
        let mut ours = said.iter().map(|(name, _)| *name).chain([TTL_HEADER]);
        ours.any(|ours| ours.as_bytes() == name)
    };
    let own = record.map_or(&[][..], |record| &record.headers);
    let own = own.iter().filter(|(name, _)| !is_old(name));
    let mut headers: Vec<(&[u8], Option<&[u8]>)> =
        own.map(|(name, value)| (name.as_ref(), value.as_deref())).collect();
    headers.extend(said.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))));
    let mut builder = BatchBuilder::new(Compression::None);
    match record {
        Ok(record) => {
            builder.push(record.key.as_deref(), record.value.as_deref(), &headers, record.timestamp_ms)?;
        }
        Err(why) => {
            headers.push((UNREADABLE_HEADER.as_bytes(), Some(why.as_bytes())));
            builder.push(None, None, &headers, 0)?;
        }
    }
    Ok(builder)
}

/// Why there is no record for a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterError {
    /// It is damaged and lost: the dead letter says so.
    Damaged(String),
    /// It cannot be read now. The message goes on dying, and its record is asked for again after a while.
    Unread(String),
}

/// A batch of one record for the dead-letter log: the record as it was, or, if it cannot be read any more, a null
/// value under a header that says why.
#[must_use]
pub fn letter_batch(record: Result<&Record, &str>) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let pushed = match record {
        Ok(record) => builder.push_owned(
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
            record.timestamp_ms,
        ),
        Err(why) => {
            let why: String = why.chars().take(1024).collect();
            builder.push(None, None, &[(UNREADABLE_HEADER.as_bytes(), Some(why.as_bytes()))], 0)
        }
    };
    // What fitted into its batch fits into one of its own.
    pushed.expect("a record that was in a batch fits into one");
    builder.build(None)
}
