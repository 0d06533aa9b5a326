//! dure-benches
