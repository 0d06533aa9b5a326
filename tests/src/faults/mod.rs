//! Faults of machines, brought upon the shipped binary under load.
//!
//! A `Stage` is a broker with many clients (`load`) that write down what they do and what they are told
//! (`history`). A `Fault` strikes it; afterwards everything that is there is looked at (`audit`), and `check`
//! judges the whole history by what was promised. `campaign` does that again and again and counts.

mod audit;
pub mod campaign;
mod check;
mod descriptors;
mod disk_full;
mod fsync;
mod history;
mod kill;
mod load;
mod memory;
mod payload;
mod power;
mod sigterm;
mod stage;
mod two_brokers;

use check::Violation;
use load::Shape;
use stage::Stage;

use crate::harness::BrokerBuilder;

/// Small pieces and frequent checkpoints, so that a few seconds see many of them.
const SMALL: &str = "--journal-piece 16MiB --checkpoint 2MiB --reserve 64MiB";

/// Something bad that happens to a broker.
pub(crate) trait Fault {
    /// As it is called on the command line.
    fn name(&self) -> &'static str;

    /// Why it cannot be had on this machine, if so.
    fn missing(&self) -> Option<String>;

    /// Makes room for a new broker and says how it is started. The one before is gone.
    ///
    /// # Errors
    /// What the system refused.
    fn prepare(&mut self) -> Result<BrokerBuilder, String> {
        Ok(BrokerBuilder::default().flags(SMALL))
    }

    /// Who uses the broker meanwhile.
    fn shape(&self) -> Shape {
        Shape::default()
    }

    /// Lets it happen, once, under load. The broker serves when this returns.
    ///
    /// # Errors
    /// What the broker owed at this fault and did not do.
    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation>;

    /// Something to be told beside the counts, once at the end.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// Every fault there is.
#[must_use]
pub(crate) fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(kill::Kill),
        Box::new(power::PowerCut::on_ext4()),
        Box::new(power::PowerCut::on_xfs()),
        Box::new(disk_full::DiskFull::default()),
        Box::new(fsync::FailedSync),
        Box::new(descriptors::Descriptors),
        Box::new(memory::Memory::default()),
        Box::new(two_brokers::TwoBrokers),
        Box::new(sigterm::Sigterm::default()),
    ]
}
