//! The one live connection, and how it is made again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::connection::{Connection, Greeting};
use crate::error::{Error, Result};

/// How long [`Link::close`] waits for the last bytes to be written.
const CLOSE_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Link {
    dialer: Arc<Dialer>,
}

#[derive(Debug)]
struct Dialer {
    servers: Vec<String>,
    greeting: Greeting,
    current: Mutex<Option<Arc<Connection>>>,
    /// One connects, the others wait for it, each no longer than its own deadline.
    connecting: tokio::sync::Mutex<Attempts>,
}

#[derive(Debug)]
struct Attempts {
    /// Where in the list of servers the next attempt starts.
    server: usize,
    backoff: Backoff,
    not_before: Instant,
    last_failure: Option<Error>,
}

impl Link {
    pub(super) fn new(servers: Vec<String>, greeting: Greeting) -> Link {
        let backoff = Backoff::reconnecting();
        let attempts = Attempts { server: 0, backoff, not_before: Instant::now(), last_failure: None };
        let connecting = tokio::sync::Mutex::new(attempts);
        let dialer = Dialer { servers, greeting, current: Mutex::new(None), connecting };
        Link { dialer: Arc::new(dialer) }
    }

    /// The live connection, or a new one. Every address is tried at least once if it is this caller's turn;
    /// after `deadline` the last failure is the answer.
    pub(crate) async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>> {
        if let Some(connection) = self.dialer.live() {
            return Ok(connection);
        }
        // In a task, so that it goes on whoever is polled: a caller that is not must not keep the others waiting.
        let dialer = Arc::clone(&self.dialer);
        let dialing = tokio::spawn(async move { dialer.dial(deadline).await });
        let dialed = AbortOnDropHandle::new(dialing).await;
        dialed.unwrap_or_else(|_| Err(Error::disconnected("the runtime is shutting down")))
    }

    pub(super) async fn close(&self) {
        let connection = self.dialer.slot().take();
        if let Some(connection) = connection {
            let closed = connection.closed();
            drop(connection);
            let _ = tokio::time::timeout(CLOSE_MAX, closed.cancelled()).await;
        }
    }
}

impl Dialer {
    async fn dial(&self, deadline: Instant) -> Result<Arc<Connection>> {
        let Ok(mut attempts) = timeout_at(deadline, self.connecting.lock()).await else {
            return Err(Error::disconnected("no connection could be made in time"));
        };
        loop {
            if let Some(connection) = self.live() {
                return Ok(connection);
            }
            if attempts.not_before > deadline {
                sleep_until(deadline).await;
                let failure = attempts.last_failure.clone();
                return Err(
                    failure.unwrap_or_else(|| Error::disconnected("no connection could be made in time"))
                );
            }
            sleep_until(attempts.not_before).await;
            match self.try_each(&mut attempts).await {
                Ok(connection) => {
                    attempts.backoff.reset();
                    // A broker that greets and hangs up at once must not be asked in a tight loop.
                    attempts.not_before = Instant::now() + attempts.backoff.next_delay();
                    *self.slot() = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Err(failure) => {
                    tracing::debug!(%failure, "connecting failed");
                    attempts.not_before = Instant::now() + attempts.backoff.next_delay();
                    let fatal = !matches!(failure, Error::Disconnected { .. }) && !failure.is_passing();
                    attempts.last_failure = Some(failure.clone());
                    if fatal || Instant::now() >= deadline {
                        return Err(failure);
                    }
                }
            }
        }
    }

    async fn try_each(&self, attempts: &mut Attempts) -> Result<Arc<Connection>> {
        let mut failure = Error::disconnected("no server");
        for _ in 0..self.servers.len() {
            match Connection::open(&self.servers[attempts.server], &self.greeting).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
            attempts.server = (attempts.server + 1) % self.servers.len();
        }
        Err(failure)
    }

    fn live(&self) -> Option<Arc<Connection>> {
        self.slot().as_ref().filter(|connection| connection.is_open()).cloned()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
