//! What `tests/fuzz` reaches of the broker's inside, and nothing else does.

use std::path::Path;

use dure_engine::{RequestError, Settle};
use dure_proto::wire;

use crate::config::{ConfigError, parse_file};
use crate::server;

/// The values of a configuration file by name.
///
/// # Errors
/// As `dure serve --config` shows them.
pub fn configuration(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    parse_file(Path::new("dure.toml"), text)
}

/// A settling as a connection checks it before the engine sees it.
///
/// # Errors
/// What the client is told.
pub fn settle(settle: wire::Settle) -> Result<Settle, RequestError> {
    server::settle(settle)
}
