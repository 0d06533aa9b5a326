//! Backlog and workers over time.

use super::canvas::{Align, Canvas, Colour, Font, Point, Rectangle};
use crate::picture::Picture;

/// Width of the plot in pixels.
pub const PLOT_WIDTH_PX: u32 = 1200;
/// Height of the plot in pixels.
pub const PLOT_HEIGHT_PX: u32 = 640;

/// Ticks that a vertical axis has at most; the lines of both axes are shared.
const TICKS_MAX: u64 = 6;

const PAPER: Colour = [255, 255, 255];
const INK: Colour = [38, 43, 51];
const FAINT: Colour = [226, 229, 234];
const MUTED: Colour = [104, 112, 124];
// Told apart by people who cannot tell red from green (Okabe and Ito's blue and vermilion).
const BACKLOG: Colour = [0, 114, 178];
const WORKERS: Colour = [213, 94, 0];

const PLOT: Rectangle = Rectangle { x: 100, y: 110, width: 1000, height: 430 };

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleSample {
    /// Milliseconds since the run began; does not fall from one sample to the next.
    pub at_ms: u64,
    /// Jobs that are not settled: ready, leased or delayed.
    pub backlog: u64,
    /// Worker processes.
    pub workers: u32,
}

/// Draws the plot, [`PLOT_WIDTH_PX`] by [`PLOT_HEIGHT_PX`]. Backlog is read at the left, workers at
/// the right; both start at zero. Without samples the axes stand alone.
pub fn autoscale_plot(samples: &[ScaleSample]) -> Picture {
    let mut canvas = Canvas::new(PLOT_WIDTH_PX, PLOT_HEIGHT_PX, PAPER);
    let backlog_max = samples.iter().map(|s| s.backlog).max().unwrap_or(0);
    let workers_max = samples.iter().map(|s| s.workers).max().unwrap_or(0);
    let start_ms = samples.first().map_or(0, |s| s.at_ms);
    let span_ms = samples.last().map_or(0, |s| s.at_ms.saturating_sub(start_ms)).max(1000);

    let axes = Axes {
        backlog: Axis::covering(backlog_max),
        workers: Axis::covering(u64::from(workers_max)),
        start_ms,
        span_ms,
    };
    title(&mut canvas, span_ms, backlog_max, workers_max);
    axes.draw(&mut canvas);

    let backlog: Vec<Point> =
        samples.iter().map(|s| (axes.x(s.at_ms), axes.backlog.y(s.backlog as f64))).collect();
    shade(&mut canvas, &backlog);
    canvas.polyline(&backlog, 2.6, BACKLOG);
    // Workers come and go at once, so their line has steps.
    let mut workers: Vec<Point> = Vec::with_capacity(2 * samples.len());
    for sample in samples {
        let (x, y) = (axes.x(sample.at_ms), axes.workers.y(f64::from(sample.workers)));
        if let Some(&(_, before)) = workers.last() {
            workers.push((x, before));
        }
        workers.push((x, y));
    }
    canvas.polyline(&workers, 2.6, WORKERS);
    canvas.into_picture()
}

/// A vertical axis from zero to `step * ticks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    step: u64,
    ticks: u64,
}

impl Axis {
    /// The finest axis of round steps that reaches above the largest value.
    fn covering(largest: u64) -> Self {
        let largest = largest.max(1);
        let step = round_step(largest.div_ceil(TICKS_MAX));
        Self { step, ticks: largest.div_ceil(step) }
    }

    fn y(self, value: f64) -> f64 {
        // A little air above the largest value, or its line would lie on the frame.
        let top = (self.step * self.ticks) as f64 * 1.06;
        f64::from(PLOT.y + PLOT.height) - value / top * f64::from(PLOT.height)
    }
}

