//! SIGINT and SIGTERM: the first one is asked to be noticed, the second one ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::failure::{Failure, Outcome};

/// What a shell expects of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// What the first signal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// By whoever supervises the process.
    Terminate,
}

/// Tells when the process was asked to stop.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    first: watch::Receiver<Option<Asked>>,
}

impl Signals {
    /// Listens from now on; the second signal runs `force` and ends the process at once.
    pub(super) fn listen(force: impl FnOnce() + Send + 'static) -> Outcome<Signals> {
        let failed = |error| Failure::failed(format!("cannot listen for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (tell, first) = watch::channel(None);
        tokio::spawn(async move {
            let asked = either(&mut interrupt, &mut terminate).await;
            tell.send_replace(Some(asked));
            either(&mut interrupt, &mut terminate).await;
            force();
            std::process::exit(INTERRUPTED);
        });
        Ok(Signals { first })
    }

    /// Waits for the first signal; returns at once if it came already.
    pub(super) async fn asked(&mut self) -> Asked {
        match self.first.wait_for(Option::is_some).await {
            Ok(asked) => (*asked).unwrap_or(Asked::Interrupt),
            Err(_) => std::future::pending().await,
        }
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> Asked {
    tokio::select! {
        _ = interrupt.recv() => Asked::Interrupt,
        _ = terminate.recv() => Asked::Terminate,
    }
}

/// Runs a verb that may be dropped at any point.
pub(super) async fn interruptible(verb: impl Future<Output = Outcome>) -> Outcome {
    let mut signals = Signals::listen(|| ())?;
    tokio::select! {
        outcome = verb => outcome,
        _ = signals.asked() => Err(Failure::Interrupted),
    }
}
