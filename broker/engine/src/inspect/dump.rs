//! Shows what a file holds, line by line: a segment, an index, a journal piece or a checkpoint.

use bytes::Bytes;
use dure_proto::{BatchLimits, Offset, Records};

use super::entries::{Found, walk};
use crate::checkpoint;
use crate::disk::{Disk, DiskError};
use crate::journal::{COMMIT_ALIGN, CommitHeader, JournalEntry, decode_body};
use crate::log::{SegmentId, SegmentIndex};

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

/// Everything in a file. `salt` is the data directory's; without it no commit of a journal piece is believed.
pub fn dump(disk: &dyn Disk, path: &str, salt: u64) -> Result<Vec<DumpLine>, DumpError> {
    let bytes = Bytes::from(disk.read_past_cache(path)?);
    let (stem, kind) = path.rsplit_once('.').unwrap_or((path, ""));
    let name = stem.rsplit('/').next().unwrap_or(stem);
    match (kind, name.parse::<u64>()) {
        ("log", _) if SegmentId::parse(name).is_some() => Ok(dump_segment(&bytes)),
        ("index", _) if let Some(id) = SegmentId::parse(name) => Ok(dump_index(disk, path, id.base)),
        ("piece", Ok(number)) => Ok(dump_piece(&bytes, number, salt)),
        ("checkpoint", Ok(_)) => match checkpoint::decode(&bytes) {
            Ok(checkpoint) => Ok(vec![line(0, "checkpoint", [("content", format!("{checkpoint:?}"))])]),
            Err(what) => Err(DumpError::Damaged { path: path.to_owned(), what }),
        },
        _ => Err(DumpError::UnknownKind(path.to_owned())),
    }
}

fn line<const N: usize>(position: u64, kind: &'static str, fields: [(&'static str, String); N]) -> DumpLine {
    DumpLine { position, kind, fields: fields.into() }
}

fn dump_segment(bytes: &Bytes) -> Vec<DumpLine> {
    let mut lines = Vec::new();
    for found in walk(bytes) {
        match found {
            Found::Damage { bytes, what } => {
                lines.push(line(
                    bytes.start,
                    "damage",
                    [("bytes", (bytes.end - bytes.start).to_string()), ("what", what)],
                ));
            }
            Found::Entry { position, header, batch } => {
                lines.push(line(
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
                lines.extend(records.iter().map(|record| {
                    let length = |field: &Option<Bytes>| match field {
                        Some(bytes) => bytes.len().to_string(),
                        None => "null".to_owned(),
                    };
                    line(
                        position,
                        "record",
                        [
                            ("offset", header.base_offset.plus(record.offset_delta.into()).to_string()),
                            ("key_bytes", length(&record.key)),
                            ("value_bytes", length(&record.value)),
                            ("headers", record.headers.len().to_string()),
                        ],
                    )
                }));
            }
        }
    }
    lines
}

fn dump_index(disk: &dyn Disk, path: &str, base: Offset) -> Vec<DumpLine> {
    let index = SegmentIndex::read(disk, path, base);
    let show = |(i, entry): (usize, Option<crate::log::IndexEntry>)| match entry {
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
    index.entries().enumerate().map(show).collect()
}

fn dump_piece(bytes: &Bytes, number: u64, salt: u64) -> Vec<DumpLine> {
    let mut lines = Vec::new();
    let mut at = 0;
    while at + COMMIT_ALIGN <= bytes.len() {
        let valid = CommitHeader::parse(&bytes[at..], salt).and_then(|(header, _)| {
            let body = header.body(&bytes[at..])?;
            Some((header, bytes.slice_ref(body)))
        });
        let Some((header, body)) = valid else {
            at += COMMIT_ALIGN;
            continue;
        };
        lines.push(line(
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
                lines.extend(entries.into_iter().map(|entry| dump_journal_entry(at as u64, entry)))
            }
            Err(error) => lines.push(line(at as u64, "damage", [("what", error.to_string())])),
        }
        at += header.padded_bytes();
    }
    lines
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