/// The smallest of 1, 2, 5, 10, 20, 50, … that is not below.
fn round_step(least: u64) -> u64 {
    let mut power: u64 = 1;
    loop {
        for digit in [1, 2, 5] {
            let step = power.saturating_mul(digit);
            if step >= least {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

#[derive(Debug)]
struct Axes {
    backlog: Axis,
    workers: Axis,
    start_ms: u64,
    span_ms: u64,
}

impl Axes {
    fn x(&self, at_ms: u64) -> f64 {
        let share = at_ms.saturating_sub(self.start_ms) as f64 / self.span_ms as f64;
        f64::from(PLOT.x) + share.min(1.0) * f64::from(PLOT.width)
    }

    fn draw(&self, canvas: &mut Canvas) {
        let (left, right) = (PLOT.x, PLOT.x + PLOT.width);
        let half = Font::Normal.height() / 2;
        for tick in 0..=self.backlog.ticks {
            let value = tick * self.backlog.step;
            let y = self.backlog.y(value as f64).round() as i32;
            canvas.fill(Rectangle { x: left, y, width: PLOT.width, height: 1 }, FAINT, 1.0);
            let at = (left - 12, y - half);
            canvas.text(at, Align::Right, Font::Normal, BACKLOG, &grouped(value));
        }
        for tick in 0..=self.workers.ticks {
            let value = tick * self.workers.step;
            let y = self.workers.y(value as f64).round() as i32;
            canvas.fill(Rectangle { x: right, y, width: 6, height: 1 }, WORKERS, 1.0);
            let at = (right + 12, y - half);
            canvas.text(at, Align::Left, Font::Normal, WORKERS, &grouped(value));
        }
        self.draw_time(canvas);
        canvas.frame(Rectangle { width: PLOT.width + 1, height: PLOT.height + 1, ..PLOT }, MUTED);
        canvas.text((left, PLOT.y - 28), Align::Centre, Font::Normal, BACKLOG, "backlog");
        canvas.text((right, PLOT.y - 28), Align::Centre, Font::Normal, WORKERS, "workers");
    }

    fn draw_time(&self, canvas: &mut Canvas) {
        let bottom = PLOT.y + PLOT.height;
        let (step_ms, unit) = time_step(self.span_ms);
        for tick in 0..=self.span_ms / step_ms {
            let at_ms = tick * step_ms;
            let x = self.x(self.start_ms + at_ms).round() as i32;
            canvas.fill(Rectangle { x, y: PLOT.y, width: 1, height: PLOT.height }, FAINT, 1.0);
            canvas.fill(Rectangle { x, y: bottom, width: 1, height: 6 }, MUTED, 1.0);
            let text = unit.show(at_ms);
            canvas.text((x, bottom + 10), Align::Centre, Font::Normal, INK, &text);
        }
        let at = (PLOT.x + PLOT.width / 2, bottom + 48);
        canvas.text(at, Align::Centre, Font::Normal, MUTED, unit.caption());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeUnit {
    Tenths,
    Seconds,
    Minutes,
}

impl TimeUnit {
    fn show(self, at_ms: u64) -> String {
        match self {
            TimeUnit::Tenths => format!("{}.{}", at_ms / 1000, at_ms % 1000 / 100),
            TimeUnit::Seconds => format!("{}", at_ms / 1000),
            TimeUnit::Minutes => format!("{}:{:02}", at_ms / 60_000, at_ms / 1000 % 60),
        }
    }

    fn caption(self) -> &'static str {
        match self {
            TimeUnit::Tenths | TimeUnit::Seconds => "seconds since the start",
            TimeUnit::Minutes => "minutes since the start",
        }
    }
}

/// A step of the time axis that leaves 5 to 12 ticks, and how its numbers are written.
fn time_step(span_ms: u64) -> (u64, TimeUnit) {
    const TENTHS: [u64; 2] = [200, 500];
    const SECONDS: [u64; 5] = [1_000, 2_000, 5_000, 10_000, 20_000];
    const MINUTES: [u64; 6] = [30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000];
    let steps = TENTHS
        .map(|ms| (ms, TimeUnit::Tenths))
        .into_iter()
        .chain(SECONDS.map(|ms| (ms, TimeUnit::Seconds)))
        .chain(MINUTES.map(|ms| (ms, TimeUnit::Minutes)));
    let mut steps = steps.filter(|(ms, _)| span_ms / ms <= 12);
    // Beyond those, whole hours.
    let hours = (span_ms.div_ceil(12 * 3_600_000).max(1) * 3_600_000, TimeUnit::Minutes);
    steps.next().unwrap_or(hours)
}

fn title(canvas: &mut Canvas, span_ms: u64, backlog_max: u64, workers_max: u32) {
    canvas.text((PLOT.x, 18), Align::Left, Font::Title, INK, "Workers follow the backlog");
    let summary = format!(
        "at most {} jobs waiting or under way, {} worker{}; {}.{} s",
        grouped(backlog_max),
        workers_max,
        if workers_max == 1 { "" } else { "s" },
        span_ms / 1000,
        span_ms % 1000 / 100,
    );
    canvas.text((PLOT.x, 48), Align::Left, Font::Small, MUTED, &summary);
    let right = PLOT.x + PLOT.width;
    let entries = [("backlog (left)", BACKLOG), ("workers (right)", WORKERS)];
    for (row, (name, colour)) in entries.into_iter().enumerate() {
        let y = 18 + 24 * row as i32;
        let text = right - Font::Normal.text_width("workers (right)");
        canvas.text((text, y), Align::Left, Font::Normal, INK, name);
        let x = text - 44;
        canvas.fill(Rectangle { x, y: y + 9, width: 32, height: 4 }, colour, 1.0);
    }
}

/// Fills the area below a line, column by column.
fn shade(canvas: &mut Canvas, line: &[Point]) {
    for pair in line.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        for x in ax.round() as i32..bx.round() as i32 {
            let share = (f64::from(x) + 0.5 - ax) / (bx - ax);
            let y = (ay + (by - ay) * share.clamp(0.0, 1.0)).round() as i32;
            let height = PLOT.y + PLOT.height - y;
            canvas.fill(Rectangle { x, y, width: 1, height }, BACKLOG, 0.12);
        }
    }
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_reaches_the_largest_value_with_few_round_steps() {
        for largest in (0..2000).chain([123_456, u64::from(u32::MAX)]) {
            let axis = Axis::covering(largest);
            assert!(axis.step * axis.ticks >= largest);
            assert!((1..=TICKS_MAX).contains(&axis.ticks), "{largest}: {axis:?}");
        }
        assert_eq!(Axis::covering(200), Axis { step: 50, ticks: 4 });
        assert_eq!(Axis::covering(4), Axis { step: 1, ticks: 4 });
    }

    #[test]
    fn time_axis_has_a_readable_number_of_ticks() {
        for span_ms in (1..100).map(|i| 1000 + i * i * 977).chain([7_200_000, 900_000_000]) {
            let (step_ms, _) = time_step(span_ms);
            assert!((2..=12).contains(&(span_ms / step_ms)), "{span_ms}: {step_ms}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
