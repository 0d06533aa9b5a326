//! `backup`: of a running broker, over its protocol; of a stopped one, from its data directory.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use dure_broker::backup::{check, name_stopped, write};
use dure_engine::Finding;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::block_in_place;

use super::args::{OutputArgs, ServerArgs};
use super::failure::{Failure, Outcome, warn};
use super::out::{Format, Out};
use super::units::now_ms;

/// Copy everything that a broker keeps into one file.
///
/// The backup is one point in time: all that was acknowledged before it was begun is in it, messages and what became of
/// them agree, and producers and consumers go on. The file is a tar archive; it is read back and checked before it gets
/// its name, so that there is never half a backup under it. `dure restore` makes a data directory of it.
///
/// With --data the broker must not run; its directory is recovered as a start would recover it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    dure backup --to monday.tar\n  \
    dure backup --to monday.tar --data /var/lib/dure")]
pub(super) struct BackupArgs {
    /// The file to make; one that is there is replaced once the new one is complete.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The data directory of a broker that does not run; no server is asked.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is told at the end.
struct Made {
    bytes: u64,
    files: u64,
    short: Vec<String>,
    findings: Vec<Finding>,
}

pub(super) async fn run(args: BackupArgs) -> Outcome {
    let mut partial = Partial::create(&args.to)?;
    let made = match &args.data {
        Some(data) => block_in_place(|| of_stopped(data, &mut partial))?,
        None => of_running(&args.server, &mut partial).await?,
    };
    let identity = block_in_place(|| partial.finish())?;
    for path in &made.short {
        warn(format!("{path} is damaged on the broker's disk: the backup holds what is left of it"));
    }
    for finding in made.findings.iter().filter(|finding| finding.is_damage()) {
        warn(format!("the data was damaged before the backup: {finding}"));
    }
    let mut out = Out::default();
    match args.output.format {
        Format::Json => out.json(&json!({
            "file": args.to,
            "bytes": made.bytes,
            "files": made.files,
            "created": identity.created_ms,
            "cluster": identity.data.cluster,
            "shards": identity.shards,
            "damaged": made.short,
            "findings": made.findings.iter().map(super::log::finding).collect::<Vec<_>>(),
        })),
        Format::Table | Format::Raw => {
            let commit = identity.shards.first().map_or(0, |shard| shard.commit);
            out.line(format!(
                "{}: {} bytes, {} files, up to commit {commit}; read back and checked",
                args.to.display(),
                made.bytes,
                made.files
            ));
        }
    }
    out.flush()
}

async fn of_running(server: &ServerArgs, partial: &mut Partial) -> Outcome<Made> {
    let client = server.connect().await?;
    let cannot = |error: &dure_client::Error| Failure::cannot("make a backup", error);
    let mut backup = client.admin().backup().await.map_err(|error| cannot(&error))?;
    let bar = ProgressBar::new(backup.bytes());
    bar.set_style(
        ProgressStyle::with_template("backup {bytes} of {total_bytes} {wide_bar} {bytes_per_sec}")
            .expect("the template is valid"),
    );
    while let Some(part) = backup.next().await.map_err(|error| cannot(&error))? {
        block_in_place(|| partial.write_all(&part)).map_err(|error| partial.failed("write", &error))?;
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    let end = backup.end().cloned().expect("it is complete");
    client.close().await;
    Ok(Made { bytes: end.bytes, files: end.files, short: end.short, findings: Vec::new() })
}

fn of_stopped(data: &Path, partial: &mut Partial) -> Outcome<Made> {
    let failed = |why: String| Failure::failed(format!("cannot make a backup of {}: {why}", data.display()));
    let stopped = name_stopped(data).map_err(|error| failed(error.to_string()))?;
    let disk = stopped.data.disk();
    let written = write(&disk, stopped.data.format(), now_ms(), &stopped.plans, &mut *partial)
        .map_err(|error| failed(error.to_string()))?;
    let findings = stopped.findings;
    Ok(Made { bytes: written.bytes, files: written.files, short: written.short, findings })
}

/// The file under another name until it is whole. Whatever ends before that leaves nothing.
struct Partial {
    file: File,
    path: PathBuf,
    to: PathBuf,
    complete: bool,
}

impl Partial {
    fn create(to: &Path) -> Outcome<Partial> {
        let cannot = |why: String| Failure::failed(format!("cannot make {}: {why}", to.display()));
        let name = to.file_name().ok_or_else(|| cannot("it names no file".to_owned()))?;
        if to.is_dir() {
            return Err(cannot("it is a directory: name a file in it".to_owned()));
        }
        let mut partial = name.to_owned();
        partial.push(".partial");
        let path = to.with_file_name(partial);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(|error| cannot(error.to_string()))?;
        Ok(Partial { file, path, to: to.to_owned(), complete: false })
    }

    /// Reads it back, checks it, and gives it its name.
    fn finish(&mut self) -> Outcome<dure_broker::backup::Identity> {
        let path = self.path.clone();
        let failed = |what: &str, why: String| {
            Failure::failed(format!("cannot {what} {}: {why}; there is no backup", path.display()))
        };
        self.file.sync_all().map_err(|error| failed("sync", error.to_string()))?;
        let written = File::open(&self.path).map_err(|error| failed("read", error.to_string()))?;
        let identity = check(BufReader::with_capacity(1 << 20, written))
            .map_err(|error| failed("believe", error.to_string()))?;
        fs::rename(&self.path, &self.to).map_err(|error| failed("rename", error.to_string()))?;
        self.complete = true;
        let dir = std::path::absolute(&self.to).ok().and_then(|to| Some(to.parent()?.to_owned()));
        dir.map_or(Ok(()), |dir| File::open(dir).and_then(|dir| dir.sync_all()))
            .map_err(|error| failed("sync the directory of", error.to_string()))?;
        Ok(identity)
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot {what} {}: {error}; there is no backup", self.path.display()))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.complete {
            // Half a backup is worth nothing; if it stays, its name says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}
