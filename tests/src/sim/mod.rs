//! The seeded simulator of the engine: one shard on a simulated disk under a simulated clock, driven by a seed and
//! checked against a model.
//!
//! [`run_seed`] does everything that one seed stands for. `world` drives the shard, `machine` runs its disk jobs in any
//! order and moves the time, `recovery` kills the process, cuts the power and lets the disk fail. `workload` decides
//! what the clients do. `model` remembers what they were told, and `check` compares that with what is there after every
//! recovery. `damage` ends some seeds with a write that goes astray. `identified` looks for what was accepted twice, `copied` for dead letters that were. `exhaustive` visits every I/O boundary of the small
//! `stories`.

mod backup;
mod check;
mod compacted;
mod copied;
mod damage;
mod delayed;
mod deliveries;
mod exhaustive;
mod expiring;
mod history;
mod identified;
mod knobs;
mod machine;
mod model;
mod recovery;
mod stories;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use exhaustive::{Exhaustive, StoryDone, exhaustive};
pub use history::{History, Totals};

use knobs::Knobs;
use world::World;

/// A promise that was broken: what was seen, and what should have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The result of every check.
pub(crate) type Checked = Result<(), Violation>;

/// Ends with a [`Violation`] unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(crate::sim::Violation(format!($($what)+)));
        }
    };
}
pub(crate) use ensure;

/// What became of one seed.
#[derive(Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Everything that was done and answered, one line each. The same seed gives the same bytes.
    pub history: History,
    /// The promise that was broken, or the panic.
    pub failure: Option<String>,
    /// What was done, counted.
    pub totals: Totals,
}

/// Runs one seed from an empty disk to a last clean shutdown.
#[must_use]
pub fn run_seed(seed: u64) -> Run {
    let mut world = World::new(seed, Knobs::of(seed));
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(Violation(what))) => Some(what),
        Err(panic) => Some(format!("panicked: {}", panic_message(&*panic))),
    };
    world.count_disk();
    Run { seed, failure, totals: world.totals, history: world.history }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("with something that is no text").to_owned()
}
