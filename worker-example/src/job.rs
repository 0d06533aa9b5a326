//! A job: the message that travels through the queue, and the work that it asks for.
//!
//! The work may be done twice (a worker is killed after writing and before its ack), so everything
//! written is named by the job and depends on nothing else: the second time changes nothing.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::atomic::{self, FileError};
use crate::ops::Ops;
use crate::picture::{ApplyError, DecodeError, EncodeError, OutputFormat, Picture, Quality};
use crate::store::{PhotoHash, Store, StoreError};

/// Longest name of an input, in bytes.
pub const INPUT_BYTES_MAX: usize = 1024;
/// Longest message that is taken for a job, in bytes.
pub const JOB_BYTES_MAX: usize = 16 << 10;

/// Longest part of the input's name that a result's name keeps, in bytes. With the identity and the
/// extension it stays well below the 255 that file systems allow.
const STEM_BYTES_MAX: usize = 80;
/// Hex digits of the identity in a result's name: 64 bits.
const NAME_DIGITS: usize = 16;

/// What is to be done with one photo. Its JSON is the message:
/// `{"photo":"…","input":"a.jpg","ops":"blur=2","format":"jpeg","quality":85}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Which photo, by its content.
    pub photo: PhotoHash,
    /// The name that the user knows it by: the path of the file within the folder that was
    /// submitted. It is shown and lends the result its stem; it is never opened.
    pub input: String,
    /// What is done, in order.
    pub ops: Ops,
    /// The format of the result.
    #[serde(default)]
    pub format: OutputFormat,
    /// The JPEG quality of the result.
    #[serde(default)]
    pub quality: Quality,
}

/// The identity of a job: SHA-256 of its canonical JSON. Equal jobs have equal ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Job {
    /// The message that asks for this job; also its canonical form, since the fields have a fixed
    /// order and the operations are written in theirs.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are always JSON")
    }

    /// Reads a message. One that is no job is a permanent error.
    pub fn from_json(message: &[u8]) -> Result<Self, JobError> {
        let bad = |reason: String| JobError::BadMessage { reason };
        if message.len() > JOB_BYTES_MAX {
            return Err(bad(format!("{} bytes are more than {JOB_BYTES_MAX}", message.len())));
        }
        let job: Job = serde_json::from_slice(message).map_err(|e| bad(e.to_string()))?;
        if job.input.len() > INPUT_BYTES_MAX {
            return Err(bad(format!("the input's name has more than {INPUT_BYTES_MAX} bytes")));
        }
        Ok(job)
    }

    /// The identity of the job.
    pub fn id(&self) -> JobId {
        let hash = Sha256::digest(self.to_json());
        JobId(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The file that the result is written to, relative to the out directory: a plain name.
    pub fn output_name(&self) -> String {
        let id = self.id();
        format!("{}-{}.{}", stem(&self.input), &id.0[..NAME_DIGITS], self.format.extension())
    }
}

/// The last component of the input without its extension, reduced to what is harmless in a file
/// name on any system: no separator, no leading dot, no control character, bounded.
fn stem(input: &str) -> String {
    let file = input.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let harmless = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let mut kept = String::new();
    for c in stem.trim_start_matches('.').chars().map(harmless) {
        if kept.len() + c.len_utf8() > STEM_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    if kept.is_empty() { "photo".into() } else { kept }
}

/// What became of a job that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobResult {
    /// The result's file name, relative to the out directory.
    pub output: String,
    /// Width of the result in pixels.
    pub width: u32,
    /// Height of the result in pixels.
    pub height: u32,
    /// Size of the result's file in bytes.
    pub bytes: u64,
    /// How long it took, from reading the photo until the result was durable.
    pub elapsed_ms: u64,
}

/// Does the job and writes the result, durably and whole, into the out directory.
///
/// The record of it is left to [`crate::results`]: write that after this and before the ack.
pub fn run_job(store: &Store, job: &Job, out_dir: &Path) -> Result<JobResult, JobError> {
    let start = Instant::now();
    let photo = store.get(job.photo)?;
    let (width, height, file) = work_guarded(job, &photo)?;
    let output = job.output_name();
    atomic::write(&temp_dir(out_dir), &out_dir.join(&output), &file)?;
    Ok(JobResult {
        output,
        width,
        height,
        bytes: file.len() as u64,
        elapsed_ms: start.elapsed().as_millis() as u64,
    })
}

/// Takes away the temporary files that killed workers left in the out directory. No worker may be
/// running.
pub fn remove_temps(out_dir: &Path) -> Result<(), FileError> {
    atomic::remove_temps(&temp_dir(out_dir))
}

pub(crate) fn temp_dir(out_dir: &Path) -> std::path::PathBuf {
    out_dir.join(".tmp")
}

fn work(job: &Job, photo: &[u8]) -> Result<(u32, u32, Vec<u8>), JobError> {
    let input = || job.input.clone();
    let picture =
        Picture::decode(photo).map_err(|source| JobError::Undecodable { input: input(), source })?;
    let picture = picture
        .apply(job.ops.as_slice())
        .map_err(|source| JobError::Inapplicable { input: input(), source })?;
    let file = picture.encode(job.format, job.quality)?;
    Ok((picture.width(), picture.height(), file))
}

/// A photo that makes a decoder panic would kill one worker after the other. It is the photo's
/// fault, so the job is refused like any other that cannot be done.
fn work_guarded(job: &Job, photo: &[u8]) -> Result<(u32, u32, Vec<u8>), JobError> {
    let done = panic::catch_unwind(AssertUnwindSafe(|| work(job, photo)));
    done.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| cause.downcast_ref::<&str>().copied());
        let reason = text.unwrap_or("no message").to_owned();
        Err(JobError::Panicked { input: job.input.clone(), reason })
    })
}

