//! Writes what a connection is to be told: everything that waits goes out in one vectored write. A client that does not
//! read holds up its own writer and nothing else.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use dure_proto::wire::envelope::Body;
use dure_proto::{FrameError, encode_frame, wire};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::convert::{error_message, response_body};
use crate::metrics::Metrics;
use crate::runtime::{Outgoing, OutgoingFrame};

/// What is gathered before it is written.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// What an envelope is taken for when a write is bounded.
const ENVELOPE_BYTES_GUESS: usize = 64;
/// Attachments up to this are copied behind their envelope.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// Runs until everyone who could say something is gone, or the client is.
pub(super) async fn write_outgoing(
    mut stream: OwnedWriteHalf,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    metrics: &Metrics,
) -> io::Result<()> {
    let mut batch = WriteBatch::default();
    while let Some(first) = outgoing.recv().await {
        batch.push(first, metrics);
        while batch.bytes < WRITE_BYTES_MAX {
            let Ok(next) = outgoing.try_recv() else { break };
            batch.push(next, metrics);
        }
        stream.write_all_buf(&mut batch.finish()).await?;
        batch.written();
    }
    stream.shutdown().await
}

#[derive(Default)]
struct WriteBatch {
    parts: VecDeque<Bytes>,
    /// Envelopes and what is small, behind the parts.
    gathered: BytesMut,
    bytes: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

impl WriteBatch {
    fn push(&mut self, outgoing: Outgoing, metrics: &Metrics) {
        let OutgoingFrame { envelope, attachment, permit } = match outgoing {
            Outgoing::Frame(frame) => frame,
            Outgoing::Answer { correlation, result, permit } => {
                let body = result.map_or_else(|error| Body::Error(error_message(&error)), response_body);
                OutgoingFrame::answer(correlation, body, permit)
            }
        };
        self.permits.extend(permit);
        if let Some(Body::Error(error)) = &envelope.body {
            metrics.error(error.code);
        }
        let attachment_bytes = attachment.iter().map(Bytes::len).sum();
        match encode_frame(&mut self.gathered, &envelope, attachment_bytes) {
            Ok(()) => attachment.into_iter().for_each(|part| self.append(part)),
            Err(error) => self.push_too_large(&envelope, &error),
        }
        self.bytes += ENVELOPE_BYTES_GUESS + attachment_bytes;
    }

    /// An answer that does not fit in a frame is an error; a push that does not is a fault of ours.
    fn push_too_large(&mut self, envelope: &wire::Envelope, error: &FrameError) {
        tracing::error!(%error, correlation = envelope.correlation, "an answer does not fit in a frame");
        let message = format!("the answer is too large ({error}): ask for fewer at once, by name");
        let error =
            wire::Error { code: wire::ErrorCode::FrameTooLarge.into(), message, ..wire::Error::default() };
        let envelope = wire::Envelope { correlation: envelope.correlation, body: Some(Body::Error(error)) };
        encode_frame(&mut self.gathered, &envelope, 0).expect("an error is small");
    }

    fn append(&mut self, part: Bytes) {
        if part.len() <= COPIED_BYTES_MAX {
            self.gathered.extend_from_slice(&part);
        } else {
            self.cut();
            self.parts.push_back(part);
        }
    }

    fn cut(&mut self) {
        if !self.gathered.is_empty() {
            self.parts.push_back(self.gathered.split().freeze());
        }
    }

    fn finish(&mut self) -> Parts<'_> {
        self.cut();
        Parts(&mut self.parts)
    }

    fn written(&mut self) {
        self.permits.clear();
        self.bytes = 0;
        // What is idle holds no buffer.
        self.gathered = BytesMut::new();
        self.permits.shrink_to(16);
    }
}

/// The parts as one buffer.
struct Parts<'a>(&'a mut VecDeque<Bytes>);

impl Buf for Parts<'_> {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| part)
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let front = self.0.front_mut().expect("no further than what remains");
            let step = bytes.min(front.len());
            front.advance(step);
            bytes -= step;
            if front.is_empty() {
                self.0.pop_front();
            }
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(self.0.iter()) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }
}
