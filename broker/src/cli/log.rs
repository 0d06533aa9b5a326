//! `dure log`: looking into the files of a broker that is not running.

use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use dure_broker::DataDir;
use dure_engine::{DumpLine, Finding, RealDisk, VerifyReport, dump, dump_kafka, rebuild_indexes, verify};
use dure_proto::ShardId;
use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome, note, warn};
use super::out::{Format, Out};

/// Look into the files of a broker that is not running.
#[derive(Debug, Subcommand)]
pub(super) enum LogVerb {
    /// Check every checksum, the contiguity of every log, and every index.
    ///
    /// Exit code 1 and typed findings if anything that was acknowledged is damaged. What a kill or a power cut leaves at
    /// the end of the journal was never acknowledged: a note.
    #[command(after_help = "Example: dure log verify --data ./dure-data -o json")]
    Verify {
        /// The data directory.
        #[arg(long, value_name = "DIR", env = "DURE_DATA", default_value = "./dure-data")]
        data: PathBuf,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Show what is in a segment, an index, a journal piece or a checkpoint.
    ///
    /// With --kafka the record batches of a segment go to stdout as they are, one after the other: what a log segment of
    /// Kafka holds, for tools that read such files. What is damaged is left out, told on stderr, and exit code 1.
    #[command(after_help = "Examples:\n  \
        dure log dump ./dure-data/shard-0000/log/1/0/00000000000000000000.log\n  \
        dure log dump --kafka ./dure-data/shard-0000/log/1/0/00000000000000000000.log > 00000000000000000000.log")]
    Dump {
        /// Write the record batches of a segment as a plain file of Kafka's.
        #[arg(long, conflicts_with = "output")]
        kafka: bool,
        /// The file, in its place in the data directory.
        file: PathBuf,
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Write the index of every segment anew from the segment.
    #[command(after_help = "Example: dure log rebuild-index --data ./dure-data")]
    RebuildIndex {
        /// The data directory.
        #[arg(long, value_name = "DIR", env = "DURE_DATA", default_value = "./dure-data")]
        data: PathBuf,
    },
}

pub(super) fn run(verb: LogVerb) -> Outcome {
    match verb {
        LogVerb::Verify { data, output } => run_verify(&data, output),
        LogVerb::Dump { file, kafka: true, .. } => run_dump_kafka(&file),
        LogVerb::Dump { file, output, .. } => run_dump(&file, output),
        LogVerb::RebuildIndex { data } => {
            let data = open(&data)?;
            let mut rebuilt = 0;
            for shard in shards(&data) {
                rebuilt += rebuild_indexes(&data.disk(), shard)
                    .map_err(|error| Failure::failed(format!("cannot rebuild the indexes: {error}")))?;
            }
            let mut out = Out::default();
            out.json(&json!({ "rebuilt": rebuilt }));
            out.flush()
        }
    }
}

fn open(path: &Path) -> Outcome<DataDir> {
    DataDir::open(path).map_err(|error| Failure::failed(error.to_string()))
}

fn shards(data: &DataDir) -> impl Iterator<Item = ShardId> + use<> {
    (0..data.format().shards).map(ShardId)
}

fn run_verify(path: &Path, output: Format) -> Outcome {
    let data = open(path)?;
    let mut total = VerifyReport::default();
    for shard in shards(&data) {
        let report = verify(&data.disk(), shard, data.salt()).map_err(|error| {
            Failure::failed(format!("cannot read the data directory {}: {error}", path.display()))
        })?;
        total.add(report);
    }
    let mut out = Out::default();
    match output {
        Format::Json => out.json(&summary(&total)),
        Format::Table | Format::Raw => {
            out.line(format!(
                "{} topics, {} partitions, {} segments, {} entries, {} records, {} bytes; {} commits in the journal",
                total.topics, total.partitions, total.segments, total.entries, total.records, total.bytes, total.commits
            ));
            for finding in &total.findings {
                let weight = if finding.is_damage() { "DAMAGE" } else { "note" };
                out.line(format!("{weight} {}: {finding}", finding.kind()));
            }
            out.line(if total.is_ok() { "nothing that was acknowledged is damaged" } else { "damaged" });
        }
    }
    out.flush()?;
    if total.is_ok() { Ok(()) } else { Err(Failure::Reported) }
}

/// A finding as programs see it: with the place, where it has one in a log.
pub(super) fn finding(finding: &Finding) -> Value {
    let mut value =
        json!({ "kind": finding.kind(), "damage": finding.is_damage(), "message": finding.to_string() });
    if let Finding::EntriesLost { partition, offsets, .. } | Finding::ReadFailed { partition, offsets, .. } =
        finding
    {
        value["topic_id"] = partition.topic.0.into();
        value["partition"] = partition.partition.0.into();
        value["from"] = offsets.start.0.into();
        value["to"] = offsets.end.0.into();
    }
    value
}

fn summary(report: &VerifyReport) -> Value {
    json!({
        "ok": report.is_ok(),
        "topics": report.topics,
        "partitions": report.partitions,
        "segments": report.segments,
        "entries": report.entries,
        "records": report.records,
        "bytes": report.bytes,
        "journal_commits": report.commits,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn run_dump(file: &Path, output: Format) -> Outcome {
    let (disk, inside, salt) = locate(file)?;
    let (mut out, mut flushed, mut damaged) = (Out::default(), Ok(()), false);
    dump(&disk, &inside, salt, |line| {
        damaged |= line.kind == "damage";
        match output {
            Format::Json => out.json(&as_json(&line)),
            Format::Table | Format::Raw => out.line(as_text(&line)),
        }
        if out.is_full() && flushed.is_ok() {
            flushed = out.flush();
        }
    })
    .map_err(|error| cannot_show(file, error))?;
    flushed?;
    out.flush()?;
    if damaged { Err(Failure::failed(format!("a part of {} is damaged", file.display()))) } else { Ok(()) }
}

fn run_dump_kafka(file: &Path) -> Outcome {
    if stdout().is_terminal() {
        return Err(Failure::Usage(
            "record batches are not for a terminal: redirect stdout to a file".to_owned(),
        ));
    }
    let (disk, inside, _) = locate(file)?;
    let mut out = Out::default();
    let dumped = dump_kafka(&disk, &inside, |batch| {
        out.buffer().extend_from_slice(batch);
        if out.is_full() { out.flush() } else { Ok(()) }
    });
    let dumped = dumped.map_err(|error| cannot_show(file, error))??;
    out.flush()?;
    for damage in &dumped.damage {
        warn(format!("left out: {damage}"));
    }
    note(format!("{} batches, {} records", dumped.batches, dumped.records));
    if dumped.damage.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

fn cannot_show(file: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot show {}: {why}", file.display()))
}

/// The disk that a file is read from, its path there, and the salt of the data directory where one is needed.
fn locate(file: &Path) -> Outcome<(RealDisk, String, u64)> {
    let cannot = |why: String| cannot_show(file, why);
    let whole = file.canonicalize().map_err(|error| cannot(error.to_string()))?;
    if whole.is_dir() {
        return Err(cannot(
            "it is a directory: name a file in it, or use `dure log verify --data`".to_owned(),
        ));
    }
    // A journal piece is read with the salt of the data directory that it lies in.
    let root = whole.ancestors().skip(1).find(|dir| dir.join("FORMAT").is_file());
    let (root, salt) = match (root, whole.extension().is_some_and(|kind| kind == "piece")) {
        (Some(root), true) => (root, open(root)?.salt()),
        (None, true) => {
            return Err(cannot("it lies in no data directory, without which no commit is believed".into()));
        }
        _ => (whole.parent().unwrap_or(Path::new("/")), 0),
    };
    let disk = RealDisk::open(root).map_err(|error| cannot(error.to_string()))?;
    let inside = whole.strip_prefix(root).unwrap_or(&whole).to_string_lossy().into_owned();
    Ok((disk, inside, salt))
}

fn as_json(line: &DumpLine) -> Value {
    let mut object = Map::new();
    object.insert("position".into(), line.position.into());
    object.insert("kind".into(), line.kind.into());
    for (name, value) in &line.fields {
        let value = value.parse::<u64>().map_or_else(|_| value.as_str().into(), Value::from);
        object.insert((*name).into(), value);
    }
    object.into()
}

fn as_text(line: &DumpLine) -> String {
    let fields: Vec<String> = line.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{:>12}  {:<10} {}", line.position, line.kind, fields.join(" "))
}
