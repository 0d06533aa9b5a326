//! Everything that was measured, as text and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::goals::{self, Goal};
use super::shape::Shape;

/// All axes of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    /// Through one connection, in the same minutes.
    pub(crate) loopback_mb_per_s: f64,
    /// A short look.
    pub(crate) quick: bool,
    pub(crate) shapes: Vec<Shape>,
}

/// With what is asked, and whether it holds.
#[derive(Debug, Serialize)]
pub(crate) struct Judged<'a> {
    #[serde(flatten)]
    report: &'a Report,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(machine: String, loopback_mb_per_s: f64, quick: bool) -> Report {
        Report { machine, loopback_mb_per_s, quick, shapes: Vec::new() }
    }

    pub(crate) fn with_goals(&self) -> Judged<'_> {
        Judged { report: self, goals: goals::judge(self) }
    }

    /// In Markdown.
    pub(crate) fn text(&self) -> String {
        let kind = if self.quick { "a quick run" } else { "a full run" };
        let mut text = format!("{}, {kind}; loopback {:.0} MB/s\n", self.machine, self.loopback_mb_per_s);
        for shape in &self.shapes {
            let _ = write!(text, "\n{}", shape.text());
        }
        text + "\n" + &self.goals_text()
    }

    pub(crate) fn goals_text(&self) -> String {
        let mut text = "| what is asked | limit | measured | |\n|---|---|---|---|\n".to_owned();
        for goal in goals::judge(self) {
            let holds = if goal.holds { "holds" } else { "**falls short**" };
            let _ = writeln!(text, "| {} | {} | {} | {holds} |", goal.what, goal.limit, goal.measured);
        }
        text
    }
}
