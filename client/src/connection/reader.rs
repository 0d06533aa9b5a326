//! The reading half, which also notices a peer that has gone silent.

use std::sync::Arc;
use std::time::Duration;

use dure_proto::FrameError;
use dure_proto::wire::{self, envelope::Body};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::incoming::Incoming;
use super::shared::Shared;
use super::writer::Outgoing;

/// After this long without a byte the peer is asked for a sign of life, every time again.
const SILENCE: Duration = Duration::from_secs(10);
/// So many silences in a row and the connection is given up.
const SILENCES_MAX: u32 = 3;
/// Nobody waits for the answer to a ping under this id.
const PING_CORRELATION: u64 = u64::MAX;

pub(super) async fn run(
    mut socket: OwnedReadHalf,
    mut incoming: Incoming,
    outbox: mpsc::WeakUnboundedSender<Outgoing>,
    shared: Arc<Shared>,
) {
    let mut tick = interval(SILENCE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut silences = 0;
    let reason = loop {
        if let Err(reason) = dispatch_all(&mut incoming, &shared) {
            break reason;
        }
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            read = incoming.read(&mut socket) => match read {
                Ok(0) => break "the broker closed the connection".to_owned(),
                Ok(_) => silences = 0,
                Err(error) => break format!("reading failed: {error}"),
            },
            _ = tick.tick() => {
                silences += 1;
                if silences > SILENCES_MAX {
                    break format!("no sign of life for {} s", (SILENCE * silences).as_secs());
                }
                // With nobody left to send for, the writer is closing.
                let Some(outbox) = outbox.upgrade() else { continue };
                let body = Some(Body::Ping(wire::Ping {}));
                let envelope = wire::Envelope { correlation: PING_CORRELATION, body };
                let _ = outbox.send(Outgoing { envelope, attachment: bytes::Bytes::new() });
            }
        }
    };
    tracing::debug!(%reason, "connection lost");
    shared.die(&reason);
}

fn dispatch_all(incoming: &mut Incoming, shared: &Shared) -> Result<(), String> {
    let garbled = |error: FrameError| format!("the broker's bytes make no sense: {error}");
    while let Some(frame) = incoming.next().map_err(garbled)? {
        shared.dispatch(frame)?;
    }
    Ok(())
}
