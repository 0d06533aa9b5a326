//! What the workers leave behind, and `results.json` made of it.
//!
//! ```text
//! OUT/<stem>-<16 hex digits>.jpg   the result
//! OUT/.results/<job id>.json       its record, one per job however often it ran
//! OUT/results.json                 one line per job, written at the end
//! ```
//!
//! The name of a record is the job's identity, so that a second run of a job replaces its record.
//! Those that were dead-lettered have none here: the broker's dead letters are the truth about
//! them, and the caller hands them in.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{self, FileError};
use crate::job::{Job, JobError, JobId, JobResult, run_job, temp_dir};
use crate::store::Store;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The result is there.
    Done,
    /// The job lies in the dead letters.
    Dead,
}

/// One line of `results.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The photo's name, as in the job.
    pub input: String,
    /// The result's file name, relative to the out directory; `null` if there is none.
    pub output: Option<String>,
    /// How it ended.
    pub status: Status,
    /// Why it is dead; `null` if it is done.
    pub error: Option<String>,
    /// The operations in canonical form.
    pub ops: String,
    /// Width of the result in pixels; `null` if there is none.
    pub width: Option<u32>,
    /// Height of the result in pixels; `null` if there is none.
    pub height: Option<u32>,
    /// How long the work took, in milliseconds; `null` if it was not done.
    pub ms: Option<u64>,
    /// How often the job was started, as far as is known.
    pub attempts: u32,
}

impl Record {
    /// The record of a job that was done at this attempt (counted from 1).
    pub fn done(job: &Job, result: &JobResult, attempts: u32) -> Self {
        Self {
            input: job.input.clone(),
            output: Some(result.output.clone()),
            status: Status::Done,
            error: None,
            ops: job.ops.to_string(),
            width: Some(result.width),
            height: Some(result.height),
            ms: Some(result.elapsed_ms),
            attempts,
        }
    }

    /// The record of a job that was given up.
    pub fn dead(job: &Job, death: &Death) -> Self {
        Self {
            input: job.input.clone(),
            output: None,
            status: Status::Dead,
            error: Some(death.reason.clone()),
            ops: job.ops.to_string(),
            width: None,
            height: None,
            ms: None,
            attempts: death.attempts,
        }
    }
}

/// What the dead letters say about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Why it was given up.
    pub reason: String,
    /// How often it was started.
    pub attempts: u32,
}

/// Runs a job and leaves its result and its record in the out directory, both durable: the job may
/// be acked when this returns. `attempt` is counted from 1.
pub fn run_and_record(store: &Store, job: &Job, out_dir: &Path, attempt: u32) -> Result<Record, JobError> {
    let result = run_job(store, job, out_dir)?;
    let record = Record::done(job, &result, attempt);
    let json = serde_json::to_vec(&record).expect("strings and numbers are always JSON");
    let dir = records_dir(out_dir);
    if !dir.is_dir() {
        atomic::create_dir(&dir)?;
    }
    atomic::write(&temp_dir(out_dir), &record_path(out_dir, &job.id()), &json)?;
    Ok(record)
}

/// Reads the record of a job, if a worker has left one.
pub fn read_record(out_dir: &Path, id: &JobId) -> Result<Option<Record>, FileError> {
    let path = record_path(out_dir, id);
    let json = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(FileError::at("read", &path))?,
    };
    let record = serde_json::from_slice(&json).map_err(io::Error::from);
    record.map(Some).map_err(FileError::at("understand", &path))
}

/// Takes away the records of an earlier run of these jobs, so that only what is done from now on
/// counts. Call it before the jobs are submitted.
pub fn forget_records(out_dir: &Path, jobs: &[Job]) -> Result<(), FileError> {
    for job in jobs {
        let path = record_path(out_dir, &job.id());
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(FileError::at("remove", &path))?,
        }
    }
    Ok(())
}

/// How the submitted jobs ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// One per distinct job, in the order in which they were submitted.
    pub records: Vec<Record>,
    /// Jobs with neither record nor dead letter: still in the queue, or lost.
    pub open: Vec<JobId>,
}

/// Puts together what the workers left and what the dead letters say: one record per distinct job.
///
/// A job that has both a result and a dead letter counts as done. It happens when a worker finishes
/// just after its lease ran out for the last time; its result is whole all the same.
pub fn tally(out_dir: &Path, jobs: &[Job], dead: &BTreeMap<JobId, Death>) -> Result<Tally, FileError> {
    let mut tally = Tally { records: Vec::with_capacity(jobs.len()), open: Vec::new() };
    let mut seen = std::collections::BTreeSet::new();
    for job in jobs {
        let id = job.id();
        if !seen.insert(id.clone()) {
            continue;
        }
        match (read_record(out_dir, &id)?, dead.get(&id)) {
            (Some(record), _) => tally.records.push(record),
            (None, Some(death)) => tally.records.push(Record::dead(job, death)),
            (None, None) => tally.open.push(id),
        }
    }
    Ok(tally)
}

/// Writes `results.json`, one line per record, whole and durably. Returns its path.
pub fn write_results(out_dir: &Path, records: &[Record]) -> Result<PathBuf, FileError> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record).expect("strings and numbers are always JSON");
        writeln!(lines).expect("a vector takes every write");
    }
    write_output(out_dir, "results.json", &lines)
}

/// Writes a file of this name into the out directory, whole and durably. Returns its path.
pub fn write_output(out_dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, FileError> {
    let path = out_dir.join(name);
    atomic::write(&temp_dir(out_dir), &path, bytes)?;
    Ok(path)
}

fn records_dir(out_dir: &Path) -> PathBuf {
    out_dir.join(".results")
}

fn record_path(out_dir: &Path, id: &JobId) -> PathBuf {
    records_dir(out_dir).join(format!("{id}.json"))
}
