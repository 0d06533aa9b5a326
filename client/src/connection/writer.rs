//! The writing half: takes all that is queued and writes it at once. Attachments of some size are handed to the
//! kernel where they lie; small ones are copied next to their envelope.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use dure_proto::{FrameError, encode_frame, wire};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::shared::Shared;

/// Up to this many messages go into one write.
const MESSAGES_PER_WRITE_MAX: usize = 256;
/// Below this a copy costs less than another slice.
const COPIED_BYTES_MAX: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) envelope: wire::Envelope,
    pub(super) attachment: Bytes,
}

/// Writes until every handle of the connection is gone, or the connection is.
pub(super) async fn run(
    mut socket: OwnedWriteHalf,
    mut inbox: mpsc::UnboundedReceiver<Outgoing>,
    shared: Arc<Shared>,
) {
    let mut taken = Vec::with_capacity(MESSAGES_PER_WRITE_MAX);
    let mut scratch = BytesMut::new();
    let reason = loop {
        let count = tokio::select! {
            count = inbox.recv_many(&mut taken, MESSAGES_PER_WRITE_MAX) => count,
            () = shared.closed.cancelled() => return,
        };
        if count == 0 {
            break "closed by this client".to_owned();
        }
        shared.mark_written(taken.iter().map(|out| out.envelope.correlation).filter(|c| *c != 0));
        let mut chunks = match frames(&mut taken, &mut scratch) {
            Ok(chunks) => chunks,
            Err(error) => break format!("a request could not be encoded: {error}"),
        };
        let written = tokio::select! {
            written = socket.write_all_buf(&mut chunks) => written,
            () = shared.closed.cancelled() => return,
        };
        if let Err(error) = written {
            break format!("writing failed: {error}");
        }
    };
    let _ = socket.shutdown().await;
    shared.die(&reason);
}

/// The bytes of these messages, in order, in as few pieces as make sense.
fn frames(taken: &mut Vec<Outgoing>, scratch: &mut BytesMut) -> Result<Chunks, FrameError> {
    let mut chunks = VecDeque::with_capacity(2);
    for Outgoing { envelope, attachment } in taken.drain(..) {
        encode_frame(scratch, &envelope, attachment.len())?;
        if attachment.len() <= COPIED_BYTES_MAX {
            scratch.extend_from_slice(&attachment);
        } else {
            chunks.push_back(scratch.split().freeze());
            chunks.push_back(attachment);
        }
    }
    if !scratch.is_empty() {
        chunks.push_back(scratch.split().freeze());
    }
    Ok(Chunks(chunks))
}

/// Pieces that are written as if they were one.
struct Chunks(VecDeque<Bytes>);

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let front = self.0.front_mut().expect("never advanced beyond the end");
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.0.pop_front();
            }
        }
    }
}
