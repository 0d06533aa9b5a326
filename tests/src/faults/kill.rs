//! `kill -9` at random moments, some of them within the recovery from the last one.

use super::check::Violation;
use super::{Fault, Stage};

pub(super) struct Kill;

impl Fault for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(200..900);
        stage.fault("kill -9", |stage| {
            stage.broker.kill();
            for _ in 0..stage.rng.u32(0..3) {
                let mut recovering = stage.broker.serve().spawn();
                stage.run_on(0..40);
                recovering.kill();
            }
            stage.broker.start_again();
        });
        stage.run_on(100..500);
        Ok(())
    }
}
