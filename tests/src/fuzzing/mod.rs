//! Fuzz targets: everything that reads bytes from outside (the wire, the disk, a file, a command line), as plain
//! functions that panic when a promise is broken.
//!
//! `tests/fuzz` runs them under libFuzzer, `tests/tests/corpus.rs` replays what it has found with stable Rust alone.
//! Where a checksum would stop every mutation, the input is the content and [`seal`] puts valid checksums around it; a
//! bit of the input says where one is left wrong. `broker/engine/FORMAT.md` describes what is built here.

mod batch;
mod checkpoint;
#[cfg(feature = "broker")]
mod config;
mod frame;
mod index;
mod input;
mod journal;
mod letter;
mod records;
#[cfg(feature = "broker")]
mod request;
mod running;
mod seal;
mod seeds;
mod segment;
#[cfg(feature = "broker")]
mod text;

pub use seeds::seeds;

/// A target's name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("batch", batch::target),
    ("checkpoint", checkpoint::target),
    #[cfg(feature = "broker")]
    ("config", config::target),
    ("frame", frame::target),
    ("index", index::target),
    ("journal", journal::target),
    ("letter", letter::target),
    ("records", records::target),
    #[cfg(feature = "broker")]
    ("request", request::target),
    ("segment", segment::target),
    #[cfg(feature = "broker")]
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
