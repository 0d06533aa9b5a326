//! The archive of a backup: a tar file (see `tar`) that any tar can list and unpack.
//!
//! ```text
//! dure-backup.json                          JSON: version, identity of the data, the commit of each shard
//! shard-NNNN/checkpoint                     a checkpoint file
//! shard-NNNN/log/TOPIC/PARTITION/BASE.log   the segments that it names, up to the lengths that it names; one that
//!                                           compaction wrote is BASE-GENERATION.log
//! …                                         the next shard
//! MANIFEST                                  "<SHA-256 in hexadecimal>  <name>\n" for each file before
//! END                                       the same line for MANIFEST
//! ```
//!
//! There is one way only to write what is in it, so that every bit counts: headers, padding and the zeroes at the end
//! included. An archive that was cut off has no END. After unpacking, `sha256sum -c MANIFEST` says the same.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::tar;
use crate::data_dir::Format;

/// The version that is written, and the newest one that is read.
pub(super) const VERSION: u32 = 1;
pub(super) const IDENTITY: &str = "dure-backup.json";
const MANIFEST: &str = "MANIFEST";
const END: &str = "END";
const IDENTITY_BYTES_MAX: u64 = 64 << 10;
const READ_BYTES: usize = 1 << 20;

/// What `dure-backup.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the archive.
    pub backup: u32,
    /// The data directory's `FORMAT`.
    pub data: Format,
    /// Version of the broker that made it, for people.
    pub broker: String,
    /// When it was begun, in milliseconds since the epoch.
    pub created_ms: u64,
    /// By number.
    pub shards: Vec<ShardPoint>,
}

/// The point in time of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPoint {
    /// Its number.
    pub shard: u16,
    /// The last commit in the backup.
    pub commit: u64,
    /// Its epoch.
    pub epoch: u64,
}

/// Why an archive is refused. Positions are bytes from its start.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It ends too early.
    #[error("it is cut off after {position} bytes: the backup was not finished, or not copied whole")]
    CutOff {
        /// Its length.
        position: u64,
    },
    /// It does not begin as a backup does.
    #[error("it is no backup of DureMQ: it does not begin with `{IDENTITY}`")]
    Foreign,
    /// A newer broker made it.
    #[error(
        "it is a backup of version {found}, and this broker knows none above {VERSION}: restore it with a newer one"
    )]
    Newer {
        /// Its version.
        found: u64,
    },
    /// Something in it is not what was written.
    #[error("it is damaged: {what}, at {position}; take another copy, or another backup")]
    Damaged {
        /// What is wrong.
        what: String,
        /// Where.
        position: u64,
    },
    /// It cannot be read.
    #[error("it cannot be read at {position}: {source}")]
    Io {
        /// Where.
        position: u64,
        /// Why.
        source: io::Error,
    },
    /// What is in it cannot be put where it goes.
    #[error("{0}")]
    Sink(#[source] io::Error),
}

/// Writes an archive, file by file.
pub(super) struct ArchiveWriter<W> {
    out: W,
    manifest: String,
    bytes: u64,
    files: u64,
}

