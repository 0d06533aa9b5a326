//! The demo's broker: this program once more, kept running whatever happens to it.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dure_broker::ServeOptions;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::args::BrokerArgs;
use super::failure::Failure;
use super::fleet::this_program;
use super::scale_log::{Event, ScaleLog};
use super::stop::Stop;
use super::worker::log_to_stderr;

/// How long it may take to be ready, recovery included.
const START_TIME: Duration = Duration::from_secs(60);
/// Attempts to start it again, each after this delay: the port may not be free at once.
const STARTS_MAX: u32 = 50;
const START_DELAY: Duration = Duration::from_millis(100);
/// A broker that ends sooner than this, so many times in a row, is not started again.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const SHORT_LIVES_MAX: u32 = 20;
/// A broker ends within 10 s of being asked to.
const STOP_TIME: Duration = Duration::from_secs(12);

/// The line that a broker prints when it is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    event: String,
    native: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
}

/// `broker` (hidden): serves until standard input ends or a signal comes.
pub(crate) async fn serve(args: BrokerArgs, stop: &Stop) -> Result<(), Failure> {
    log_to_stderr();
    let http = SocketAddr::new(args.listen.ip(), 0);
    let options = ServeOptions { data: args.data, listen: args.listen, http, ..ServeOptions::default() };
    let running = dure_broker::serve(options).await.map_err(Failure::during("cannot start the broker"))?;
    let ready = Ready {
        event: "ready".into(),
        native: running.native(),
        http: running.http(),
        data: running.data().to_owned(),
    };
    println!("{}", serde_json::to_string(&ready).map_err(Failure::during("cannot say that it is ready"))?);
    stop.when_stdin_ends();
    stop.asked().await;
    running.shutdown();
    running.wait().await;
    Ok(())
}

/// A process and what keeps it alive.
#[derive(Debug)]
struct Started {
    child: Child,
    /// Its end stops the process. Held apart, since waiting for a child closes what the child holds.
    stdin: Option<ChildStdin>,
    at: Instant,
}

/// Where the broker's data and its log are.
#[derive(Debug)]
struct Home {
    data: PathBuf,
    log_path: PathBuf,
    log: File,
}

/// A broker process that is started again on the same data and port when it dies.
#[derive(Debug)]
pub(crate) struct BrokerProcess {
    native: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    /// Why it cannot be started again.
    given_up: watch::Receiver<Option<String>>,
    keeper: JoinHandle<()>,
}

impl BrokerProcess {
    /// Starts it and returns when it is ready.
    pub(crate) async fn start(data: PathBuf, log_path: &Path, events: ScaleLog) -> Result<Self, Failure> {
        let log_path = log_path.to_path_buf();
        let log = File::create(&log_path)
            .map_err(Failure::during(format!("cannot create {}", log_path.display())))?;
        let home = Home { data, log_path, log };
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let (started, ready) = home.launch(any_port, &events).await?;
        let stop = CancellationToken::new();
        let (giving_up, given_up) = watch::channel(None);
        let (native, http) = (ready.native, ready.http);
        let stopped = stop.clone();
        let keeper = tokio::spawn(async move {
            if let Err(failure) = home.keep(started, native, &stopped, &events).await {
                giving_up.send_replace(Some(failure.to_string()));
            }
        });
        Ok(Self { native, http, stop, given_up, keeper })
    }

    pub(crate) fn native(&self) -> SocketAddr {
        self.native
    }

    /// Where it was first; another place each time it is started.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// `Err` once it is down for good.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let given_up = self.given_up.borrow().clone();
        given_up.map_or(Ok(()), |reason| Err(Failure::Failed(reason)))
    }

    /// Stops it and waits until it is gone.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        // Only a panic in there is an error, and that has been printed.
        let _ = self.keeper.await;
    }
}

impl Home {
    async fn launch(&self, listen: SocketAddr, events: &ScaleLog) -> Result<(Started, Ready), Failure> {
        let failed = |what: String| Failure::failed(format!("{what}: see {}", self.log_path.display()));
        let log = self.log.try_clone().map_err(Failure::during("cannot open the broker's log"))?;
        let mut command = this_program()?;
        command.arg("broker").arg("--data").arg(&self.data).arg("--listen").arg(listen.to_string());
        command.stdout(std::process::Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(Failure::during("cannot start the broker process"))?;
        let pid = child.id().expect("it has not been waited for");
        let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        let line = match timeout(START_TIME, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => return Err(failed("the broker ended before it was ready".into())),
            Err(_) => {
                return Err(failed(format!("the broker is not ready after {} s", START_TIME.as_secs())));
            }
        };
        let ready: Ready = serde_json::from_str(&line)
            .map_err(|e| failed(format!("the broker said something else: {e}")))?;
        let (native, http) = (ready.native.to_string(), ready.http.to_string());
        events.write(&Event::BrokerStarted { pid, native, http });
        let stdin = child.stdin.take();
        Ok((Started { child, stdin, at: Instant::now() }, ready))
    }

    /// Runs until it is stopped. `Err`: it cannot be started any more.
    async fn keep(
        &self,
        mut started: Started,
        native: SocketAddr,
        stop: &CancellationToken,
        events: &ScaleLog,
    ) -> Result<(), Failure> {
        let mut short_lives = 0;
        loop {
            let Started { child, stdin, at } = &mut started;
            let pid = child.id().unwrap_or_default();
            let status = tokio::select! {
                status = child.wait() => status.map_err(Failure::during("cannot wait for the broker"))?,
                () = stop.cancelled() => {
                    // Too late, it is killed as it is dropped.
                    drop(stdin.take());
                    let _ = timeout(STOP_TIME, child.wait()).await;
                    return Ok(());
                }
            };
            events.write(&Event::BrokerDied { pid, code: status.code(), signal: status.signal() });
            short_lives = if at.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            if short_lives >= SHORT_LIVES_MAX {
                let log = self.log_path.display();
                return Err(Failure::failed(format!(
                    "the broker ends as soon as it is started ({status}): see {log}"
                )));
            }
            started = tokio::select! {
                again = self.launch_again(native, events) => again?,
                () = stop.cancelled() => return Ok(()),
            };
        }
    }

    async fn launch_again(&self, native: SocketAddr, events: &ScaleLog) -> Result<Started, Failure> {
        let mut starts = 1;
        loop {
            match self.launch(native, events).await {
                Ok((started, _)) => return Ok(started),
                Err(failure) if starts >= STARTS_MAX => return Err(failure),
                Err(_) => starts += 1,
            }
            sleep(START_DELAY).await;
        }
    }
}
