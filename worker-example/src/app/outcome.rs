//! How a demo ended: results, pictures, and the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use photo_pipeline::report::{ScaleSample, autoscale_plot, contact_sheet, sheet_entries};
use photo_pipeline::results::{Death, tally, write_output, write_results};
use photo_pipeline::{Job, JobId, OutputFormat, Picture, Quality, Record, Status, Store};

use super::failure::Failure;

/// Photos that the table names; the rest is in the file.
const ROWS_MAX: usize = 20;
/// Pairs on the contact sheet.
const SHEET_PAIRS: usize = 24;
const NAME_CHARS_MAX: usize = 32;
const REASON_CHARS_MAX: usize = 90;

/// How the jobs of a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    records: Vec<Record>,
    /// Jobs that have neither result nor dead letter.
    lost: Vec<JobId>,
    results: PathBuf,
    sheet: PathBuf,
}

impl Outcome {
    /// Writes `results.json` and the contact sheet. Reads many photos: not for a thread of the runtime.
    pub(crate) fn write(
        store: &Store,
        out: &Path,
        jobs: &[Job],
        deaths: &BTreeMap<JobId, Death>,
    ) -> Result<Self, Failure> {
        let tally = tally(out, jobs, deaths)?;
        let results = write_results(out, &tally.records)?;
        let lost: BTreeSet<&JobId> = tally.open.iter().collect();
        let mut seen = BTreeSet::new();
        let ended = jobs.iter().filter(|job| {
            let id = job.id();
            !lost.contains(&id) && seen.insert(id)
        });
        let pairs: Vec<(Job, Record)> = ended.cloned().zip(tally.records.iter().cloned()).collect();
        let sheet = contact_sheet(&sheet_entries(store, out, &pairs, SHEET_PAIRS));
        let sheet = write_png(out, "contact-sheet.png", &sheet)?;
        Ok(Self { records: tally.records, lost: tally.open, results, sheet })
    }

    /// `Err` if a photo is neither done nor dead.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.lost.first() {
            None => Ok(()),
            Some(first) => Err(Failure::failed(format!(
                "{} photos have neither a result nor a dead letter, the first is job {first}; {} has the others",
                self.lost.len(),
                self.results.display()
            ))),
        }
    }

    /// What is printed at the end.
    pub(crate) fn table(&self, took: Duration, workers_peak: u32, plot: &Path) -> String {
        let (dead, done): (Vec<_>, Vec<_>) = self.records.iter().partition(|r| r.status == Status::Dead);
        let mut rows = vec![["PHOTO", "STATUS", "SIZE", "MS", "ATTEMPTS", "RESULT"].map(String::from)];
        let shown = dead.iter().chain(&done).take(ROWS_MAX);
        rows.extend(shown.map(|record| row(record)));
        let mut text = aligned(&rows);
        if self.records.len() > ROWS_MAX {
            text += &format!("… and {} more in {}\n", self.records.len() - ROWS_MAX, self.results.display());
        }
        let seconds = took.as_secs_f64();
        let again = done.iter().filter(|record| record.attempts > 1).count();
        let mut figures = vec![
            ("done", format!("{} of {} photos", done.len(), self.records.len() + self.lost.len())),
            ("dead", format!("{} (each with its reason in {})", dead.len(), self.results.display())),
            ("took", format!("{seconds:.1} s, {:.1} photos/s", self.records.len() as f64 / seconds)),
            ("workers", format!("{workers_peak} at most")),
            ("results", self.results.display().to_string()),
            ("before/after", self.sheet.display().to_string()),
            ("scaling", plot.display().to_string()),
        ];
        if again > 0 {
            figures.insert(2, ("again", format!("{again} were worked on more than once")));
        }
        text.push('\n');
        for (name, value) in figures {
            text += &format!("{name:<13} {value}\n");
        }
        text
    }
}

/// Draws backlog and workers over time. Returns the file.
pub(crate) fn write_plot(out: &Path, samples: &[ScaleSample]) -> Result<PathBuf, Failure> {
    write_png(out, "autoscale.png", &autoscale_plot(samples))
}

fn write_png(out: &Path, name: &str, picture: &Picture) -> Result<PathBuf, Failure> {
    let file = picture.encode(OutputFormat::Png, Quality::default());
    let file = file.map_err(Failure::during(format!("cannot draw {name}")))?;
    Ok(write_output(out, name, &file)?)
}

fn row(record: &Record) -> [String; 6] {
    let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
    let size = record.width.zip(record.height).map_or("-".into(), |(w, h)| format!("{w}x{h}"));
    let (status, result) = match record.status {
        Status::Done => ("done", record.output.clone().unwrap_or_default()),
        Status::Dead => ("dead", record.error.clone().unwrap_or_default()),
    };
    // The name stands at the front of the row.
    let result = result.strip_prefix(&format!("{}: ", record.input)).map_or(result.clone(), str::to_owned);
    [
        shortened(&record.input, NAME_CHARS_MAX),
        status.into(),
        size,
        number(record.ms),
        record.attempts.to_string(),
        shortened(&result, REASON_CHARS_MAX),
    ]
}

/// The text as one line of at most so many characters.
fn shortened(text: &str, chars_max: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if line.chars().count() <= chars_max {
        return line;
    }
    line.chars().take(chars_max - 1).chain(['…']).collect()
}

/// Columns of the same width all the way down; numbers at the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            3 | 4 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_cut_to_one_line_of_bounded_width() {
        assert_eq!(shortened("a\nb", 10), "a?b");
        assert_eq!(shortened("두레두레두레", 4), "두레두…");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "BB"].map(String::from), ["ccc", "d"].map(String::from)];
        assert_eq!(aligned(&rows), "A    BB\nccc  d\n");
    }
}
