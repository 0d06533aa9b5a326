//! Servers, each fresh in a directory of its own, and what they cost.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Res;

const START_LIMIT: Duration = Duration::from_secs(120);
/// Of the clock that processes are charged by (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// A server that runs; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: String,
    /// What it was given; removed with it.
    pub dir: TempDir,
}

impl Server {
    /// `command` is given a port and a directory.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: impl FnOnce(u16, &Path) -> Res<Command>) -> Res<Server> {
        let dir = tempfile::Builder::new().prefix("dure-bench").tempdir_in(".")?;
        let port = free_port()?;
        let log = fs::File::create(dir.path().join("log"))?;
        let mut command = command(port, dir.path())?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        Ok(Server { child, address: format!("127.0.0.1:{port}"), dir })
    }

    /// Asks again until it answers.
    ///
    /// # Errors
    /// If it ends or does not answer in time; its log is said.
    pub async fn wait<T, F: Future<Output = Res<T>>>(&mut self, mut ask: impl FnMut(String) -> F) -> Res<T> {
        let began = Instant::now();
        loop {
            match ask(self.address.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if began.elapsed() > START_LIMIT || self.child.try_wait()?.is_some() => {
                    let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                    return Err(format!("it did not start: {error}\n{log}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Seconds of processor time that it and its children have used.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        tree(self.child.id()).into_iter().filter_map(ticks).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Resident bytes of it and its children.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let resident = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        tree(self.child.id()).into_iter().filter_map(resident).sum::<u64>() * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pid in tree(self.child.id()) {
            // Gone is as good as killed.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// One that nobody listens on.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Res<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process and everything under it.
fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while at < pids.len() {
        let pid = pids[at];
        at += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    pids
}

/// User and system time, behind the name in parentheses, which may contain anything (proc(5)).
fn ticks(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}
