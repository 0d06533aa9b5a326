//! What is in a directory, to see that nobody touched it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Every file and directory below one, with its size and its time of modification.
pub type Listing = BTreeMap<PathBuf, (u64, SystemTime)>;

/// Lists a directory and all below it. What a running broker takes away meanwhile is not in it.
///
/// # Panics
/// If it cannot be read for another reason.
#[must_use]
pub fn listing(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Some(metadata) = unless_gone(fs::symlink_metadata(&path)) else { continue };
        if metadata.is_dir() {
            let Some(entries) = unless_gone(fs::read_dir(&path)) else { continue };
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let modified = metadata.modified().expect("a time");
        found.insert(path, (metadata.len(), modified));
    }
    found
}

fn unless_gone<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.expect("it can be looked at")),
    }
}
