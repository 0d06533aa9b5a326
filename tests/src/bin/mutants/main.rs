//! Tests the checkers: switches on one fault of the engine after the other, and shows which checker sees it, and how
//! soon. A fault that nobody sees is a hole in the checkers, and the command fails.
//!
//! `cargo run --release -p dure-tests --features mutants --bin mutants`

mod checkers;
mod stories;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use dure_engine::Mutant;

use checkers::{CHECKERS, Caught};

/// Shows for every seeded fault of the engine which checker sees it.
///
/// Begins with a run without any fault, which has to pass. Exits with 1 if it does not, or if a fault is not seen.
#[derive(Debug, Parser)]
#[command(name = "mutants")]
struct Options {
    /// How many seeds of the simulator a fault may take at most.
    #[arg(long, default_value_t = 4_000)]
    seeds: u64,
    /// Only faults whose name contains this, without the run that has to pass. Of a single one all that was seen is shown.
    #[arg(long)]
    only: Option<String>,
    /// How many faults are looked at side by side.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What became of one fault.
struct Row {
    caught: Option<Caught>,
    took: Duration,
}

fn main() -> ExitCode {
    let options = Options::parse();
    checkers::note_panics();
    let begun = Instant::now();
    let wanted = |mutant: &Mutant| {
        options
            .only
            .as_ref()
            .is_none_or(|part| format!("{mutant:?}").to_lowercase().contains(&part.to_lowercase()))
    };
    let control = options.only.is_none().then_some(None);
    let chosen: Vec<Option<Mutant>> =
        control.into_iter().chain(Mutant::ALL.iter().copied().filter(wanted).map(Some)).collect();
    let rows = run_all(&chosen, &options);

    let mut failed = Vec::new();
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for (mutant, row) in chosen.iter().zip(rows) {
        print_row(*mutant, &row);
        if let Some(caught) = row.caught.as_ref().filter(|_| chosen.len() == 1) {
            println!("\n{}", caught.what);
        }
        match (mutant, &row.caught) {
            (None, Some(_)) => failed.push("the run without a fault did not pass".to_owned()),
            (Some(mutant), None) => failed.push(format!("nobody saw {mutant:?}")),
            (_, Some(caught)) => *by.entry(caught.by).or_default() += 1,
            (None, None) => {}
        }
    }
    let faults = chosen.iter().flatten().count();
    let seen: usize = by.values().sum();
    let by: Vec<String> = by.iter().map(|(by, count)| format!("{count} by the {by}")).collect();
    println!("\n{seen} of {faults} faults seen in {:.1?}: {}", begun.elapsed(), by.join(", "));
    for what in &failed {
        println!("FAILED: {what}");
    }
    if failed.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whichever thread is free takes the next one.
fn run_all(chosen: &[Option<Mutant>], options: &Options) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = chosen.get(at) else { return };
                    let row = run_one(*mutant, options.seeds);
                    rows.lock().expect("nobody panics with it").insert(at, row);
                }
            });
        }
    });
    rows.into_inner().expect("nobody panics with it").into_values().collect()
}

fn run_one(mutant: Option<Mutant>, seeds: u64) -> Row {
    let begun = Instant::now();
    dure_engine::activate(mutant);
    let caught = CHECKERS.iter().find_map(|checker| checker.run(seeds));
    dure_engine::activate(None);
    Row { caught, took: begun.elapsed() }
}

fn print_row(mutant: Option<Mutant>, row: &Row) {
    let (area, what) = mutant.map_or(("", "no fault at all"), Mutant::describe);
    let name = mutant.map_or("-".to_owned(), |mutant| format!("{mutant:?}"));
    let (by, saw) = match &row.caught {
        Some(caught) => (format!("{}, {}", caught.by, caught.at), caught.line()),
        None => ("nobody".to_owned(), String::new()),
    };
    let ms = row.took.as_millis();
    println!("{area:<12}  {name:<26}  {what:<72}  {by:<44}  {ms:>6} ms  {saw}");
}
