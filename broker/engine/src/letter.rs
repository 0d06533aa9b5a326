//! The batch in which a dead letter is kept.

use bytes::Bytes;
use dure_proto::{BatchBuilder, Compression, Record};

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
            builder.push(None, None, &[(b"dure-unreadable".as_slice(), Some(why.as_bytes()))], 0)
        }
    };
    // What fitted into its batch fits into one of its own.
    pushed.expect("a record that was in a batch fits into one");
    builder.build(None)
}
