//! Puts the broker together, and takes it down again.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use dure_engine::{OpenError, RecoveryReport, ShardConfig};
use dure_proto::ShardId;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{ConfigError, ServeOptions};
use crate::data_dir::{DataDir, DataDirError};
use crate::health::{Health, HealthState, Phase};
use crate::http::{self, HttpState};
use crate::limits::descriptors_for_connections;
use crate::metrics::Metrics;
use crate::records::RecordReader;
use crate::runtime::{ShardHandle, ShardThreads, Shards, fetch_letters, fetch_records, start_shard};
use crate::server::{Stops, listen};

/// What of the time for stopping is kept for closing connections.
const CLOSING_TIME: Duration = Duration::from_millis(1500);
const HTTP_CLOSING_TIME: Duration = Duration::from_millis(300);

/// A broker that serves. It stops when this is dropped, or by [`Running::shutdown`].
#[derive(Debug)]
pub struct Running {
    native: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
    health: Health,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings are refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A shard cannot be opened.
    #[error("shard {shard} cannot be opened: {source}")]
    Open {
        /// Which.
        shard: ShardId,
        /// Why.
        source: OpenError,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (`{setting}`): {source}")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Opening a shard panicked.
    #[error("starting failed: {0}")]
    Panicked(#[from] JoinError),
}

/// Starts a broker and returns when it is ready for clients. Call it within a tokio runtime with I/O and time.
///
/// The lock on the data directory is taken before anything else; damage in the data is reported in the log and served
/// around, but a journal that cannot be opened is an error.
pub async fn serve(mut options: ServeOptions) -> Result<Running, ServeError> {
    options.check()?;
    let data = options.data.clone();
    let data = spawn_blocking(move || DataDir::open_or_create(&data)).await??;
    options.data = data.path().to_owned();
    let connections_max = descriptors_for_connections(options.connections_max);
    let (native_listener, native) = bind("listen", options.listen).await?;
    let (http_listener, http) = bind("http", options.http).await?;

    let (health, metrics) = (Health::starting(), Arc::new(Metrics::new()));
    let http_state = HttpState::new(health.clone(), metrics.clone());
    let http_stop = CancellationToken::new();
    // Until the broker runs, a failure to start takes HTTP down with it.
    let http_guard = http_stop.clone().drop_guard();
    let http_task = tokio::spawn(http::serve(
        http_listener,
        http_state.clone(),
        options.http_hosts.clone(),
        http_stop.clone().cancelled_owned(),
    ));

    let (handles, threads, epoch) = open_shards(&data, options.shard.clone(), &health, &metrics).await?;
    let shards = Shards::new(handles);
    let records = Arc::new(RecordReader::new(shards.clone(), options.batch_cache_bytes_max));
    let mut joins = Vec::new();
    for ShardThreads { joins: shard_joins, letters, records: tables } in threads {
        joins.extend(shard_joins);
        tokio::spawn(fetch_letters(letters, shards.clone(), records.clone()));
        tokio::spawn(fetch_records(tables, shards.clone(), records.clone()));
    }
    let inflight = Arc::new(Semaphore::new(options.inflight_bytes_max as usize));
    let assembling = Arc::new(Semaphore::new(options.inflight_bytes_max as usize));
    let broker = Arc::new(Broker {
        options,
        disk: Arc::new(data.disk()),
        format: data.format().clone(),
        shards,
        records,
        metrics,
        health: health.clone(),
        inflight,
        assembling,
        epoch,
    });
    http_state.set_broker(broker.clone());

    let stops = Stops { accepting: CancellationToken::new(), connections: CancellationToken::new() };
    let tasks = TaskTracker::new();
    tasks.spawn(listen(native_listener, broker.clone(), connections_max, stops.clone(), tasks.clone()));
    health.enter(Phase::Serving);
    let root = data.path().to_owned();
    tracing::info!(%native, %http, data = %root.display(), "serving");

    let stop = CancellationToken::new();
    let (stopped_sender, stopped) = watch::channel(false);
    let (http_stop, stop_asked) = (http_guard.disarm(), stop.clone());
    tokio::spawn(async move {
        stop_asked.cancelled().await;
        take_down(&broker, &stops, &tasks, joins, data).await;
        http_stop.cancel();
        let _ = timeout(HTTP_CLOSING_TIME, http_task).await;
        stopped_sender.send_replace(true);
    });
    Ok(Running { native, http, data: root, health, stop, stopped })
}

impl Running {
    /// Where the native protocol is served.
    #[must_use]
    pub fn native(&self) -> SocketAddr {
        self.native
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The data directory, absolute.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Whether everything is served, and if not, why.
    #[must_use]
    pub fn health(&self) -> HealthState {
        self.health.now()
    }

    /// Begins to stop: nothing new is accepted, what is in flight is finished or fails with an error that says so.
    /// [`Running::wait`] returns when it is done, within `shutdown_timeout`.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Returns when the broker has stopped.
    pub async fn wait(&self) {
        // An error says that the task which takes the broker down is gone, and the broker with it.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(setting: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { setting, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

type Opened = (Vec<ShardHandle>, Vec<ShardThreads>, u64);

async fn open_shards(
    data: &DataDir,
    config: ShardConfig,
    health: &Health,
    metrics: &Arc<Metrics>,
) -> Result<Opened, ServeError> {
    let clock = Clock::new();
    let (mut handles, mut threads, mut epoch) = (Vec::new(), Vec::new(), 0);
    for shard in (0..data.format().shards).map(ShardId) {
        let config = ShardConfig { salt: data.salt(), seed: seed(), ..config.clone() };
        let (disk, health, metrics) = (Arc::new(data.disk()), health.clone(), metrics.clone());
        let open = spawn_blocking(move || start_shard(disk, shard, config, clock, &health, &metrics));
        let (handle, shard_threads, report) =
            open.await?.map_err(|source| ServeError::Open { shard, source })?;
        log_recovery(shard, &report);
        epoch = epoch.max(report.epoch.0);
        handles.push(handle);
        threads.push(shard_threads);
    }
    Ok((handles, threads, epoch))
}

/// Jitter must differ between runs; nothing secret hangs on it.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn log_recovery(shard: ShardId, report: &RecoveryReport) {
    tracing::info!(%shard, epoch = report.epoch.0, "shard recovered");
    for finding in &report.findings {
        if finding.is_damage() {
            tracing::error!(%shard, kind = finding.kind(), "{finding}");
        } else {
            tracing::info!(%shard, kind = finding.kind(), "{finding}");
        }
    }
}

/// Stops in the order that loses nothing: no new connections, then no new requests, then the shards' last commits and
/// their answers, then the connections.
async fn take_down(
    broker: &Broker,
    stops: &Stops,
    tasks: &TaskTracker,
    joins: Vec<JoinHandle<()>>,
    data: DataDir,
) {
    let deadline = Instant::now() + broker.options.shutdown_timeout;
    tracing::info!("stopping");
    broker.health.enter(Phase::Stopping);
    stops.accepting.cancel();
    broker.shards.begin_shutdown();
    let join_all = spawn_blocking(move || {
        for join in joins {
            // A panic was reported when it happened.
            let _ = join.join();
        }
        // Another broker may have the directory from here on.
        drop(data);
    });
    if timeout_at(deadline - CLOSING_TIME.min(broker.options.shutdown_timeout / 2), join_all).await.is_err() {
        tracing::error!("the shards did not finish in time; what is not durable fails");
    }
    stops.connections.cancel();
    tasks.close();
    if timeout_at(deadline, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not close in time");
    }
    tracing::info!("stopped");
}
