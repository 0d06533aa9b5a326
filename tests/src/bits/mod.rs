//! Every bit of a reference data directory, flipped one at a time: no wrong byte is ever delivered, nothing outside the
//! entry or commit that the bit is in is lost, what is lost is named, and nothing panics.
//!
//! `reference` makes the directory, `observe` sees everything that clients can see of it, and `judge` holds what is seen
//! of a flipped one against what is seen of the whole one. `journal` knows what each commit held.

mod driver;
mod journal;
mod judge;
mod observe;
mod reference;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dure_engine::{SimDisk, verify};
use dure_proto::ShardId;

use crate::sim::{Violation, ensure};
use driver::Driver;
use judge::{Flip, Outcome, Truth, log_of};
use reference::{LATER, Sent, config};

/// One flip in so many is looked at by `log verify` as well, and ends in a clean shutdown.
const VERIFIED_ONE_IN: u64 = 32;

/// The directory, and what is in it.
pub struct EveryBit {
    disk: SimDisk,
    sent: Vec<Sent>,
    truth: Truth,
}

/// What became of the flips of some bits.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many there were, by kind of file and what became of them.
    pub outcomes: BTreeMap<(&'static str, &'static str), u64>,
    /// Those that `log verify` was asked about.
    pub verified: u64,
    /// The first that broke a promise: file, byte, bit, and what was seen.
    pub violation: Option<String>,
}

impl Tally {
    /// Takes in what another thread counted.
    pub fn add(&mut self, other: Tally) {
        for (kind, count) in other.outcomes {
            *self.outcomes.entry(kind).or_default() += count;
        }
        self.verified += other.verified;
        self.violation = self.violation.take().or(other.violation);
    }

    /// Flips that were judged.
    #[must_use]
    pub fn flips(&self) -> u64 {
        self.outcomes.values().sum()
    }
}

impl EveryBit {
    /// Makes the directory; always the same.
    ///
    /// # Errors
    /// If the engine fails without any damage.
    pub fn build() -> Result<EveryBit, Violation> {
        let (disk, sent) = reference::build()?;
        let files = disk.snapshot();
        let newest = files.keys().rfind(|path| path.ends_with(".checkpoint"));
        let checkpoint =
            newest.and_then(|path| path.rsplit_once('/')?.1.strip_suffix(".checkpoint")?.parse().ok());
        let checkpoint = checkpoint.ok_or_else(|| Violation("the reference has no checkpoint".into()))?;
        let mut driver = Driver::open(disk.fork(), config(), LATER)?;
        let findings = &driver.report.findings;
        ensure!(findings.is_empty(), "the reference is damaged: {findings:?}");
        let observed = observe::observe(&mut driver, &sent)?;
        let commits = journal::commits(&files);
        Ok(EveryBit { disk, sent, truth: Truth { files, observed, commits, checkpoint } })
    }

    /// The files with their lengths in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.truth.files.iter().map(|(path, bytes)| (&**path, bytes.len() as u64))
    }

    /// All bits of all files.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.files().map(|(_, bytes)| bytes * 8).sum()
    }

    /// Flips some bits, each by itself, until one breaks a promise. Bits are numbered through all files.
    pub fn flip(&self, bits: impl Iterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for bit in bits {
            let flip = self.place(bit);
            let verifies = bit.wrapping_mul(0x9e37_79b9_7f4a_7c15) % VERIFIED_ONE_IN == 0;
            let judged = catch_unwind(AssertUnwindSafe(|| self.flip_one(flip, verifies)));
            let what = match judged {
                Ok(Ok(outcome)) => {
                    *tally.outcomes.entry((kind_of(flip.path), outcome.text())).or_default() += 1;
                    tally.verified += u64::from(verifies);
                    continue;
                }
                Ok(Err(Violation(what))) => what,
                Err(_) => "it panicked".to_owned(),
            };
            tally.violation = Some(format!("{}, byte {}, bit {}: {what}", flip.path, flip.byte, flip.bit));
            break;
        }
        tally
    }

    fn place(&self, mut bit: u64) -> Flip<'_> {
        for (path, bytes) in self.files() {
            if bit < bytes * 8 {
                return Flip { path, byte: bit / 8, bit: (bit % 8) as u32 };
            }
            bit -= bytes * 8;
        }
        panic!("there are {} bits", self.bits());
    }

    fn flip_one(&self, flip: Flip<'_>, verifies: bool) -> Result<Outcome, Violation> {
        let disk = self.disk.fork();
        disk.flip_bit(flip.path, flip.byte, flip.bit).map_err(|error| Violation(error.to_string()))?;
        let verified = match verifies {
            true => {
                Some(verify(&disk, ShardId(0), config().salt).map_err(|error| Violation(error.to_string()))?)
            }
            false => None,
        };
        let mut driver = Driver::open(disk, config(), LATER)?;
        self.check_lookups(&driver, flip)?;
        let findings = driver.report.findings.clone();
        let seen = observe::observe(&mut driver, &self.sent)?;
        let outcome = self.truth.judge(flip, &seen, &findings)?;
        let is_lost = matches!(outcome, Outcome::EntryLost | Outcome::CommitLost);
        if let Some(report) = verified {
            ensure!(!is_lost || !report.is_ok(), "something is lost, and `log verify` finds nothing");
            driver.shut_down()?;
        }
        Ok(outcome)
    }

    /// Readers that begin in the middle of the damaged log find what is there too.
    fn check_lookups(&self, driver: &Driver, flip: Flip<'_>) -> Result<(), Violation> {
        let Some(partition) = log_of(flip.path) else { return Ok(()) };
        let truth = &self.truth.observed.logs[&partition];
        let Some(view) = driver.views.get(&partition) else {
            return Err(Violation(format!("log {partition} is gone")));
        };
        let entry = self.truth.entry_at(flip).filter(|_| flip.path.ends_with(".log"));
        observe::check_lookups(view, truth, entry.as_ref().map(|(_, offsets)| offsets))?;
        if flip.path.ends_with(".index") {
            let found = observe::look_up_times(view, truth)?;
            let known = observe::times_of(truth);
            ensure!(found == known, "times lead to {found:?} instead of {known:?}");
        }
        Ok(())
    }
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Outcome::Unnoticed => "not in anything that is read",
            Outcome::Repaired => "found, nothing lost",
            Outcome::EntryLost => "its entry lost and named",
            Outcome::CommitLost => "its commit lost and named",
            Outcome::Residual => "its commit, the last one, taken for torn (the documented residual)",
        }
    }
}

fn kind_of(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("log") => "segment",
        Some("index") => "index",
        Some("piece") => "journal",
        Some("checkpoint") => "checkpoint",
        _ => "other",
    }
}
