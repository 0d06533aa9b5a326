//! The broker's threads.

use std::fs;

use dure_tests::harness::Broker;

/// Name and niceness of each thread of a process.
fn niceness(pid: u32) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(task.expect("a task").path().join("stat")).expect("it runs");
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")).expect("a stat");
        // proc(5): the nineteenth field, counted from the process's number.
        let nice = rest.split(' ').nth(16).and_then(|nice| nice.parse().ok()).expect("a number");
        (name.to_owned(), nice)
    };
    tasks.map(of_task).collect()
}

/// Whoever waits for an answer waits for these; where the system does not allow it they take their turn.
#[test]
fn threads_that_an_answer_passes_through_go_first_where_the_system_allows_it() {
    let mut broker = Broker::start();
    let try_it = || rustix::process::setpriority_process(None, -10).is_ok();
    let allowed = std::thread::spawn(try_it).join().expect("no panic");
    for (name, nice) in niceness(broker.process().id()) {
        let first = name.starts_with("shard-") || name.starts_with("journal-");
        assert_eq!(nice, if first && allowed { -10 } else { 0 }, "of {name}");
    }
}
