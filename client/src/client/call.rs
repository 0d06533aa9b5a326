//! One request, with what may be retried retried until its deadline.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dure_proto::wire::envelope::Body;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Client;
use super::link::Link;
use crate::backoff::Backoff;
use crate::connection::{Connection, Reply};
use crate::error::{Error, Result};

/// What may be done with a request whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retries {
    /// Doing it twice is as good as once, and nobody asks whether it was done: it is sent again.
    Idempotent,
    /// A change that may be done twice: it is sent again. When it fails in the end although an earlier attempt may have
    /// been carried out, the error says so.
    Repeatable,
    /// It is not: the caller is told that the outcome is unknown.
    Once,
}

impl Client {
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.inner.request_timeout
    }

    /// The live connection, or a new one before the deadline.
    pub(crate) async fn connection_by(&self, deadline: Instant) -> Result<Arc<Connection>> {
        connection_of(&self.inner.link, deadline).await
    }

    /// The same of the connection over which queues are worked. It belongs to the runtime of whoever asks for it first.
    pub(crate) async fn work_connection_by(&self, deadline: Instant) -> Result<Arc<Connection>> {
        connection_of(&self.inner.work_link, deadline).await
    }

    /// [`Client::call_by`] within the request timeout.
    pub(crate) async fn call(&self, body: Body, retries: Retries) -> Result<Reply> {
        self.call_by(self.deadline(), body, retries).await
    }

    /// Sends a request, through as many connections as it takes, until it is answered or the deadline passes.
    /// "Busy" and "shutting down" are waited out, since nothing was done; other errors of the broker are not.
    pub(crate) async fn call_by(&self, deadline: Instant, body: Body, retries: Retries) -> Result<Reply> {
        let mut doubt = false;
        let outcome = self.attempts(deadline, body, retries, &mut doubt).await;
        outcome.map_err(|error| if doubt && retries == Retries::Repeatable { error.doubted() } else { error })
    }

    /// `doubt` is set if an attempt was written and not answered.
    async fn attempts(
        &self,
        deadline: Instant,
        body: Body,
        retries: Retries,
        doubt: &mut bool,
    ) -> Result<Reply> {
        let mut backoff = Backoff::later();
        loop {
            let connection = self.connection_by(deadline).await?;
            let submitted = timeout_at(deadline, connection.submit(body.clone(), Bytes::new())).await;
            let outcome = match submitted {
                Ok(Ok(submitted)) => match timeout_at(deadline, submitted.reply()).await {
                    Ok(outcome) => outcome,
                    Err(_) if retries == Retries::Idempotent => {
                        return Err(Error::timeout("waiting for the broker's answer"));
                    }
                    Err(_) => return Err(Error::unknown("no answer within the request timeout")),
                },
                Ok(Err(error)) => Err(error),
                Err(_) => return Err(Error::timeout("waiting for room on the connection")),
            };
            let error = match outcome {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            *doubt |= error.is_outcome_unknown();
            let again = error.is_passing() || (retries != Retries::Once && error.is_worth_asking_again());
            if !again || Instant::now() >= deadline {
                return Err(error);
            }
            if error.code().is_some() {
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn connection_of(link: &Link, deadline: Instant) -> Result<Arc<Connection>> {
    match timeout_at(deadline, link.connection(deadline)).await {
        Ok(connection) => connection,
        Err(_) => Err(Error::disconnected("no connection could be made in time")),
    }
}

/// Waits for what a background task says about its start.
pub(crate) async fn first_answer(answer: oneshot::Receiver<Result<()>>, wait: Duration) -> Result<()> {
    match timeout(wait, answer).await {
        Ok(answer) => answer.unwrap_or(Err(Error::Closed)),
        Err(_) => Err(Error::timeout("waiting for the broker to take the subscription")),
    }
}
