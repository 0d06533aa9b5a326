//! Many cycles of one fault, counted.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;

use super::check::{Violation, around};
use super::history::{Event, Outcome, Settle, What};
use super::{Fault, Stage, all};

/// A broker lives through so many cycles: each finds what the ones before have left.
const CYCLES_PER_LIFE: u64 = 6;
/// Violations that are told in full.
const TOLD_MAX: usize = 5;

/// What came of one fault.
#[derive(Debug, Default)]
pub struct Report {
    /// Its name.
    pub fault: &'static str,
    /// Why it was not run, if so.
    pub skipped: Option<String>,
    /// How often it struck.
    pub cycles: u64,
    /// Operations that were carried out.
    pub ok: u64,
    /// Operations that were not.
    pub fail: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
    /// Messages that were acknowledged to producers.
    pub produced: u64,
    /// Messages that workers acknowledged.
    pub acked: u64,
    /// Messages given to workers.
    pub deliveries: u64,
    /// Messages given to readers.
    pub reads: u64,
    /// Promises broken, each with its seed and the history around it.
    pub violations: Vec<String>,
    /// What the fault itself has to say.
    pub remark: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// The names of all faults.
#[must_use]
pub fn names() -> Vec<&'static str> {
    all().iter().map(|fault| fault.name()).collect()
}

/// Runs some cycles of the fault of this name. The seed of each is told with whatever it breaks.
///
/// # Panics
/// If there is no such fault.
#[must_use]
pub fn run(name: &str, cycles: u64, seed: u64) -> Report {
    let fault = all().into_iter().find(|fault| fault.name() == name);
    campaign(&mut *fault.expect("a fault of that name"), cycles, seed)
}

fn campaign(fault: &mut dyn Fault, cycles: u64, seed: u64) -> Report {
    let begun = Instant::now();
    let mut report = Report { fault: fault.name(), skipped: fault.missing(), ..Report::default() };
    if report.skipped.is_some() {
        return report;
    }
    let mut stage = None;
    for cycle in 0..cycles {
        let seed = seed.wrapping_add(cycle);
        let last = cycle + 1 == cycles || (cycle + 1).is_multiple_of(CYCLES_PER_LIFE);
        let outcome = catch_unwind(AssertUnwindSafe(|| one(fault, &mut stage, seed, last)));
        let violations = outcome.unwrap_or_else(|panic| vec![Violation::conduct(panic_message(&*panic))]);
        report.cycles += 1;
        let events = stage.as_ref().map(Stage::events).unwrap_or_default();
        for violation in violations.iter().take(TOLD_MAX) {
            report.violations.push(tell(violation, fault.name(), seed, &events));
        }
        for violation in violations.iter().skip(TOLD_MAX) {
            report.violations.push(format!("{violation}\n"));
        }
        if last || !violations.is_empty() {
            report.count(&events);
            stage = None;
        }
    }
    report.remark = fault.remark();
    report.took = begun.elapsed();
    report
}

/// One cycle: the load begins, the fault strikes, the load ends, and everything is looked at.
fn one(fault: &mut dyn Fault, stage: &mut Option<Stage>, seed: u64, last: bool) -> Vec<Violation> {
    let prepared = match stage.take() {
        Some(stage) => Ok(stage),
        None => {
            fault.prepare().map_err(Violation::conduct).and_then(|broker| Stage::set(broker, fault.shape()))
        }
    };
    let stage = match prepared {
        Ok(prepared) => stage.insert(prepared),
        Err(violation) => return vec![violation],
    };
    stage.rng = Rng::with_seed(seed);
    stage.start_load();
    let struck = fault.strike(stage);
    stage.stop_load();
    let mut violations = stage.judge();
    violations.extend(struck.err());
    if violations.is_empty() && last {
        violations.extend(stage.verify_files().err());
    }
    violations
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("panicked with something that is no text")
        .to_owned()
}

fn tell(violation: &Violation, fault: &str, seed: u64, events: &[Event]) -> String {
    let mut text = format!("{fault}, seed {seed}: {violation}\n");
    for event in around(events, violation) {
        text.push_str(&format!("    {event}\n"));
    }
    text
}

impl Report {
    fn count(&mut self, events: &[Event]) {
        for event in events {
            match event.what {
                What::Produce { outcome, .. } => {
                    self.tally(outcome);
                    self.produced += u64::from(outcome == Outcome::Ok);
                }
                What::Commit { outcome, .. } => self.tally(outcome),
                // Nobody asks what becomes of it.
                What::Settled { settle: Settle::Drop, .. } => {}
                What::Settled { outcome, settle, .. } => {
                    self.tally(outcome);
                    self.acked += u64::from(outcome == Outcome::Ok && settle == Settle::Ack);
                }
                What::Deliver { .. } => self.deliveries += 1,
                What::Read { .. } => self.reads += 1,
                _ => {}
            }
        }
    }

    fn tally(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Fail => self.fail += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json!({
            "fault": self.fault, "skipped": self.skipped, "cycles": self.cycles,
            "ok": self.ok, "fail": self.fail, "unknown": self.unknown,
            "produced": self.produced, "acked": self.acked, "deliveries": self.deliveries, "reads": self.reads,
            "violations": self.violations.len(), "found": self.violations, "remark": self.remark,
            "took_ms": self.took.as_millis() as u64,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { fault, cycles, ok, fail, unknown, produced, acked, deliveries, reads, .. } = self;
        if let Some(reason) = &self.skipped {
            return write!(f, "skipped: {fault} because {reason}");
        }
        write!(
            f,
            "{fault:<12} {cycles} cycles, {ok} ok, {fail} fail, {unknown} unknown; {produced} produced, {reads} read, \
             {deliveries} delivered, {acked} acked; {} violations in {:.0?}",
            self.violations.len(),
            self.took
        )?;
        self.remark.as_ref().map_or(Ok(()), |remark| write!(f, "; {remark}"))
    }
}
