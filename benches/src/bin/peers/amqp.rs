//! RabbitMQ: AMQP 0.9.1 by hand, publisher confirms, consuming with a prefetch. Classes and methods are named by their
//! numbers in the specification.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut, BytesMut};

use super::drive::{Connection, read_more};
use super::wire::{Confirm, Publish, Res, Take};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
const PREFETCH: u16 = 2000;
/// Deliveries that one acknowledgement settles.
const ACK_EVERY: u64 = 250;

/// What kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Quorum,
    Stream,
}

/// A connection with a channel open, and the queue declared.
pub(crate) async fn open(address: &str, kind: Kind) -> Res<Connection> {
    let mut connection = Connection::open(address).await?;
    let mut input = BytesMut::new();
    let mut out = BytesMut::from(&b"AMQP\x00\x00\x09\x01"[..]);
    connection.write(&mut out).await?;
    expect(&mut connection, &mut input, (10, 10)).await?;
    method(&mut out, 0, (10, 11), |body| {
        body.put_u32(0);
        short(body, "PLAIN");
        long(body, b"\0guest\0guest");
        short(body, "en_US");
    });
    connection.write(&mut out).await?;
    expect(&mut connection, &mut input, (10, 30)).await?;
    method(&mut out, 0, (10, 31), |body| {
        body.put_u16(16);
        body.put_u32(131_072);
        body.put_u16(0);
    });
    method(&mut out, 0, (10, 40), |body| {
        short(body, "/");
        short(body, "");
        body.put_u8(0);
    });
    connection.write(&mut out).await?;
    expect(&mut connection, &mut input, (10, 41)).await?;
    method(&mut out, 1, (20, 10), |body| short(body, ""));
    connection.write(&mut out).await?;
    expect(&mut connection, &mut input, (20, 11)).await?;
    method(&mut out, 1, (50, 10), |body| {
        body.put_u16(0);
        short(body, "bench");
        body.put_u8(0b10); // durable
        table(body, |table| {
            entry(table, "x-queue-type", if kind == Kind::Stream { "stream" } else { "quorum" });
        });
    });
    connection.write(&mut out).await?;
    expect(&mut connection, &mut input, (50, 11)).await?;
    Ok(connection)
}

/// One that publishes and is confirmed.
pub(crate) async fn publisher(address: &str, kind: Kind) -> Res<Connection> {
    let mut connection = open(address, kind).await?;
    let mut out = BytesMut::new();
    method(&mut out, 1, (85, 10), |body| body.put_u8(0));
    connection.write(&mut out).await?;
    expect(&mut connection, &mut BytesMut::new(), (85, 11)).await?;
    Ok(connection)
}

async fn expect(connection: &mut Connection, input: &mut BytesMut, wanted: (u16, u16)) -> Res {
    loop {
        while let Some((kind, mut frame)) = frame(input)? {
            if kind == METHOD {
                let id = (frame.get_u16(), frame.get_u16());
                if id == wanted {
                    return Ok(());
                }
                return Err(
                    format!("expected {wanted:?}, got {id:?}: {}", String::from_utf8_lossy(&frame)).into()
                );
            }
        }
        read_more(&mut connection.stream, input).await?;
    }
}

pub(crate) struct Publisher;

impl Publish for Publisher {
    fn publish(&mut self, payload: &[u8], out: &mut BytesMut) {
        method(out, 1, (60, 40), |body| {
            body.put_u16(0);
            short(body, "");
            short(body, "bench");
            body.put_u8(0);
        });
        put_frame(out, HEADER, 1, |body| {
            body.put_u16(60);
            body.put_u16(0);
            body.put_u64(payload.len() as u64);
            body.put_u16(1 << 12); // delivery mode
            body.put_u8(2); // persistent
        });
        put_frame(out, BODY, 1, |body| body.put_slice(payload));
    }
}

/// Confirms come alone, out of order, or for all up to a number.
#[derive(Default)]
pub(crate) struct Confirmer {
    floor: u64,
    above: BTreeSet<u64>,
}

impl Confirm for Confirmer {
    fn confirm(&mut self, input: &mut BytesMut) -> Res<u64> {
        let before = self.floor + self.above.len() as u64;
        while let Some((kind, mut frame)) = frame(input)? {
            if kind != METHOD {
                continue;
            }
            match (frame.get_u16(), frame.get_u16()) {
                (60, 80) => {
                    let (tag, multiple) = (frame.get_u64(), frame.get_u8() != 0);
                    if multiple {
                        self.floor = self.floor.max(tag);
                        self.above = self.above.split_off(&(self.floor + 1));
                    } else if tag > self.floor {
                        self.above.insert(tag);
                    }
                    while self.above.remove(&(self.floor + 1)) {
                        self.floor += 1;
                    }
                }
                id => return Err(format!("got {id:?}: {}", String::from_utf8_lossy(&frame)).into()),
            }
        }
        Ok(self.floor + self.above.len() as u64 - before)
    }
}

