//! The program itself: `photo-pipeline demo` on photos, under kills, interrupted, and typed wrongly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use photo_pipeline::sample::PHOTOS;
use photo_pipeline::{OutputFormat, Picture, Quality, Record, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything here may take, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_photo-pipeline"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A demo under way.
struct Demo {
    child: Child,
    out: PathBuf,
}

impl Demo {
    fn start(out: &Path, args: &[&str]) -> Self {
        let mut command = program(&["demo", "--out", path(out)]);
        let command = command.args(args).stdout(Stdio::null()).stderr(Stdio::inherit());
        Self { child: command.spawn().unwrap(), out: out.to_path_buf() }
    }

    fn log(&self) -> Vec<Value> {
        scale_log(&self.out)
    }

    /// Waits until the log says so, and returns what it found.
    fn wait_for<T>(&mut self, what: &str, found: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(found) = found(&self.log()) {
                return found;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the demo ended before {what}");
            sleep(Duration::from_millis(20));
        }
        panic!("{what} did not happen; the log says {:?}", self.log().last());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the demo does not end");
            sleep(Duration::from_millis(50));
        }
    }
}

fn scale_log(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join(".scale.jsonl")).unwrap_or_default();
    // The last line may not be there whole.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn events<'a>(log: &'a [Value], event: &'a str) -> impl Iterator<Item = &'a Value> {
    log.iter().filter(move |line| line["event"] == event)
}

fn pids(log: &[Value], event: &str) -> Vec<u64> {
    events(log, event).map(|line| line["pid"].as_u64().unwrap()).collect()
}

/// Workers that were started and neither drained nor gone, newest last.
fn living(log: &[Value]) -> Vec<u64> {
    let gone: BTreeSet<u64> =
        [pids(log, "worker_exited"), pids(log, "worker_draining")].concat().into_iter().collect();
    pids(log, "worker_started").into_iter().filter(|pid| !gone.contains(pid)).collect()
}

