//! Being asked to end: by a signal, or by the end of standard input.

use std::io::Read as _;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::failure::Failure;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// SIGINT: somebody at a terminal.
    Interrupt,
    /// SIGTERM: whoever runs this as a service, or the pool that drains this worker.
    Terminate,
    /// Standard input ended: whoever started this is gone.
    Orphaned,
}

/// Whether this process has been asked to end. The first one who asks counts; a second signal ends it at once.
#[derive(Debug)]
pub(crate) struct Stop {
    asked: watch::Sender<Option<Cause>>,
}

const EXIT_INTERRUPTED: i32 = 130;

impl Stop {
    /// Listens for signals from here on.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let (asked, _) = watch::channel(None);
        for (kind, cause) in
            [(SignalKind::interrupt(), Cause::Interrupt), (SignalKind::terminate(), Cause::Terminate)]
        {
            let mut signals = signal(kind).map_err(Failure::during("cannot listen for signals"))?;
            let asked = asked.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if asked.borrow().is_some_and(|cause| cause != Cause::Orphaned) {
                        std::process::exit(EXIT_INTERRUPTED);
                    }
                    ask(&asked, cause);
                }
            });
        }
        Ok(Self { asked })
    }

    /// Counts the end of standard input as well.
    pub(crate) fn when_stdin_ends(&self) {
        let asked = self.asked.clone();
        // A thread of its own: the runtime would wait for a read that it started.
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            let mut ignored = [0; 64];
            while matches!(stdin.read(&mut ignored), Ok(1..)) {}
            ask(&asked, Cause::Orphaned);
        });
    }

    /// Who asked first, if anybody has.
    pub(crate) fn cause(&self) -> Option<Cause> {
        *self.asked.borrow()
    }

    /// Returns when somebody has asked.
    pub(crate) async fn asked(&self) -> Cause {
        self.asked_for(|_| true).await
    }

    /// Returns when whoever started this is gone.
    pub(crate) async fn orphaned(&self) {
        self.asked_for(|cause| cause == Cause::Orphaned).await;
    }

    async fn asked_for(&self, wanted: impl Fn(Cause) -> bool) -> Cause {
        let mut asked = self.asked.subscribe();
        let cause = asked.wait_for(|cause| cause.is_some_and(&wanted)).await;
        cause.expect("the sender is borrowed here").expect("waited for")
    }

    /// How to end once what was asked for is done: SIGTERM is an order carried out, Ctrl-C an interruption.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        match self.cause() {
            Some(Cause::Interrupt) => Err(Failure::Interrupted(String::new())),
            _ => Ok(()),
        }
    }
}

/// Being orphaned replaces every other cause, since it is more urgent.
fn ask(asked: &watch::Sender<Option<Cause>>, cause: Cause) {
    asked.send_if_modified(|asked| {
        let first = asked.is_none() || cause == Cause::Orphaned;
        if first {
            *asked = Some(cause);
        }
        first
    });
}
