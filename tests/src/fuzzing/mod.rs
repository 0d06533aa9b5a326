//! Fuzz targets: everything that reads bytes from outside (the wire, the disk, a file, a command line), as plain
//! functions that panic when a promise is broken.
//!
//! `tests/fuzz` runs them under libFuzzer, `tests/tests/corpus.rs` replays what it has found with stable Rust alone.
//! Where a checksum would stop every mutation, the input is the content and `seal` puts valid checksums around it; a
//! bit of the input says where one is left wrong. `broker/engine/FORMAT.md` describes what is built here.

mod batch;
mod checkpoint;
mod config;
mod frame;
mod index;
mod input;
mod journal;
mod letter;
mod records;
mod request;
mod running;
mod seal;
mod seeds;
mod segment;
mod text;

pub use seeds::seeds;

/// A target's name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("batch", batch::target),
    ("checkpoint", checkpoint::target),
    ("config", config::target),
    ("frame", frame::target),
    ("index", index::target),
    ("journal", journal::target),
    ("letter", letter::target),
    ("records", records::target),
    ("request", request::target),
    ("segment", segment::target),
    ("text", text::target),
];

/// Runs the target of that name.
///
/// # Panics
/// If there is none, or if the input breaks a promise.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    target(data);
}
