//! Asks before something is lost for good.

use std::io::{IsTerminal, Write, stderr, stdin};

use clap::Args;

use super::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub(super) struct YesArgs {
    /// Do it without asking.
    #[arg(long, short = 'y')]
    yes: bool,
}

impl YesArgs {
    /// As [`confirm`](Self::confirm), but a script need not say --yes.
    pub(super) async fn confirm_at_a_terminal(&self, what: &str) -> Outcome {
        if stdin().is_terminal() { self.confirm(what).await } else { Ok(()) }
    }

    /// Goes on if --yes was given or somebody at a terminal says so. `what` would be done.
    pub(super) async fn confirm(&self, what: &str) -> Outcome {
        if self.yes {
            return Ok(());
        }
        if !stdin().is_terminal() {
            let text = format!("{what} cannot be undone: give --yes to do it without being asked");
            return Err(Failure::Usage(text));
        }
        let _ = write!(stderr(), "{what} cannot be undone. Go on? [y/N] ");
        let _ = stderr().flush();
        // Reading blocks, and Ctrl-C is to be noticed meanwhile.
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            stdin().read_line(&mut answer).map(|_| answer)
        });
        match answer.await {
            Ok(Ok(answer)) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
            _ => Err(Failure::failed("nothing was done")),
        }
    }
}
