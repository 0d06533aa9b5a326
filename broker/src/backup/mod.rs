//! Backups: `archive` owns the format, `write` makes one from what the shards name, `stopped` has a data directory that
//! no broker runs on name it, `restore` makes a data directory of one.

mod archive;
mod restore;
mod stopped;
mod tar;
mod write;

pub use archive::{ArchiveError, Identity, ShardPoint, check};
pub use restore::{RestoreError, Restored, restore};
pub use stopped::{StoppedBackup, StoppedError, name_stopped};
pub use write::{BackupError, Written, write};

#[cfg(test)]
mod tests;
