//! What is sent and what is read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dure_proto::wire::produce::Due;
use dure_proto::{MESSAGE_ID_HEADER, PRIORITY_HEADER, Priority, TTL_HEADER};

/// A header: a name, and a value that may be absent. Names may repeat.
pub type Header = (Bytes, Option<Bytes>);

/// A message to be sent.
///
/// ```
/// use dure_client::Message;
/// let message = Message::new("thumbnails, please").key("user-7").header("trace", "4711");
/// let tombstone = Message::tombstone("user-7");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    pub(crate) partition: Option<u32>,
    pub(crate) due: Option<Due>,
}

impl Message {
    /// A message with this body and no key.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Message {
        Message { value: Some(body.into()), ..Message::default() }
    }

    /// A message with this key and a null value: in a compacted topic it deletes the key.
    #[must_use]
    pub fn tombstone(key: impl Into<Bytes>) -> Message {
        Message { key: Some(key.into()), ..Message::default() }
    }

    /// Sets the key. Messages of one key go to one partition.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Message {
        self.key = Some(key.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Message {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Good for this long from its append on, at least 1 ms: queue groups do not deliver it later. Streams deliver the log as it
    /// is. Carried by the header `dure-ttl-ms`.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Message {
        let ms = ttl.as_millis().max(1).to_string();
        self.headers.retain(|(name, _)| name != TTL_HEADER);
        self.headers.push((TTL_HEADER.into(), Some(ms.into())));
        self
    }

    /// How urgent it is, from 0 to 9, the higher the sooner; one that says nothing counts as 4. Queue groups made with
    /// [`Ordering::Priority`](crate::Ordering::Priority) go by it, streams deliver the log as it is. More than 9 is 9.
    /// Carried by the header `dure-priority`.
    ///
    /// ```
    /// let alarm = dure_client::Message::new("smoke in hall 2").priority(9);
    /// ```
    #[must_use]
    pub fn priority(mut self, level: u8) -> Message {
        let level = Priority::of_level(level).unwrap_or(Priority::MAX).level();
        self.headers.retain(|(name, _)| name != PRIORITY_HEADER);
        self.headers.push((PRIORITY_HEADER.into(), Some(level.to_string().into())));
        self
    }

    /// Gives it an id, of 1 to 256 bytes. Of messages with one id that a topic is sent within its window (`dedup-window`, by
    /// default 2 min), whoever sends them to whichever partition, the first one is appended; the others are answered
    /// with its offset, see [`Ack::duplicate`]. Carried by the header `dure-message-id`.
    ///
    /// ```
    /// let order = dure_client::Message::new("2 loaves").key("customer-7").id("order-4711");
    /// ```
    #[must_use]
    pub fn id(mut self, id: impl Into<Bytes>) -> Message {
        self.headers.retain(|(name, _)| name != MESSAGE_ID_HEADER);
        self.headers.push((MESSAGE_ID_HEADER.into(), Some(id.into())));
        self
    }

    /// Sends it to this partition, whatever the key says.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Message {
        self.partition = Some(partition);
        self
    }

    /// Has it wait for so long after the broker took it, a year at most, before it enters its topic: nobody reads it
    /// before, and it has no offset until then.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let reminder = dure_client::Message::new("has it arrived?").delay(Duration::from_secs(3 * 86_400));
    /// ```
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Message {
        self.due = Some(Due::DelayMs(whole_ms(delay)));
        self
    }

    /// Has it wait until this time, a year ahead at most, by the broker's clock. A time that is past means now.
    #[must_use]
    pub fn deliver_at(mut self, at: SystemTime) -> Message {
        self.due = Some(Due::DeliverAtMs(whole_ms(at.duration_since(UNIX_EPOCH).unwrap_or_default())));
        self
    }

    /// The size that the topic's `message_bytes_max` bounds: key, value and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + len(value)).sum();
        len(&self.key) + len(&self.value) + headers
    }
}

/// Whole milliseconds, and no less than was asked for.
fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Where and when a message was appended, or until when it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The topic.
    pub topic: std::sync::Arc<str>,
    /// The partition within it.
    pub partition: u32,
    /// The message's offset in the partition; `None` for one that waits, which gets it when it is due.
    pub offset: Option<u64>,
    /// When the broker appended it, in milliseconds since the epoch; of one that waits, when it is due.
    pub append_time_ms: u64,
    /// Nothing was appended, since a message with this [id](Message::id) had been accepted before: partition and offset are
    /// that one's, and the offset is `None` if it waits, or has waited, until it was due.
    pub duplicate: bool,
}

/// A message read from a stream. Serializes as in `dure consume -o json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamMessage {
    /// The topic.
    pub topic: std::sync::Arc<str>,
    /// The partition within it.
    pub partition: u32,
    /// The message's offset in the partition.
    pub offset: u64,
    /// When the broker appended it, in milliseconds since the epoch.
    pub timestamp_ms: u64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The body; absent in a tombstone.
    pub value: Option<Bytes>,
    /// The headers in the order given.
    pub headers: Vec<Header>,
}
