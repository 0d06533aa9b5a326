//! Files that appear whole or not at all, and stay after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What kept a file from being written or a directory from being used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was being done, as a verb: `create`, `write`, `sync`, …
    pub action: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }
}

/// Writes `bytes` to `target`: a file in `temp_dir` (of the same file system), synced, renamed, and
/// the directory synced. A reader sees the old content or the new one; on success it is durable.
pub(crate) fn write(temp_dir: &Path, target: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let (temp, mut file) = create_temp(temp_dir)?;
    let written = file
        .write_all(bytes)
        .map_err(FileError::at("write", &temp))
        .and_then(|()| file.sync_all().map_err(FileError::at("sync", &temp)))
        .and_then(|()| fs::rename(&temp, target).map_err(FileError::at("rename a file to", target)));
    if let Err(error) = written {
        // Best effort: what is left behind is a temporary file, which `remove_temps` takes away.
        let _ = fs::remove_file(&temp);
        return Err(error);
    }
    match target.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    // `Path::parent` of a bare file name is the empty path, which means the current directory.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    // Only Unix lets a directory be opened and synced; elsewhere the rename is as good as it gets.
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|d| d.sync_all());
        synced.map_err(FileError::at("sync the directory", dir))?;
    }
    Ok(())
}

/// Makes a directory and its parents, durably.
pub(crate) fn create_dir(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(dir).map_err(FileError::at("create the directory", dir))?;
    match dir.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Takes away what killed processes left in `temp_dir`. No writer may be running.
pub(crate) fn remove_temps(temp_dir: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(temp_dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(FileError { action: "remove", path: temp_dir.to_path_buf(), source: e })
        }
        _ => Ok(()),
    }
}

/// Names are unique within the process; another process (or host) that happens on the same one
/// makes `create_new` fail, and the next number is tried.
fn create_temp(temp_dir: &Path) -> Result<(PathBuf, File), FileError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const TRIES_MAX: u32 = 10_000;
    fs::create_dir_all(temp_dir).map_err(FileError::at("create the directory", temp_dir))?;
    let mut tries = 0;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = temp_dir.join(format!("{}-{number}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES_MAX => tries += 1,
            Err(e) => return Err(FileError { action: "create", path, source: e }),
        }
    }
}
