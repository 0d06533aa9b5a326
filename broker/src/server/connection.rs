//! One native connection: this task reads and dispatches, a second writes, a third reads the bytes of leased messages,
//! and each `Read` has its own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dure_engine::ConnectionId;
use dure_proto::wire::envelope::Body;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::dispatch::QUEUES_CHECKED_MIN;
use super::frames::FrameReader;
use super::handshake::{self, Greeted};
use super::stream::Credit;
use super::writer::Socket;
use crate::authorize::Principal;
use crate::broker::Broker;
use crate::runtime::{ByteCredit, Delivery, Outbox, OutgoingFrame};

/// What a connection's pushes may take before they are written; a larger one goes alone.
pub(super) const PUSH_BYTES_MAX: u32 = 2 << 20;
/// How long what was already said may take to go out after the last frame was read.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client that sent something bad may go on sending before the connection is reset.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection as its requests see it.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) broker: Arc<Broker>,
    pub(super) principal: Principal,
    /// Its name for itself.
    pub(super) client: String,
    pub(super) outbox: Outbox,
    /// Bytes of its requests that are not answered yet.
    pub(super) inflight: Arc<Semaphore>,
    /// Bytes of pushes that are not written yet.
    pub(super) pushes: Arc<Semaphore>,
    /// Streams by the client's number; ended ones among them.
    pub(super) streams: HashMap<u64, Arc<Credit>>,
    /// Credit of queue subscriptions by the client's number, for as long as their deliveries hold it.
    pub(super) queues: HashMap<u64, Weak<ByteCredit>>,
    /// How many there were when it was last looked which are over.
    pub(super) queues_checked: usize,
    /// Streams and requests that take several steps; they go with the connection.
    pub(super) tasks: JoinSet<()>,
    /// Until the first queue subscription or receive.
    pub(super) deliveries: Option<mpsc::UnboundedReceiver<Delivery>>,
}

/// Serves a connection to its end and says what ended it.
pub(super) async fn serve(
    broker: &Arc<Broker>,
    stream: TcpStream,
    id: ConnectionId,
    stop: CancellationToken,
) -> &'static str {
    // Small answers must not wait for more to come.
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let timeout_each = broker.options.frame_timeout;
    let mut frames = FrameReader::new(read, timeout_each, broker.assembling.clone());
    let greeted = tokio::select! {
        greeted = handshake::greet(&mut frames, broker) => greeted,
        () = stop.cancelled() => return "the broker stops",
    };
    let Greeted { client, reply } = match greeted {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return "closed before its Hello",
        Err(error) => {
            broker.metrics.error(error.code);
            let _ = timeout(DRAIN_TIMEOUT, async {
                handshake::send_last(&mut write, error).await;
                handshake::drain(&mut frames).await;
            })
            .await;
            return "bad handshake";
        }
    };

    let (answers, outgoing) = mpsc::unbounded_channel();
    let (delivery_sender, deliveries) = mpsc::unbounded_channel();
    let socket = Arc::new(Socket::new(write, broker.metrics.clone()));
    let outbox = Outbox { answers, line: socket.clone(), deliveries: delivery_sender };
    let mut writer = tokio::spawn(async move { socket.write_outgoing(outgoing).await });
    outbox.frame(OutgoingFrame { envelope: reply, attachment: Vec::new(), permit: None });
    broker.shards.attach(id, &outbox);
    let mut connection = Connection {
        id,
        broker: broker.clone(),
        principal: Principal::Anonymous,
        client,
        outbox,
        inflight: Arc::new(Semaphore::new(broker.options.connection_inflight_bytes_max as usize)),
        pushes: Arc::new(Semaphore::new(PUSH_BYTES_MAX as usize)),
        streams: HashMap::new(),
        queues: HashMap::new(),
        queues_checked: QUEUES_CHECKED_MIN,
        tasks: JoinSet::new(),
        deliveries: Some(deliveries),
    };
    let why = tokio::select! {
        why = connection.run(&mut frames) => why,
        _ = &mut writer => "the client reads no more",
        () = stop.cancelled() => "the broker stops",
    };
    broker.shards.detach(id);
    // The writer ends when the last sender goes: this one, the tasks', and the shards' once they heard of the end.
    drop(connection);
    if !writer.is_finished() && timeout(FLUSH_TIMEOUT, &mut writer).await.is_err() {
        writer.abort();
    }
    if why == BAD_FRAME {
        let _ = timeout(DRAIN_TIMEOUT, handshake::drain(&mut frames)).await;
    }
    why
}

const BAD_FRAME: &str = "bad frame";

impl Connection {
    async fn run(&mut self, frames: &mut FrameReader) -> &'static str {
        loop {
            match frames.next().await {
                Ok(Some(received)) => self.dispatch(received).await,
                Ok(None) => return "closed by the client",
                Err(fault) => {
                    tracing::debug!(connection = self.id.0, %fault, "connection broken");
                    self.outbox.frame(OutgoingFrame::push(Body::Error(handshake::fault_message(&fault))));
                    return BAD_FRAME;
                }
            }
            // Ended tasks are let go of as they pile up, without waiting for any.
            while self.tasks.try_join_next().is_some() {}
        }
    }
}
