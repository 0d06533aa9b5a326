//! Holds `FORMAT.md` to the code: each of its tables is compared, field by field, with the bytes of a fixture and with
//! what the code reads out of them.

use std::collections::BTreeSet;

use dure_proto::{BATCH_HEADER_BYTES, BatchHeader, Compression, ENTRY_HEADER_BYTES, EntryHeader};

use crate::fixtures::{BASE, INDEXED, PARTITION, SALT, events, fixture};
use crate::journal::{COMMIT_HEADER_BYTES, CommitHeader, JournalEntry, decode_body};

const DOCUMENT: &str = include_str!("../FORMAT.md");
const PROTO: &str = include_str!("../../../proto/journal.proto");

const NONE: u64 = 0;
const ENTRY: &str = "../../proto/tests/fixtures/entry.hex";

/// A table of the document: where it says that an example lies, and its rows.
struct Table {
    fixture: String,
    at: usize,
    rows: Vec<Row>,
}

struct Row {
    at: usize,
    size: usize,
    field: String,
}

/// The lines of the section with this heading.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let mut lines = DOCUMENT.lines().skip_while(move |line| line.trim_start_matches('#').trim() != heading);
    assert!(lines.next().is_some(), "FORMAT.md has no section `{heading}`");
    lines.take_while(|line| !line.starts_with('#'))
}

fn cells(line: &str) -> Vec<&str> {
    line.trim_matches('|').split('|').map(str::trim).collect()
}

fn table(heading: &str) -> Table {
    let text: Vec<&str> = section(heading).collect();
    let named = text.join(" ");
    let (_, rest) = named.split_once(".hex` at ").expect("the section names an example");
    let at = rest.split(|c: char| !c.is_ascii_digit()).next().expect("a position").parse().expect("a number");
    let name = named.split('`').find(|part| part.ends_with(".hex")).expect("the section names an example");
    let rows = text.iter().filter(|line| line.starts_with("| ")).map(|line| cells(line)).skip(1);
    let row = |cells: Vec<&str>| Row {
        at: cells[0].parse().unwrap_or_else(|_| panic!("{heading}: `{}` is no position", cells[0])),
        size: cells[1].parse().unwrap_or_else(|_| panic!("{heading}: `{}` is no size", cells[1])),
        field: cells[2].to_owned(),
    };
    Table { fixture: name.to_owned(), at, rows: rows.map(row).collect() }
}

/// The bytes of a fixture as the document names it: from the engine's directory on, or in `tests/fixtures`.
fn example(name: &str) -> Vec<u8> {
    fixture(&if name.contains('/') { format!("../../{name}") } else { name.to_owned() })
}

fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let fold = |number: u128, byte: &u8| number << 8 | u128::from(*byte);
    let number = match big_endian {
        true => bytes.iter().fold(0, fold),
        false => bytes.iter().rev().fold(0, fold),
    };
    u64::try_from(number).expect("fields of more than eight bytes are zero")
}

