//! Every input that fuzzing has kept goes through its target again, with stable Rust alone. `tests/fuzz/run` is what
//! finds new ones.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use dure_tests::fuzzing::{TARGETS, run, seeds};
use fastrand::Rng;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a directory, sorted; none if it is not there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn replay(kind: &str, needed: bool) {
    let mut broken = Vec::new();
    for (name, _) in TARGETS {
        let inputs = files(&fuzz_dir().join(kind).join(name));
        assert!(!needed || !inputs.is_empty(), "no inputs of {name}");
        for path in inputs {
            let data = fs::read(&path).expect("read");
            if catch_unwind(|| run(name, &data)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break a promise: {broken:#?}");
}

#[test]
fn the_corpus_breaks_no_promise() {
    replay("corpus", true);
}

#[test]
fn what_broke_a_promise_once_does_not_any_more() {
    replay("regressions", false);
}

#[test]
fn every_target_takes_its_seeds() {
    for (name, target) in TARGETS.iter().copied() {
        for seed in seeds(name) {
            target(&seed);
        }
    }
}

#[test]
fn every_target_has_a_binary_and_every_directory_a_target() {
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("a manifest");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} has no binary");
    }
    for kind in ["corpus", "regressions"] {
        for dir in files(&fuzz_dir().join(kind)) {
            let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(TARGETS.iter().any(|(known, _)| *known == name), "{} has no target", dir.display());
        }
    }
}

/// A change as fuzzers make them, without asking what it covers.
fn mutate(rng: &mut Rng, data: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=data.len());
    let length = rng.usize(0..=(data.len() - at).min(16));
    match rng.u8(0..7) {
        0 if at < data.len() => data[at] ^= 1 << rng.u8(0..8),
        1 if at < data.len() => data[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).expect("not empty"),
        2 => data.insert(at, rng.u8(..)),
        3 => drop(data.drain(at..at + length)),
        4 => data.splice(at..at, other.iter().copied().skip(at).take(64)).for_each(drop),
        5 => data[at..at + length].fill(0xff),
        _ => data.truncate(at.max(1)),
    }
}

/// What stable Rust finds by chance, the same every time. `FUZZ_MUTATIONS` says how many of each target.
#[test]
fn no_change_of_the_corpus_breaks_a_promise() {
    let count = std::env::var("FUZZ_MUTATIONS").map_or(300, |count| count.parse().expect("a number"));
    for (name, _) in TARGETS {
        let inputs: Vec<Vec<u8>> = files(&fuzz_dir().join("corpus").join(name))
            .iter()
            .map(|path| fs::read(path).expect("read"))
            .chain(seeds(name))
            .collect();
        for nth in 0..count {
            let mut rng = Rng::with_seed(nth);
            let mut data = rng.choice(&inputs).expect("not empty").clone();
            for _ in 0..rng.u8(1..6) {
                let other = rng.choice(&inputs).expect("not empty").clone();
                mutate(&mut rng, &mut data, &other);
            }
            if catch_unwind(|| run(name, &data)).is_err() {
                let path = std::env::temp_dir().join(format!("dure-{name}-{nth}"));
                fs::write(&path, &data).expect("written");
                panic!("{name} breaks a promise: see {}", path.display());
            }
        }
    }
}
