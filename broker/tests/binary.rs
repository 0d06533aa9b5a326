//! That this test needs the binary makes `cargo test --workspace` build it before any test runs; the integration tests
//! in `tests/` take it from there.

use std::process::Command;

#[test]
fn the_binary_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_dure")).arg("--version").output().expect("it runs");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), concat!("dure ", env!("CARGO_PKG_VERSION"), "\n"));
}
