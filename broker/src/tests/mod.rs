//! The whole broker over its sockets, with a client that speaks frames and nothing else.

mod client;
mod hostile;
mod http;
mod queues;
mod streams;

use std::net::SocketAddr;
use std::path::Path;

use crate::{Running, ServeOptions, serve};

pub(super) fn options(data: &Path) -> ServeOptions {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut options =
        ServeOptions { data: data.to_owned(), listen: any, http: any, ..ServeOptions::default() };
    options.shard.journal_piece_bytes = 16 << 20;
    options.shard.reserve_bytes = 0;
    options
}

pub(super) async fn start(data: &Path) -> Running {
    serve(options(data)).await.expect("the broker starts")
}

pub(super) async fn stop(running: Running) {
    running.shutdown();
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(10), running.wait()).await;
    assert!(stopped.is_ok(), "the broker stops within 10 s");
}
