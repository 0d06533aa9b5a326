//! NATS JetStream: its text protocol by hand, publishing with a reply for each message, pulling a thousand at a time
//! and acknowledging each.

use bytes::{Buf, BytesMut};

use super::drive::{Connection, read_more};
use super::wire::{Confirm, Publish, Res, Take, line};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"bench\"}\r\n";
const BATCH: u64 = 1000;
const NEXT: &str = "$JS.API.CONSUMER.MSG.NEXT.B.g";

/// Makes the stream and a durable consumer that acknowledges each message.
pub(crate) async fn prepare(address: &str) -> Res {
    request(address, "$JS.API.STREAM.CREATE.B", r#"{"name":"B","subjects":["bench"],"storage":"file"}"#)
        .await?;
    let consumer = r#"{"stream_name":"B","config":{"durable_name":"g","ack_policy":"explicit","max_ack_pending":100000}}"#;
    request(address, "$JS.API.CONSUMER.DURABLE.CREATE.B.g", consumer).await
}

async fn request(address: &str, subject: &str, body: &str) -> Res {
    let mut connection = Connection::open(address).await?;
    let mut out = BytesMut::from(CONNECT);
    out.extend_from_slice(b"SUB in 1\r\n");
    publish(&mut out, subject, "in", body.as_bytes());
    connection.write(&mut out).await?;
    let mut input = BytesMut::new();
    loop {
        read_more(&mut connection.stream, &mut input).await?;
        while let Some(said) = next(&mut input)? {
            if let Said::Message { body, .. } = said {
                let text = String::from_utf8_lossy(&body).into_owned();
                return if text.contains("\"error\"") { Err(text.into()) } else { Ok(()) };
            }
        }
    }
}

/// Whether it answers.
pub(crate) async fn answers(address: &str) -> Res {
    let mut connection = Connection::open(address).await?;
    read_more(&mut connection.stream, &mut BytesMut::new()).await
}

/// To be sent first; the inbox of the connection is `in`.
pub(crate) fn greeting(out: &mut BytesMut, inbox: &str) {
    out.extend_from_slice(CONNECT.as_bytes());
    out.extend_from_slice(format!("SUB {inbox} 1\r\n").as_bytes());
}

pub(crate) struct Publisher {
    pub(crate) inbox: String,
    pub(crate) greeted: bool,
}

impl Publish for Publisher {
    fn publish(&mut self, payload: &[u8], out: &mut BytesMut) {
        if !std::mem::replace(&mut self.greeted, true) {
            greeting(out, &self.inbox);
        }
        publish(out, "bench", &self.inbox, payload);
    }
}

pub(crate) struct Confirmer;

impl Confirm for Confirmer {
    fn confirm(&mut self, input: &mut BytesMut) -> Res<u64> {
        let mut confirmed = 0;
        while let Some(said) = next(input)? {
            if let Said::Message { body, .. } = said {
                if body.starts_with(b"{\"error\"") {
                    return Err(String::from_utf8_lossy(&body).into_owned().into());
                }
                confirmed += 1;
            }
        }
        Ok(confirmed)
    }
}

pub(crate) struct Taker {
    pub(crate) inbox: String,
    pub(crate) expected: u64,
}

impl Taker {
    fn ask(&mut self, out: &mut BytesMut) {
        let body = format!("{{\"batch\":{BATCH},\"expires\":30000000000}}");
        publish(out, NEXT, &self.inbox, body.as_bytes());
        self.expected = BATCH;
    }
}

impl Take for Taker {
    fn begin(&mut self, out: &mut BytesMut) {
        greeting(out, &self.inbox);
        self.ask(out);
    }

    fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut, seen: &mut dyn FnMut(&[u8])) -> Res {
        while let Some(said) = next(input)? {
            match said {
                Said::Message { reply, body } => {
                    seen(&body);
                    out.extend_from_slice(b"PUB ");
                    out.extend_from_slice(&reply);
                    out.extend_from_slice(b" 4\r\n+ACK\r\n");
                    self.expected -= 1;
                    // Half a batch ahead, so that the server never waits for a request.
                    if self.expected == 0 {
                        self.ask(out);
                    }
                }
                // The request expired.
                Said::Status => self.ask(out),
                Said::Nothing => {}
            }
        }
        Ok(())
    }
}

enum Said {
    Message {
        reply: BytesMut,
        body: BytesMut,
    },
    /// A message of headers alone.
    Status,
    Nothing,
}

fn publish(out: &mut BytesMut, subject: &str, reply: &str, payload: &[u8]) {
    out.extend_from_slice(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

fn next(input: &mut BytesMut) -> Res<Option<Said>> {
    let Some(end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end])?;
    let words: Vec<&str> = head.split(' ').collect();
    let is_status = words[0] == "HMSG";
    if words[0] == "-ERR" {
        return Err(head.to_owned().into());
    }
    if words[0] != "MSG" && !is_status {
        let _ = line(input);
        return Ok(Some(Said::Nothing));
    }
    let bytes: usize = words.last().ok_or("no length")?.parse()?;
    let reply = if words.len() > 4 && !is_status { BytesMut::from(words[3]) } else { BytesMut::new() };
    if input.len() < end + 2 + bytes + 2 {
        return Ok(None);
    }
    input.advance(end + 2);
    let body = input.split_to(bytes);
    input.advance(2);
    Ok(Some(if is_status { Said::Status } else { Said::Message { reply, body } }))
}