/// How large an archive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn new(out: W) -> ArchiveWriter<W> {
        ArchiveWriter { out, manifest: String::new(), bytes: 0, files: 0 }
    }

    /// One file of this length, whose content `fill` gives from a position on, a buffer at a time.
    pub(super) fn file<E: From<io::Error>>(
        &mut self,
        name: &str,
        bytes: u64,
        mut fill: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.put(&tar::header(name, bytes))?;
        let (mut hash, mut position) = (Sha256::new(), 0);
        let mut buffer = vec![0; READ_BYTES.min(bytes as usize)];
        while position < bytes {
            let part = buffer.len().min((bytes - position) as usize);
            fill(position, &mut buffer[..part])?;
            hash.update(&buffer[..part]);
            self.put(&buffer[..part])?;
            position += part as u64;
        }
        self.put(&[0; tar::BLOCK_BYTES][..tar::padding(bytes)])?;
        self.manifest.push_str(&line(hash, name));
        self.files += 1;
        Ok(())
    }

    pub(super) fn whole_file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.file(name, content.len() as u64, |position, buffer| {
            buffer.copy_from_slice(&content[position as usize..][..buffer.len()]);
            Ok(())
        })
    }

    /// Writes the end, without which an archive is none.
    pub(super) fn finish(mut self) -> io::Result<Totals> {
        let files = self.files;
        let manifest = std::mem::take(&mut self.manifest);
        self.whole_file(MANIFEST, manifest.as_bytes())?;
        let end = std::mem::take(&mut self.manifest);
        self.whole_file(END, end.as_bytes())?;
        self.put(&tar::END)?;
        self.out.flush()?;
        Ok(Totals { bytes: self.bytes, files })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// As `sha256sum` writes it.
fn line(hash: Sha256, name: &str) -> String {
    let mut line: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    line.push_str("  ");
    line.push_str(name);
    line.push('\n');
    line
}

/// Where the files of an archive go.
pub(super) trait Sink {
    /// A file begins.
    fn begin(&mut self, name: &str, bytes: u64) -> io::Result<()>;
    /// More of it.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// It is complete. That its content is right is known only at the archive's end.
    fn end(&mut self) -> io::Result<()>;
}

/// Reads a whole archive and checks all of it; keeps nothing.
pub fn check(archive: impl Read) -> Result<Identity, ArchiveError> {
    struct Nowhere;
    impl Sink for Nowhere {
        fn begin(&mut self, _: &str, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn data(&mut self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    read(archive, &mut Nowhere)
}

/// Reads a whole archive into `sink`. Only if this returns `Ok` is anything that went there to be believed.
pub(super) fn read(archive: impl Read, sink: &mut impl Sink) -> Result<Identity, ArchiveError> {
    let mut reader = Reader { input: archive, position: 0, manifest: String::new(), last: String::new() };
    let identity = reader.identity()?;
    loop {
        let (name, bytes) = reader.header()?;
        if name == MANIFEST {
            reader.expected(bytes, MANIFEST)?;
            break;
        }
        if !is_ours(&name) {
            return Err(reader.damaged(format!("`{name}` is no file of a backup")));
        }
        sink.begin(&name, bytes).map_err(ArchiveError::Sink)?;
        reader.content(&name, bytes, |part| sink.data(part))?;
        sink.end().map_err(ArchiveError::Sink)?;
    }
    let (name, bytes) = reader.header()?;
    if name != END {
        return Err(reader.damaged(format!("`{name}` where `{END}` belongs")));
    }
    reader.expected(bytes, END)?;
    let mut zeroes = [1; tar::END.len()];
    reader.exactly(&mut zeroes)?;
    if zeroes != tar::END || reader.more()? {
        return Err(reader.damaged("something follows the end".to_owned()));
    }
    Ok(identity)
}

struct Reader<R> {
    input: R,
    position: u64,
    /// What the manifest has to be, as far as the archive was read.
    manifest: String,
    /// The last file's name, to say where it was.
    last: String,
}

impl<R: Read> Reader<R> {
    fn identity(&mut self) -> Result<Identity, ArchiveError> {
        let mut block = [0; tar::BLOCK_BYTES];
        match self.exactly(&mut block) {
            Err(ArchiveError::CutOff { .. }) => return Err(ArchiveError::Foreign),
            other => other?,
        }
        let is_ours = |(name, bytes): &(String, u64)| name == IDENTITY && *bytes <= IDENTITY_BYTES_MAX;
        let (name, bytes) = tar::parse(&block).filter(is_ours).ok_or(ArchiveError::Foreign)?;
        let mut text = Vec::with_capacity(bytes as usize);
        self.content(&name, bytes, |part| {
            text.extend_from_slice(part);
            Ok(())
        })?;
        // The version is judged before the rest, whose shape a newer version may have changed.
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| self.damaged(format!("`{IDENTITY}`: {error}")))?;
        match value.get("backup").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(VERSION) => return Err(ArchiveError::Newer { found }),
            _ => {}
        }
        serde_json::from_value(value).map_err(|error| self.damaged(format!("`{IDENTITY}`: {error}")))
    }

    fn header(&mut self) -> Result<(String, u64), ArchiveError> {
        let mut block = [0; tar::BLOCK_BYTES];
        self.exactly(&mut block)?;
        tar::parse(&block).ok_or_else(|| self.damaged(format!("the header behind `{}`", self.last)))
    }

    fn content(
        &mut self,
        name: &str,
        bytes: u64,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ArchiveError> {
        let (mut hash, mut left) = (Sha256::new(), bytes);
        let mut buffer = vec![0; READ_BYTES.min(bytes as usize)];
        while left > 0 {
            let part = buffer.len().min(left as usize);
            self.exactly(&mut buffer[..part])?;
            hash.update(&buffer[..part]);
            take(&buffer[..part]).map_err(ArchiveError::Sink)?;
            left -= part as u64;
        }
        let mut padding = [0; tar::BLOCK_BYTES];
        self.exactly(&mut padding[..tar::padding(bytes)])?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.damaged(format!("the padding of `{name}`")));
        }
        self.manifest.push_str(&line(hash, name));
        name.clone_into(&mut self.last);
        Ok(())
    }

    /// A file that says what was read before it.
    fn expected(&mut self, bytes: u64, name: &str) -> Result<(), ArchiveError> {
        let expected = std::mem::take(&mut self.manifest);
        if bytes != expected.len() as u64 {
            return Err(self.damaged(format!("`{name}` speaks of other files than those before it")));
        }
        let mut found = Vec::with_capacity(expected.len());
        self.content(name, bytes, |part| {
            found.extend_from_slice(part);
            Ok(())
        })?;
        if found == expected.as_bytes() {
            return Ok(());
        }
        let differs =
            expected.lines().zip(found.split(|byte| *byte == b'\n')).find(|(a, b)| a.as_bytes() != *b);
        let file = differs.and_then(|(line, _)| line.split_once("  ")).map_or(name, |(_, file)| file);
        Err(self.damaged(format!("the checksum of `{file}` is not the one in `{name}`")))
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.input.read(&mut buffer[done..]) {
                Ok(0) => return Err(ArchiveError::CutOff { position: self.position }),
                Ok(n) => {
                    done += n;
                    self.position += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Io { position: self.position, source }),
            }
        }
        Ok(())
    }

    fn more(&mut self) -> Result<bool, ArchiveError> {
        match self.exactly(&mut [0]) {
            Ok(()) => Ok(true),
            Err(ArchiveError::CutOff { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn damaged(&self, what: String) -> ArchiveError {
        ArchiveError::Damaged { what, position: self.position }
    }
}

/// `shard-NNNN/checkpoint` and `shard-NNNN/log/TOPIC/PARTITION/BASE[-GENERATION].log`: nothing else ever becomes a path.
fn is_ours(name: &str) -> bool {
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let generation = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let segment = |stem: &str| match stem.split_once('-') {
        Some((base, written)) => number(base, 20..=20) && generation(written),
        None => number(stem, 20..=20),
    };
    let parts: Vec<&str> = name.split('/').collect();
    let shard = parts[0].strip_prefix("shard-").is_some_and(|shard| number(shard, 4..=5));
    shard
        && match parts[1..] {
            ["checkpoint"] => true,
            ["log", topic, partition, file] => {
                number(topic, 1..=10)
                    && number(partition, 1..=10)
                    && file.strip_suffix(".log").is_some_and(segment)
            }
            _ => false,
        }
}