/// What the code reads out of the example, in the order of the table.
struct Structure {
    heading: &'static str,
    fixture: &'static str,
    bytes: usize,
    big_endian: bool,
    fields: Vec<(&'static str, u64)>,
}

fn text(magic: &[u8; 4]) -> u64 {
    u32::from_le_bytes(*magic).into()
}

fn structures() -> Vec<Structure> {
    let structure = |heading, fixture, bytes, fields| Structure {
        heading,
        fixture,
        bytes,
        big_endian: heading == "Record batch",
        fields,
    };
    let entries = "commit-v1-entries.hex";
    vec![
        structure("Commit header", entries, COMMIT_HEADER_BYTES, commit_header()),
        structure(
            "Journal entry",
            entries,
            8,
            vec![("kind", 1), ("zero", NONE), ("payload bytes", 8 + 40 + 434)],
        ),
        structure("Place of a batch", entries, 8, place_of_batch()),
        structure("Segment header", "segment-header-v1.hex", 64, segment_header()),
        structure("Entry header", ENTRY, ENTRY_HEADER_BYTES, entry_header()),
        structure("Record batch", ENTRY, BATCH_HEADER_BYTES, batch_header()),
        structure(
            "Index header",
            "index-v1.hex",
            16,
            vec![("magic", text(b"DuIx")), ("version", 1), ("base offset", BASE.0)],
        ),
        structure("Index entry", "index-v1.hex", 20, index_entry()),
        structure("Checkpoint header", "checkpoint-v1-full.hex", 32, checkpoint_header()),
    ]
}

fn commit_header() -> Vec<(&'static str, u64)> {
    let (header, checksum) = CommitHeader::parse(&fixture("commit-v1-entries.hex"), SALT).expect("a commit");
    vec![
        ("magic", text(b"DuCm")),
        ("checksum", checksum.into()),
        ("version", 1),
        ("shard", header.shard.0.into()),
        ("body bytes", header.body_bytes.into()),
        ("epoch", header.epoch.0),
        ("sequence", header.seq.0),
        ("durable upto", header.durable_upto.0),
        ("piece", header.piece),
        ("previous checksum", header.prev_checksum.into()),
        ("body checksum", header.body_checksum.into()),
        ("entry count", header.entry_count.into()),
        ("flags", header.opens_epoch.into()),
    ]
}

fn place_of_batch() -> Vec<(&'static str, u64)> {
    let commit = fixture("commit-v1-entries.hex");
    let (header, _) = CommitHeader::parse(&commit, SALT).expect("a commit");
    let body = header.body(&commit).expect("whole").to_vec();
    match &decode_body(&body.into(), header.entry_count).expect("entries")[0] {
        JournalEntry::Batch { partition, .. } => {
            vec![("topic", partition.topic.0.into()), ("partition", partition.partition.0.into())]
        }
        JournalEntry::Event(_) => panic!("a batch comes first"),
    }
}

fn segment_header() -> Vec<(&'static str, u64)> {
    let kept = crc32fast::hash(&fixture("segment-header-v1.hex")[8..]);
    vec![
        ("magic", text(b"DuSg")),
        ("checksum", kept.into()),
        ("version", 1),
        ("topic", PARTITION.topic.0.into()),
        ("partition", PARTITION.partition.0.into()),
        ("zero", NONE),
        ("base offset", BASE.0),
        ("generation", NONE),
        ("zero", NONE),
    ]
}

fn entry_header() -> Vec<(&'static str, u64)> {
    let bytes = example(ENTRY);
    let header = EntryHeader::parse(&bytes).expect("an entry");
    vec![
        ("magic", text(b"DuEn")),
        ("checksum", crc32fast::hash(&bytes[8..ENTRY_HEADER_BYTES]).into()),
        ("batch bytes", header.batch_bytes.into()),
        ("record count", header.record_count.into()),
        ("base offset", header.base_offset.0),
        ("append time", header.append_time_ms),
        ("epoch", header.epoch.into()),
        ("batch checksum", header.batch_checksum.into()),
    ]
}

fn batch_header() -> Vec<(&'static str, u64)> {
    let header = BatchHeader::parse(&example(ENTRY)[ENTRY_HEADER_BYTES..]).expect("a batch");
    let producer = header.producer.expect("a session");
    assert_eq!((header.compression, header.append_time), (Compression::None, false));
    vec![
        ("base offset", header.base_offset.0),
        ("batch length", u64::from(header.batch_bytes) - 12),
        ("leader epoch", header.leader_epoch.into()),
        ("magic", 2),
        ("checksum", header.checksum.into()),
        ("attributes", NONE),
        ("last offset delta", u64::from(header.record_count) - 1),
        ("base timestamp", header.base_timestamp_ms as u64),
        ("max timestamp", header.max_timestamp_ms as u64),
        ("producer id", producer.producer.0),
        ("producer epoch", producer.epoch.into()),
        ("base sequence", producer.sequence.0.into()),
        ("record count", header.record_count.into()),
    ]
}

fn index_entry() -> Vec<(&'static str, u64)> {
    let (position, offset, largest_ms) = INDEXED[1];
    let fields = &fixture("index-v1.hex")[36..52];
    let checked = [&b"DuIx"[..], &BASE.0.to_le_bytes(), fields].concat();
    vec![
        ("relative offset", offset.since(BASE)),
        ("position", position),
        ("largest append time", largest_ms),
        ("checksum", crc32fast::hash(&checked).into()),
    ]
}

fn checkpoint_header() -> Vec<(&'static str, u64)> {
    let bytes = fixture("checkpoint-v1-full.hex");
    let checkpoint = crate::checkpoint::decode(&bytes).expect("a checkpoint");
    vec![
        ("magic", text(b"DuCk")),
        ("checksum", crc32fast::hash(&bytes[8..32]).into()),
        ("version", 1),
        ("body checksum", crc32fast::hash(&bytes[32..]).into()),
        ("body bytes", bytes.len() as u64 - 32),
        ("sequence", checkpoint.seq),
    ]
}

#[test]
fn every_field_is_where_the_document_says() {
    for structure in structures() {
        let Structure { heading, fixture, bytes, big_endian, fields } = structure;
        let table = table(heading);
        assert_eq!(table.fixture, fixture, "{heading}");
        let kept = example(fixture);
        let named: Vec<&str> = table.rows.iter().map(|row| row.field.as_str()).collect();
        let expected: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, expected, "the fields of {heading}");
        let mut end = 0;
        for (row, (name, value)) in table.rows.iter().zip(fields) {
            assert_eq!(row.at, end, "{heading}, {name}: it follows the field before it");
            end += row.size;
            let found = number(&kept[table.at + row.at..table.at + end], big_endian);
            assert_eq!(found, value, "{heading}, {name}, {} bytes at {}", row.size, row.at);
        }
        assert_eq!(end, bytes, "{heading} as a whole");
    }
}

