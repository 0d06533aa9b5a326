//! A row of small plots for each axis, all of them with logarithmic scales.

use dure_benches::svg::{Anchor, Sheet};

use super::figure::Figure;
use super::shape::{Point, Shape, amount, short};

const WIDTH: f64 = 1000.0;
const ROW: f64 = 132.0;
const HEADER: f64 = 24.0;
const PANEL: f64 = 190.0;
const PANEL_HEIGHT: f64 = 84.0;
const GAP: f64 = 52.0;
const FONT: f64 = 10.0;

const GRID: &str = "#e3e6ea";
const DARK: &str = "#0b6e4f";
const PALE: &str = "#9bbf9f";

/// A plot: what it shows, the second paler.
struct Panel {
    title: &'static str,
    figures: &'static [Figure],
}

const PANELS: [Panel; 4] = [
    Panel { title: "messages/s; MB/s paler", figures: &[Figure::Rate, Figure::Bytes] },
    Panel { title: "broker µs/message; at a fixed rate paler", figures: &[Figure::Cpu, Figure::SteadyCpu] },
    Panel { title: "p99 ms; p50 paler", figures: &[Figure::P99, Figure::P50] },
    Panel { title: "RSS, MB; idle % of a core paler", figures: &[Figure::Resident, Figure::IdleCpu] },
];

/// All of them on one sheet.
pub(crate) fn svg(shapes: &[Shape]) -> String {
    let mut sheet = Sheet::new(WIDTH, shapes.len() as f64 * ROW + HEADER, FONT);
    for (row, shape) in shapes.iter().enumerate() {
        let top = row as f64 * ROW + HEADER;
        sheet.heading(8.0, top - 6.0, &format!("{}: {}", shape.axis, shape.values));
        for (column, panel) in PANELS.iter().enumerate() {
            draw(&mut sheet, shape, panel, column as f64 * (PANEL + GAP) + 44.0, top + 10.0);
        }
    }
    sheet.finish()
}

fn draw(sheet: &mut Sheet, shape: &Shape, panel: &Panel, left: f64, top: f64) {
    let lines: Vec<Vec<(f64, f64)>> =
        panel.figures.iter().map(|figure| drawable(*figure, &shape.points)).collect();
    // One scale for all plots of a row, whichever figures there are.
    let values: Vec<f64> =
        shape.points.iter().map(|point| point.value).filter(|value| *value > 0.0).collect();
    let Some(across) = Decades::of(values.iter().copied()) else { return };
    let Some(upward) = Decades::of(lines.iter().flatten().map(|(_, figure)| *figure)) else { return };
    let x = |value: f64| left + PANEL * across.share(value);
    let y = |figure: f64| top + PANEL_HEIGHT * (1.0 - upward.share(figure));
    for mark in upward.marks() {
        sheet.line(&[(left, y(mark)), (left + PANEL, y(mark))], GRID, 1.0);
        sheet.text(left - 4.0, y(mark) + 3.0, Anchor::End, &tidy(mark));
    }
    for mark in across.marks() {
        sheet.line(&[(x(mark), top), (x(mark), top + PANEL_HEIGHT)], GRID, 1.0);
    }
    for value in [values.first(), values.last()].into_iter().flatten() {
        let label = amount(*value, shape.scale);
        sheet.text(x(*value), top + PANEL_HEIGHT + 11.0, Anchor::Middle, &label);
    }
    sheet.text(left, top - 3.0, Anchor::Start, panel.title);
    for (line, colour) in lines.iter().zip([DARK, PALE]).rev() {
        if !line.is_empty() {
            sheet.line(
                line.iter().map(|(value, figure)| (x(*value), y(*figure))).collect::<Vec<_>>().as_slice(),
                colour,
                1.6,
            );
        }
    }
}

/// What has a place on logarithmic scales.
fn drawable(figure: Figure, points: &[Point]) -> Vec<(f64, f64)> {
    let line = figure.along(points).into_iter();
    line.filter(|(value, figure)| {
        [value, figure].into_iter().all(|number| number.is_finite() && *number > 0.0)
    })
    .collect()
}

fn tidy(mark: f64) -> String {
    if mark < 1.0 {
        format!("{mark}")
    } else {
        short(mark).trim_end_matches(".00").trim_end_matches(".0").to_owned()
    }
}

/// A scale from one power of ten to a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decades {
    low: i32,
    high: i32,
}

impl Decades {
    /// The narrowest that holds all of them, which are positive; `None` if there are none.
    fn of(numbers: impl Iterator<Item = f64>) -> Option<Decades> {
        let logs: Vec<f64> = numbers.map(f64::log10).collect();
        let least = logs.iter().copied().min_by(f64::total_cmp)?;
        let most = logs.iter().copied().max_by(f64::total_cmp)?;
        let low = (least + 1e-9).floor() as i32;
        Some(Decades { low, high: ((most - 1e-9).ceil() as i32).max(low + 1) })
    }

    /// Where a number stands, from 0 to 1.
    fn share(self, number: f64) -> f64 {
        (number.log10() - f64::from(self.low)) / f64::from(self.high - self.low)
    }

    /// The powers of ten in it.
    fn marks(self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10f64.powi(power))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Scale;
    use super::*;

    #[test]
    fn a_scale_holds_every_number_and_is_never_empty() {
        let of = |numbers: &[f64]| Decades::of(numbers.iter().copied());
        assert_eq!(of(&[0.4, 20.0, 3.0]), Some(Decades { low: -1, high: 2 }));
        assert_eq!(of(&[10.0, 1000.0]), Some(Decades { low: 1, high: 3 }));
        assert_eq!(of(&[10.0]), Some(Decades { low: 1, high: 2 }));
        assert_eq!(of(&[]), None);
        let decades = Decades { low: 0, high: 2 };
        assert_eq!((decades.share(1.0), decades.share(10.0), decades.share(100.0)), (0.0, 0.5, 1.0));
        assert_eq!(decades.marks().collect::<Vec<_>>(), [1.0, 10.0, 100.0]);
    }

    #[test]
    fn what_was_measured_for_some_values_only_stands_on_the_scale_of_all() {
        let point = |value, cpu_us| Point { value, cpu_us, ..Point::default() };
        let points = vec![point(1e3, None), point(1e6, Some(1.0)), point(1e9, Some(2.0))];
        let drawn = svg(&[Shape::new("a", ("b", Scale::Count), "c", points, &[])]);
        let places = drawn.split(" x=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse::<f64>());
        assert!(places.map(Result::unwrap).all(|x| (0.0..=WIDTH).contains(&x)), "{drawn}");
    }

    #[test]
    fn what_is_zero_or_missing_is_not_drawn() {
        let point = |value, cpu_us| Point { value, cpu_us, ..Point::default() };
        let points = [point(0.0, Some(1.0)), point(1.0, Some(0.0)), point(2.0, None), point(3.0, Some(5.0))];
        assert_eq!(drawable(Figure::Cpu, &points), [(3.0, 5.0)]);
        let shape = Shape::new("a", ("b", Scale::Count), "c", points.to_vec(), &[]);
        assert!(!svg(&[shape]).contains("NaN"));
        assert!(!svg(&[]).contains("inf"));
    }
}
