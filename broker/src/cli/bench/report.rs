//! Progress while it runs, and the result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dure_client::Durability;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::super::failure::Outcome;
use super::super::out::{Format, print_one};
use super::super::table::fields;
use super::super::units;

const REFRESH: Duration = Duration::from_millis(100);

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    messages: u64,
    bytes: u64,
    seconds: f64,
    messages_per_s: f64,
    mb_per_s: f64,
    #[serde(flatten)]
    latency: Option<Latency>,
    /// Where the latency above is of something else: of acknowledgements.
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Latency>,
    /// What an acknowledgement meant: `synced`, or merely `written`.
    #[serde(skip_serializing_if = "Option::is_none")]
    acked: Option<&'static str>,
}

/// Quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Latency {
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p99_9_ms: f64,
    max_ms: f64,
}

impl Report {
    pub(super) fn new(messages: u64, bytes: u64, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64();
        let per_second = |figure: f64| if seconds > 0.0 { figure / seconds } else { 0.0 };
        Report {
            messages,
            bytes,
            seconds: rounded(seconds),
            messages_per_s: rounded(per_second(messages as f64)),
            mb_per_s: rounded(per_second(bytes as f64 / 1e6)),
            latency: None,
            ack: None,
            acked: None,
        }
    }

    /// `micros` holds one figure per message: from when it was to be sent until it was there.
    pub(super) fn with_latency(mut self, micros: &Histogram<u64>) -> Report {
        self.latency = Some(Latency::of(micros));
        self
    }

    /// `micros` holds one figure per acknowledgement.
    pub(super) fn with_acks(mut self, micros: &Histogram<u64>) -> Report {
        self.ack = Some(Latency::of(micros));
        self
    }

    /// What acknowledged means at this durability.
    pub(super) fn acked(mut self, durability: Durability) -> Report {
        self.acked = Some(if durability == Durability::Sync { "synced" } else { "written" });
        self
    }

    pub(super) fn print(&self, format: Format) -> Outcome {
        print_one(format, self, || self.description())
    }

    fn description(&self) -> String {
        let mut rows = vec![
            ("messages", units::count(self.messages)),
            ("size", units::bytes(self.bytes)),
            ("time", format!("{:.3} s", self.seconds)),
            (
                "rate",
                format!("{} messages/s, {:.1} MB/s", units::count(self.messages_per_s as u64), self.mb_per_s),
            ),
        ];
        rows.extend(self.latency.map(|latency| ("latency", latency.text())));
        rows.extend(self.ack.map(|latency| ("of acks", latency.text())));
        if let Some(acked) = self.acked {
            rows.push(("acknowledged", acked.to_owned()));
        }
        fields(&rows)
    }
}

impl Latency {
    fn of(micros: &Histogram<u64>) -> Latency {
        let at = |quantile| rounded(micros.value_at_quantile(quantile) as f64 / 1000.0);
        Latency {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: rounded(micros.max() as f64 / 1000.0),
        }
    }

    fn text(self) -> String {
        let Latency { p50_ms, p90_ms, p99_ms, p99_9_ms, max_ms } = self;
        format!("p50 {p50_ms} ms, p90 {p90_ms}, p99 {p99_ms}, p99.9 {p99_9_ms}, max {max_ms}")
    }
}

/// An empty one of microseconds, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// As histograms take it.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// To three decimals.
fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

/// How much is planned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Messages(u64),
    Time(Duration),
    Unknown,
}

/// Counts what is done and shows it on a terminal.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    messages: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn add(&self, messages: u64) {
        // A figure to look at: nothing is ordered by it.
        self.messages.fetch_add(messages, Ordering::Relaxed);
    }

    /// Shows it until dropped by whoever waits for something better.
    pub(super) async fn show(&self, length: Length) -> std::convert::Infallible {
        let (steps, template) = match length {
            Length::Messages(messages) => (messages, "{bar:40} {percent}% {msg} {eta} left"),
            Length::Time(time) => (time.as_millis() as u64, "{bar:40} {percent}% {msg}"),
            Length::Unknown => (0, "{spinner} {msg}"),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = Bar(ProgressBar::new(steps).with_style(style));
        let started = tokio::time::Instant::now();
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            ticks.tick().await;
            let done = self.messages.load(Ordering::Relaxed);
            let elapsed = started.elapsed();
            let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
            bar.0.set_message(format!("{} messages, {}/s", units::count(done), units::count(rate as u64)));
            match length {
                Length::Messages(_) => bar.0.set_position(done),
                Length::Time(_) => bar.0.set_position(elapsed.as_millis() as u64),
                Length::Unknown => bar.0.tick(),
            }
        }
    }
}

/// Leaves no trace on the terminal.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Runs the load, showing the progress beside it.
pub(super) async fn beside<T>(progress: &Progress, length: Length, load: impl Future<Output = T>) -> T {
    tokio::select! {
        done = load => done,
        never = progress.show(length) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_fields_of_the_contract() {
        let mut micros = Histogram::new(3).unwrap();
        micros.record(1500).unwrap();
        let report =
            Report::new(2, 2_000_000, Duration::from_secs(2)).with_latency(&micros).acked(Durability::Sync);
        let expected = serde_json::json!({"messages": 2, "bytes": 2_000_000, "seconds": 2.0, "messages_per_s": 1.0,
            "mb_per_s": 1.0, "p50_ms": 1.5, "p90_ms": 1.5, "p99_ms": 1.5, "p99_9_ms": 1.5, "max_ms": 1.5,
            "acked": "synced"});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert!(report.description().contains("1 messages/s, 1.0 MB/s"));
    }
}
