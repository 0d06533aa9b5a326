//! A file system of its own with little room.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// An ext4 in a file, mounted. Dropping it unmounts it; whatever runs on it must have ended.
#[derive(Debug)]
pub struct SmallDisk {
    home: TempDir,
    mounted: PathBuf,
}

impl SmallDisk {
    /// Makes one of so many MiB. `None`, with a line that says so, where that is not allowed or the tools are missing.
    ///
    /// # Panics
    /// If there is no room for its file.
    #[must_use]
    pub fn mount(mib: u64) -> Option<SmallDisk> {
        let home = tempfile::Builder::new().prefix("dure-disk-").tempdir().expect("a temporary directory");
        let (image, mounted) = (home.path().join("image"), home.path().join("mounted"));
        let file = std::fs::File::create(&image).expect("a file");
        file.set_len(mib << 20).expect("a sparse file");
        std::fs::create_dir(&mounted).expect("a directory");
        let made = run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        if !made || !run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted)) {
            eprintln!("skipped: a file system of its own cannot be made and mounted here (it takes root)");
            return None;
        }
        Some(SmallDisk { home, mounted })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// What can still be written.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Fills all of it but a MiB with a file that is not the broker's.
    ///
    /// # Panics
    /// If that fails for another reason than that it is full.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.mounted.join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        let mut bytes = 0;
        loop {
            match file.write_all(&vec![1; 256 << 10]).and_then(|()| file.sync_data()) {
                Ok(()) => bytes += 256 << 10,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        file.set_len(bytes - (1 << 20)).expect("shorter");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that was just killed may still be on its way out.
        if !run(Command::new("umount").arg(&self.mounted)) {
            run(Command::new("umount").arg("-l").arg(&self.mounted));
        }
        let _ = std::fs::remove_file(self.home.path().join("image"));
    }
}

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
