//! Jobs on the wire: lengths in the message, bytes in the attachment, in the order key, value, then name and value of
//! each header.

use bytes::{BufMut, Bytes, BytesMut};
use dure_proto::{Record, wire};

/// Smaller parts are gathered: an I/O vector costs more than the copy.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Into pieces of this size at first, and of twice as much each time, up to that: a buffer that grew would be copied again.
const PIECE_BYTES_FIRST: usize = COPIED_BYTES_MAX;
const PIECE_BYTES_MAX: usize = 64 << 10;

/// An attachment in the making.
#[derive(Debug, Default)]
pub(crate) struct Attachment {
    parts: Vec<Bytes>,
    gathered: BytesMut,
    /// Of the last piece that was begun.
    piece_bytes: usize,
    bytes: usize,
}

impl Attachment {
    /// Appends a record and says its lengths in `job`.
    pub(crate) fn push(&mut self, record: &Record, job: &mut wire::Job) {
        job.key_bytes = self.append_nullable(record.key.as_ref());
        job.value_bytes = self.append_nullable(record.value.as_ref());
        for (name, value) in &record.headers {
            let name_bytes = self.append(name);
            let value_bytes = self.append_nullable(value.as_ref());
            job.headers.push(wire::HeaderBytes { name_bytes, value_bytes });
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.parts
    }

    fn append_nullable(&mut self, part: Option<&Bytes>) -> Option<u32> {
        part.map(|part| self.append(part))
    }

    fn append(&mut self, part: &Bytes) -> u32 {
        self.bytes += part.len();
        if part.len() <= COPIED_BYTES_MAX {
            self.make_room(part.len());
            self.gathered.put_slice(part);
        } else {
            self.cut();
            self.parts.push(part.clone());
        }
        u32::try_from(part.len()).expect("a batch bounds its records")
    }

    fn make_room(&mut self, bytes: usize) {
        if self.gathered.capacity() - self.gathered.len() < bytes {
            self.cut();
            self.piece_bytes = (self.piece_bytes * 2).clamp(PIECE_BYTES_FIRST, PIECE_BYTES_MAX);
            self.gathered = BytesMut::with_capacity(self.piece_bytes);
        }
    }

    fn cut(&mut self) {
        if !self.gathered.is_empty() {
            self.parts.push(self.gathered.split().freeze());
        }
    }
}

/// What a record takes in an attachment.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let nullable = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + nullable(value));
    nullable(&record.key) + nullable(&record.value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_record_stand_in_order_whatever_their_size() {
        let large = Bytes::from(vec![9; COPIED_BYTES_MAX + 1]);
        let record = Record {
            offset_delta: 0,
            timestamp_ms: 0,
            key: Some(Bytes::from_static(b"key")),
            value: Some(large.clone()),
            headers: vec![(Bytes::from_static(b"name"), None), (Bytes::from_static(b""), Some(Bytes::new()))],
        };
        let (mut attachment, mut job) = (Attachment::default(), wire::Job::default());
        attachment.push(&record, &mut job);
        assert_eq!(attachment.len(), record_bytes(&record));
        assert_eq!((job.key_bytes, job.value_bytes), (Some(3), Some(large.len() as u32)));
        assert_eq!(
            job.headers.iter().map(|h| (h.name_bytes, h.value_bytes)).collect::<Vec<_>>(),
            [(4, None), (0, Some(0))]
        );
        let parts = attachment.finish();
        assert_eq!(parts.concat(), [b"key", &large[..], b"name"].concat());
        assert_eq!(parts.len(), 3, "what is large is not copied");
    }

    #[test]
    fn many_small_parts_are_gathered_into_few_pieces() {
        let value = Bytes::from(vec![7; 1000]);
        let record =
            Record { offset_delta: 0, timestamp_ms: 0, key: None, value: Some(value), headers: Vec::new() };
        let mut attachment = Attachment::default();
        (0..1000).for_each(|_| attachment.push(&record, &mut wire::Job::default()));
        let parts = attachment.finish();
        assert_eq!(parts.concat(), vec![7; 1_000_000]);
        assert!(parts.len() < 24, "{} pieces", parts.len());
    }
}