fn signal(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Nobody may have waited for it yet; then it is a zombie and as good as gone.
fn is_running(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn assert_no_process_is_left(log: &[Value]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    for pid in [pids(log, "worker_started"), pids(log, "broker_started")].concat() {
        while is_running(pid) {
            assert!(Instant::now() < deadline, "process {pid} is left over");
            sleep(Duration::from_millis(50));
        }
    }
}

fn records(out: &Path) -> Vec<Record> {
    let text = fs::read_to_string(out.join("results.json")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The pictures in the out directory.
fn pictures(out: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".jpg")).collect()
}

fn workers(log: &[Value]) -> Vec<u64> {
    events(log, "sample").map(|line| line["workers"].as_u64().unwrap()).collect()
}

/// Each job has exactly one result, and there is no other picture.
fn assert_one_result_each(out: &Path, count: usize) {
    let records = records(out);
    let outputs: BTreeSet<String> = records.iter().filter_map(|record| record.output.clone()).collect();
    assert_eq!(records.len(), count);
    assert!(records.iter().all(|record| record.status == Status::Done), "{records:?}");
    assert_eq!(outputs.len(), count);
    assert_eq!(pictures(out), outputs);
    for record in &records {
        let file = fs::read(out.join(record.output.as_ref().unwrap())).unwrap();
        let picture = Picture::decode(&file).unwrap();
        assert_eq!((Some(picture.width()), Some(picture.height())), (record.width, record.height));
    }
}

/// Photos of a camera's proportions, and one that was cut short.
fn folder_of_photos(dir: &Path, count: usize) -> Vec<u8> {
    fs::create_dir_all(dir.join("deeper")).unwrap();
    let ops: photo_pipeline::Ops = "resize=2000".parse().unwrap();
    let files = PHOTOS.map(|photo| {
        let picture = Picture::decode(photo.file).unwrap().apply(ops.as_slice()).unwrap();
        picture.encode(OutputFormat::Jpeg, Quality::default()).unwrap()
    });
    for i in 0..count {
        let name = if i % 5 == 0 { format!("deeper/{i:02}.JPG") } else { format!("{i:02}.jpg") };
        fs::write(dir.join(name), &files[i % files.len()]).unwrap();
    }
    let cut = files[0][..files[0].len() / 2].to_vec();
    fs::write(dir.join("truncated.jpg"), &cut).unwrap();
    fs::write(dir.join("notes.txt"), "no photo").unwrap();
    cut
}

#[test]
fn folder_with_a_truncated_photo_goes_through_a_pool_that_rises_and_falls() {
    const PHOTOS_WHOLE: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let (photos, out) = (dir.path().join("photos"), dir.path().join("photos/out"));
    folder_of_photos(&photos, PHOTOS_WHOLE);
    let args = ["demo", "--photos", path(&photos), "--out", path(&out), "--ops", "crop=0.8,blur=2,sharpen=1"];
    let output = run(&[&args[..], &["--max", "3"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let records = records(&out);
    let inputs: BTreeSet<&str> = records.iter().map(|record| record.input.as_str()).collect();
    assert_eq!((records.len(), inputs.len()), (PHOTOS_WHOLE + 1, PHOTOS_WHOLE + 1));
    assert!(inputs.contains("deeper/05.JPG") && inputs.contains("01.jpg"), "{inputs:?}");
    for record in &records {
        if record.input == "truncated.jpg" {
            assert_eq!((record.status, &record.output), (Status::Dead, &None));
            assert!(record.error.as_ref().is_some_and(|e| e.contains("truncated.jpg")), "{record:?}");
            continue;
        }
        assert_eq!((record.status, &record.error), (Status::Done, &None), "{record:?}");
        // 2000 x 1334, of which four fifths.
        assert_eq!((record.width, record.height), (Some(1600), Some(1067)), "{record:?}");
        let file = fs::read(out.join(record.output.as_ref().unwrap())).unwrap();
        let picture = Picture::decode(&file).unwrap();
        assert_eq!((picture.width(), picture.height()), (1600, 1067));
    }
    assert_eq!(pictures(&out).len(), PHOTOS_WHOLE);
    for name in ["contact-sheet.png", "autoscale.png"] {
        assert!(Picture::decode(&fs::read(out.join(name)).unwrap()).is_ok(), "{name}");
    }

    let log = scale_log(&out);
    let workers = workers(&log);
    assert_eq!((workers.first(), workers.last()), (Some(&0), Some(&0)), "{workers:?}");
    assert!(workers.iter().any(|&workers| (2..=3).contains(&workers)), "{workers:?}");
    assert!(workers.iter().all(|&workers| workers <= 3), "{workers:?}");
    assert!(
        events(&log, "worker_exited").all(|exit| exit["drained"] == true && exit["code"] == 0),
        "{log:?}"
    );
    assert_no_process_is_left(&log);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("truncated.jpg") && table.contains("30 of 31 photos"), "{table}");
}

#[test]
fn killed_workers_and_a_killed_broker_leave_one_result_per_photo() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(&dir.path().join("out"), &["--jobs", "80", "--max", "3"]);
    let settled = |log: &[Value], count: u64| {
        let last = events(log, "sample").last()?;
        let backlog = last["backlog"].as_u64()?;
        (last["leased"].as_u64()? > 0 && backlog <= 80 - count).then_some(())
    };
    for (what, count) in [("work", 3), ("more work", 10)] {
        let victim =
            demo.wait_for(what, |log| settled(log, count).and_then(|()| living(log).first().copied()));
        signal(victim, Signal::KILL);
        demo.wait_for("the worker's end", |log| pids(log, "worker_exited").contains(&victim).then_some(()));
    }
    let broker = demo.wait_for("still more work", |log| {
        settled(log, 15).and_then(|()| pids(log, "broker_started").last().copied())
    });
    signal(broker, Signal::KILL);
    demo.wait_for("a new broker", |log| (pids(log, "broker_started").len() > 1).then_some(()));
    assert_eq!(demo.exit_code(), Some(0));

    assert_one_result_each(&demo.out, 80);
    let log = demo.log();
    let killed = events(&log, "worker_exited").filter(|exit| exit["signal"] == 9).count();
    assert_eq!((killed, events(&log, "broker_died").count()), (2, 1));
    assert_no_process_is_left(&log);
}

#[test]
fn interrupted_demo_drains_and_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(&dir.path().join("out"), &["--max", "2"]);
    demo.wait_for("work", |log| {
        events(log, "sample").last()?["leased"].as_u64().filter(|&leased| leased > 0)
    });
    // Once started, so that every worker listens for signals.
    sleep(Duration::from_millis(300));
    signal(u64::from(demo.child.id()), Signal::INT);
    assert_eq!(demo.exit_code(), Some(130));
    let log = demo.log();
    assert!(events(&log, "worker_exited").all(|exit| exit["signal"].is_null()), "{log:?}");
    assert_no_process_is_left(&log);
}

#[test]
fn killed_demo_leaves_no_process_and_can_be_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut demo = Demo::start(&out, &["--jobs", "8", "--max", "2"]);
    demo.wait_for("work", |log| {
        events(log, "sample").last()?["leased"].as_u64().filter(|&leased| leased > 0)
    });
    let log = demo.log();
    signal(u64::from(demo.child.id()), Signal::KILL);
    demo.child.wait().unwrap();
    assert_no_process_is_left(&log);
    let again = run(&["demo", "--out", path(&out), "--jobs", "8", "--max", "2"]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_one_result_each(&out, 8);
}

#[test]
fn what_cannot_work_says_what_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    let (empty, nowhere) = (path(dir.path()), dir.path().join("nowhere"));
    let table: [(&[&str], i32, &[&str]); 8] = [
        (&["demo", "--photos", path(&nowhere)], 1, &["nowhere", "name the one that the photos are in"]),
        (&["demo", "--photos", path(&file)], 1, &["is no directory"]),
        (&["demo", "--photos", empty], 1, &["no photos in", ".jpg"]),
        (&["demo", "--ops", "crop=0.8,smudge=3"], 2, &["smudge", "--ops"]),
        (&["demo", "--min", "5", "--max", "2"], 2, &["--min 5", "--max 2"]),
        (&["demo", "--max", "0"], 2, &["--max 0"]),
        (&["demo", "--photos", empty, "--jobs", "3"], 2, &["--jobs"]),
        (&["submit", empty, "--server", "127.0.0.1"], 1, &["no photos in"]),
    ];
    for (args, code, words) in table {
        let mut args = args.to_vec();
        args.extend(["--out", path(&out)]);
        let output = run(&args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{args:?}: {text}");
        assert!(output.stdout.is_empty());
    }
    let output = run(&["pool", "--server", "127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = run(&["worker", "--server", "127.0.0.1:1,127.0.0.1", "--out", path(&out)]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
