//! The thread on which everything runs that keeps leases alive, whatever handlers do: one for the whole process, with a
//! runtime of its own. A handler that blocks its thread, or all threads of its runtime, keeps its lease.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

use crate::error::{Error, Result};

static RUNTIME: OnceLock<std::result::Result<Handle, String>> = OnceLock::new();

/// The runtime of that thread, which is started when it is asked for first and ends with the process.
pub(super) fn runtime() -> Result<&'static Handle> {
    let started = RUNTIME.get_or_init(|| start().map_err(|error| error.to_string()));
    started.as_ref().map_err(|why| Error::disconnected(format!("no thread to keep leases on: {why}")))
}

/// What was asked for before, such as the release of a job that was dropped, is on its way.
pub(crate) async fn caught_up() {
    if let Some(Ok(runtime)) = RUNTIME.get() {
        // Its tasks take turns in the order in which they were woken.
        let _ = runtime.spawn(async {}).await;
    }
}

fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("dure-leases".to_owned()).spawn(run)?;
    Ok(handle)
}
