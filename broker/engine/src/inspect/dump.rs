//! Shows what a file holds, line by line: a segment, an index, a journal piece or a checkpoint.

use bytes::Bytes;
use dure_proto::{BatchLimits, Offset, Records};

use super::entries::{Found, Walk};
use crate::checkpoint;
use crate::disk::{Disk, DiskError};
use crate::journal::{COMMIT_ALIGN, CommitHeader, JournalEntry, decode_body};
use crate::log::{SEGMENT_HEADER_BYTES, SegmentId, SegmentIndex, header_of, is_index_of};

/// One thing in a file, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpLine {
    /// Where it begins, in bytes.
    pub position: u64,
    /// `entry`, `record`, `index`, `commit`, `event`, `batch`, `checkpoint` or `damage`.
    pub kind: &'static str,
    /// Name and value of what is known of it.
    pub fields: Vec<(&'static str, String)>,
}

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The disk refused.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// Its name says nothing about what it is.
    #[error("{0}: expected a file named *.log, *.index, *.piece or *.checkpoint")]
    UnknownKind(String),
    /// Its content is not what its name says.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// Shows everything in a file, line by line. `salt` is the data directory's; without it no commit of a journal piece is
/// believed. What is damaged is a line of its own; a file in which nothing is right is an error.
pub fn dump(disk: &dyn Disk, path: &str, salt: u64, mut show: impl FnMut(DumpLine)) -> Result<(), DumpError> {
    let damaged = |what: &str| DumpError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let (kind, number) = kind_of(path)?;
    if kind == "log" {
        return dump_segment(disk, path, &mut show);
    }
    let bytes = Bytes::from(disk.read_past_cache(path)?);
    if bytes.is_empty() {
        return Err(damaged("it is empty"));
    }
    match kind {
        "index" if !is_index_of(&bytes, Offset(number)) => {
            Err(damaged("it does not begin as an index of this segment does"))
        }
        "index" => {
            dump_index(disk, path, Offset(number), &mut show);
            Ok(())
        }
        "piece" => dump_piece(&bytes, number, salt, &mut show).map_err(damaged),
        _ => match checkpoint::decode(&bytes) {
            Ok(checkpoint) => {
                show(line(0, "checkpoint", [("content", format!("{checkpoint:?}"))]));
                Ok(())
            }
            Err(what) => Err(damaged(&what)),
        },
    }
}

/// What was written as a plain file of record batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaDump {
    /// Batches in it.
    pub batches: u64,
    /// Records of them.
    pub records: u64,
    /// Places of the segment that are damaged, and left out.
    pub damage: Vec<String>,
}

/// The record batches of a segment one after the other, as a log segment of Kafka holds them (record batch format v2):
/// without the header of the file and those of the entries. Ends at the first error of `write`.
pub fn dump_kafka<E>(
    disk: &dyn Disk,
    path: &str,
    mut write: impl FnMut(&Bytes) -> Result<(), E>,
) -> Result<Result<KafkaDump, E>, DumpError> {
    let damaged = |what: &str| DumpError::Damaged { path: path.to_owned(), what: what.to_owned() };
    if kind_of(path)?.0 != "log" {
        return Err(damaged("only a segment (*.log) holds record batches that can be taken out"));
    }
    let mut walk = Walk::begin(disk, path, u64::MAX)?;
    let file_header = walk.file_header()?;
    let mut dumped = KafkaDump::default();
    while let Some(found) = walk.next()? {
        match found {
            Found::Entry { header, batch, .. } => {
                if let Err(error) = write(&batch) {
                    return Ok(Err(error));
                }
                dumped.batches += 1;
                dumped.records += u64::from(header.record_count);
            }
            Found::Damage { bytes, what } => {
                dumped.damage.push(format!("{} bytes at {}: {what}", bytes.end - bytes.start, bytes.start));
            }
        }
    }
    if dumped.batches == 0 && header_of(&file_header).is_none() {
        return Err(damaged(NO_SEGMENT));
    }
    Ok(Ok(dumped))
}

const NO_SEGMENT: &str = "it is no segment: neither its header nor any entry in it is valid";

/// By its name: what a file is, and its number.
fn kind_of(path: &str) -> Result<(&str, u64), DumpError> {
    let (stem, kind) = path.rsplit_once('.').unwrap_or((path, ""));
    let name = stem.rsplit('/').next().unwrap_or(stem);
    let number = match kind {
        "log" | "index" => SegmentId::parse(name).map(|id| id.base.0),
        "piece" | "checkpoint" => name.parse().ok(),
        _ => None,
    };
    match number {
        Some(number) => Ok((kind, number)),
        None => Err(DumpError::UnknownKind(path.to_owned())),
    }
}

fn line<const N: usize>(position: u64, kind: &'static str, fields: [(&'static str, String); N]) -> DumpLine {
    DumpLine { position, kind, fields: fields.into() }
}

