//! A small file system of its own in a sparse file, mounted through a loop device.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::tools;

/// A busy file system is tried to be unmounted for so many times this long.
const BUSY_WAIT: Duration = Duration::from_millis(50);
const BUSY_TRIES: u32 = 100;

/// Which file system a [`LoopDisk`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, nothing of it kept back for root.
    Ext4,
    /// XFS, which wants 300 MiB and more.
    Xfs,
}

impl FileSystem {
    fn make(self) -> &'static str {
        match self {
            // What is not used is not initialised behind our back.
            FileSystem::Ext4 => "mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0,lazy_journal_init=0",
            FileSystem::Xfs => "mkfs.xfs -q -f",
        }
    }
}

/// A mounted file system. Dropping it unmounts it and removes its file; whatever runs on it must have ended.
#[derive(Debug)]
pub struct LoopDisk {
    home: TempDir,
    mounted: bool,
}

impl LoopDisk {
    /// Why there can be none here, if so.
    #[must_use]
    pub fn missing(system: FileSystem) -> Option<String> {
        let make = system.make().split(' ').next().expect("a program");
        let missing = tools::not_root().or_else(|| tools::missing(&[make, "mount", "umount"]));
        // Where containers forbid it, only trying tells.
        missing.or_else(|| LoopDisk::new(FileSystem::Ext4, 8 << 20).err())
    }

    /// Makes one of so many bytes and mounts it.
    ///
    /// # Errors
    /// What the system said: it takes root, loop devices and the program that makes the file system.
    pub fn new(system: FileSystem, bytes: u64) -> Result<LoopDisk, String> {
        let home =
            tempfile::Builder::new().prefix("dure-disk-").tempdir().map_err(|error| error.to_string())?;
        let mut disk = LoopDisk { home, mounted: false };
        let file = File::create(disk.image()).and_then(|file| file.set_len(bytes));
        file.map_err(|error| error.to_string())?;
        std::fs::create_dir(disk.root()).map_err(|error| error.to_string())?;
        tools::run(system.make(), &[&disk.image()])?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.home.path().join("image")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> PathBuf {
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
    ///
    /// # Errors
    /// What the system said.
    pub fn cut_power(&self) -> Result<(), String> {
        tools::run("xfs_io -x -c shutdown", &[&self.root()]).map(drop)
    }

    /// Unmounts and mounts again: the file system recovers by its journal.
    ///
    /// # Errors
    /// What the system said.
    pub fn remount(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    /// What can still be written, in bytes.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.root()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Fills all of it but a MiB with a file that is not the broker's.
    ///
    /// # Panics
    /// If that fails for another reason than that it is full.
    #[must_use]
    pub fn fill(&self) -> PathBuf {
        let path = self.root().join("filler");
        let mut file = File::create(&path).expect("a file");
        let mut bytes = 0;
        loop {
            match file.write_all(&vec![1; 256 << 10]).and_then(|()| file.sync_data()) {
                Ok(()) => bytes += 256 << 10,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        file.set_len(bytes - (1 << 20)).expect("shorter");
        path
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

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = tools::run("umount -l", &[&self.root() as &Path]);
        }
    }
}
