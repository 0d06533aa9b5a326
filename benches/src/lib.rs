//! What the programs that measure DureMQ share: brokers and what they cost ([`server`], [`broker`]), loads through the
//! client library ([`load`]), the limits of the machine, tables and plots; and the hot paths that the micro benches and the
//! counts of instructions run, each written once ([`paths`]).

pub mod ages;
pub mod broker;
pub mod limits;
pub mod load;
pub mod pace;
pub mod paths;
pub mod payloads;
pub mod server;
pub mod svg;

/// Any failure, in words: a bench has nobody to handle it.
pub type Res<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
