//! What the drivers need to know of a protocol. Protocols read and write buffers; sockets are the drivers' business.

use bytes::BytesMut;

pub(crate) use dure_benches::Res;

/// The writing half of a connection that publishes.
pub(crate) trait Publish: Send {
    fn publish(&mut self, payload: &[u8], out: &mut BytesMut);
}

/// The reading half: what comes back for what was published.
pub(crate) trait Confirm: Send {
    /// Takes what is complete out of `input`; how many messages that acknowledged.
    fn confirm(&mut self, input: &mut BytesMut) -> Res<u64>;
}

/// A connection that takes messages and acknowledges each.
pub(crate) trait Take: Send {
    /// Asks for the first messages.
    fn begin(&mut self, out: &mut BytesMut);
    /// Takes what is complete out of `input`, shows each message's payload, writes acknowledgements and requests for
    /// more.
    fn take(&mut self, input: &mut BytesMut, out: &mut BytesMut, seen: &mut dyn FnMut(&[u8])) -> Res;
}

/// Splits a line off, without its `\r\n`.
pub(crate) fn line(input: &mut BytesMut) -> Option<BytesMut> {
    let end = input.windows(2).position(|pair| pair == b"\r\n")?;
    let line = input.split_to(end);
    let _ = input.split_to(2);
    Some(line)
}
