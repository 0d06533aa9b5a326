//! `dure work`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use dure_tests::harness::{Broker, Exit, Process, eventually};

/// Starts `dure work` on topic `t` and group `g` with a shell script.
fn work(broker: &Broker, flags: &str, script: &str) -> Process {
    broker
        .dure(&format!("work t --group g {flags} -- sh -c"))
        .arg(script)
        .env("OUT", broker.home().to_str().expect("UTF-8"))
        .spawn()
}

fn figures(broker: &Broker) -> [u64; 5] {
    let group = broker.json("group describe g");
    ["lag", "ready", "leased", "delayed", "dead"].map(|figure| group[figure].as_u64().expect("a number"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_exit_code_decides_and_the_environment_tells() {
    let broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker.dure("group create g --topic t --kind queue --backoff 50ms..100ms --max-attempts 5").ok();
    broker.dure("produce t --partition 1 --key-separator :").stdin("k1:good\nk2:bad\nk3:flaky\n").ok();
    let mut worker = work(
        &broker,
        "--concurrency 2",
        r#"body=$(cat)
           echo "$body|$DURE_MSG_TOPIC|$DURE_MSG_PARTITION|$DURE_MSG_OFFSET|$DURE_MSG_KEY|$DURE_MSG_ATTEMPT|$DURE_MSG_RECEIPT" >> "$OUT/seen"
           case $body in good) exit 0 ;; bad) exit 100 ;; flaky) test "$DURE_MSG_ATTEMPT" = 3 ;; esac"#,
    );
    eventually(Duration::from_secs(20), "handled", || (figures(&broker) == [0, 0, 0, 0, 1]).then_some(()));
    worker.terminate();
    assert_eq!(worker.wait(Duration::from_secs(5)), Exit::Code(0), "{}", worker.stderr());
    let seen = read(&broker.home().join("seen"));
    let mut attempts: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut receipts = HashSet::new();
    for line in seen.lines() {
        let fields: Vec<_> = line.split('|').collect();
        let [body, topic, partition, offset, key, attempt, receipt] = fields[..] else { panic!("{line}") };
        let (own_offset, own_key) = match body {
            "good" => ("0", "k1"),
            "bad" => ("1", "k2"),
            _ => ("2", "k3"),
        };
        assert_eq!((topic, partition, offset, key), ("t", "1", own_offset, own_key));
        assert!(receipts.insert(receipt) && !receipt.is_empty(), "{seen}");
        attempts.entry(body).or_default().push(attempt);
    }
    assert_eq!(attempts["good"], ["1"]);
    assert_eq!(attempts["bad"], ["1"]);
    assert_eq!(attempts["flaky"], ["1", "2", "3"]);
    let letters = broker.json_lines("dlq list t --group g");
    assert_eq!((letters.len(), &letters[0]["value"]), (1, &serde_json::json!("bad")));
}

#[test]
fn bodies_arrive_whole_on_stdin() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue").ok();
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let file = broker.home().join("body");
    std::fs::write(&file, &body).unwrap();
    broker.dure("produce t --file").arg(file.to_str().unwrap()).ok();
    broker.dure("produce t").stdin("\n").ok();
    let _worker = work(&broker, "", r#"cat > "$OUT/got-$DURE_MSG_OFFSET""#);
    eventually(Duration::from_secs(10), "handled", || (broker.home().join("got-1").exists()).then_some(()));
    eventually(Duration::from_secs(10), "settled", || (figures(&broker)[0] == 0).then_some(()));
    assert!(std::fs::read(broker.home().join("got-0")).unwrap() == body, "another body");
    assert!(std::fs::read(broker.home().join("got-1")).unwrap().is_empty());
}

#[test]
fn a_command_that_does_not_read_its_body_is_no_failure() {
    let broker = Broker::start();
    broker.dure("topic create t --max-message 2MiB").ok();
    broker.dure("group create g --topic t --kind queue").ok();
    broker.dure("produce t").stdin(format!("{}\n", "x".repeat(1 << 20))).ok();
    let _worker = work(&broker, "", "true");
    eventually(Duration::from_secs(10), "settled", || (figures(&broker) == [0; 5]).then_some(()));
}

#[test]
fn a_lease_is_extended_while_the_command_runs() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue").ok();
    broker.dure("produce t").stdin("slow\n").ok();
    let script = r#"echo started >> "$OUT/seen"; sleep 2.5; echo done >> "$OUT/seen""#;
    let _workers = [work(&broker, "--lease 700ms", script), work(&broker, "--lease 700ms", script)];
    eventually(Duration::from_secs(15), "settled", || (figures(&broker) == [0; 5]).then_some(()));
    assert_eq!(read(&broker.home().join("seen")), "started\ndone\n", "one of them, once");
}

