//! How a verb ends when it does not succeed.

use std::fmt::Display;
use std::process::ExitCode;

use photo_pipeline::{FileError, StoreError};

/// Why the program ends with something else than 0. The text says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The operation failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// What was typed cannot work: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Somebody pressed Ctrl-C, or asked it to end: exit code 130.
    #[error("interrupted{0}")]
    Interrupted(String),
}

impl Failure {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// Puts before an error what was being done.
    pub(crate) fn during<E: Display>(what: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{what}: {error}"))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted(_) => 130,
        })
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}
