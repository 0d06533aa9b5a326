//! What the integration tests stand on: the binary `dure`, run as users run it.
//!
//! [`Broker`] starts `dure serve` on a directory and ports of its own, so that tests run side by side; it can be
//! killed, stopped and started again in place. [`Dure`] runs any other verb, [`Process`] keeps one running.
//! [`RawClient`] speaks the protocol by hand, [`Proxy`] loses answers. Every wait has a deadline, and whatever was
//! started ends with the value that stands for it.

mod binary;
mod broker;
mod cli;
mod http;
mod listing;
mod loop_disk;
mod process;
mod proxy;
mod strace;
pub(crate) mod tools;
mod wait;
mod wire;

pub use binary::dure_binary;
pub use broker::{Broker, BrokerBuilder};
pub use cli::{Dure, Output};
pub use http::{http_get, http_get_as};
pub use listing::{Listing, listing};
pub use loop_disk::{FileSystem, LoopDisk};
pub use process::{Exit, Process};
pub use proxy::Proxy;
pub use strace::FailingSyncs;
pub use wait::{eventually, eventually_async};
pub use wire::RawClient;
