//! Counting: this program runs itself under valgrind, which counts from where a round begins to where it ends.

use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, Output};

use dure_benches::paths::{Path, Round};
use tempfile::TempDir;

/// Rounds before those that are counted: tables, buffers and the allocator are as they are in the long run then.
const WARM_UP_ROUNDS: u64 = 2;
/// Rounds that are counted.
const COUNTED_ROUNDS: u64 = 4;
/// What is counted unless the path says otherwise.
const COUNTED_FUNCTION: &str = "instructions::count::counted_rounds";

/// Instructions of one operation.
pub(crate) type Count = f64;

/// Runs under valgrind: says what processor it sees, and runs the rounds of a path.
pub(crate) fn run_counted(path: Path) {
    println!("{}", processor());
    let mut round = (path.prepare)();
    (0..WARM_UP_ROUNDS).for_each(|_| round());
    counted_rounds(&mut round);
}

#[inline(never)]
fn counted_rounds(round: &mut Round) {
    for _ in 0..black_box(COUNTED_ROUNDS) {
        round();
    }
}

/// By which the code chooses between ways to do the same: checksums and copies go by it.
fn processor() -> String {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
            ("pclmulqdq", std::is_x86_feature_detected!("pclmulqdq")),
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("vpclmulqdq", std::is_x86_feature_detected!("vpclmulqdq")),
        ];
        found.extend(known.iter().filter(|(_, there)| *there).map(|(name, _)| *name));
    }
    found.join(" ")
}

/// What counts depend on beside the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Circumstances {
    /// What valgrind shows of the processor. Counts of another one are not comparable.
    pub(crate) processor: String,
    /// Counts of other versions of these are compared, and it is said.
    pub(crate) versions: String,
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.processor, self.versions)
    }
}

/// Counts, one path after the other.
pub(crate) struct Counter {
    scratch: TempDir,
    profiles: Option<PathBuf>,
}

impl Counter {
    /// Fails, with what to do, where there is no valgrind.
    pub(crate) fn new(profiles: Option<PathBuf>) -> Result<Counter, String> {
        version(&["valgrind", "--version"])
            .ok_or("there is no valgrind here: install it (Debian, Ubuntu: `apt-get install valgrind`)")?;
        if let Some(dir) = &profiles {
            std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let scratch = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(Counter { scratch, profiles })
    }

    /// Counts a path so many times.
    pub(crate) fn count(&self, path: Path, runs: u32) -> Result<Vec<Count>, String> {
        (0..runs).map(|_| self.count_once(path)).collect()
    }

    fn count_once(&self, path: Path) -> Result<Count, String> {
        let (_, profile) = self.run(path)?;
        let instructions = total(&profile).filter(|total| *total > 0);
        let instructions = instructions.ok_or_else(|| {
            let function = path.only.unwrap_or(COUNTED_FUNCTION);
            format!("{path}: nothing was counted: `{function}` has another name now, or is inlined")
        })?;
        // The calls of a single function are counted from the start.
        let rounds = if path.only.is_some() { WARM_UP_ROUNDS + COUNTED_ROUNDS } else { COUNTED_ROUNDS };
        Ok(instructions as f64 / (rounds * path.operations) as f64)
    }

    /// What counts depend on here.
    pub(crate) fn circumstances(&self) -> Result<Circumstances, String> {
        let quickest = dure_benches::paths::all().next().expect("there is a path");
        let (output, _) = self.run(quickest)?;
        let processor = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let versions = [
            version(&["rustc", "--version"]),
            version(&["getconf", "GNU_LIBC_VERSION"]),
            version(&["valgrind", "--version"]),
        ];
        let versions = versions.map(|version| version.unwrap_or_else(|| "unknown".into())).join(", ");
        Ok(Circumstances { processor, versions })
    }

    /// What the path printed, and what valgrind wrote.
    fn run(&self, path: Path) -> Result<(Output, String), String> {
        let dir = self.profiles.as_deref().unwrap_or(self.scratch.path());
        let profile = dir.join(format!("callgrind.out.{path}"));
        let this = std::env::current_exe().map_err(|error| format!("this program has no name: {error}"))?;
        let output = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--cache-sim=no"])
            .arg(format!("--toggle-collect={}", path.only.unwrap_or(COUNTED_FUNCTION)))
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(this)
            .args(["--counted", path.name])
            .output()
            .map_err(|error| format!("valgrind: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{path}: {}: {}", output.status, said.trim()));
        }
        let written = std::fs::read_to_string(&profile);
        let written = written.map_err(|error| format!("{}: {error}", profile.display()))?;
        Ok((output, written))
    }
}

/// All instructions of a callgrind file.
fn total(profile: &str) -> Option<u64> {
    let totals = profile.lines().rev().find_map(|line| line.strip_prefix("totals: "))?;
    totals.trim().parse().ok()
}

/// The first line of what a program says of itself.
fn version(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| said.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_its_last_line() {
        let profile = "version: 1\nevents: Ir\n\nfn=(1) a\n3 17\n\ntotals: 4711\n";
        assert_eq!(total(profile), Some(4711));
        assert_eq!(total("events: Ir\n"), None);
    }
}
