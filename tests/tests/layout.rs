//! Arrows between crates, and between the rooms of the engine, only go down. This reads the manifests and the `use`
//! lines, and every path that begins with a crate's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace")
}

/// Directory, package, and the packages of this workspace that it may know.
const CRATES: [(&str, &str, &[&str]); 5] = [
    ("proto", "dure-proto", &[]),
    ("broker/engine", "dure-engine", &["dure-proto"]),
    ("client", "dure-client", &["dure-proto"]),
    ("broker", "dure-broker", &["dure-proto", "dure-engine", "dure-client"]),
    ("worker-example", "photo-pipeline", &["dure-broker", "dure-client"]),
];

/// Rooms of the engine, and the rooms of which they may not know. What is missing here is shared by all.
const ROOMS: [(&str, &[&str]); 10] = [
    (
        "disk",
        &[
            "journal",
            "log",
            "compaction",
            "shard",
            "catalogue",
            "producers",
            "queue_group",
            "stream_group",
            "checkpoint",
        ],
    ),
    ("journal", &["log", "compaction", "shard", "catalogue", "producers", "queue_group", "stream_group"]),
    ("log", &["journal", "compaction", "shard", "catalogue", "producers", "queue_group", "stream_group"]),
    (
        "compaction",
        &["journal", "shard", "catalogue", "producers", "queue_group", "stream_group", "checkpoint"],
    ),
    ("catalogue", &["journal", "log", "disk", "shard", "checkpoint"]),
    ("producers", &["journal", "log", "disk", "shard", "checkpoint"]),
    ("dedup", &["journal", "log", "disk", "shard", "checkpoint", "catalogue", "queue_group", "stream_group"]),
    ("delay", &["journal", "log", "disk", "shard", "checkpoint", "catalogue", "queue_group", "stream_group"]),
    ("queue_group", &["journal", "log", "disk", "shard", "checkpoint"]),
    ("stream_group", &["journal", "log", "disk", "shard", "checkpoint"]),
];

/// What the engine stays away from, so that a simulator can drive it.
const OUTSIDE_ENGINE: [&str; 6] =
    ["tokio", "std::net", "std::thread", "Instant::now", "SystemTime::now", "std::process"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without comments, and without its tests: they may look wherever they like.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// The heads of all paths below `crate::`, those in nested `use crate::{…}` lists included.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (position, prefix) in code.match_indices("crate::") {
        let before = code[..position].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[position + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(list_heads(list)),
            None => used.extend(head(rest)),
        }
    }
    used
}

fn head(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// The first word of each item of a brace list that has just been opened.
fn list_heads(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut heads) = (0, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.extend(head(std::mem::take(&mut item).trim())),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    heads.extend(head(item.trim()));
    heads
}

#[test]
fn crates_depend_downward_only() {
    let names = CRATES.map(|(_, name, _)| name);
    for (dir, name, allowed) in CRATES {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        let mut section = "";
        for line in manifest.lines() {
            section = if line.starts_with('[') { line } else { section };
            let key = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if names.contains(&key) && section.starts_with("[dependencies") {
                assert!(allowed.contains(&key), "{name} must not depend on {key}");
            }
        }
        for path in sources(&root().join(dir).join("src")) {
            // The broker's directory holds the engine's, but not below `src`.
            let code = code(&path);
            for other in names {
                let module = format!("{}::", other.replace('-', "_"));
                let known = allowed.contains(&other) || other == name;
                assert!(known || !code.contains(&module), "{} must not use {other}", path.display());
            }
        }
    }
}

#[test]
fn the_broker_knows_the_client_on_its_command_line_only() {
    for path in sources(&root().join("broker/src")) {
        let cli = path.iter().any(|part| part == "cli") || path.ends_with("main.rs");
        assert!(cli || !code(&path).contains("dure_client::"), "{} must not use dure-client", path.display());
    }
}

#[test]
fn the_rooms_of_the_engine_know_only_those_below() {
    let engine = root().join("broker/engine/src");
    let mut seen = BTreeSet::new();
    for path in sources(&engine) {
        let inside = path.strip_prefix(&engine).expect("below it");
        let room = inside.iter().next().expect("a name").to_str().expect("UTF-8").trim_end_matches(".rs");
        let Some((_, forbidden)) = ROOMS.iter().find(|(name, _)| *name == room) else { continue };
        seen.insert(room.to_owned());
        if is_test(inside) {
            continue;
        }
        for used in rooms_used(&code(&path)) {
            assert!(!forbidden.contains(&used.as_str()), "{} must not use crate::{used}", path.display());
        }
    }
    assert_eq!(seen.len(), ROOMS.len(), "a room has another name by now: {seen:?}");
}

#[test]
fn the_engine_has_no_clock_no_socket_and_no_thread() {
    let engine = root().join("broker/engine");
    let manifest = fs::read_to_string(engine.join("Cargo.toml")).expect("a manifest");
    assert!(!manifest.contains("tokio"), "the engine has no runtime");
    for path in sources(&engine.join("src")).into_iter().filter(|path| !is_test(path)) {
        let code = code(&path);
        for outside in OUTSIDE_ENGINE {
            assert!(!code.contains(outside), "{} must not use {outside}", path.display());
        }
    }
}

#[test]
fn lists_of_a_use_line_are_taken_apart() {
    let code =
        "use crate::{log::{View, Writer}, time::Now, disk};\nlet x = crate::journal::scan(y); dure_crate::no";
    let expected = ["disk", "journal", "log", "time"].map(str::to_owned);
    assert_eq!(rooms_used(code), BTreeSet::from(expected));
}

/// Features of one build are united: whoever asked for the faults would put them into the binary that ships.
#[test]
fn nobody_but_their_own_binary_asks_for_mutants() {
    let manifest = |package: &str| {
        fs::read_to_string(root().join(package).join("Cargo.toml"))
            .unwrap_or_else(|error| panic!("{package}: {error}"))
    };
    for package in CRATES.map(|(dir, _, _)| dir).into_iter().chain(["benches", ""]) {
        let asks = manifest(package).contains("mutants") && package != "broker/engine";
        assert!(!asks, "{package}/Cargo.toml names the feature `mutants`");
    }
    assert!(!manifest("broker/engine").contains("default ="), "the engine has no default features");
    assert!(!manifest("tests").contains("default ="), "neither have the tests");
    assert_eq!(manifest("tests").matches("dure-engine/mutants").count(), 1);
}