pub(crate) struct Taker {
    kind: Kind,
    /// Of the delivery whose content is arriving.
    tag: u64,
    /// Of the last one that is whole: an acknowledgement that names one further settles a message that is still to be
    /// counted, and the next one is refused.
    whole: u64,
    unacked: u64,
    missing: u64,
    payload: BytesMut,
}

impl Taker {
    pub(crate) fn new(kind: Kind) -> Taker {
        Taker { kind, tag: 0, whole: 0, unacked: 0, missing: 0, payload: BytesMut::new() }
    }

    fn ack(&mut self, out: &mut BytesMut) {
        let tag = self.whole;
        method(out, 1, (60, 80), |body| {
            body.put_u64(tag);
            body.put_u8(1);
        });
        self.unacked = 0;
    }
}

impl Take for Taker {
    fn begin(&mut self, out: &mut BytesMut) {
        method(out, 1, (60, 10), |body| {
            body.put_u32(0);
            body.put_u16(PREFETCH);
            body.put_u8(0);
        });
        let kind = self.kind;
        method(out, 1, (60, 20), |body| {
            body.put_u16(0);
            short(body, "bench");
            short(body, "");
            body.put_u8(0);
            table(body, |table| {
                if kind == Kind::Stream {
                    entry(table, "x-stream-offset", "first");
                }
            });
        });
    }

    fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut, seen: &mut dyn FnMut(&[u8])) -> Res {
        while let Some((kind, mut frame)) = frame(input)? {
            match kind {
                METHOD => match (frame.get_u16(), frame.get_u16()) {
                    (60, 60) => {
                        let name = frame.get_u8() as usize;
                        frame.advance(name);
                        self.tag = frame.get_u64();
                    }
                    (60, 11 | 21) => {}
                    id => return Err(format!("got {id:?}: {}", String::from_utf8_lossy(&frame)).into()),
                },
                HEADER => {
                    frame.advance(4);
                    self.missing = frame.get_u64();
                    self.payload.clear();
                }
                BODY => {
                    self.missing = self.missing.saturating_sub(frame.len() as u64);
                    self.payload.extend_from_slice(&frame);
                }
                _ => continue,
            }
            if kind != METHOD && self.missing == 0 {
                seen(&self.payload);
                self.whole = self.tag;
                self.unacked += 1;
                if self.unacked >= ACK_EVERY {
                    self.ack(out);
                }
            }
        }
        // Nothing more is there at the moment: whoever waits for the prefetch gets it.
        if self.unacked > 0 {
            self.ack(out);
        }
        Ok(())
    }
}

fn frame(input: &mut BytesMut) -> Res<Option<(u8, BytesMut)>> {
    let Some(head) = input.first_chunk::<7>() else { return Ok(None) };
    let bytes = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let kind = head[0];
    if input.len() < 7 + bytes + 1 {
        return Ok(None);
    }
    input.advance(7);
    let payload = input.split_to(bytes);
    match input.get_u8() {
        FRAME_END => Ok(Some((kind, payload))),
        _ => Err("a frame does not end as it should".into()),
    }
}

fn put_frame(out: &mut BytesMut, kind: u8, channel: u16, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    out.put_u16(channel);
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let bytes = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
    out.put_u8(FRAME_END);
}

fn method(out: &mut BytesMut, channel: u16, (class, id): (u16, u16), fill: impl FnOnce(&mut BytesMut)) {
    put_frame(out, METHOD, channel, |body| {
        body.put_u16(class);
        body.put_u16(id);
        fill(body);
    });
}

fn short(body: &mut BytesMut, text: &str) {
    body.put_u8(text.len() as u8);
    body.put_slice(text.as_bytes());
}

fn long(body: &mut BytesMut, bytes: &[u8]) {
    body.put_u32(bytes.len() as u32);
    body.put_slice(bytes);
}

fn table(body: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let mut table = BytesMut::new();
    fill(&mut table);
    long(body, &table);
}

fn entry(table: &mut BytesMut, name: &str, value: &str) {
    short(table, name);
    table.put_u8(b'S');
    long(table, value.as_bytes());
}
