//! A disk that fails to sync, by `strace`.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Process;
use super::wait::eventually;

const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// It attaches to one thread after the other.
const ATTACH_SETTLES: Duration = Duration::from_millis(300);

/// Makes `fdatasync` of a process fail with EIO, until it is dropped.
#[derive(Debug)]
pub struct FailingSyncs {
    strace: Process,
}

impl FailingSyncs {
    /// `when` is that of strace: `1+` for every call, `5` for each thread's fifth.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn attach(pid: u32, when: &str) -> Result<FailingSyncs, String> {
        let found = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err("there is no strace here".to_owned());
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", "trace=fdatasync", "-e"]);
        command.arg(format!("inject=fdatasync:error=EIO:when={when}"));
        command.args(["-p", &pid.to_string()]);
        let mut strace = Process::spawn("strace", command);
        let attached = eventually(ATTACH_LIMIT, "strace attaches or gives up", || {
            if strace.stderr().contains("attached") {
                Some(true)
            } else {
                (!strace.is_running()).then_some(false)
            }
        });
        if !attached {
            return Err(format!("strace may not attach: {}", strace.stderr().trim()));
        }
        std::thread::sleep(ATTACH_SETTLES);
        Ok(FailingSyncs { strace })
    }

    /// Every call that was made up to now, one line each, with the path of its file.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        let seen = self.strace.stderr();
        seen.lines().filter(|line| line.contains("fdatasync")).map(str::to_owned).collect()
    }
}
