//! Taking away what no log holds any more, so that nobody has to wait for it.
//!
//! A file system that tells the device of what is free (`discard`) does so while a file goes, 15 ms for a segment of 64 MiB,
//! and every commit waits behind that. So names go first; the space behind them is given back a little at a time.

use std::fmt;
use std::sync::Arc;

use super::segment::SegmentFiles;
use crate::disk::{Disk, DiskError, DiskResult, FileRef, OpenMode};

/// What is given back at a time.
const FREED_BYTES: u64 = 1 << 20;
/// Segments that may wait to be given back like that. At full speed a disk cannot do so as fast as producers take it, and
/// it would fill up with what has no name any more.
const GENTLE_MAX: usize = 8;

/// Segments that no log names any more, and other files and directories to be removed.
#[derive(Default)]
pub(crate) struct Removal {
    pub(crate) segments: Vec<Arc<SegmentFiles>>,
    pub(crate) paths: Vec<String>,
    /// With all that is in them.
    pub(crate) dirs: Vec<String>,
}

impl Removal {
    /// Of files that nobody reads.
    pub(crate) fn of_paths(paths: Vec<String>) -> Removal {
        Removal { paths, ..Removal::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.paths.is_empty() && self.dirs.is_empty()
    }

    pub(crate) fn append(&mut self, mut other: Removal) {
        self.segments.append(&mut other.segments);
        self.paths.append(&mut other.paths);
        self.dirs.append(&mut other.dirs);
    }

    /// Takes the names away. What is gone already is no error: a crash may have come between the two halves of a removal.
    pub(crate) fn run(&self, disk: &dyn Disk) -> DiskResult<Vec<Nameless>> {
        let mut nameless = Vec::new();
        for segment in &self.segments {
            let [log, index] = segment.paths();
            let data = disk.open(&log, OpenMode::ReadWrite);
            gone_is_fine(disk.remove(&log))?;
            gone_is_fine(disk.remove(&index))?;
            nameless.extend(data.map(|data| Nameless { segment: segment.clone(), data }));
        }
        self.paths.iter().try_for_each(|path| gone_is_fine(disk.remove(path)))?;
        self.dirs.iter().try_for_each(|dir| gone_is_fine(disk.remove_dir_all(dir)))?;
        Ok(nameless)
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Removal { segments, paths, dirs } = self;
        write!(f, "Removal({} segments, {paths:?}, {dirs:?})", segments.len())
    }
}

/// A segment without a name, which still takes its space.
pub(crate) struct Nameless {
    segment: Arc<SegmentFiles>,
    data: FileRef,
}

impl Nameless {
    /// Gives its space back a little at a time; dropping it does so as fast as it goes. A power cut may bring the name back
    /// and find a shorter file behind it: no log names it then either. Where somebody still reads an older view of its log,
    /// the file stays whole, and goes when they are done.
    pub(crate) fn free_gently(self) {
        if Arc::strong_count(&self.segment) > 1 {
            return;
        }
        let mut bytes = self.data.len().unwrap_or(0);
        while bytes > FREED_BYTES {
            bytes -= FREED_BYTES;
            if self.data.set_len(bytes).is_err() {
                return; // closing it does the rest
            }
        }
    }
}

/// How many segments without a name there are.
#[derive(Debug, Default)]
pub(crate) struct Freeing {
    segments: usize,
}

impl Freeing {
    /// So many more. Whether there is time to give them back gently.
    pub(crate) fn begin(&mut self, segments: usize, short_of_room: bool) -> bool {
        self.segments += segments;
        self.segments <= GENTLE_MAX && !short_of_room
    }

    /// So many are given back.
    pub(crate) fn end(&mut self, segments: usize) {
        self.segments -= segments;
    }
}

fn gone_is_fine(result: DiskResult<()>) -> DiskResult<()> {
    match result {
        Err(error) if DiskError::is_not_found(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_time_for_few_and_while_there_is_room() {
        let mut freeing = Freeing::default();
        assert!(freeing.begin(GENTLE_MAX - 1, false) && freeing.begin(1, false));
        assert!(!freeing.begin(1, false), "one too many");
        freeing.end(1);
        assert!(!freeing.begin(1, false), "still");
        freeing.end(3);
        assert!(!freeing.begin(1, true), "no room");
        freeing.end(1);
        assert!(freeing.begin(2, false));
    }
}
