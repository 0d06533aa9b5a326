//! An axis as it was measured, and its table.

use std::fmt::Write;

use serde::Serialize;

use super::figure::Figure;
use super::judgement::Judgement;

/// What was measured at one value of an axis; what does not apply is absent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Point {
    pub(crate) value: f64,
    /// As fast as it goes.
    pub(crate) messages_per_s: Option<f64>,
    pub(crate) mb_per_s: Option<f64>,
    /// The broker's processor time for each message, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// At a modest fixed rate, from the intended send time until somebody had it.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// The broker's processor time for each message at that rate, in microseconds.
    pub(crate) steady_cpu_us: Option<f64>,
    /// Of one core, while nothing is to do.
    pub(crate) idle_cpu_percent: Option<f64>,
    pub(crate) resident_mb: Option<f64>,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scale {
    /// 1 k is 1,000.
    Count,
    /// 1 KiB is 1,024.
    Bytes,
}

/// One axis.
#[derive(Debug, Serialize)]
pub(crate) struct Shape {
    pub(crate) axis: &'static str,
    /// What its values count.
    pub(crate) values: &'static str,
    pub(crate) scale: Scale,
    /// What was done at each value.
    pub(crate) load: &'static str,
    pub(crate) points: Vec<Point>,
    pub(crate) judgements: Vec<Judgement>,
}

impl Shape {
    /// Of an axis whose costs are to be judged by these figures.
    pub(crate) fn new(
        axis: &'static str,
        (values, scale): (&'static str, Scale),
        load: &'static str,
        points: Vec<Point>,
        judged: &[Figure],
    ) -> Shape {
        let judgements = judged.iter().filter_map(|figure| Judgement::of(*figure, &points, scale)).collect();
        Shape { axis, values, scale, load, points, judgements }
    }

    /// Its table and what is to be said of it, in Markdown.
    pub(crate) fn text(&self) -> String {
        let shown: Vec<Figure> = Figure::COLUMNS
            .into_iter()
            .filter(|figure| self.points.iter().any(|point| figure.in_point(point).is_some()))
            .collect();
        let mut text = format!("### {}\n\n{}\n\n| {} |", self.axis, self.load, self.values);
        shown.iter().for_each(|figure| _ = write!(text, " {} |", figure.name()));
        text.push_str("\n|---|");
        shown.iter().for_each(|_| text.push_str("---|"));
        text.push('\n');
        for point in &self.points {
            let _ = write!(text, "| {} |", amount(point.value, self.scale));
            for figure in &shown {
                let cell = figure.in_point(point).map_or_else(|| "–".to_owned(), short);
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text.push('\n');
        for judgement in &self.judgements {
            let _ = writeln!(text, "- {}", judgement.words);
        }
        text
    }
}

/// A value of an axis.
pub(crate) fn amount(value: f64, scale: Scale) -> String {
    let (base, units): (f64, &[&str]) = match scale {
        Scale::Count => (1000.0, &["", " k", " M", " G"]),
        Scale::Bytes => (1024.0, &[" B", " KiB", " MiB", " GiB"]),
    };
    let mut rest = value;
    let mut unit = 0;
    while rest >= base && unit + 1 < units.len() {
        rest /= base;
        unit += 1;
    }
    let digits = usize::from((rest - rest.round()).abs() > 0.05);
    format!("{rest:.digits$}{}", units[unit])
}

/// A figure to about three digits.
pub(crate) fn short(figure: f64) -> String {
    match figure.abs() {
        large if large >= 1e4 => amount(figure, Scale::Count),
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_their_scale() {
        assert_eq!(amount(16.0, Scale::Bytes), "16 B");
        assert_eq!(amount(1048576.0, Scale::Bytes), "1 MiB");
        assert_eq!(amount(100e6, Scale::Count), "100 M");
        assert_eq!(amount(2.5e9, Scale::Count), "2.5 G");
        assert_eq!(
            (short(412_345.0), short(123.4), short(1.234)),
            ("412.3 k".into(), "123".into(), "1.23".into())
        );
    }

    #[test]
    fn the_table_leaves_out_what_nobody_measured() {
        let point = |value| Point { value, cpu_us: Some(1.0), ..Point::default() };
        let points = vec![point(1.0), Point { value: 10.0, ..Point::default() }];
        let values = ("partitions", Scale::Count);
        let shape = Shape::new("partitions", values, "load", points, &[Figure::Cpu]);
        let text = shape.text();
        assert!(
            text.contains("| partitions | broker µs/message |\n|---|---|\n| 1 | 1.00 |\n| 10 | – |"),
            "{text}"
        );
    }
}
