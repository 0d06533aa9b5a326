//! `photo-pipeline`: photos through a durable queue to a pool of worker processes.

mod app;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::main()
}
