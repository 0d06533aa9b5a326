//! What lease tables cost: grants and acks per second, and memory per message. One thread and no disk: what a shard's
//! thread spends on a queue group beside encoding, syncing and sending.
//!
//! `cargo run --release -p dure-tests --bin lease-table`

use std::process::{Command, ExitCode};
use std::time::Instant;

use dure_engine::{Jitter, LeaseSettings, LeaseTable, LeaseTerms, Now, SettleAction, TokenSource};
use dure_proto::journal::{QueueEvent, Settled, queue_event::Event};
use dure_proto::{Epoch, Offset};

const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
const TERMS: LeaseTerms = LeaseTerms { lease_ms: 30_000, started: true };
/// Messages that are granted and acknowledged for each figure.
const WORKED: u64 = 4_000_000;
const WORKERS: [u32; 3] = [1, 16, 256];
/// Leased at once, in tables of the size that a table may have.
const LEASED: u64 = 1_000_000;
const TABLES: u64 = 4;
const BACKLOG: u64 = 100_000_000;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("leased") => leased(),
        Some("settled") => settled(),
        Some(other) => {
            eprintln!("`{other}` is neither `leased` nor `settled`");
            return ExitCode::from(2);
        }
        None => {
            WORKERS.into_iter().for_each(work);
            // Each in a process of its own, whose memory nothing else has touched.
            for measure in ["leased", "settled"] {
                let exe = std::env::current_exe().expect("this program has a name");
                let status = Command::new(exe).arg(measure).status().expect("it starts again");
                assert!(status.success(), "{measure}: {status}");
            }
        }
    }
    ExitCode::SUCCESS
}

fn table(messages: u64, messages_max: usize) -> LeaseTable {
    let settings = LeaseSettings { messages_max, ..LeaseSettings::default() };
    let mut table = LeaseTable::new(settings, Offset::ZERO);
    table.handle_high_watermark(Offset(messages));
    table
}

/// So many workers, each of whom holds one message and takes the next when that is acknowledged.
fn work(workers: u32) {
    let mut table = table(WORKED, 262_144);
    let mut tokens = TokenSource::new(Epoch(1));
    let mut events = Vec::new();
    let begun = Instant::now();
    let mut done = 0;
    while done < WORKED {
        let held: Vec<_> =
            (0..workers).flat_map(|_| table.grant(NOW, 1, TERMS, &mut tokens, &mut events)).collect();
        for grant in &held {
            let ack = SettleAction::Ack;
            table.settle(grant.offset, grant.token, &ack, Jitter(0), NOW, &mut events).expect("it is held");
        }
        done += held.len() as u64;
        events.clear();
    }
    let per_s = WORKED as f64 / begun.elapsed().as_secs_f64();
    println!("{workers:>4} workers: {per_s:>10.0} messages/s granted and acknowledged");
}

fn leased() {
    let before = resident_bytes();
    let each = LEASED / TABLES;
    let mut tokens = TokenSource::new(Epoch(1));
    let mut tables: Vec<LeaseTable> = Vec::new();
    for _ in 0..TABLES {
        let mut table = table(each, 262_144);
        // What goes into the journal does not stay.
        for _ in 0..each / 1_000 {
            let grants = table.grant(NOW, 1_000, TERMS, &mut tokens, &mut Vec::new());
            assert_eq!(grants.len(), 1_000);
        }
        tables.push(table);
    }
    report("leased", LEASED, before);
    assert_eq!(tables.iter().map(|table| table.counts().leased).sum::<u64>(), LEASED);
}

fn settled() {
    let before = resident_bytes();
    let mut table = table(BACKLOG, 262_144);
    let begun = Instant::now();
    for offset in (1..BACKLOG - 1).step_by(3) {
        let settled = Settled { offset, count: 2, expired: false };
        table.apply(&QueueEvent { event: Some(Event::Settled(settled)) }, NOW).expect("it is there");
    }
    report("settled but for every third", BACKLOG, before);
    println!("      in {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(table.counts().ready, BACKLOG.div_ceil(3));
}

fn report(what: &str, messages: u64, before: u64) {
    let bytes = resident_bytes().saturating_sub(before);
    let each = bytes as f64 / messages as f64;
    println!(
        "{messages:>10} {what}: {:.1} MiB resident, {each:.3} bytes per message",
        bytes as f64 / 1_048_576.0
    );
}

/// Of this process, in pages of 4 KiB.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number of pages") * 4_096
}
