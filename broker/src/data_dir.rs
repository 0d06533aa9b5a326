//! The data directory as a whole.
//!
//! ```text
//! LOCK     held by the broker that runs on the directory; never holds a byte
//! FORMAT   JSON: {"format":1,"cluster":"<32 hex digits>","salt":"<16 hex digits>","shards":1}
//! shard-NNNN  what shard N owns; the engine's
//! ```
//!
//! The lock comes first: a second broker creates and changes nothing. `FORMAT` is written once, atomically.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dure_engine::{DiskError, RealDisk};
use dure_proto::KeySeed;
use serde::{Deserialize, Serialize};

/// The format that this broker reads and writes.
pub const FORMAT_VERSION: u32 = 1;
const SHARDS: u16 = 1;
const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// What `FORMAT` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Version of everything in the directory.
    pub format: u32,
    /// Identity of the data, given when the directory was made.
    pub cluster: String,
    /// Goes into every commit's checksum, so that no client can write what looks like one: 16 hexadecimal digits.
    pub salt: String,
    /// Number of shards, fixed when the directory was made.
    pub shards: u16,
}

impl Format {
    fn salt(&self) -> u64 {
        u64::from_str_radix(&self.salt, 16).expect("checked when FORMAT was read")
    }

    /// The secret under which keys and ids are numbered.
    pub(crate) fn key_seed(&self) -> KeySeed {
        KeySeed(self.salt())
    }
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    disk: RealDisk,
    format: Format,
    /// The lock goes with the descriptor.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process runs on it.
    #[error("data directory {} is in use by another broker: stop that one, or give another --data", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A newer broker wrote it.
    #[error(
        "data directory {} has format {found}, and this broker knows none above {FORMAT_VERSION}: it was left \
         untouched; start the newer broker on it", .path.display()
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// `FORMAT` cannot be understood.
    #[error("{} is damaged ({why}): restore it from a backup; nothing was changed", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is data in it, but not ours to judge.
    #[error("{} has no FORMAT file but is not empty ({found}): give an empty or a new directory", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory itself cannot be made or opened.
    #[error("cannot use the data directory: {0}")]
    Disk(#[from] DiskError),
}

impl DataDir {
    /// Opens the directory, making it if it is not there.
    pub fn open_or_create(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::locked(RealDisk::create(path)?, true)
    }

    /// Opens a directory that is there, for tools that work while no broker runs.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let disk = RealDisk::open(path)?;
        // Of a directory that is none of ours, not even the lock is taken.
        let format = disk.root().join("FORMAT");
        if !format.exists() {
            return Err(damaged(&format, "it is missing; is this the data directory of a broker?"));
        }
        DataDir::locked(disk, false)
    }

    /// The directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.disk.root()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> RealDisk {
        self.disk.clone()
    }

    /// What `FORMAT` says.
    #[must_use]
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// The salt as the engine takes it.
    #[must_use]
    pub fn salt(&self) -> u64 {
        self.format.salt()
    }

    fn locked(disk: RealDisk, create: bool) -> Result<DataDir, DataDirError> {
        let root = disk.root().to_owned();
        let lock = take_lock(&root)?;
        let path = root.join("FORMAT");
        let format = match read_format(&root, &path)? {
            Some(format) => format,
            None if create => {
                refuse_foreign(&root)?;
                make_format(&root)?
            }
            None => return Err(damaged(&path, "it is missing")),
        };
        Ok(DataDir { disk, format, _lock: lock })
    }
}

fn take_lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("LOCK");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let lock = open.map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: root.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn read_format(root: &Path, path: &Path) -> Result<Option<Format>, DataDirError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("open", path))?,
    };
    let mut text = String::new();
    file.take(FORMAT_BYTES_MAX).read_to_string(&mut text).map_err(io_error("read", path))?;
    // The version is judged before the rest, whose shape a newer version may have changed.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(path, &e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT_VERSION) => {
            return Err(DataDirError::NewerFormat { path: root.to_owned(), found });
        }
        Some(1) => {}
        _ => return Err(damaged(path, "it names no known format version")),
    }
    let format: Format = serde_json::from_value(value).map_err(|e| damaged(path, &e.to_string()))?;
    if format.salt.len() != 16 || u64::from_str_radix(&format.salt, 16).is_err() {
        return Err(damaged(path, "its salt is not 16 hexadecimal digits"));
    }
    if format.shards == 0 {
        return Err(damaged(path, "it says that there are no shards"));
    }
    Ok(Some(format))
}

