//! SIGTERM under load: what is in flight is finished or fails as retriable, and it exits with 0 in time.

use std::time::Duration;

use super::check::Violation;
use super::history::What;
use super::{Fault, Stage};

const EXIT_LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Sigterm {
    slowest: Duration,
}

impl Fault for Sigterm {
    fn name(&self) -> &'static str {
        "sigterm"
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(200..900);
        let took = stage.fault("SIGTERM", |stage| {
            // Anything but an exit with 0 is a panic here.
            let took = stage.broker.stop();
            stage.broker.start_again();
            took
        });
        self.slowest = self.slowest.max(took);
        if took > EXIT_LIMIT {
            return Err(Violation::conduct(format!("it took {took:?} to exit")));
        }
        stage.run_on(100..500);
        let refused = stage.events().into_iter().find_map(|event| match event.what {
            What::RefusedForGood { id, error } => Some((id, error)),
            _ => None,
        });
        refused.map_or(Ok(()), |(id, error)| {
            Err(Violation { id: Some(id), ..Violation::conduct(format!("not retriable: {error}")) })
        })
    }

    fn remark(&self) -> Option<String> {
        Some(format!("slowest exit after {:.2?}", self.slowest))
    }
}
