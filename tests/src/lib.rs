//! Tests of DureMQ as a whole.

pub mod bits;
pub mod faults;
#[cfg(feature = "broker")]
pub mod fuzzing;
pub mod harness;
pub mod sim;
pub mod startup;
pub mod volume;
