//! stdout: what format, and when it is flushed.

use std::io::{IsTerminal, Write, stdout};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::{Outcome, stdout_failed};

/// As much as is collected before it is written.
const BUFFER_BYTES: usize = 64 << 10;

/// How data is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON object per line.
    Json,
    /// The bare value and a newline.
    Raw,
}

impl Format {
    /// What streams of messages default to.
    pub(super) fn for_messages(asked: Option<Format>) -> Format {
        let default = if stdout().is_terminal() { Format::Table } else { Format::Raw };
        asked.unwrap_or(default)
    }
}

/// Whether something that is, or is not, a terminal is written to in colour.
pub(super) fn colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether stdout takes colours.
pub(super) fn stdout_colour() -> bool {
    colour(stdout().is_terminal())
}

/// Collects what goes to stdout. Nothing is on stdout before [`Out::flush`] returned.
#[derive(Debug, Default)]
pub(super) struct Out {
    buffer: Vec<u8>,
}

impl Out {
    /// To append to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether it is time to flush although more is at hand.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.buffer.extend_from_slice(text.as_ref().as_bytes());
        self.buffer.push(b'\n');
    }

    /// One line of JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.buffer, value)
            .expect("what is printed serializes, and memory takes it");
        self.buffer.push(b'\n');
    }

    /// A value as it is, and a newline.
    pub(super) fn raw(&mut self, value: &[u8]) {
        self.buffer.extend_from_slice(value);
        self.buffer.push(b'\n');
    }

    /// Writes all of it. May block, see the module of the command line.
    pub(super) fn flush(&mut self) -> Outcome {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut stdout = stdout().lock();
        let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        written.map_err(|error| stdout_failed(&error))
    }
}

/// Prints one thing that is described: JSON, or lines for people.
pub(super) fn print_one(format: Format, value: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
    let mut out = Out::default();
    match format {
        Format::Json => out.json(value),
        Format::Table | Format::Raw => out.buffer().extend_from_slice(text().as_bytes()),
    }
    out.flush()
}

/// Prints a list: a JSON object per line, a table, or the bare names.
pub(super) fn print_list<T: Serialize>(
    format: Format,
    items: &[T],
    name: impl Fn(&T) -> &str,
    table: impl FnOnce() -> String,
) -> Outcome {
    let mut out = Out::default();
    match format {
        Format::Json => items.iter().for_each(|item| out.json(item)),
        Format::Raw => items.iter().for_each(|item| out.line(name(item))),
        Format::Table => out.buffer().extend_from_slice(table().as_bytes()),
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_object_per_line() {
        let mut out = Out::default();
        out.json(&serde_json::json!({"a": 1}));
        out.raw(b"\xff");
        out.line("x");
        assert_eq!(out.buffer(), b"{\"a\":1}\n\xff\nx\n");
    }

    #[test]
    fn there_is_no_colour_off_a_terminal() {
        assert!(!colour(false));
    }
}
