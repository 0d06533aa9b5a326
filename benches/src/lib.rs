//! What the programs and the micro benches of this package share: the hot paths of DureMQ, each written once.

pub mod paths;
