//! Redis Streams: RESP 2 by hand, XADD in pipelines, XREADGROUP of a thousand with one XACK for all of them.

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;

use super::drive::{Connection, read_more};
use super::wire::{Confirm, Publish, Res, Take};

const STREAM: &[u8] = b"bench";
const GROUP: &[u8] = b"g";
const COUNT: &[u8] = b"1000";

/// Makes the stream and its group.
pub(crate) async fn prepare(address: &str) -> Res {
    let mut connection = Connection::open(address).await?;
    let mut out = BytesMut::new();
    command(&mut out, &[b"XGROUP", b"CREATE", STREAM, GROUP, b"0", b"MKSTREAM"]);
    connection.write(&mut out).await?;
    let mut input = BytesMut::new();
    while value_bytes(&input)?.is_none() {
        read_more(&mut connection.stream, &mut input).await?;
    }
    match input.starts_with(b"-") {
        true => Err(String::from_utf8_lossy(&input).into()),
        false => Ok(()),
    }
}

/// Whether it answers.
pub(crate) async fn answers(address: &str) -> Res {
    TcpStream::connect(address).await?;
    Ok(())
}

pub(crate) struct Publisher;

impl Publish for Publisher {
    fn publish(&mut self, payload: &[u8], out: &mut BytesMut) {
        command(out, &[b"XADD", STREAM, b"*", b"v", payload]);
    }
}

impl Confirm for Publisher {
    fn confirm(&mut self, input: &mut BytesMut) -> Res<u64> {
        let mut confirmed = 0;
        while let Some(bytes) = value_bytes(input)? {
            if input[0] == b'-' {
                return Err(String::from_utf8_lossy(&input[..bytes]).into());
            }
            input.advance(bytes);
            confirmed += 1;
        }
        Ok(confirmed)
    }
}

pub(crate) struct Taker {
    pub(crate) name: String,
}

impl Taker {
    fn ask(&self, out: &mut BytesMut) {
        let name = self.name.as_bytes();
        let words: [&[u8]; 10] =
            [b"XREADGROUP", b"GROUP", GROUP, name, b"COUNT", COUNT, b"BLOCK", b"0", b"STREAMS", STREAM];
        let mut all = words.to_vec();
        all.push(b">");
        command(out, &all);
    }
}

impl Take for Taker {
    fn begin(&mut self, out: &mut BytesMut) {
        self.ask(out);
    }

    fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut, seen: &mut dyn FnMut(&[u8])) -> Res {
        while let Some(bytes) = value_bytes(input)? {
            let reply = input.split_to(bytes);
            if reply[0] == b'-' {
                return Err(String::from_utf8_lossy(&reply).into());
            }
            // The answer to an XACK is a number.
            if reply[0] != b'*' {
                continue;
            }
            let mut words: Vec<&[u8]> = vec![b"XACK", STREAM, GROUP];
            let mut strings = bulk_strings(&reply);
            // The stream's name, then for each entry its id, the field's name and the payload.
            strings.next();
            while let Some(id) = strings.next() {
                strings.next();
                seen(strings.next().unwrap_or_default());
                words.push(id);
            }
            command(out, &words);
            self.ask(out);
        }
        Ok(())
    }
}

fn command(out: &mut BytesMut, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// How long the first value is; `None` if it is not complete.
fn value_bytes(input: &[u8]) -> Res<Option<usize>> {
    let (mut at, mut values) = (0, 1_i64);
    while values > 0 {
        values -= 1;
        let Some(end) = input[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let head = &input[at..at + end];
        at += end + 2;
        let number = || -> Res<i64> { Ok(std::str::from_utf8(&head[1..])?.parse()?) };
        match head.first() {
            Some(b'+' | b'-' | b':') => {}
            Some(b'$') => {
                let bytes = number()?;
                at += if bytes < 0 { 0 } else { bytes as usize + 2 };
            }
            Some(b'*') => values += number()?.max(0),
            _ => return Err("this is not RESP".into()),
        }
        if at > input.len() {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// Every string within a complete value, in order.
fn bulk_strings(mut value: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            let end = value.windows(2).position(|pair| pair == b"\r\n")?;
            let (head, rest) = (&value[..end], &value[end + 2..]);
            value = rest;
            if head.first() == Some(&b'$') {
                let bytes: usize = std::str::from_utf8(&head[1..]).ok()?.parse().ok()?;
                let string = &rest[..bytes];
                value = &rest[bytes + 2..];
                return Some(string);
            }
        }
    })
}
