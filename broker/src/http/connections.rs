//! The connections of HTTP: so many at once, each so long without a request that is whole.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::HTTP_CONNECTIONS_MAX;

/// What whoever connects can take, and what they cannot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// At once; more wait until one of these ends.
    pub(super) connections: usize,
    /// From the connection's start, or from the answer before, until a request's last header.
    pub(super) headers_within: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: HTTP_CONNECTIONS_MAX, headers_within: Duration::from_secs(10) }
    }
}

/// After a connection that could not be accepted, which is mostly for want of descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves until `stop` is done, and what is being answered then.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let connection = serve_one(socket, router.clone(), bounds, ending.clone());
                tasks.spawn(async move {
                    // Whoever is gone, late or not speaking HTTP has been told what there is to be told.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "an HTTP connection was not accepted");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    ending.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn serve_one(
    socket: TcpStream,
    router: Router,
    bounds: Bounds,
    ending: CancellationToken,
) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.headers_within);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router)));
    tokio::select! {
        served = connection.as_mut() => return served.map_err(io::Error::other),
        () = ending.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn started(
        connections: usize,
        headers_within: Duration,
    ) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new().route("/", get(|| async { "here" }));
        let bounds = Bounds { connections, headers_within };
        let served = tokio::spawn(serve(listener, router, bounds, stop.clone().cancelled_owned()));
        (address, stop, served)
    }

    async fn answer(address: SocketAddr) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn who_never_ends_a_request_is_let_go_and_others_have_their_turn() {
        let headers_within = Duration::from_millis(300);
        let (address, _stop, _served) = started(2, headers_within).await;
        let before = Instant::now();
        let (mut slow, mut silent) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        let answer = timeout(PATIENCE, answer(address)).await.expect("a turn");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        assert!(before.elapsed() >= headers_within, "both places were taken");
        for socket in [&mut slow, &mut silent] {
            let read = timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
            read.expect("it is closed").unwrap();
        }
    }

    #[tokio::test]
    async fn the_end_does_not_wait_for_who_keeps_a_connection() {
        let (address, stop, served) = started(2, PATIENCE * 10).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut begun = [0; 12];
        kept.read_exact(&mut begun).await.unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200");
        stop.cancel();
        timeout(PATIENCE, served).await.expect("an end").unwrap();
    }
}
