//! `restore`: a data directory from a backup.

use std::path::PathBuf;

use clap::Args;
use dure_broker::backup::{RestoreError, restore};
use serde_json::json;

use super::args::OutputArgs;
use super::failure::{Failure, Outcome, warn};
use super::out::{Format, Out};

/// Make a data directory of a backup.
///
/// The archive is unpacked beside the directory and checked there, every byte of it, before it gets its name: either the
/// whole directory is there or none. It begins a new epoch, far above those of the original: no receipt, producer
/// session or generation that one of the two gives out is ever given out by the other.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    dure restore monday.tar --data /var/lib/dure-again\n  \
    dure serve --data /var/lib/dure-again")]
pub(super) struct RestoreArgs {
    /// What `dure backup` made.
    file: PathBuf,
    /// The data directory to make; it must be empty or not there.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Restore data that was damaged already when the backup was made: what is lost stays lost, the rest is served.
    #[arg(long)]
    accept_damage: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &RestoreArgs) -> Outcome {
    let restored = restore(&args.file, &args.data, args.accept_damage).map_err(|error| {
        if let RestoreError::DamagedData { findings, .. } = &error {
            findings.iter().for_each(|finding| warn(format!("{}: {finding}", finding.kind())));
        }
        Failure::failed(format!("nothing was restored: {error}"))
    })?;
    let report = &restored.report;
    for finding in report.findings.iter().filter(|finding| finding.is_damage()) {
        warn(format!("damaged before the backup: {finding}"));
    }
    let mut out = Out::default();
    match args.output.format {
        Format::Json => out.json(&json!({
            "data": args.data,
            "created": restored.identity.created_ms,
            "cluster": restored.identity.data.cluster,
            "shards": restored.identity.shards,
            "epoch": restored.epoch,
            "topics": report.topics,
            "partitions": report.partitions,
            "segments": report.segments,
            "entries": report.entries,
            "records": report.records,
            "bytes": report.bytes,
            "findings": report.findings.iter().map(super::log::finding).collect::<Vec<_>>(),
        })),
        Format::Table | Format::Raw => {
            out.line(format!(
                "{}: {} topics, {} partitions, {} records, {} bytes; every checksum is right",
                args.data.display(),
                report.topics,
                report.partitions,
                report.records,
                report.bytes
            ));
        }
    }
    out.flush()
}
