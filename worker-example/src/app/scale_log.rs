//! What was seen and done about the pool, one JSON line each: the plot and the tests know it from here.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use photo_pipeline::FileError;
use serde::Serialize;

/// One line. Times are in milliseconds.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Since the log was opened.
    at_ms: u64,
    /// Since the epoch.
    time_ms: u64,
    #[serde(flatten)]
    event: &'a Event,
}

/// What can be in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The broker's figures and the pool's.
    Sample {
        ready: u64,
        leased: u64,
        delayed: u64,
        dead: u64,
        backlog: u64,
        workers: u32,
        draining: u32,
    },
    /// The policy wants another number of workers.
    Decision {
        desired: u32,
        why: String,
    },
    WorkerStarted {
        pid: u32,
    },
    /// It was asked to finish what it holds and end.
    WorkerDraining {
        pid: u32,
    },
    WorkerExited {
        pid: u32,
        code: Option<i32>,
        signal: Option<i32>,
        drained: bool,
    },
    BrokerStarted {
        pid: u32,
        native: String,
        http: String,
    },
    /// Nobody asked it to.
    BrokerDied {
        pid: u32,
        code: Option<i32>,
        signal: Option<i32>,
    },
}

/// Where events go. Clones write to the same file.
#[derive(Debug, Clone)]
pub(crate) struct ScaleLog {
    file: Option<Arc<File>>,
    opened: Instant,
}

impl ScaleLog {
    /// A log that begins anew in this file.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let fail = |source| FileError { action: "create", path: path.to_path_buf(), source };
        // Appended to line by line, so that lines of several tasks do not mix.
        std::fs::write(path, b"").map_err(fail)?;
        let file = OpenOptions::new().append(true).open(path).map_err(fail)?;
        Ok(Self { file: Some(Arc::new(file)), opened: Instant::now() })
    }

    /// A log that goes nowhere.
    pub(crate) fn none() -> Self {
        Self { file: None, opened: Instant::now() }
    }

    /// Milliseconds since the log was opened.
    pub(crate) fn at_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Writes an event. A log that cannot be written is no reason to stop the work.
    pub(crate) fn write(&self, event: &Event) {
        let Some(mut file) = self.file.as_deref() else { return };
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let line = Line { at_ms: self.at_ms(), time_ms, event };
        let mut bytes = serde_json::to_vec(&line).expect("strings and numbers are always JSON");
        bytes.push(b'\n');
        let _ = file.write_all(&bytes);
    }
}