#[test]
fn every_table_of_fields_is_compared() {
    let tables = DOCUMENT.lines().filter(|line| line.starts_with("| at | size |")).count();
    assert_eq!(tables, structures().len());
}

/// A field of the document's table of a record, as read from the bytes.
fn field<'a>(kind: &str, length: usize, bytes: &mut &'a [u8]) -> (i64, &'a [u8]) {
    let take = |bytes: &mut &'a [u8], n: usize| {
        let (head, rest) = bytes.split_at(n);
        *bytes = rest;
        head
    };
    match kind {
        "byte" => (take(bytes, 1)[0].into(), &[]),
        "bytes" => (0, take(bytes, length)),
        "varint" | "varlong" => {
            let (mut raw, mut shift) = (0_u64, 0);
            loop {
                let byte = take(bytes, 1)[0];
                raw |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return ((raw >> 1) as i64 ^ -((raw & 1) as i64), &[]);
                }
            }
        }
        kind => panic!("FORMAT.md knows no `{kind}`"),
    }
}

#[test]
fn a_record_is_what_the_document_says() {
    let rows: Vec<Vec<&str>> = section("Record").filter(|line| line.starts_with("| ")).map(cells).collect();
    let kept = example(ENTRY);
    let mut bytes = &kept[ENTRY_HEADER_BYTES + BATCH_HEADER_BYTES..];
    let (mut length, mut read) = (0, Vec::new());
    let whole = bytes.len();
    for row in &rows[1..] {
        let (number, slice) = field(row[0], length, &mut bytes);
        length = usize::try_from(number).unwrap_or_default();
        read.push((row[1], number, slice));
    }
    let expected: [(&str, i64, &[u8]); 9] = [
        ("length", 14, b""),
        ("attributes", 0, b""),
        ("timestamp delta", 0, b""),
        ("offset delta", 0, b""),
        ("key length", 3, b""),
        ("key", 0, b"key"),
        ("value length", 5, b""),
        ("value", 0, b"value"),
        ("header count", 0, b""),
    ];
    assert_eq!(read, expected);
    assert_eq!(whole - bytes.len(), 1 + 14, "the record ends where its length says");
}

/// Numbers and names of a `oneof` of `journal.proto`; the one of the queue's events is named by its message.
fn events_of(message: &str) -> BTreeSet<(u32, String)> {
    let (_, body) = PROTO.split_once(&format!("message {message} {{")).expect("the message");
    let (body, _) = body.split_once("  }").expect("its end");
    let lines = body.lines().filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "));
    lines
        .map(|(field, number)| {
            (number.parse().expect("a number"), field.split(' ').next().expect("a type").to_owned())
        })
        .collect()
}

#[test]
fn every_event_is_named_with_its_number() {
    let mut documented = BTreeSet::new();
    for line in section("Events").filter(|line| line.starts_with("| ") && !line.starts_with("| number")) {
        let cells = cells(line);
        let row = (cells[0].parse::<u32>().expect("a number"), cells[1].trim_matches('`').to_owned());
        assert!(documented.insert(row), "{line} stands there twice");
    }
    let known: BTreeSet<_> = events_of("Event").union(&events_of("QueueEvent")).cloned().collect();
    assert_eq!(documented, known);
    assert_eq!(events().len(), 11, "the fixture of events has one of each kind of its version");
}
