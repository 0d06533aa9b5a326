//! How many instructions the hot paths cost, counted under valgrind, beside what is kept in the repository: the same on
//! every run, so that a change that makes one dearer is seen where no clock would show it.
//!
//! `cargo run --release -p dure-benches --bin instructions [-- --check | --write]`

mod count;
mod kept;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dure_benches::paths::{self, Path};

use count::Counter;
use kept::Kept;

#[derive(Parser)]
struct Args {
    /// Fail if a path costs more than 5 % above what is kept, or is not measured any more.
    #[arg(long, conflicts_with_all = ["write", "only"])]
    check: bool,
    /// Keep what is counted.
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Only paths whose names hold this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Count each path so many times, and show how far the counts lie apart.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Leave what valgrind wrote here, for `callgrind_annotate`.
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// What runs under valgrind: the rounds of this path.
    #[arg(long, hide = true)]
    counted: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.counted {
        let path = paths::all().find(|path| path.name == name).expect("a path that was just listed");
        count::run_counted(path);
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let chosen = |path: &Path| args.only.as_ref().is_none_or(|only| path.name.contains(only));
    let paths: Vec<Path> = paths::all().filter(chosen).collect();
    let counter = Counter::new(args.profiles.clone())?;
    let mut counted = Vec::new();
    for path in paths {
        counted.push((path, counter.count(path, args.runs)?));
    }
    let here = counter.circumstances()?;
    let mut kept = Kept::read()?;
    let findings = kept.compare(&here, counted.iter().map(|(path, counts)| (path.name, counts[0])));
    report::print_table(&counted, &findings);
    if args.only.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.write {
        kept.replace(&here, counted.iter().map(|(path, counts)| (path.name, counts[0])));
        kept.write()?;
        println!("\nkept for {here}");
        return Ok(ExitCode::SUCCESS);
    }
    let fails = report::print_findings(&here, &findings);
    Ok(if args.check && fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
