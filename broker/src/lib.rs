//! Floor 2 of DureMQ: the broker as a process. It runs the engine on threads, listens for clients and for HTTP, and
//! reads its settings. `dure serve` is [`serve`] with the settings of a command line; the photo pipeline's demo and the
//! tests start it themselves.
//!
//! A produce, read downward: `server::connection` reads its frame, `server::dispatch` checks the batch, `runtime`
//! carries it to the shard's thread, the engine decides, `runtime::effects` sends the answer to `server::writer`.

const _: () = assert!(!dure_engine::HAS_MUTANTS, "the engine of what ships has no faults to switch on");

mod authorize;
pub mod backup;
mod broker;
mod clock;
mod config;
mod data_dir;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod http;
mod limits;
mod metrics;
mod records;
mod runtime;
mod serve;
mod server;
#[cfg(test)]
mod tests;
pub mod units;

pub use config::{
    ConfigError, LogFormat, Origin, Resolved, SETTINGS, ServeOptions, Setting, SettingSpec, nearest, resolve,
};
pub use data_dir::{DataDir, DataDirError, FORMAT_VERSION, Format};
pub use health::{Damaged, HealthState, Phase};
pub use serve::{Running, ServeError, serve};
