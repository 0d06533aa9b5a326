//! A small file system of its own in a sparse file, mounted through a loop device.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::tools;

/// A busy file system is tried to be unmounted for so many times this long.
const BUSY_WAIT: Duration = Duration::from_millis(50);
const BUSY_TRIES: u32 = 100;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    fn make(self) -> &'static str {
        match self {
            // What is not used is not initialised behind our back.
            FileSystem::Ext4 => "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0",
            FileSystem::Xfs => "mkfs.xfs -q -f",
        }
    }
}

/// A mounted file system. Dropping it unmounts it and removes its file.
#[derive(Debug)]
pub(super) struct Volume {
    home: TempDir,
    mounted: bool,
}

impl Volume {
    /// Why there can be none here, if so.
    pub(super) fn missing(system: FileSystem) -> Option<String> {
        let make = system.make().split(' ').next().expect("a program");
        // A cut needs `xfs_io`, whatever the file system.
        let missing = tools::not_root().or_else(|| tools::missing(&[make, "xfs_io", "mount", "umount"]));
        // Where containers forbid it, only trying tells.
        missing.or_else(|| Volume::new(FileSystem::Ext4, 8 << 20).err())
    }

    pub(super) fn new(system: FileSystem, bytes: u64) -> Result<Volume, String> {
        let home =
            tempfile::Builder::new().prefix("dure-volume-").tempdir().map_err(|error| error.to_string())?;
        let mut volume = Volume { home, mounted: false };
        let file = File::create(volume.image()).and_then(|file| file.set_len(bytes));
        file.map_err(|error| error.to_string())?;
        std::fs::create_dir(volume.root()).map_err(|error| error.to_string())?;
        tools::run(system.make(), &[&volume.image()])?;
        volume.mount()?;
        Ok(volume)
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    pub(super) fn root(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    fn mount(&mut self) -> Result<(), String> {
        tools::run("mount -o loop", &[&self.image(), &self.root()])?;
        self.mounted = true;
        Ok(())
    }

    /// From now on nothing more reaches the disk, not even what the file system has in its own journal and in memory.
    /// The ioctl `0x8004587d` (`FS_IOC_SHUTDOWN`) with the flag 2, no flush of the log: `xfs_io` knows how to say that
    /// to ext4, too.
    pub(super) fn cut_power(&self) -> Result<(), String> {
        tools::run("xfs_io -x -c shutdown", &[&self.root()]).map(drop)
    }

    /// Unmounts and mounts again: the file system recovers by its journal.
    pub(super) fn remount(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn unmount(&mut self) -> Result<(), String> {
        let mut outcome = Ok(String::new());
        for _ in 0..BUSY_TRIES {
            outcome = tools::run("umount", &[&self.root()]);
            match &outcome {
                Err(error) if error.contains("busy") => std::thread::sleep(BUSY_WAIT),
                _ => break,
            }
        }
        outcome?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = tools::run("umount -l", &[&self.root() as &Path]);
        }
    }
}
