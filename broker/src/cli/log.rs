//! `dure log`: looking into the files of a broker that is not running.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use dure_broker::DataDir;
use dure_engine::{DumpLine, Finding, RealDisk, VerifyReport, dump, rebuild_indexes, verify};
use dure_proto::ShardId;
use serde_json::{Map, Value, json};

use super::failure::{Failure, Outcome};
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
    #[command(after_help = "Example: dure log dump ./dure-data/shard-0000/log/1/0/00000000000000000000.log")]
    Dump {
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
        LogVerb::Dump { file, output } => run_dump(&file, output),
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
        total.commits += report.commits;
        total.topics += report.topics;
        total.partitions += report.partitions;
        total.segments += report.segments;
        total.entries += report.entries;
        total.records += report.records;
        total.bytes += report.bytes;
        total.findings.extend(report.findings);
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

/// A finding as programs see it.
pub(super) fn finding(finding: &Finding) -> Value {
    json!({ "kind": finding.kind(), "damage": finding.is_damage(), "message": finding.to_string() })
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
    let cannot = |why: String| Failure::failed(format!("cannot show {}: {why}", file.display()));
    let file = file.canonicalize().map_err(|error| cannot(error.to_string()))?;
    // A journal piece is read with the salt of the data directory that it lies in.
    let root = file.ancestors().skip(1).find(|dir| dir.join("FORMAT").is_file());
    let (root, salt) = match (root, file.extension().is_some_and(|kind| kind == "piece")) {
        (Some(root), true) => (root, open(root)?.salt()),
        (None, true) => {
            return Err(cannot("it lies in no data directory, without which no commit is believed".into()));
        }
        _ => (file.parent().unwrap_or(Path::new("/")), 0),
    };
    let disk = RealDisk::open(root).map_err(|error| cannot(error.to_string()))?;
    let inside = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
    let lines = dump(&disk, &inside, salt).map_err(|error| cannot(error.to_string()))?;
    let mut out = Out::default();
    for line in &lines {
        match output {
            Format::Json => out.json(&as_json(line)),
            Format::Table | Format::Raw => out.line(as_text(line)),
        }
        if out.is_full() {
            out.flush()?;
        }
    }
    out.flush()
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
