//! What is printed.

use dure_benches::paths::Path;

use crate::count::{Circumstances, Count};
use crate::kept::{CHANGE_PERCENT_MAX, Findings, Verdict};

/// One line for each path that was counted, the first count standing for all of its runs.
pub(crate) fn print_table(counted: &[(Path, Vec<Count>)], findings: &Findings) {
    println!("{:<28} {:>14} {:>14} {:>9}  of each", "path", "instructions", "kept", "change");
    for (path, counts) in counted {
        let (kept, change) = match findings {
            Findings::Compared { verdicts, .. } => shown(verdicts.get(path.name).copied()),
            Findings::OtherProcessor { .. } => ("-".into(), "-".into()),
        };
        let spread = if counts.len() > 1 { spread(counts) } else { String::new() };
        println!("{:<28} {:>14.1} {kept:>14} {change:>9}  {}{spread}", path.name, counts[0], path.operation);
    }
}

fn shown(verdict: Option<Verdict>) -> (String, String) {
    match verdict {
        Some(Verdict::Change { kept, percent }) => (format!("{kept:.1}"), format!("{percent:+.1} %")),
        _ => ("-".into(), "new".into()),
    }
}

/// How far the counts of several runs lie apart.
fn spread(counts: &[Count]) -> String {
    let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
    let most = counts.iter().copied().fold(0.0, f64::max);
    format!("; {} runs within {:.2} %", counts.len(), (most / least - 1.0) * 100.0)
}

/// What there is to be said, and whether any of it must not land.
pub(crate) fn print_findings(here: &Circumstances, findings: &Findings) -> bool {
    println!("\ncounted on {here}");
    let (of_versions, verdicts) = match findings {
        Findings::OtherProcessor { kept } => {
            println!(
                "NOT COMPARED: nothing is kept of such a processor, only of: {}. `--write` keeps this one beside them.",
                if kept.is_empty() { "none".to_owned() } else { kept.join("; ") }
            );
            return false;
        }
        Findings::Compared { of_versions, verdicts } => (of_versions, verdicts),
    };
    if *of_versions != here.versions {
        println!("what is kept was counted with other versions, which may be why it differs: {of_versions}");
    }
    for (name, verdict) in verdicts {
        match verdict {
            Verdict::Unknown => println!("{name}: not kept yet; `--write` keeps it"),
            Verdict::Missing => println!("{name}: FAILED: kept, and not counted any more"),
            Verdict::Change { kept, percent } if verdict.fails() => {
                println!("{name}: FAILED: {percent:.1} % above the {kept:.1} that are kept");
            }
            Verdict::Change { percent, .. } if verdict.is_cheaper() => {
                println!("{name}: {:.1} % cheaper; `--write` keeps it so", -percent);
            }
            Verdict::Change { .. } => {}
        }
    }
    let fails = verdicts.values().any(|verdict| verdict.fails());
    if fails {
        println!(
            "\nA path may cost {CHANGE_PERCENT_MAX} % more at most. If that is what a change is worth, accept it:\n    \
             cargo run --release -p dure-benches --bin instructions -- --write\nand say in the commit why."
        );
    } else {
        println!("no path costs more than {CHANGE_PERCENT_MAX} % above what is kept");
    }
    fails
}
