//! Working through a queue group: [`worker`] keeps the subscription, [`held`] is the table of what is leased,
//! [`settler`] sends acknowledgements and the like, [`renewal`] keeps leases alive. All three run on the thread of
//! [`keeper`], as does their connection, so that no handler can keep them from running.

mod builder;
mod command;
mod held;
mod job;
pub(crate) mod keeper;
mod oneshot;
mod receipt_hasher;
mod received;
mod renewal;
mod settler;
mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::error::Result;
use command::Command;
use held::Held;
use worker::Ready;

pub use builder::QueueBuilder;
pub use job::Job;
pub use oneshot::{Action, Settled};
pub use received::ReceivedJob;
pub(crate) use received::{Parts, unpack};

/// What a stream's jobs and tasks share.
#[derive(Debug)]
struct Core {
    client: crate::Client,
    topic: Arc<str>,
    group: Arc<str>,
    held: Held,
}

/// What the stream and each of its jobs hold on to. With the last of them the settler ends, once everything is
/// settled that was asked for.
#[derive(Debug)]
struct Handle {
    core: Arc<Core>,
    /// Bounded by the number of jobs held.
    commands: mpsc::UnboundedSender<Command>,
}

/// The messages of a queue group that this worker is given: a [`futures::Stream`](futures_core::Stream) of
/// `Result<Job>`.
///
/// It reconnects by itself; jobs in hand stay valid meanwhile. While there is no broker,
/// [`Error::Disconnected`](crate::Error::Disconnected) is yielded from time to time, and polling on goes on
/// trying. Dropping it takes no more and gives back what was not handed out; jobs in hand can still be settled.
#[derive(Debug)]
pub struct JobStream {
    ready: mpsc::UnboundedReceiver<Ready>,
    handle: Arc<Handle>,
    _stop: DropGuard,
}

impl JobStream {
    /// The next job; from here on its attempt counts.
    pub async fn next(&mut self) -> Option<Result<Job>> {
        std::future::poll_fn(|context| self.poll_job(context)).await
    }

    fn poll_job(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Job>>> {
        loop {
            match std::task::ready!(self.ready.poll_recv(context)) {
                Some(Ready::Job(received)) => {
                    // A lease that was lost or ran out while the job waited here: another worker has it.
                    if self.handle.core.held.start(&received.receipt, Instant::now()) {
                        let _ = self.handle.commands.send(Command::start(received.receipt));
                        return Poll::Ready(Some(Ok(Job::new(*received, Arc::clone(&self.handle)))));
                    }
                }
                Some(Ready::Failed { error, .. }) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl futures_core::Stream for JobStream {
    type Item = Result<Job>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_job(context)
    }
}
