//! Running a verb of `dure` to its end.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::binary::dure_binary;
use super::process::{Exit, Process};

const RUN_LIMIT: Duration = Duration::from_secs(60);

/// A command line of `dure`, to be run.
#[derive(Debug)]
#[must_use = "it is run by `run`, `ok`, `fails` …"]
pub struct Dure {
    /// What runs `dure`, if it is not run directly.
    wrapper: Vec<String>,
    words: Vec<String>,
    stdin: Vec<u8>,
    command: Command,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub exit: Exit,
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: String,
}

impl Dure {
    /// `line` is cut into words at white space; [`arg`](Self::arg) adds one that has some. Settings of the
    /// environment do not reach it.
    pub fn new(line: &str) -> Dure {
        let words = line.split_whitespace().map(str::to_owned).collect();
        let command = without_settings(Command::new(dure_binary()));
        Dure { wrapper: Vec::new(), words, stdin: Vec::new(), command }
    }

    /// Lets this command, with its arguments, start `dure` in its place. Comes before [`env`](Self::env) and
    /// [`dir`](Self::dir).
    pub fn under(mut self, wrapper: &[String]) -> Dure {
        if let [program, words @ ..] = wrapper {
            self.command = without_settings(Command::new(program));
            self.command.args(words).arg(dure_binary());
            self.wrapper = wrapper.to_vec();
        }
        self
    }

    /// Another word.
    pub fn arg(mut self, word: impl Into<String>) -> Dure {
        self.words.push(word.into());
        self
    }

    /// More words.
    pub fn args<W: Into<String>>(mut self, words: impl IntoIterator<Item = W>) -> Dure {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// What it reads.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Dure {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Dure {
        self.command.env(name, value);
        self
    }

    /// Its working directory.
    pub fn dir(mut self, dir: &Path) -> Dure {
        self.command.current_dir(dir);
        self
    }

    /// Starts it; what [`stdin`](Self::stdin) gave is not written.
    pub fn spawn(mut self) -> Process {
        let name = self.line();
        self.command.args(&self.words);
        Process::spawn(&name, self.command)
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it takes longer than a minute.
    pub fn run(mut self) -> Output {
        let line = self.line();
        let bytes = std::mem::take(&mut self.stdin);
        let mut process = self.spawn();
        let mut stdin = process.take_stdin();
        // It may end before it has read everything.
        let writer = std::thread::spawn(move || stdin.write_all(&bytes));
        let exit = process.wait(RUN_LIMIT);
        let _ = writer.join();
        Output { line, exit, stdout: process.rest(), stderr: process.stderr() }
    }

    /// Runs it; it must exit with 0.
    ///
    /// # Panics
    /// If it does not.
    pub fn ok(self) -> Output {
        self.exits(0)
    }

    /// Runs it; it must exit with this code.
    ///
    /// # Panics
    /// If it does not.
    pub fn exits(self, code: i32) -> Output {
        let output = self.run();
        assert_eq!(output.exit, Exit::Code(code), "{output}");
        output
    }

    /// Runs it with `-o json`; it must succeed and print one object.
    ///
    /// # Panics
    /// If it does not.
    pub fn json(self) -> Value {
        let (line, mut objects) = (self.line(), self.json_lines());
        assert_eq!(objects.len(), 1, "`{line}` printed {} objects", objects.len());
        objects.remove(0)
    }

    /// Runs it with `-o json`; it must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn json_lines(self) -> Vec<Value> {
        self.arg("-o").arg("json").ok().json_lines()
    }

    fn line(&self) -> String {
        let words = self.wrapper.iter().map(String::as_str).chain(["dure"]);
        words.chain(self.words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DURE_") {
            command.env_remove(name);
        }
    }
    command
}

impl Output {
    /// Stdout as text.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// Each line of stdout as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in `{line}`: {self}"));
        self.text().lines().map(parse).collect()
    }

    /// Asserts that stderr says all of this, whatever its case.
    ///
    /// # Panics
    /// If it does not.
    pub fn says(&self, words: &[&str]) -> &Output {
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "`{word}` is not said by {self}");
        }
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "`{}`: {:?}\nstdout:\n{stdout}\nstderr:\n{}", self.line, self.exit, self.stderr)
    }
}
