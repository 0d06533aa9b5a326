//! A process that runs beside the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wait::eventually;

/// A line of output is never waited for longer than this.
const LINE_WAIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// For a system call under way to end.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    /// Lines of stdout with their ends.
    lines: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it with all three of its streams piped.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = Vec::new();
            while matches!(stdout.read_until(b'\n', &mut line), Ok(1..)) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut source, sink) = (child.stderr.take().expect("piped"), Arc::clone(&stderr));
        let stderr_reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(bytes @ 1..) = source.read(&mut chunk) {
                sink.lock().expect("no reader panics").extend_from_slice(&chunk[..bytes]);
            }
        });
        Process { name: name.to_owned(), child, stdin, lines, stderr, stderr_reader: Some(stderr_reader) }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr up to now.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no reader panics")).into_owned()
    }

    /// Writes to its stdin; false if it does not read any more.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let stdin = self.stdin.as_mut().expect("its stdin is open");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).is_ok()
    }

    /// Takes its stdin, to be written by another thread.
    ///
    /// # Panics
    /// If it was taken or closed before.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("its stdin is open")
    }

    /// Its stdin ends here.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line of stdout with its end, `None` when there is none to come.
    ///
    /// # Panics
    /// If neither is known after half a minute.
    pub fn raw_line(&self) -> Option<Vec<u8>> {
        match self.lines.recv_timeout(LINE_WAIT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} printed no line within {LINE_WAIT:?}; its stderr:\n{}", self.name, self.stderr())
            }
        }
    }

    /// The next line of stdout, `None` when there is none to come.
    pub fn line(&self) -> Option<String> {
        let line = String::from_utf8(self.raw_line()?).expect("UTF-8");
        Some(line.trim_end_matches('\n').to_owned())
    }

    /// A line of stdout if there is one within `wait`.
    pub fn line_within(&self, wait: Duration) -> Option<String> {
        let line = String::from_utf8(self.lines.recv_timeout(wait).ok()?).expect("UTF-8");
        Some(line.trim_end_matches('\n').to_owned())
    }

    /// The next line of stdout as JSON, `None` when there is none to come.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Option<Value> {
        let line = self.line()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name)))
    }

    /// Everything that stdout still has to say. Waits for its end.
    pub fn rest(&self) -> Vec<u8> {
        std::iter::from_fn(|| self.raw_line()).flatten().collect()
    }

    /// Ends it with SIGKILL and waits for that.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGINT.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Holds it up: it stands still when this returns.
    ///
    /// # Panics
    /// If it does not.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        eventually(PAUSE_LIMIT, "every thread stands still", || {
            let mut states = std::fs::read_dir(&tasks).ok()?.flatten().map(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            });
            states.all(|stopped| stopped).then_some(())
        });
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it has not been waited for");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Exit {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                if let Some(reader) = self.stderr_reader.take() {
                    // A child of its own may hold the pipe open: its stderr is not waited for.
                    while !reader.is_finished() && Instant::now() < deadline {
                        std::thread::sleep(PAUSE);
                    }
                }
                return exit(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                panic!("{} did not end within {limit:?}; its stderr:\n{}", self.name, self.stderr());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}
