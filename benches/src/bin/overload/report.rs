//! One row for each thing that was measured, judged where something is asked of it.

use std::fmt::Write;

use dure_benches::ages::Ages;
use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    quick: bool,
    pub(crate) rows: Vec<Row>,
}

/// One of them; what does not apply is absent.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) messages_per_s: f64,
    /// From the intended send time until the consumer had it.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p99_9_ms: Option<f64>,
    /// The broker's, at the end or at its highest.
    pub(crate) resident_mb: f64,
    pub(crate) judged: Option<Judged>,
    pub(crate) note: String,
}

/// A figure beside that of another row, or of another time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Judged {
    /// What is compared, and with what.
    pub(crate) of: &'static str,
    pub(crate) ratio: f64,
    pub(crate) ratio_max: f64,
    pub(crate) holds: bool,
}

impl Judged {
    pub(crate) fn new(of: &'static str, figure: f64, beside: f64, ratio_max: f64) -> Judged {
        let ratio = figure / beside;
        Judged { of, ratio, ratio_max, holds: ratio <= ratio_max }
    }
}

impl Row {
    pub(crate) fn with_ages(self, ages: &Ages) -> Row {
        Row { p50_ms: ages.at_ms(0.5), p99_ms: ages.at_ms(0.99), p99_9_ms: ages.at_ms(0.999), ..self }
    }
}

impl Report {
    pub(crate) fn new(machine: String, quick: bool) -> Report {
        Report { machine, quick, rows: Vec::new() }
    }

    /// In Markdown.
    pub(crate) fn text(&self) -> String {
        let kind = if self.quick { "a quick run" } else { "a full run" };
        let mut text = format!(
            "{}, {kind}\n\n| | messages/s | p50 ms | p99 ms | p99.9 ms | RSS, MB | judged | |\n\
             |---|---|---|---|---|---|---|---|\n",
            self.machine
        );
        for row in &self.rows {
            let ms = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2}"));
            let judged = row.judged.map_or_else(String::new, |Judged { of, ratio, ratio_max, holds }| {
                let verdict = if holds { "holds" } else { "**falls short**" };
                format!("{of}: {ratio:.2}, at most {ratio_max}: {verdict}")
            });
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {} | {} | {:.0} | {judged} | {} |",
                row.what,
                row.messages_per_s,
                ms(row.p50_ms),
                ms(row.p99_ms),
                ms(row.p99_9_ms),
                row.resident_mb,
                row.note
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_is_allowed_and_more_is_not() {
        assert!(Judged::new("p99", 2.0, 1.0, 2.0).holds);
        assert!(!Judged::new("p99", 2.01, 1.0, 2.0).holds);
        // What cannot be compared does not hold.
        assert!(!Judged::new("p99", f64::NAN, 1.0, 2.0).holds);
    }

    #[test]
    fn a_row_says_what_is_judged() {
        let judged = Some(Judged::new("p99 by that alone", 3.0, 1.0, 2.0));
        let row = Row { what: "slow".to_owned(), p99_ms: Some(3.0), judged, ..Row::default() };
        let mut report = Report::new("m".to_owned(), true);
        report.rows.push(row);
        let text = report.text();
        assert!(
            text.contains(
                "| slow | 0 | – | 3.00 | – | 0 | p99 by that alone: 3.00, at most 2: **falls short** |"
            ),
            "{text}"
        );
    }
}
