//! Golden transcripts: stories of the lease table and of the stream groups' coordinator, told in commands (lines that
//! begin with `>`) and in what the machine answered. Each file `*.story` beside this one is one; a test runs its commands
//! and compares every line. `UPDATE_TRANSCRIPTS=1` writes what the machines say now into the files: read the difference
//! before you commit it.

mod queue;
mod stream;

use std::path::Path;

/// A machine that takes one command at a time and says what came of it, in lines.
trait Teller {
    fn tell(&mut self, command: &str) -> Vec<String>;
}

/// Runs the commands of a story again: its own words stay, the answers are the machine's.
fn retold(story: &str, teller: &mut dyn Teller) -> String {
    let mut told = String::new();
    for line in story.lines() {
        let said = line.starts_with('>') || line.starts_with('#') || line.is_empty();
        if !said {
            continue;
        }
        told.push_str(line);
        told.push('\n');
        if let Some(command) = line.strip_prefix('>') {
            for answer in teller.tell(command.trim()) {
                told.push_str(&format!("    {answer}\n"));
            }
        }
    }
    told
}

fn check(name: &str, teller: &mut dyn Teller) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(name);
    let story = std::fs::read_to_string(&path).expect("a story");
    let told = retold(&story, teller);
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        std::fs::write(&path, told).expect("written");
        return;
    }
    for (nth, (line, now)) in story.lines().zip(told.lines()).enumerate() {
        assert_eq!(line, now, "{name}, line {}: left is the story, right what happens now", nth + 1);
    }
    assert_eq!(story.lines().count(), told.lines().count(), "{name}: the story has another length");
}

#[test]
fn a_worker_that_dies_and_one_that_works() {
    check("worker-dies.story", &mut queue::Queue::new());
}

#[test]
fn a_message_that_nobody_can_handle() {
    check("dead-letter.story", &mut queue::Queue::new());
}

#[test]
fn a_broker_that_crashes_with_leases_out() {
    check("broker-crashes.story", &mut queue::Queue::new());
}

#[test]
fn receipts_that_come_late() {
    check("late-receipts.story", &mut queue::Queue::new());
}

#[test]
fn urgent_messages_and_others() {
    check("priority.story", &mut queue::Queue::by_priority());
}

#[test]
fn members_that_come_and_go() {
    check("members.story", &mut stream::Stream::new());
}

#[test]
fn a_member_that_is_fenced() {
    check("fenced.story", &mut stream::Stream::new());
}