/// A directory without `FORMAT` may hold what an interrupted creation left, and nothing else.
fn refuse_foreign(root: &Path) -> Result<(), DataDirError> {
    for entry in fs::read_dir(root).map_err(io_error("list", root))? {
        let name = entry.map_err(io_error("list", root))?.file_name();
        if !["LOCK", "FORMAT.new", "lost+found"].iter().any(|known| name == *known) {
            let found = name.to_string_lossy().into_owned();
            return Err(DataDirError::Foreign { path: root.to_owned(), found });
        }
    }
    Ok(())
}

fn make_format(root: &Path) -> Result<Format, DataDirError> {
    let (cluster, salt) = (random_hex::<16>()?, random_hex::<8>()?);
    let format = Format { format: FORMAT_VERSION, cluster, salt, shards: SHARDS };
    write_format(root, &format)?;
    Ok(format)
}

/// Makes a directory one of this identity. What lies in it is synced before.
pub(crate) fn write_format(root: &Path, format: &Format) -> Result<(), DataDirError> {
    let (new, path) = (root.join("FORMAT.new"), root.join("FORMAT"));
    let mut file = File::create(&new).map_err(io_error("create", &new))?;
    let mut text = serde_json::to_vec(format).expect("numbers and text become JSON");
    text.push(b'\n');
    file.write_all(&text).map_err(io_error("write", &new))?;
    file.sync_all().map_err(io_error("sync", &new))?;
    fs::rename(&new, &path).map_err(io_error("rename", &new))?;
    File::open(root).and_then(|dir| dir.sync_all()).map_err(io_error("sync", root))
}

fn random_hex<const BYTES: usize>() -> Result<String, DataDirError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0_u8; BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(io_error("read", path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn damaged(path: &Path, why: &str) -> DataDirError {
    DataDirError::Damaged { path: path.to_owned(), why: why.to_owned() }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(root: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_directory_keeps_its_identity() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let first = DataDir::open_or_create(&path).unwrap().format().clone();
        assert_eq!((first.format, first.shards, first.cluster.len()), (1, 1, 32));
        assert_eq!(DataDir::open_or_create(&path).unwrap().format(), &first);
        assert_eq!(DataDir::open(&path).unwrap().format(), &first);
        assert_eq!(format!("{:016x}", DataDir::open(&path).unwrap().salt()), first.salt);
    }

    /// As `broker/engine/FORMAT.md` describes it.
    #[test]
    fn the_identity_file_is_as_it_was() {
        let kept = include_str!("../tests/fixtures/format-v1.json");
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("FORMAT"), kept).unwrap();
        let format = DataDir::open(root.path()).unwrap().format().clone();
        let expected = Format {
            format: 1,
            cluster: "00112233445566778899aabbccddeeff".into(),
            salt: "0123456789abcdef".into(),
            shards: 1,
        };
        assert_eq!(format, expected);
        assert_eq!(format!("{}\n", serde_json::to_string(&format).unwrap()), kept);

        let (_, section) = include_str!("../engine/FORMAT.md").split_once("# The identity").unwrap();
        let (section, _) = section.split_once("\n#").unwrap();
        let keys = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let keys: Vec<&str> = keys.map(|(key, _)| key).collect();
        assert_eq!(keys, ["format", "cluster", "salt", "shards"]);
    }

    #[test]
    fn a_second_broker_is_refused_and_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let held = DataDir::open_or_create(root.path()).unwrap();
        let before = content(root.path());
        let refused = DataDir::open_or_create(root.path());
        assert!(matches!(refused, Err(DataDirError::InUse { .. })), "{refused:?}");
        assert_eq!(content(root.path()), before);
        drop(held);
        assert!(DataDir::open_or_create(root.path()).is_ok());
    }

    #[test]
    fn a_newer_format_is_left_untouched() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("FORMAT"), r#"{"format":2,"anything":[]}"#).unwrap();
        fs::write(root.path().join("LOCK"), "").unwrap();
        let before = content(root.path());
        let refused = DataDir::open_or_create(root.path());
        assert!(matches!(refused, Err(DataDirError::NewerFormat { found: 2, .. })), "{refused:?}");
        assert_eq!(content(root.path()), before);
    }

    #[test]
    fn a_damaged_format_and_a_foreign_directory_are_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("FORMAT"), "").unwrap();
        assert!(matches!(DataDir::open_or_create(root.path()), Err(DataDirError::Damaged { .. })));
        fs::remove_file(root.path().join("FORMAT")).unwrap();
        fs::write(root.path().join("thesis.txt"), "no").unwrap();
        assert!(matches!(DataDir::open_or_create(root.path()), Err(DataDirError::Foreign { .. })));
        assert!(matches!(DataDir::open(root.path()), Err(DataDirError::Damaged { .. })));
    }
}
