//! Worker processes: started, drained, replaced. None is ever killed here.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep};

use super::args::{PlaceArgs, QueueArgs};
use super::failure::Failure;
use super::scale_log::{Event, ScaleLog};

/// A worker that fails sooner than this has not worked at all.
const STARTING_TIME: Duration = Duration::from_secs(5);
/// So many of those in a row, and there is no point in starting more.
const FAILURES_IN_A_ROW_MAX: u32 = 8;
const FAILURE_DELAY: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a worker is started.
#[derive(Debug)]
pub(crate) struct WorkerCommand {
    pub(crate) queue: QueueArgs,
    pub(crate) place: PlaceArgs,
    /// Where its standard error goes; that of this process without it.
    pub(crate) log: Option<(PathBuf, File)>,
}

/// A worker process. It ends when `stdin` is closed, so it does not outlive this process for long.
#[derive(Debug)]
struct Worker {
    pid: u32,
    child: Child,
    stdin: Option<ChildStdin>,
    started: Instant,
    draining: bool,
}

/// The worker processes.
#[derive(Debug)]
pub(crate) struct Fleet {
    command: WorkerCommand,
    log: ScaleLog,
    /// In the order in which they were started.
    workers: Vec<Worker>,
    failures_in_a_row: u32,
    /// None is started before.
    not_before: Instant,
}

impl Fleet {
    pub(crate) fn new(command: WorkerCommand, log: ScaleLog) -> Self {
        Self { command, log, workers: Vec::new(), failures_in_a_row: 0, not_before: Instant::now() }
    }

    /// Workers that take jobs.
    pub(crate) fn running(&self) -> u32 {
        self.workers.iter().filter(|worker| !worker.draining).count() as u32
    }

    /// Workers that finish what they hold.
    pub(crate) fn draining(&self) -> u32 {
        self.workers.len() as u32 - self.running()
    }

    /// Starts or drains until `desired` of them take jobs; those that drain count towards `max` until they are gone.
    pub(crate) fn follow(&mut self, desired: u32, max: u32) -> Result<(), Failure> {
        let now = Instant::now();
        while self.running() < desired && (self.workers.len() as u32) < max && now >= self.not_before {
            self.start(now)?;
        }
        let too_many = self.running().saturating_sub(desired) as usize;
        // The newest first: the others have proved themselves.
        for worker in self.workers.iter_mut().rev().filter(|worker| !worker.draining).take(too_many) {
            worker.drain(&self.log);
        }
        Ok(())
    }

    /// Takes note of those that have ended. `Err`: they end as soon as they are started.
    pub(crate) fn reap(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let mut at = 0;
        while at < self.workers.len() {
            let Ok(Some(status)) = self.workers[at].child.try_wait() else {
                at += 1;
                continue;
            };
            let worker = self.workers.remove(at);
            self.log.write(&Event::WorkerExited {
                pid: worker.pid,
                code: status.code(),
                signal: status.signal(),
                drained: worker.draining,
            });
            self.judge(&worker, status, now)?;
        }
        Ok(())
    }

    /// A signal says nothing about the worker; an error right at the start says that it cannot work.
    fn judge(&mut self, worker: &Worker, status: ExitStatus, now: Instant) -> Result<(), Failure> {
        let failed = status.code().is_some_and(|code| code != 0) && !worker.draining;
        if !failed || now.duration_since(worker.started) > STARTING_TIME {
            self.failures_in_a_row = 0;
            return Ok(());
        }
        self.failures_in_a_row += 1;
        self.not_before = now + FAILURE_DELAY * self.failures_in_a_row;
        if self.failures_in_a_row < FAILURES_IN_A_ROW_MAX {
            return Ok(());
        }
        let log =
            self.command.log.as_ref().map_or("what they said above".into(), |(p, _)| p.display().to_string());
        Err(Failure::failed(format!("workers end as soon as they are started ({status}): see {log}")))
    }

    fn start(&mut self, now: Instant) -> Result<(), Failure> {
        let mut command = self.command.build()?;
        let mut child = command.spawn().map_err(Failure::during("cannot start a worker process"))?;
        let pid = child.id().expect("it has not been waited for");
        self.log.write(&Event::WorkerStarted { pid });
        let stdin = child.stdin.take();
        self.workers.push(Worker { pid, child, stdin, started: now, draining: false });
        Ok(())
    }

    /// Drains all of them and waits until they are gone.
    pub(crate) async fn drain(&mut self) {
        let log = self.log.clone();
        self.workers.iter_mut().filter(|worker| !worker.draining).for_each(|worker| worker.drain(&log));
        while !self.workers.is_empty() {
            // What they end with does not matter any more.
            let _ = self.reap();
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Lets go of their standard input: whoever is still there ends within seconds.
    pub(crate) fn abandon(&mut self) {
        self.workers.iter_mut().for_each(|worker| drop(worker.stdin.take()));
    }
}

impl Worker {
    /// SIGTERM: takes no more, finishes what it holds, ends.
    fn drain(&mut self, log: &ScaleLog) {
        self.draining = true;
        log.write(&Event::WorkerDraining { pid: self.pid });
        // The id cannot be somebody else's yet: the child has not been waited for.
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            // It may just have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl WorkerCommand {
    fn build(&self) -> Result<Command, Failure> {
        let Self { queue, place, log } = self;
        let mut command = this_program()?;
        command.arg("worker").arg("--until-stdin-ends");
        command.args(["--server", &queue.server, "--topic", &queue.topic, "--group", &queue.group]);
        command.arg("--out").arg(&place.out).arg("--store").arg(place.store());
        command.stdout(Stdio::null());
        if let Some((path, file)) = log {
            let file =
                file.try_clone().map_err(Failure::during(format!("cannot open {}", path.display())))?;
            command.stderr(file);
        }
        Ok(command)
    }
}

/// This program, to be started again: in a group of its own, so that Ctrl-C reaches only the first, and with a
/// standard input whose end tells it that the first is gone.
pub(crate) fn this_program() -> Result<Command, Failure> {
    let path =
        std::env::current_exe().map_err(Failure::during("cannot find this program to start it again"))?;
    let mut command = Command::new(path);
    command.stdin(Stdio::piped()).process_group(0);
    Ok(command)
}
