//! Photos by content: a message carries a [`PhotoHash`], the bytes lie here, once.
//!
//! ```text
//! DIR/ab/abcdef…  (64 hex digits: SHA-256 of the file's bytes; the first two name its directory)
//! DIR/.tmp/       files being written
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::atomic::{self, FileError};

/// Largest photo that is stored or read, in bytes.
pub const PHOTO_BYTES_MAX: u64 = 256 << 20;

/// SHA-256 of a photo's bytes: its name in the store. Written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhotoHash([u8; 32]);

impl PhotoHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for PhotoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PhotoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a photo's hash is 64 lower-case hex digits")]
pub struct BadHash;

impl FromStr for PhotoHash {
    type Err = BadHash;

    fn from_str(text: &str) -> Result<Self, BadHash> {
        // One spelling only, since the text becomes a path and part of a job's identity.
        let digit = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(BadHash),
        };
        let mut hash = [0; 32];
        if text.len() != 2 * hash.len() {
            return Err(BadHash);
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for PhotoHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PhotoHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A directory of photos named by their content. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the store in this directory, which is made if it is missing.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        atomic::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Where the store lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the photo of this hash lies, or would lie.
    pub fn path_of(&self, hash: PhotoHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    /// Stores the bytes and returns their hash once they are durable. What is there already stays
    /// as it is, unless it was damaged: then it is written anew.
    pub fn put(&self, bytes: &[u8]) -> Result<PhotoHash, StoreError> {
        if bytes.len() as u64 > PHOTO_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "the photo".into(), bytes: bytes.len() as u64 });
        }
        let hash = PhotoHash::of(bytes);
        let path = self.path_of(hash);
        let shard = path.parent().expect("a stored photo lies in a directory");
        atomic::create_dir(shard)?;
        if self.get(hash).is_ok() {
            // Another process may have renamed it but a moment ago, and not yet synced the directory.
            atomic::sync_dir(shard)?;
        } else {
            atomic::write(&self.dir.join(".tmp"), &path, bytes)?;
        }
        Ok(hash)
    }

    /// Stores the bytes of a file.
    pub fn put_file(&self, path: &Path) -> Result<PhotoHash, StoreError> {
        self.put(&read_bounded(path).map_err(|e| match e {
            ReadError::Io(source) => FileError { action: "read", path: path.to_path_buf(), source }.into(),
            ReadError::TooLarge(bytes) => StoreError::TooLarge { what: path.display().to_string(), bytes },
        })?)
    }

    /// Reads a photo and verifies that it is the one that was stored.
    pub fn get(&self, hash: PhotoHash) -> Result<Vec<u8>, StoreError> {
        let path = self.path_of(hash);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { hash, path });
            }
            Err(ReadError::Io(source)) => {
                return Err(FileError { action: "read", path, source }.into());
            }
            // Nothing of that size is ever stored, so these are not the bytes of this hash.
            Err(ReadError::TooLarge(_)) => return Err(StoreError::Corrupt { hash, path }),
        };
        if PhotoHash::of(&bytes) == hash { Ok(bytes) } else { Err(StoreError::Corrupt { hash, path }) }
    }

    /// Takes away the temporary files of killed processes. Nobody may be putting meanwhile.
    pub fn remove_temps(&self) -> Result<(), StoreError> {
        Ok(atomic::remove_temps(&self.dir.join(".tmp"))?)
    }
}

enum ReadError {
    Io(io::Error),
    TooLarge(u64),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ReadError> {
    // Opening a named pipe would wait for its writer, so what is no plain file is refused unopened.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file").into());
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > PHOTO_BYTES_MAX {
        return Err(ReadError::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // The file may grow while it is read.
    file.take(PHOTO_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let length = bytes.len() as u64;
    if length > PHOTO_BYTES_MAX { Err(ReadError::TooLarge(length)) } else { Ok(bytes) }
}

/// Why a photo could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No photo of that hash is there. A store that is mounted late, or the wrong one.
    #[error("photo {hash} is not in the store (no {}); is it the store that the job was submitted to?", path.display())]
    Missing {
        /// The photo that was asked for.
        hash: PhotoHash,
        /// Where it would lie.
        path: PathBuf,
    },
    /// The bytes are not those that were stored.
    #[error("photo {hash} is damaged: the bytes of {} have another hash; submit it again", path.display())]
    Corrupt {
        /// The photo that was asked for.
        hash: PhotoHash,
        /// The damaged file.
        path: PathBuf,
    },
    /// More than [`PHOTO_BYTES_MAX`] bytes.
    #[error("{what} has {bytes} bytes; at most {PHOTO_BYTES_MAX} are taken")]
    TooLarge {
        /// Which photo.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StoreError {
    /// Whether trying again later can help.
    pub fn is_passing(&self) -> bool {
        match self {
            StoreError::Missing { .. } | StoreError::File(_) => true,
            StoreError::Corrupt { .. } | StoreError::TooLarge { .. } => false,
        }
    }
}
