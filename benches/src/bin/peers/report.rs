//! Figures of several rounds, as a table, as JSON, and as a plot.

use std::collections::BTreeMap;
use std::fmt::Write;

use dure_benches::svg::{Anchor, Sheet};
use serde::Serialize;

/// What one round measured of one load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    /// Messages per second, or milliseconds for a latency.
    pub(crate) figure: f64,
    /// The 99th percentile, for a latency.
    pub(crate) p99_ms: Option<f64>,
    /// Microseconds of the server's processor time per message.
    pub(crate) cpu_us: f64,
    pub(crate) resident_mb: f64,
}

/// Medians over the rounds, and the spread.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) acked: &'static str,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) cpu_us_per_message: f64,
    pub(crate) resident_mb: f64,
    pub(crate) rounds: usize,
}

/// One load with everybody's figures.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) load: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) limits: BTreeMap<&'static str, f64>,
    pub(crate) tables: Vec<Table>,
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Row {
    pub(crate) fn of(server: &'static str, acked: &'static str, rounds: &[Round]) -> Row {
        let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
        let figures = of(|round| round.figure);
        let p99s: Vec<f64> = rounds.iter().filter_map(|round| round.p99_ms).collect();
        Row {
            server,
            acked,
            min: figures.iter().copied().fold(f64::INFINITY, f64::min),
            max: figures.iter().copied().fold(0.0, f64::max),
            median: median(figures),
            p99_ms: (!p99s.is_empty()).then(|| median(p99s)),
            cpu_us_per_message: median(of(|round| round.cpu_us)),
            resident_mb: median(of(|round| round.resident_mb)),
            rounds: rounds.len(),
        }
    }
}

impl Table {
    fn is_latency(&self) -> bool {
        self.unit == "ms"
    }

    /// In the form of a table in Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("### {}\n\n", self.load);
        let (unit, best) = if self.is_latency() { ("p50 ms", "p99 ms | ") } else { (self.unit, "") };
        let _ = writeln!(
            text,
            "| | acked means | {unit} | min to max | {best}against DureMQ | server µs/message | RSS, MB |"
        );
        let _ =
            writeln!(text, "|---|---|---|---|{}---|---|---|", if self.is_latency() { "---|" } else { "" });
        let ours = self.rows.first().map_or(f64::NAN, |row| row.median);
        for row in &self.rows {
            let p99 = row.p99_ms.map_or_else(String::new, |p99| format!(" {p99:.2} |"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} to {} |{p99} {:.2} | {:.2} | {:.0} |",
                row.server,
                row.acked,
                figure(row.median, self.is_latency()),
                figure(row.min, self.is_latency()),
                figure(row.max, self.is_latency()),
                row.median / ours,
                row.cpu_us_per_message,
                row.resident_mb
            );
        }
        text
    }
}

fn figure(figure: f64, latency: bool) -> String {
    if latency { format!("{figure:.2}") } else { format!("{:.1} k", figure / 1e3) }
}

const WIDTH: f64 = 900.0;
const NAMES: f64 = 270.0;
const BAR: f64 = 18.0;

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        for (name, figure) in &self.limits {
            let _ = writeln!(text, "- {name}: {figure:.2}");
        }
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.text());
        }
        text
    }

    /// Bars, one group for each load; what is not synced is paler.
    pub(crate) fn svg(&self) -> String {
        let rows: usize = self.tables.iter().map(|table| table.rows.len() + 2).sum();
        let height = rows as f64 * BAR + 20.0;
        let mut sheet = Sheet::new(WIDTH, height, 12.0);
        let mut y = 20.0;
        for table in &self.tables {
            sheet.heading(10.0, y, table.load);
            y += BAR;
            let longest = table.rows.iter().map(|row| row.median).fold(0.0, f64::max);
            for row in &table.rows {
                let width = (WIDTH - NAMES - 120.0) * row.median / longest.max(f64::MIN_POSITIVE);
                let colour = match (row.server == super::ours::NAME, row.acked == "synced") {
                    (true, _) => "#0b6e4f",
                    (false, true) => "#4a6fa5",
                    (false, false) => "#b8c5d9",
                };
                let unit = if table.is_latency() { "ms" } else { "/s" };
                let text = format!("{} {unit}, {}", figure(row.median, table.is_latency()), row.acked);
                sheet.text(10.0, y, Anchor::Start, row.server);
                sheet.bar(NAMES, y - 11.0, width, 12.0, colour);
                sheet.text(NAMES + width + 6.0, y, Anchor::Start, &text);
                y += BAR;
            }
            y += BAR;
        }
        sheet.finish()
    }
}