/// Why a job was not done. [`is_passing`](Self::is_passing) tells a retry from a reject.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The message is no job.
    #[error("the message is no photo job: {reason}")]
    BadMessage {
        /// What is wrong with it.
        reason: String,
    },
    /// The photo is no picture that can be read.
    #[error("{input}: {source}")]
    Undecodable {
        /// The photo's name.
        input: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// An operation does not fit the picture.
    #[error("{input}: {source}")]
    Inapplicable {
        /// The photo's name.
        input: String,
        /// Which operation, and why.
        source: ApplyError,
    },
    /// The result cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The pixel work panicked.
    #[error("{input}: the picture made the worker panic: {reason}")]
    Panicked {
        /// The photo's name.
        input: String,
        /// The panic's message.
        reason: String,
    },
    /// The photo could not be had from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl JobError {
    /// Whether trying again later can help: release the job with a delay. Otherwise reject it to
    /// the dead letters with this error's text as the reason.
    pub fn is_passing(&self) -> bool {
        match self {
            JobError::File(_) => true,
            JobError::Store(error) => error.is_passing(),
            JobError::BadMessage { .. }
            | JobError::Undecodable { .. }
            | JobError::Inapplicable { .. }
            | JobError::Encode(_)
            | JobError::Panicked { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(input: &str) -> Job {
        Job {
            photo: PhotoHash::of(b"photo"),
            input: input.into(),
            ops: "crop=0.5".parse().unwrap(),
            format: OutputFormat::Jpeg,
            quality: Quality::default(),
        }
    }

    #[test]
    fn stem_cannot_leave_the_out_directory() {
        let table = [
            ("a.jpg", "a"),
            ("../../etc/passwd", "passwd"),
            ("..", "photo"),
            ("", "photo"),
            ("/", "photo"),
            (".hidden.png", "hidden"),
            ("C:\\photos\\b.c.jpg", "b.c"),
            ("a\0b\n c:d.jpg", "a_b__c_d"),
            ("두레 사진.jpg", "두레_사진"),
        ];
        for (input, expected) in table {
            assert_eq!(stem(input), expected, "{input:?}");
        }
        let long = stem(&"두".repeat(500));
        assert!(long.len() <= STEM_BYTES_MAX && long.starts_with('두'));
    }

    #[test]
    fn identity_depends_on_everything_that_the_result_depends_on() {
        let base = job("a.jpg");
        let mut others = vec![job("b.jpg"), base.clone(), base.clone(), base.clone(), base.clone()];
        others[1].photo = PhotoHash::of(b"other");
        others[2].ops = "crop=0.6".parse().unwrap();
        others[3].format = OutputFormat::Png;
        others[4].quality = Quality::new(50).unwrap();
        for other in others {
            assert_ne!(other.id(), base.id());
            assert_ne!(other.output_name(), base.output_name());
        }
        let mut same = base.clone();
        same.ops = " crop=0.50 ".parse().unwrap();
        assert_eq!(same.output_name(), base.output_name());
    }

    /// The message format is kept for ever: a queue may hold jobs of an older submitter.
    #[test]
    fn message_is_as_it_has_always_been() {
        let json = r#"{"photo":"df4c86b4c4f6e83acc6b0c8aa38bfd38ada6adb4ff8bdf6baef8ec9b4ccdbc21","input":"a.jpg","ops":"crop=0.5","format":"jpeg","quality":85}"#;
        let mut job = job("a.jpg");
        job.photo = "df4c86b4c4f6e83acc6b0c8aa38bfd38ada6adb4ff8bdf6baef8ec9b4ccdbc21".parse().unwrap();
        assert_eq!(String::from_utf8(job.to_json()).unwrap(), json);
        assert_eq!(Job::from_json(json.as_bytes()).unwrap(), job);
        let short = json.replace(r#","format":"jpeg","quality":85"#, "");
        assert_eq!(Job::from_json(short.as_bytes()).unwrap(), job);
    }

    #[test]
    fn what_is_no_job_is_refused_for_good() {
        let good = String::from_utf8(job("a.jpg").to_json()).unwrap();
        let bad = [
            String::new(),
            "not json".into(),
            "{}".into(),
            good.replace("crop=0.5", "crop=5"),
            good.replace("85", "0"),
            good.replace("85", "101"),
            good.replace("jpeg", "gif"),
            good.replace("\"input\"", "\"extra\":1,\"input\""),
            good.replace("a.jpg", &"a".repeat(INPUT_BYTES_MAX + 1)),
            good.replace("a.jpg", &"a".repeat(JOB_BYTES_MAX)),
            good.replace("\"photo\":\"", "\"photo\":\"../"),
        ];
        for message in bad {
            let error = Job::from_json(message.as_bytes()).expect_err(&message);
            assert!(!error.is_passing(), "{error}");
        }
    }
}
