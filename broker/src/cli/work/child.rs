//! Child processes: found, started, counted, ended.

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dure_client::ReceivedJob;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Command;

/// With this exit code a command says that trying again cannot help.
const REJECTS: i32 = 100;

/// The command to run for each message.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) children: Children,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    Rejected(String),
    Failed(String),
    /// No message can be handled.
    CannotStart(String),
}

impl Template {
    /// Runs it to its end.
    pub(super) async fn run(&self, job: &ReceivedJob) -> Ended {
        let mut command = Command::new(&self.program);
        let body = match body_file(job.value.as_deref().unwrap_or_default()) {
            Ok(body) => body,
            Err(error) => return Ended::Failed(format!("cannot hand the body over: {error}")),
        };
        command.args(&self.args).stdin(body);
        // In a group of its own, Ctrl-C at the terminal reaches only the one that knows what to do with it.
        command.process_group(0);
        describe(&mut command, job);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return self.not_started(&error),
        };
        let _registered = child.id().map(|pid| self.children.register(pid));
        match child.wait().await {
            Ok(status) => self.judge(status),
            Err(error) => Ended::Failed(format!("cannot wait for {}: {error}", self.program.display())),
        }
    }

    fn judge(&self, status: ExitStatus) -> Ended {
        let program = self.program.display();
        match status.code() {
            Some(0) => Ended::Done,
            Some(REJECTS) => Ended::Rejected(format!("{program} exited with {REJECTS}")),
            _ => Ended::Failed(format!("{program} {}", ending(status))),
        }
    }

    fn not_started(&self, error: &std::io::Error) -> Ended {
        let why = format!("cannot start {}: {error}", self.program.display());
        match error.kind() {
            // Processes or memory are short, or this message's key is too long for an environment.
            ErrorKind::WouldBlock | ErrorKind::OutOfMemory | ErrorKind::ArgumentListTooLong => {
                Ended::Failed(why)
            }
            _ => Ended::CannotStart(why),
        }
    }
}

/// The body as a file in memory, whole before the command starts. A pipe would end early if this process were killed
/// while it writes, and the command would take what it has for all.
fn body_file(body: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("dure-message", MemfdFlags::CLOEXEC)?);
    file.write_all(body)?;
    file.rewind()?;
    Ok(file.into())
}

fn describe(command: &mut Command, job: &ReceivedJob) {
    command
        .env("DURE_MSG_TOPIC", &*job.topic)
        .env("DURE_MSG_PARTITION", job.partition.to_string())
        .env("DURE_MSG_OFFSET", job.offset.to_string())
        .env("DURE_MSG_ATTEMPT", job.attempt.to_string())
        .env("DURE_MSG_RECEIPT", job.receipt.to_string())
        // They may be there from a worker that this one was started by.
        .env_remove("DURE_MSG_KEY")
        .env_remove("DURE_MSG_KEY_BASE64");
    match &job.key {
        Some(key) if key.contains(&0) => command.env("DURE_MSG_KEY_BASE64", STANDARD.encode(key)),
        Some(key) => command.env("DURE_MSG_KEY", OsStr::from_bytes(key)),
        None => command,
    };
}

/// How a process ended, for people.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Where a program is, as the shell would find it; or why it cannot be started.
pub(crate) fn find_program(name: &OsStr) -> Result<PathBuf, String> {
    let path = Path::new(name);
    if name.as_bytes().contains(&b'/') {
        return executable(path).map(|()| path.to_owned());
    }
    let mut not_executable = None;
    for directory in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        let candidate = directory.join(path);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(why) if candidate.is_file() => not_executable = Some(why),
            Err(_) => {}
        }
    }
    let unknown = || format!("cannot start `{}`: there is no such command in PATH", path.display());
    Err(not_executable.unwrap_or_else(unknown))
}

fn executable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata = path.metadata().map_err(|error| format!("cannot start {shown}: {error}"))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("cannot start {shown}: it is not an executable file"));
    }
    Ok(())
}

/// The children that run, each in a process group of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Children(Arc<Mutex<HashSet<u32>>>);

/// The child runs.
pub(crate) struct Registered {
    children: Children,
    pid: u32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.children.pids().remove(&self.pid);
    }
}

impl Children {
    pub(crate) fn register(&self, pid: u32) -> Registered {
        self.pids().insert(pid);
        Registered { children: self.clone(), pid }
    }

    fn pids(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all of them, and what they started, to end.
    pub(crate) fn terminate_groups(&self) {
        for pid in self.pids().iter() {
            signal(*pid, |pid| kill_process_group(pid, Signal::TERM));
        }
    }
}

/// Asks a child to finish what it does and end.
pub(crate) fn terminate(pid: u32) {
    signal(pid, |pid| kill_process(pid, Signal::TERM));
}

/// Ends a child and what it started.
pub(crate) fn kill_group(pid: u32) {
    signal(pid, |pid| kill_process_group(pid, Signal::KILL));
}

fn signal(pid: u32, send: impl FnOnce(Pid) -> rustix::io::Result<()>) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended in this moment.
        let _ = send(pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(program: &str) -> Template {
        Template { program: program.into(), args: Vec::new(), children: Children::default() }
    }

    #[test]
    fn exit_codes_decide() {
        let command = template("/bin/x");
        assert_eq!(command.judge(ExitStatus::from_raw(0)), Ended::Done);
        assert_eq!(
            command.judge(ExitStatus::from_raw(100 << 8)),
            Ended::Rejected("/bin/x exited with 100".into())
        );
        assert_eq!(command.judge(ExitStatus::from_raw(1 << 8)), Ended::Failed("/bin/x exited with 1".into()));
        assert_eq!(
            command.judge(ExitStatus::from_raw(9)),
            Ended::Failed("/bin/x was ended by signal 9".into())
        );
    }

    #[test]
    fn a_program_is_found_as_a_shell_would() {
        assert!(find_program(OsStr::new("sh")).unwrap().is_absolute());
        assert_eq!(find_program(OsStr::new("/bin/sh")), Ok("/bin/sh".into()));
        assert!(find_program(OsStr::new("no-such-command-here")).unwrap_err().contains("PATH"));
        assert!(find_program(OsStr::new("/no/such")).unwrap_err().contains("/no/such"));
        assert!(find_program(OsStr::new("/")).unwrap_err().contains("not an executable"));
    }

    #[test]
    fn a_command_that_is_gone_stops_the_work_and_a_full_machine_does_not() {
        let command = template("x");
        assert!(matches!(command.not_started(&ErrorKind::NotFound.into()), Ended::CannotStart(_)));
        assert!(matches!(command.not_started(&ErrorKind::WouldBlock.into()), Ended::Failed(_)));
    }
}
