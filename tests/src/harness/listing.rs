//! What is in a directory, to see that nobody touched it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Every file and directory below one, with its size and its time of modification.
pub type Listing = BTreeMap<PathBuf, (u64, SystemTime)>;

/// Lists a directory and all below it.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn listing(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        if metadata.is_dir() {
            open.extend(
                fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        }
        let modified = metadata.modified().expect("a time");
        found.insert(path, (metadata.len(), modified));
    }
    found
}
