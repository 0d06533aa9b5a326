//! `dure log verify|dump|rebuild-index` on what a broker left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dure_tests::harness::{Broker, Dure, Output, eventually};
use serde_json::Value;

/// Forty messages of 1 KB, four by four in a batch; stopped in order, so that all of it is in segments.
fn stopped() -> Broker {
    let mut broker = Broker::start();
    fill(&broker);
    broker.stop();
    broker
}

fn fill(broker: &Broker) {
    broker.dure("topic create t --segment-size 16KiB").ok();
    // A new topic gets a checkpoint, and that should be none of what follows.
    let checkpoints = broker.data().join("shard-0000/checkpoint");
    eventually(Duration::from_secs(10), "the topic's checkpoint", || {
        (fs::read_dir(&checkpoints).unwrap().count() >= 2).then_some(())
    });
    for batch in 0..10 {
        let lines = (0..4).map(|n| format!("needle-{batch}-{n} {}\n", "x".repeat(1_000)));
        broker.dure("produce t").stdin(lines.collect::<String>()).ok();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The first file below a directory with this ending, by name.
fn first(dir: &Path, ending: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if text(&path).ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("no {ending}"))
}

fn verify(broker: &Broker) -> (Output, Value) {
    let output = Dure::new("log verify -o json --data").arg(text(&broker.data())).run();
    let summary = output.json_lines().remove(0);
    (output, summary)
}

fn kinds(summary: &Value) -> Vec<(&str, bool)> {
    let findings = summary["findings"].as_array().unwrap();
    findings.iter().map(|f| (f["kind"].as_str().unwrap(), f["damage"].as_bool().unwrap())).collect()
}

fn exit_code(output: &Output) -> bool {
    match output.exit {
        dure_tests::harness::Exit::Code(code) => code == 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_whole_verifies() {
    let broker = stopped();
    let (output, summary) = verify(&broker);
    assert!(exit_code(&output), "{output}");
    assert_eq!(
        (&summary["ok"], &summary["records"], &summary["topics"]),
        (&true.into(), &40.into(), &1.into())
    );
    assert_eq!(kinds(&summary), []);
    assert!(summary["segments"].as_u64().unwrap() > 1);
    Dure::new("log verify --data").arg(text(&broker.data())).ok();
}

#[test]
fn damage_is_named_and_exits_1_and_an_index_is_a_note() {
    let broker = stopped();
    let segment = first(&broker.data(), ".log");
    flip(&segment, 200);
    let (output, summary) = verify(&broker);
    assert!(!exit_code(&output) && summary["ok"] == false, "{output}");
    let finding = &summary["findings"][0];
    assert_eq!(
        (&finding["kind"], &finding["from"], &finding["partition"]),
        (&"entries_lost".into(), &0.into(), &0.into())
    );
    flip(&segment, 200);

    let index = first(&broker.data(), ".index");
    flip(&index, 20);
    let (output, summary) = verify(&broker);
    assert!(exit_code(&output), "{output}");
    assert_eq!(kinds(&summary), [("index_damaged", false)]);
    let rebuilt = Dure::new("log rebuild-index --data").arg(text(&broker.data())).ok();
    assert!(rebuilt.json_lines()[0]["rebuilt"].as_u64().unwrap() > 1);
    assert_eq!(kinds(&verify(&broker).1), []);

    let checkpoint = broker.data().join("shard-0000/checkpoint");
    let newest = fs::read_dir(checkpoint).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    flip(&newest, 40);
    let (output, summary) = verify(&broker);
    assert!(!exit_code(&output), "{output}");
    assert!(kinds(&summary).contains(&("checkpoint_damaged", true)));
    flip(&newest, 40);

    fs::write(segment.with_file_name("00000000000000099999.log"), "what is this").unwrap();
    let (output, summary) = verify(&broker);
    assert!(exit_code(&output), "{output}");
    assert_eq!(kinds(&summary), [("foreign_file", false)]);
    // A cut segment.
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 100]).unwrap();
    let (output, summary) = verify(&broker);
    assert!(!exit_code(&output), "{output}");
    assert!(
        kinds(&summary).contains(&("segment_short", true))
            && kinds(&summary).contains(&("entries_lost", true))
    );
}

#[test]
fn a_commit_that_was_acknowledged_and_is_damaged_is_no_torn_tail() {
    let mut broker = Broker::start();
    fill(&broker);
    // The idle stamp says that the last one was durable.
    std::thread::sleep(Duration::from_millis(300));
    broker.kill();
    let (output, summary) = verify(&broker);
    assert!(exit_code(&output), "{output}");
    assert!(summary["journal_commits"].as_u64().unwrap() >= 10);
    let piece = first(&broker.data(), ".piece");
    let bytes = fs::read(&piece).unwrap();
    let needle = b"needle-5-0";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("it is in the journal");
    flip(&piece, at);
    let (output, summary) = verify(&broker);
    assert!(!exit_code(&output), "{output}");
    assert!(kinds(&summary).contains(&("journal_lost", true)), "{summary}");
}

#[test]
fn every_kind_of_file_is_shown() {
    let mut broker = Broker::start();
    fill(&broker);
    broker.kill();
    let dump = |path: &Path| Dure::new("log dump -o json").arg(text(path)).ok().json_lines();
    let of_kind = |lines: &[Value], kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    let log = dump(&first(&broker.data(), ".log"));
    assert!(of_kind(&log, "entry") >= 1 && of_kind(&log, "record") >= 4, "{log:?}");
    assert_eq!(log[0]["offset"], 0);
    let piece = dump(&first(&broker.data(), ".piece"));
    assert!(
        of_kind(&piece, "commit") >= 10 && of_kind(&piece, "batch") == 10 && of_kind(&piece, "event") >= 2
    );
    assert_eq!(of_kind(&dump(&first(&broker.data(), ".checkpoint")), "checkpoint"), 1);
    assert!(of_kind(&dump(&first(&broker.data(), ".index")), "index") >= 1);
    Dure::new("log dump").arg(text(&first(&broker.data(), ".log"))).ok();
}

#[test]
fn a_segment_becomes_a_plain_file_of_record_batches() {
    let broker = stopped();
    let segment = first(&broker.data(), ".log");
    let plain = Dure::new("log dump --kafka").arg(text(&segment)).ok().stdout;
    let entries = Dure::new("log dump -o json").arg(text(&segment)).ok().json_lines();
    let entries: Vec<&Value> = entries.iter().filter(|line| line["kind"] == "entry").collect();
    // Kafka's own walk: base offset, length, magic 2, and the next one behind it.
    let (mut at, mut found) = (0, Vec::new());
    while at < plain.len() {
        let base = u64::from_be_bytes(plain[at..at + 8].try_into().unwrap());
        let length = u32::from_be_bytes(plain[at + 8..at + 12].try_into().unwrap()) as usize;
        let batch = &plain[at..at + 12 + length];
        assert_eq!(batch[16], 2, "magic");
        let checksum = u32::from_be_bytes(batch[17..21].try_into().unwrap());
        assert_eq!(checksum, crc32c::crc32c(&batch[21..]), "CRC-32C from the attributes on");
        found.push(base);
        at += 12 + length;
    }
    assert_eq!(at, plain.len());
    assert_eq!(found, entries.iter().map(|entry| entry["offset"].as_u64().unwrap()).collect::<Vec<_>>());
    // What is damaged is left out, and said.
    flip(&segment, 64 + 300);
    let damaged = Dure::new("log dump --kafka").arg(text(&segment)).exits(1);
    damaged.says(&["left out"]);
    assert_eq!(damaged.stdout, plain[plain.len() - damaged.stdout.len()..]);
    assert!(damaged.stdout.len() < plain.len());
    let index = Dure::new("log dump --kafka").arg(text(&first(&broker.data(), ".index"))).exits(1);
    index.says(&["only a segment"]);
}

#[test]
fn what_is_not_ours_is_refused_with_a_reason() {
    let broker = stopped();
    let home = broker.home();
    let segment = first(&broker.data(), ".log");
    let put = |name: &str, bytes: &[u8]| {
        let path = home.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let refused = |path: &Path, why: &str| {
        let output = Dure::new("log dump").arg(text(path)).exits(1);
        output.says(&[why, path.file_name().unwrap().to_str().unwrap()]);
    };
    refused(&put("notes.txt", b"hello"), "expected a file named");
    refused(&put("00000000000000000001.log", b"hello"), "no segment");
    refused(&put("00000000000000000002.log", b""), "empty");
    refused(&put("00000000000000000003.index", b"hello"), "index");
    refused(&put("00000000000000000004.checkpoint", b"hello"), "shorter than its header");
    refused(&put("0000000005.piece", b"hello"), "no data directory");
    refused(&broker.data(), "directory");
    refused(&home.join("nowhere.log"), "no such file");
    let bytes = fs::read(&segment).unwrap();
    let cut = put("00000000000000000000.log", &bytes[..bytes.len() - 10]);
    let output = Dure::new("log dump -o json").arg(text(&cut)).exits(1);
    output.says(&["damaged"]);
    assert_eq!(output.json_lines().last().unwrap()["kind"], "damage");

    let empty = home.join("empty");
    fs::create_dir(&empty).unwrap();
    for verb in ["verify", "rebuild-index"] {
        let on = |dir: &Path| Dure::new(&format!("log {verb} --data")).arg(text(dir)).exits(1);
        on(&empty).says(&["FORMAT", "missing"]);
        on(&home.join("nowhere")).says(&["nowhere"]);
        on(&segment).says(&[text(&segment)]);
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "nothing is left in it");
}

#[test]
fn a_running_broker_is_left_alone() {
    let broker = Broker::start();
    fill(&broker);
    for verb in ["verify", "rebuild-index"] {
        let line = format!("log {verb} --data");
        Dure::new(&line).arg(text(&broker.data())).exits(1).says(&["in use by another broker"]);
    }
    Dure::new("log dump").arg(text(&first(&broker.data(), ".piece"))).exits(1).says(&["in use"]);
}
