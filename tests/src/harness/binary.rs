//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;
use std::{env, fs};

/// What the binary is made from, below the root of the workspace.
const SOURCES: [&str; 6] = ["proto", "client", "broker", "Cargo.toml", "Cargo.lock", "tests/Cargo.toml"];

/// The binary `dure` of the profile in which this test was built.
///
/// `cargo test --workspace` builds it along with the tests, since the broker's own package has one that needs it.
/// Where it is missing or older than its sources (`cargo test -p dure-tests`), it is built here, once. `DURE_BIN`
/// names another one.
///
/// # Panics
/// If it cannot be built.
pub fn dure_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("DURE_BIN") {
        Some(path) => PathBuf::from(path),
        None => built(),
    })
}

fn built() -> PathBuf {
    let test = env::current_exe().expect("a running test has a path");
    let mut profile_dir = test.parent().expect("it is in a directory");
    if profile_dir.ends_with("deps") {
        profile_dir = profile_dir.parent().expect("deps is in a directory");
    }
    let binary = profile_dir.join("dure");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace");
    let newest = SOURCES.iter().filter_map(|source| newest(&root.join(source))).max();
    if modified(&binary) >= newest {
        return binary;
    }
    let profile = profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile's name");
    let profile = if profile == "debug" { "dev" } else { profile };
    let target_dir = profile_dir.parent().expect("a profile's directory is in the target directory");
    eprintln!("building {}", binary.display());
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "dure-broker", "--bin", "dure", "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "`dure` does not build");
    binary
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest(path: &Path) -> Option<SystemTime> {
    let Ok(entries) = fs::read_dir(path) else { return modified(path) };
    entries.filter_map(|entry| newest(&entry.ok()?.path())).max()
}
