//! How a verb ends when it does not end well.

use std::io;
use std::process::ExitCode;

use dure_client::Error;

/// How a verb ended.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// Why a verb did not do all of what was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The operation failed; the text says what, where, what to do. Exit code 1.
    Failed(String),
    /// Some of it failed and was reported already. Exit code 1.
    Reported,
    /// It cannot work as it was called. Exit code 2.
    Usage(String),
    /// A signal. Exit code 130.
    Interrupted,
    /// Nobody reads stdout any more, as in `dure consume t | head`. Exit code 0.
    NobodyListens,
}

impl Failure {
    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure::Failed(text.into())
    }

    /// `what` completes "cannot …".
    pub(super) fn cannot(what: impl AsRef<str>, why: &Error) -> Failure {
        Failure::Failed(format!("cannot {}: {}", what.as_ref(), explain(why)))
    }

    /// Says it on stderr and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Failure::Failed(text) => (Some(text), 1),
            Failure::Reported => (None, 1),
            Failure::Usage(text) => (Some(text), 2),
            Failure::Interrupted => (None, 130),
            Failure::NobodyListens => (None, 0),
        };
        if let Some(text) = text {
            complain("error", &text);
        }
        ExitCode::from(code)
    }
}

/// Something to know that ends nothing.
pub(super) fn warn(text: impl AsRef<str>) {
    complain("warning", text.as_ref());
}

/// Something that happened as it should.
pub(super) fn note(text: impl AsRef<str>) {
    use io::Write;
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

fn complain(kind: &str, text: &str) {
    use io::Write;
    let (on, off) = if super::out::colour(io::IsTerminal::is_terminal(&io::stderr())) {
        (if kind == "error" { "\x1b[1;31m" } else { "\x1b[1;33m" }, "\x1b[0m")
    } else {
        ("", "")
    };
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{on}{kind}:{off} {text}");
}

/// A client's error for people: the broker's own words where it has some, and what to do where it has not.
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::Broker { message, .. } => message.clone(),
        Error::Disconnected { reason } => {
            format!(
                "no broker answers ({reason}): start one with `dure serve`, or name another with --server"
            )
        }
        Error::OutcomeUnknown { .. } => format!("{error}: look before you do it again"),
        other => other.to_string(),
    }
}

/// What became of writing to stdout.
pub(super) fn stdout_failed(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::NobodyListens,
        _ => Failure::failed(format!("cannot write to stdout: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use dure_client::{ErrorCode, Retry};

    use super::*;

    #[test]
    fn the_brokers_words_come_behind_what_failed() {
        let error = Error::Broker {
            code: ErrorCode::UnknownTopic,
            message: "there is no topic `x`".into(),
            retry: Retry::Never,
        };
        let failure = Failure::cannot("describe topic `x`", &error);
        assert_eq!(failure, Failure::failed("cannot describe topic `x`: there is no topic `x`"));
    }

    #[test]
    fn a_broker_that_is_not_there_says_where_and_what_to_do() {
        let error = Error::Disconnected { reason: "127.0.0.1:1: Connection refused".into() };
        let text = explain(&error);
        assert!(text.contains("127.0.0.1:1") && text.contains("`dure serve`"), "{text}");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(stdout_failed(&io::ErrorKind::BrokenPipe.into()), Failure::NobodyListens);
    }
}
