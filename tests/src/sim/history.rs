//! What was done: as text that replays byte for byte, and as counts.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One line for each thing that happened, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    text: String,
}

impl History {
    /// Adds a line.
    pub(crate) fn note(&mut self, line: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(&mut self.text, line).expect("a String takes everything");
        self.text.push('\n');
    }

    /// The lines.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A hash of the lines, the same in every run of the same build.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        hasher.finish()
    }
}

/// Counts of what was done, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests and other things that clients did, with what was answered.
    pub operations: BTreeMap<&'static str, u64>,
    /// Restarts, by what came before them.
    pub restarts: BTreeMap<&'static str, u64>,
    /// Faults injected by the disk, and what crashes took.
    pub faults: BTreeMap<&'static str, u64>,
    /// Checks made, by kind.
    pub checks: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Recoveries behind a crash, or behind an opening that met a fault or a crash itself.
    #[must_use]
    pub fn crash_cycles(&self) -> u64 {
        let crashes =
            self.restarts.iter().filter(|(kind, _)| !matches!(**kind, "the first start" | "clean shutdown"));
        crashes.map(|(_, count)| count).sum()
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Totals) {
        let sides = [
            (&mut self.operations, &other.operations),
            (&mut self.restarts, &other.restarts),
            (&mut self.faults, &other.faults),
            (&mut self.checks, &other.checks),
        ];
        for (mine, others) in sides {
            for (kind, count) in others {
                *mine.entry(kind).or_default() += count;
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [
            ("operations", &self.operations),
            ("restarts", &self.restarts),
            ("faults", &self.faults),
            ("checks", &self.checks),
        ];
        for (title, counts) in sides {
            writeln!(f, "{title}:")?;
            for (kind, count) in counts.iter().filter(|(_, count)| **count > 0) {
                writeln!(f, "  {count:>10}  {kind}")?;
            }
        }
        Ok(())
    }
}
