//! Files of logs that nothing names any more. A removal that waits (for a backup, or for its turn) is forgotten when
//! the process dies behind a checkpoint that no longer tells of it; the next start looks for what it left.

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Offset, TopicId, TopicPartition};

use super::state::{LogState, State};
use crate::disk::{Disk, DiskResult};
use crate::log::{log_dir, segment_of};

/// What was there when a shard was opened. Only what can never come back is swept: topics below the next number that
/// are gone, and segments below the first one of their log. What was made since lies above both.
#[derive(Debug)]
pub(crate) struct Sweep {
    root: String,
    topic_next: u32,
    topics: BTreeSet<TopicId>,
    /// The first segment of each log, or its end if it has none.
    first: BTreeMap<TopicPartition, Offset>,
}

impl Sweep {
    pub(super) fn of(shard_dir: &str, state: &State) -> Sweep {
        let first = |(partition, log): (&TopicPartition, &LogState)| {
            let first = log.layout.segments().next().map_or(log.layout.log_end(), |segment| segment.base);
            (*partition, first)
        };
        Sweep {
            root: format!("{shard_dir}/log"),
            topic_next: state.catalogue.topic_next(),
            topics: state.catalogue.table().iter().map(|topic| topic.id).collect(),
            first: state.logs.iter().map(first).collect(),
        }
    }

    pub(crate) fn run(&self, disk: &dyn Disk) -> DiskResult<()> {
        for dir in disk.list(&self.root)?.into_iter().filter(|entry| entry.is_dir) {
            let Ok(topic) = dir.name.parse().map(TopicId) else { continue };
            if topic.0 < self.topic_next && !self.topics.contains(&topic) {
                disk.remove_dir_all(&format!("{}/{topic}", self.root))?;
            }
        }
        let shard_dir = self.root.trim_end_matches("/log");
        for (partition, first) in &self.first {
            let dir = log_dir(shard_dir, *partition);
            let files = match disk.list(&dir) {
                Err(error) if error.is_not_found() => continue,
                files => files?,
            };
            for file in files.iter().filter(|file| segment_of(&file.name).is_some_and(|id| id.base < *first))
            {
                disk.remove(&format!("{dir}/{}", file.name))?;
            }
        }
        Ok(())
    }
}
