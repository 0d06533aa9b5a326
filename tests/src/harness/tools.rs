//! Programs of the system that tests need.

use std::process::{Command, Stdio};

/// Why a command cannot be used here, if so.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    let absent = |program: &&&str| {
        let found =
            Command::new("sh").args(["-c", "command -v \"$0\""]).arg(program).stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    };
    programs.iter().find(absent).map(|program| format!("there is no {program} here"))
}

/// Whether this process is root.
pub(crate) fn not_root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "this needs root".to_owned())
}

/// Runs a command to its end.
///
/// # Errors
/// What it said, if it failed.
pub(crate) fn run(line: &str, paths: &[&std::path::Path]) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let mut command = Command::new(program);
    command.args(words).args(paths).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