#[test]
fn sigterm_lets_a_worker_finish_what_it_runs() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    broker.dure("group create g --topic t --kind queue").ok();
    broker.dure("produce t").stdin("1\n2\n3\n4\n5\n6\n").ok();
    let script = r#"echo start >> "$OUT/seen"; sleep 0.7; echo end >> "$OUT/seen""#;
    let mut worker = work(&broker, "--concurrency 2", script);
    let seen = broker.home().join("seen");
    eventually(Duration::from_secs(10), "two run", || (read(&seen).lines().count() >= 2).then_some(()));
    worker.terminate();
    assert_eq!(worker.wait(Duration::from_secs(10)), Exit::Code(0), "{}", worker.stderr());
    let text = read(&seen);
    let (starts, ends) = (text.matches("start").count(), text.matches("end").count());
    assert_eq!(starts, ends, "what ran, ran to its end");
    assert!(starts < 6, "it took more although it was told to stop");
    // What it had not started is back at once, and nothing counts as dead or leased.
    let [lag, ready, leased, delayed, dead] = figures(&broker);
    assert_eq!((lag, ready, leased, delayed, dead), (6 - ends as u64, 6 - ends as u64, 0, 0, 0));
}

#[test]
fn workers_killed_one_after_the_other_and_the_broker_once_lose_nothing() {
    const MESSAGES: usize = 240;
    let mut broker = Broker::start();
    broker.dure("topic create t --partitions 2").ok();
    broker
        .dure("group create g --topic t --kind queue --lease 1s --backoff 10ms..50ms --max-attempts 20")
        .ok();
    broker.dure("produce t").stdin((0..MESSAGES).map(|n| format!("job {n}\n")).collect::<String>()).ok();
    // One append per message, small enough to be whole.
    let script = r#"body=$(cat); sleep 0.03; echo "$body" >> "$OUT/handled""#;
    let start = |broker: &Broker| work(broker, "--concurrency 2 --lease 1s", script);
    let mut workers = vec![start(&broker), start(&broker), start(&broker)];
    let handled = broker.home().join("handled");
    let progress = |more: usize| {
        let before = read(&handled).lines().count();
        eventually(Duration::from_secs(20), "workers go on", || {
            (read(&handled).lines().count() >= (before + more).min(MESSAGES)).then_some(())
        });
    };
    for (victim, worker) in workers.iter_mut().enumerate() {
        progress(15);
        worker.kill();
        if victim == 1 {
            broker.crash();
        }
        *worker = start(&broker);
    }
    eventually(Duration::from_secs(40), "everything is handled", || (figures(&broker)[0] == 0).then_some(()));
    assert_eq!(figures(&broker), [0; 5]);
    for worker in &mut workers {
        assert!(worker.is_running(), "a worker outlives its broker: {}", worker.stderr());
        worker.terminate();
        assert_eq!(worker.wait(Duration::from_secs(10)), Exit::Code(0), "{}", worker.stderr());
    }
    let text = read(&handled);
    let unique: HashSet<_> = text.lines().collect();
    assert_eq!(unique.len(), MESSAGES, "each of them");
    assert!(text.lines().count() < 2 * MESSAGES, "twice is the exception");
    // Nothing comes back: not after the leases would have run out, not after another crash.
    std::thread::sleep(Duration::from_millis(1500));
    broker.crash();
    assert!(broker.json_lines("receive t --group g --count 100 --wait 500ms").is_empty());
    assert_eq!(figures(&broker), [0; 5]);
}

/// A worker that was killed before it had fed the pipe once left its command with a body cut short.
#[test]
fn a_command_outlives_its_worker_with_the_whole_body() {
    let broker = Broker::start();
    broker.dure("topic create t").ok();
    let file = broker.home().join("body");
    std::fs::write(&file, vec![b'x'; 500_000]).unwrap();
    broker.dure("produce t --file").arg(file.to_str().unwrap()).ok();
    // More than a pipe holds, read only once the worker is dead.
    let script = r#"echo > "$OUT/started"; sleep 0.5; cat > "$OUT/part"; mv "$OUT/part" "$OUT/got""#;
    let mut worker = work(&broker, "", script);
    eventually(Duration::from_secs(10), "it runs", || broker.home().join("started").exists().then_some(()));
    worker.kill();
    eventually(Duration::from_secs(10), "it ends", || broker.home().join("got").exists().then_some(()));
    assert_eq!(std::fs::metadata(broker.home().join("got")).unwrap().len(), 500_000);
}
