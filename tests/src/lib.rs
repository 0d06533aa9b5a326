//! Tests of DureMQ as a whole.

pub mod bits;
pub mod faults;
pub mod fuzzing;
pub mod harness;
pub mod sim;
pub mod volume;
