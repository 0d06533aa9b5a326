//! The JSON of messages, as `dure … -o json` and the HTTP API print it: bytes that are not UTF-8 appear as
//! `key_base64` and `value_base64` in place of `key` and `value`; a header's as `{"base64": …}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::admin::{DeadLetter, HotKey};
use crate::message::{Header, StreamMessage};
use crate::queue::ReceivedJob;

impl Serialize for StreamMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        place(&mut map, &self.topic, self.partition, self.offset, self.timestamp_ms)?;
        content(&mut map, self.key.as_ref(), self.value.as_ref(), &self.headers)?;
        map.end()
    }
}

impl Serialize for ReceivedJob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        place(&mut map, &self.topic, self.partition, self.offset, self.timestamp_ms)?;
        content(&mut map, self.key.as_ref(), self.value.as_ref(), &self.headers)?;
        map.serialize_entry("receipt", &self.receipt.to_string())?;
        map.serialize_entry("attempt", &self.attempt)?;
        map.serialize_entry("lease_deadline", &self.lease_deadline_ms)?;
        map.end()
    }
}

impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        place(&mut map, &self.topic, self.partition, self.offset, self.timestamp_ms)?;
        content(&mut map, self.key.as_ref(), self.value.as_ref(), &self.headers)?;
        map.serialize_entry("attempts", &self.attempts)?;
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("dead_time", &self.dead_time_ms)?;
        map.end()
    }
}

impl Serialize for HotKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        text_or_base64(&mut map, ["key", "key_base64"], Some(&self.key))?;
        map.serialize_entry("waiting", &self.waiting)?;
        map.serialize_entry("out", &self.out)?;
        map.serialize_entry("topic", &self.topic)?;
        map.serialize_entry("partition", &self.partition)?;
        map.end()
    }
}

fn place<M: SerializeMap>(
    map: &mut M,
    topic: &str,
    partition: u32,
    offset: u64,
    timestamp_ms: u64,
) -> Result<(), M::Error> {
    map.serialize_entry("topic", topic)?;
    map.serialize_entry("partition", &partition)?;
    map.serialize_entry("offset", &offset)?;
    map.serialize_entry("timestamp", &timestamp_ms)
}

fn content<M: SerializeMap>(
    map: &mut M,
    key: Option<&Bytes>,
    value: Option<&Bytes>,
    headers: &[Header],
) -> Result<(), M::Error> {
    text_or_base64(map, ["key", "key_base64"], key)?;
    text_or_base64(map, ["value", "value_base64"], value)?;
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (Text(name), value.as_ref().map(|v| Text(v)))).collect();
    map.serialize_entry("headers", &headers)
}

fn text_or_base64<M: SerializeMap>(
    map: &mut M,
    [text, base64]: [&str; 2],
    bytes: Option<&Bytes>,
) -> Result<(), M::Error> {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| STANDARD.encode(bytes))) {
        None => map.serialize_entry(text, &()),
        Some(Ok(utf8)) => map.serialize_entry(text, utf8),
        Some(Err(encoded)) => map.serialize_entry(base64, &encoded),
    }
}

/// Part of a header.
struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(utf8) => serializer.serialize_str(utf8),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(self.0))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message() -> StreamMessage {
        StreamMessage {
            topic: "photos".into(),
            partition: 1,
            offset: 2,
            timestamp_ms: 3,
            key: None,
            value: Some(Bytes::from_static(b"text")),
            headers: vec![("a".into(), Some("b".into())), ("a".into(), None)],
        }
    }

    #[test]
    fn text_stays_text_and_what_is_absent_is_null() {
        let expected = json!({"topic": "photos", "partition": 1, "offset": 2, "timestamp": 3, "key": null,
            "value": "text", "headers": [["a", "b"], ["a", null]]});
        assert_eq!(serde_json::to_value(message()).expect("serializes"), expected);
    }

    #[test]
    fn bytes_that_are_not_utf8_come_as_base64_in_place_of_the_text() {
        let bytes = Bytes::from_static(&[0xff, 0x00]);
        let message = StreamMessage {
            key: Some(bytes.clone()),
            value: Some(bytes.clone()),
            headers: vec![("a".into(), Some(bytes))],
            ..message()
        };
        let value = serde_json::to_value(message).expect("serializes");
        assert_eq!(value["key_base64"], "/wA=");
        assert_eq!(value["value_base64"], "/wA=");
        assert_eq!(value["headers"], json!([["a", {"base64": "/wA="}]]));
        assert!(value.get("key").is_none() && value.get("value").is_none());
    }
}
