//! Tests of DureMQ as a whole.

pub mod faults;
pub mod harness;
pub mod sim;
pub mod volume;
