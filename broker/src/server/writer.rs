//! Writes what a connection is to be told: everything that waits goes out in one vectored write. A client that does not
//! read holds up its own writer and nothing else.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes, BytesMut};
use dure_proto::wire::envelope::Body;
use dure_proto::{FrameError, encode_frame, wire};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::convert::{error_message, response_body};
use crate::metrics::Metrics;
use crate::runtime::{Line, Outgoing, OutgoingFrame};

/// What is gathered before it is written.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// What an envelope is taken for when a write is bounded.
const ENVELOPE_BYTES_GUESS: usize = 64;
/// Parts that go out in one call.
const SLICES_MAX: usize = 64;
/// Attachments up to this are copied behind their envelope.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// A connection's socket with what is to be written to it. Shards write to it at once; its task writes what everyone else
/// says, and what the socket did not take at once.
pub(super) struct Socket {
    stream: OwnedWriteHalf,
    /// What shards said, and nobody has gathered yet.
    said: Mutex<Vec<Outgoing>>,
    /// What is being written; whoever holds it writes.
    batch: Mutex<WriteBatch>,
    /// The task has something to write.
    left: Notify,
    metrics: Arc<Metrics>,
}

impl Socket {
    pub(super) fn new(stream: OwnedWriteHalf, metrics: Arc<Metrics>) -> Socket {
        let (said, batch, left) = (Mutex::default(), Mutex::default(), Notify::new());
        Socket { stream, said, batch, left, metrics }
    }

    /// Runs until everyone who could say something is gone, or the client is.
    pub(super) async fn write_outgoing(
        &self,
        mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    ) -> io::Result<()> {
        loop {
            let first = tokio::select! {
                biased;
                () = self.left.notified() => None,
                first = outgoing.recv() => match first {
                    None => return Ok(()),
                    first => first,
                },
            };
            self.gather(first, &mut outgoing);
            while !self.write()? {
                self.stream.writable().await?;
            }
        }
    }

    /// Some of both: shards that never cease to speak must not keep the others from it.
    fn gather(&self, first: Option<Outgoing>, outgoing: &mut mpsc::UnboundedReceiver<Outgoing>) {
        let mut batch = lock(&self.batch);
        lock(&self.said).drain(..).for_each(|said| batch.push(said, &self.metrics));
        let mut next = first.or_else(|| outgoing.try_recv().ok());
        while let Some(one) = next {
            batch.push(one, &self.metrics);
            next = if batch.bytes < WRITE_BYTES_MAX { outgoing.try_recv().ok() } else { None };
        }
    }

    /// Writes as much as the socket takes. Whether that was all.
    fn write(&self) -> io::Result<bool> {
        lock(&self.batch).write(&self.stream)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Line for Socket {
    fn say(&self, said: &mut Vec<Outgoing>) {
        lock(&self.said).append(said);
        // What the task is writing, or could not write yet, comes first.
        let done = self.batch.try_lock().is_ok_and(|mut batch| {
            let free = batch.is_empty();
            if free {
                lock(&self.said).drain(..).for_each(|said| batch.push(said, &self.metrics));
            }
            // An error meets the task as well.
            free && batch.write(&self.stream).unwrap_or(false)
        });
        if !done {
            self.left.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

#[derive(Debug, Default)]
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

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.gathered.is_empty()
    }

    /// Writes as much as the socket takes. Whether that was all.
    fn write(&mut self, stream: &OwnedWriteHalf) -> io::Result<bool> {
        self.cut();
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = slices.iter_mut().zip(&self.parts).map(|(slice, part)| *slice = IoSlice::new(part));
            let filled = filled.count();
            match stream.try_write_vectored(&slices[..filled]) {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.written();
        Ok(true)
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let front = self.parts.front_mut().expect("no further than what remains");
            let step = bytes.min(front.len());
            front.advance(step);
            bytes -= step;
            if front.is_empty() {
                self.parts.pop_front();
            }
        }
    }

    fn written(&mut self) {
        self.permits.clear();
        self.bytes = 0;
        // What is idle holds no buffer.
        self.gathered = BytesMut::new();
        self.permits.shrink_to(16);
    }
}

#[cfg(test)]
mod tests {
    use dure_proto::FrameDecoder;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn frame(correlation: u64, bytes: usize) -> Outgoing {
        let envelope = wire::Envelope { correlation, body: Some(Body::Done(wire::Done {})) };
        let attachment = vec![Bytes::from(vec![correlation as u8; bytes])];
        Outgoing::Frame(OutgoingFrame { envelope, attachment, permit: None })
    }

    /// A shard says more than the sockets hold, while a task of the connection says something as well.
    #[tokio::test]
    async fn what_a_slow_client_does_not_take_follows_in_order_and_in_whole_frames() {
        const EACH: u64 = 200;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let (_read, write) = stream.into_split();
        let socket = Arc::new(Socket::new(write, Arc::new(Metrics::new())));
        let (sender, outgoing) = mpsc::unbounded_channel();
        let writer = tokio::spawn({
            let socket = socket.clone();
            async move { socket.write_outgoing(outgoing).await }
        });
        let shard = std::thread::spawn(move || {
            for n in 0..EACH {
                socket.say(&mut vec![frame(2 * n + 1, 100_000), frame(1_000 + 2 * n + 1, 10)]);
            }
        });
        for n in 0..EACH {
            sender.send(frame(2 * n + 2, 50_000)).expect("it listens");
            tokio::task::yield_now().await;
        }
        drop(sender);
        let (mut decoder, mut buffer) = (FrameDecoder::new(dure_proto::FRAME_BYTES_MAX), BytesMut::new());
        let mut seen = Vec::new();
        while seen.len() < 3 * EACH as usize {
            while let Some(frame) = decoder.decode(&mut buffer).expect("whole frames") {
                let correlation = frame.envelope.correlation;
                assert!(
                    frame.attachment.iter().all(|byte| *byte == correlation as u8),
                    "frame {correlation}"
                );
                seen.push(correlation);
            }
            assert!(
                client.read_buf(&mut buffer).await.expect("reads") > 0 || seen.len() == 3 * EACH as usize
            );
        }
        shard.join().expect("no panic");
        writer.await.expect("no panic").expect("written");
        let (said, sent): (Vec<u64>, Vec<u64>) = seen.iter().partition(|n| *n % 2 == 1);
        assert_eq!(sent, (0..EACH).map(|n| 2 * n + 2).collect::<Vec<_>>());
        let in_order = (0..EACH).flat_map(|n| [2 * n + 1, 1_000 + 2 * n + 1]).collect::<Vec<_>>();
        assert_eq!(said, in_order);
        assert_eq!(
            client.read_buf(&mut buffer).await.expect("closed"),
            0,
            "the socket is closed with its last user"
        );
    }
}
