//! `dure serve` on a directory of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dure_client::Client;
use serde_json::Value;
use tempfile::TempDir;

use super::cli::Dure;
use super::process::{Exit, Process};

/// For starting; recovery is part of it.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// What `dure serve` promises for SIGTERM, and a second for the machine.
const STOP_LIMIT: Duration = Duration::from_secs(11);

/// How a [`Broker`] is started.
#[derive(Clone, Debug, Default)]
pub struct BrokerBuilder {
    flags: Vec<String>,
    wrapper: Vec<String>,
    inside: Option<PathBuf>,
}

impl BrokerBuilder {
    /// More flags of `dure serve`, cut at white space.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> BrokerBuilder {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// A command, cut at white space, that starts the broker in its place: `prlimit --nofile=300`.
    #[must_use]
    pub fn under(mut self, wrapper: &str) -> BrokerBuilder {
        self.wrapper = wrapper.split_whitespace().map(str::to_owned).collect();
        self
    }

    /// The directory in which its own is made, instead of that for temporary files.
    #[must_use]
    pub fn inside(mut self, dir: &Path) -> BrokerBuilder {
        self.inside = Some(dir.to_owned());
        self
    }

    /// Starts it on an empty directory.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(self) -> Broker {
        let BrokerBuilder { flags, wrapper, inside } = self;
        let inside = inside.unwrap_or_else(std::env::temp_dir);
        let home = tempfile::Builder::new().prefix("dure-itest-").tempdir_in(inside).expect("a directory");
        let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut broker =
            Broker { process: None, home, flags, wrapper, native: unspecified, http: unspecified };
        broker.start_again();
        broker
    }
}

/// A broker. Dropping it kills it and removes its directory.
#[derive(Debug)]
pub struct Broker {
    /// Ends before its directory goes: fields are dropped in this order.
    process: Option<Process>,
    home: TempDir,
    flags: Vec<String>,
    wrapper: Vec<String>,
    native: SocketAddr,
    http: SocketAddr,
}

impl Broker {
    /// Starts one as users do.
    #[must_use]
    pub fn start() -> Broker {
        Broker::builder().start()
    }

    /// For more than that.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where clients connect.
    #[must_use]
    pub fn native(&self) -> SocketAddr {
        self.native
    }

    /// Where HTTP is.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A directory for files of the test.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The process while it runs.
    ///
    /// # Panics
    /// If it does not run.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the broker runs")
    }

    /// A command line against this broker.
    pub fn dure(&self, line: &str) -> Dure {
        Dure::new(line).env("DURE_SERVER", &self.native.to_string())
    }

    /// Runs a verb with `-o json` that prints one object.
    #[must_use]
    pub fn json(&self, line: &str) -> Value {
        self.dure(line).json()
    }

    /// Runs a verb with `-o json` that prints one object per line.
    #[must_use]
    pub fn json_lines(&self, line: &str) -> Vec<Value> {
        self.dure(line).json_lines()
    }

    /// A client of the library, one that gives up after 10 s.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn client(&self) -> Client {
        let builder = Client::builder().servers(self.native.to_string());
        builder.request_timeout(Duration::from_secs(10)).connect().await.expect("the broker answers")
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Ends it with SIGTERM; it must exit with 0 in time. Says how long that took.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) -> Duration {
        let started = Instant::now();
        self.process().terminate();
        let exit = self.process().wait(STOP_LIMIT);
        assert_eq!(exit, Exit::Code(0), "{}", self.process().stderr());
        self.process = None;
        started.elapsed()
    }

    /// Starts it on the directory and ports that it had. Says how long it took to be ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn start_again(&mut self) -> Duration {
        assert!(self.process.is_none(), "it runs");
        let started = Instant::now();
        loop {
            let asked = Instant::now();
            match self.try_start() {
                Ok(()) => return asked.elapsed(),
                // A connection of another test may have the port for a moment.
                Err(stderr) if stderr.contains("in use") && started.elapsed() < READY_LIMIT => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(stderr) => panic!("the broker did not start:\n{stderr}"),
            }
        }
    }

    /// Kills it and starts it again. Says how long it took to be ready.
    pub fn crash(&mut self) -> Duration {
        self.kill();
        self.start_again()
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut process = self.serve().spawn();
        process.close_stdin();
        let Some(ready) = process.json() else {
            process.wait(READY_LIMIT);
            return Err(process.stderr());
        };
        assert_eq!(ready["event"], "ready", "{ready}");
        let address =
            |name: &str| ready[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (self.native, self.http) = (address("native"), address("http"));
        self.process = Some(process);
        Ok(())
    }

    /// The command line that starts it.
    pub fn serve(&self) -> Dure {
        let data = self.data().to_str().expect("UTF-8").to_owned();
        let (native, http) = (self.native.to_string(), self.http.to_string());
        let serve = Dure::new("serve").args(["--data", &data, "--listen", &native, "--http", &http]);
        serve.args(self.flags.clone()).under(&self.wrapper)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("---- stderr of the broker on {}:\n{}", self.native, process.stderr());
        }
    }
}
