//! The native listener: accepts connections within the limits and hands each to its tasks.

mod access;
mod backup;
mod connection;
mod convert;
mod dead_letters;
mod delivery;
mod dispatch;
mod frames;
mod handshake;
mod hot_keys;
mod lookups;
mod stream;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dure_engine::ConnectionId;
use dure_proto::wire::{ErrorCode, Retry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use convert::settle;

use crate::broker::Broker;

/// Connections that are told at once that there is no room; beyond this many they are closed without a word.
const REFUSALS_AT_ONCE: usize = 64;
/// How long accepting pauses when the process has no descriptor left.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// When the listener stops and when its connections do.
#[derive(Clone)]
pub(crate) struct Stops {
    pub(crate) accepting: CancellationToken,
    pub(crate) connections: CancellationToken,
}

/// Accepts until told to stop. Connections are tracked in `tasks`.
pub(crate) async fn listen(
    listener: TcpListener,
    broker: Arc<Broker>,
    connections_max: usize,
    stops: Stops,
    tasks: TaskTracker,
) {
    let ids = AtomicU64::new(crate::runtime::OWN_CONNECTION.0 + 1);
    let room = Arc::new(Semaphore::new(connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stops.accepting.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            broker.metrics.connections_refused.increment(1);
            if let Ok(permit) = refusals.clone().try_acquire_owned() {
                tasks.spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, connections_max)).await;
                    drop(permit);
                });
            }
            continue;
        };
        let id = ConnectionId(ids.fetch_add(1, Ordering::Relaxed));
        let (broker, stop) = (broker.clone(), stops.connections.clone());
        tasks.spawn(async move {
            broker.metrics.connections_accepted.increment(1);
            broker.metrics.connections.increment(1.0);
            tracing::debug!(connection = id.0, %peer, "connection opened");
            let why = connection::serve(&broker, stream, id, stop).await;
            tracing::debug!(connection = id.0, %peer, why, "connection closed");
            broker.metrics.connections.decrement(1.0);
            drop(place);
        });
    }
}

async fn pause_after(error: &io::Error) {
    // EMFILE and ENFILE: no descriptor is left. What is open goes on meanwhile.
    let no_descriptor = matches!(
        error.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
    );
    if no_descriptor {
        tracing::warn!(%error, "no descriptor is left for a connection; accepting pauses");
        tokio::time::sleep(DESCRIPTOR_PAUSE).await;
    } else {
        tracing::debug!(%error, "a connection went before it was accepted");
    }
}

async fn refuse(stream: TcpStream, connections_max: usize) {
    let text = format!("busy: the broker serves {connections_max} connections already; try again later");
    handshake::refuse(stream, convert::message(ErrorCode::Busy, text, Retry::Later)).await;
}