fn dump_segment(disk: &dyn Disk, path: &str, show: &mut impl FnMut(DumpLine)) -> Result<(), DumpError> {
    let damaged = |what: &str| DumpError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let mut walk = Walk::begin(disk, path, u64::MAX)?;
    if walk.bytes() == 0 {
        return Err(damaged("it is empty"));
    }
    if header_of(&walk.file_header()?).is_none() {
        let mut search = Walk::begin(disk, path, u64::MAX)?;
        loop {
            match search.next()? {
                Some(Found::Entry { .. }) => break,
                Some(Found::Damage { .. }) => {}
                None => return Err(damaged(NO_SEGMENT)),
            }
        }
        let what = "the header of the file is wrong".to_owned();
        show(line(0, "damage", [("bytes", SEGMENT_HEADER_BYTES.to_string()), ("what", what)]));
    }
    while let Some(found) = walk.next()? {
        match found {
            Found::Damage { bytes, what } => {
                show(line(
                    bytes.start,
                    "damage",
                    [("bytes", (bytes.end - bytes.start).to_string()), ("what", what)],
                ));
            }
            Found::Entry { position, header, batch } => {
                show(line(
                    position,
                    "entry",
                    [
                        ("offset", header.base_offset.to_string()),
                        ("records", header.record_count.to_string()),
                        ("timestamp", header.append_time_ms.to_string()),
                        ("epoch", header.epoch.to_string()),
                        ("bytes", header.entry_bytes().to_string()),
                    ],
                ));
                let Ok(records) = Records::decode(&batch, &BatchLimits::stored()) else { continue };
                records.iter().for_each(|record| {
                    let length = |field: &Option<Bytes>| match field {
                        Some(bytes) => bytes.len().to_string(),
                        None => "null".to_owned(),
                    };
                    show(line(
                        position,
                        "record",
                        [
                            ("offset", header.base_offset.plus(record.offset_delta.into()).to_string()),
                            ("key_bytes", length(&record.key)),
                            ("value_bytes", length(&record.value)),
                            ("headers", record.headers.len().to_string()),
                        ],
                    ));
                });
            }
        }
    }
    Ok(())
}

fn dump_index(disk: &dyn Disk, path: &str, base: Offset, show: &mut impl FnMut(DumpLine)) {
    let index = SegmentIndex::read(disk, path, base);
    let shown = |(i, entry): (usize, Option<crate::log::IndexEntry>)| match entry {
        Some(entry) => line(
            i as u64,
            "index",
            [
                ("offset", entry.offset.to_string()),
                ("position", entry.position.to_string()),
                ("largest_timestamp", entry.largest_ms.to_string()),
            ],
        ),
        None => line(i as u64, "damage", [("what", "wrong checksum".to_owned())]),
    };
    index.entries().enumerate().map(shown).for_each(show);
}

fn dump_piece(
    bytes: &Bytes,
    number: u64,
    salt: u64,
    show: &mut impl FnMut(DumpLine),
) -> Result<(), &'static str> {
    let (mut at, mut commits) = (0, 0);
    while at + COMMIT_ALIGN <= bytes.len() {
        let valid = CommitHeader::parse(&bytes[at..], salt).and_then(|(header, _)| {
            let body = header.body(&bytes[at..])?;
            Some((header, bytes.slice_ref(body)))
        });
        let Some((header, body)) = valid else {
            at += COMMIT_ALIGN;
            continue;
        };
        commits += 1;
        show(line(
            at as u64,
            "commit",
            [
                ("seq", header.seq.to_string()),
                ("epoch", header.epoch.to_string()),
                ("durable_upto", header.durable_upto.to_string()),
                ("entries", header.entry_count.to_string()),
                ("bytes", header.padded_bytes().to_string()),
                ("of_this_use", (header.piece == number).to_string()),
            ],
        ));
        match decode_body(&body, header.entry_count) {
            Ok(entries) => {
                entries.into_iter().map(|entry| dump_journal_entry(at as u64, entry)).for_each(&mut *show);
            }
            Err(error) => show(line(at as u64, "damage", [("what", error.to_string())])),
        }
        at += header.padded_bytes();
    }
    if commits == 0 && bytes.iter().any(|byte| *byte != 0) {
        return Err("no commit of this data directory is in it: it is another's, or no piece of a journal");
    }
    if at < bytes.len() {
        let left = (bytes.len() - at).to_string();
        show(line(at as u64, "damage", [("bytes", left), ("what", "the piece is cut off".to_owned())]));
    }
    Ok(())
}

fn dump_journal_entry(position: u64, entry: JournalEntry) -> DumpLine {
    match entry {
        JournalEntry::Batch { partition, header, .. } => line(
            position,
            "batch",
            [
                ("partition", partition.to_string()),
                ("offset", header.base_offset.to_string()),
                ("records", header.record_count.to_string()),
                ("bytes", header.entry_bytes().to_string()),
            ],
        ),
        JournalEntry::Event(event) => line(position, "event", [("content", format!("{event:?}"))]),
    }
}
