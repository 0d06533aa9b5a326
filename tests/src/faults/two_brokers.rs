//! A second broker on the same directory: it exits with 1 and has not written a byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Violation;
use super::{Fault, Stage};
use crate::harness::{Dure, Exit};

const EXIT_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct TwoBrokers;

impl Fault for TwoBrokers {
    fn name(&self) -> &'static str {
        "two-brokers"
    }

    fn missing(&self) -> Option<String> {
        None
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(200..900);
        // The first one holds its breath, so that whatever changes was changed by the second.
        let outcome = stage.fault("a second broker, the first one held up", |stage| {
            let data = stage.broker.data();
            stage.broker.process().pause();
            let before = everything(&data);
            let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
            let mut second = Dure::new("serve --data").arg(data.to_str().expect("UTF-8")).args(ports).spawn();
            let exit = second.wait(EXIT_LIMIT);
            let after = everything(&data);
            stage.broker.process().resume();
            (exit, second.stderr(), before, after)
        });
        let (exit, stderr, before, after) = outcome;
        if exit != Exit::Code(1) {
            return Err(Violation::conduct(format!("the second broker ended with {exit:?}: {stderr}")));
        }
        if !stderr.contains("another broker") {
            return Err(Violation::conduct(format!("the second broker does not say why: {stderr}")));
        }
        if before != after {
            let changed = before.iter().filter(|(path, file)| after.get(*path) != Some(file));
            let changed: Vec<_> = changed
                .map(|(path, _)| path)
                .chain(after.keys().filter(|p| !before.contains_key(*p)))
                .collect();
            return Err(Violation::conduct(format!("the second broker touched {changed:?}")));
        }
        stage.run_on(200..600);
        Ok(())
    }
}

/// Of every file and directory: inode, length, time of modification and checksum.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u64, u64, (i64, i64), u32)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        let mut checksum = 0;
        if metadata.is_dir() {
            open.extend(
                fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
            );
        } else {
            checksum = crc32c::crc32c(&fs::read(&path).expect("a file"));
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        found.insert(path, (metadata.ino(), metadata.len(), modified, checksum));
    }
    found
}
