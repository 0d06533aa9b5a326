//! What a shard's thread is told. The channel has no bound of its own: requests hold permits until they are answered,
//! one-way messages until they are handled, and everything else follows from those.

use dure_engine::{ConnectionId, FoundRecords, JobDone, Letter, Request};
use tokio::sync::OwnedSemaphorePermit;

use super::{Outbox, Pending};

pub(crate) enum Message {
    /// A connection opened; its requests follow.
    Attach { connection: ConnectionId, outbox: Outbox },
    /// It is gone; nothing of it follows.
    Detach(ConnectionId),
    /// A client, or the broker itself, asks.
    Request { connection: ConnectionId, request: Request, pending: Pending },
    /// Credit and the like: never answered.
    OneWay { connection: ConnectionId, request: Request, permits: [Option<OwnedSemaphorePermit>; 2] },
    /// A disk thread is done with a job.
    Done(JobDone),
    /// A record for the dead-letter log was read.
    Letter(Letter),
    /// A record table that a queue group asked for.
    Records(FoundRecords),
    /// Nothing new is begun; the thread ends once the shard is drained.
    Shutdown,
}
