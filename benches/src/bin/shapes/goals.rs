//! What is asked of DureMQ along the axes, and whether it holds.

use serde::Serialize;

use super::report::Report;
use super::shape::{Point, Scale, amount};

const RATE_SHARE_MIN: f64 = 0.7;
const RESIDENT_MB_MAX: f64 = 60.0;
const RESIDENT_GROWTH_MAX: f64 = 1.15;
const CONNECTIONS_MB_MAX: f64 = 200.0;
const IDLE_CPU_PERCENT_MAX: f64 = 1.0;
const LOOPBACK_SHARE_MIN: f64 = 0.8;
/// A million messages of 1 KiB.
const STORED_BYTES: f64 = 1e9;

/// One thing that is asked.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) limit: String,
    pub(crate) measured: String,
    pub(crate) holds: bool,
}

/// Those whose axes were measured far enough.
pub(crate) fn judge(report: &Report) -> Vec<Goal> {
    let axis = |name: &str| {
        let shape = report.shapes.iter().find(|shape| shape.axis == name);
        shape.map_or(&[][..], |shape| &shape.points)
    };
    [
        partitions(axis("partitions")),
        stored(axis("stored")),
        stored_growth(axis("stored")),
        connections(axis("idle-connections")),
        waiting(axis("waiting")),
        catch_up(axis("catch-up"), report.loopback_mb_per_s),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn at(points: &[Point], value: f64) -> Option<&Point> {
    points.iter().find(|point| (point.value / value - 1.0).abs() < 0.01)
}

fn partitions(points: &[Point]) -> Option<Goal> {
    let rate = |value| at(points, value)?.messages_per_s;
    let share = rate(100.0)? / rate(1.0)?;
    Some(Goal {
        what: "100 partitions written at once, by the rate of one",
        limit: format!("≥ {RATE_SHARE_MIN}"),
        measured: format!("{share:.2}"),
        holds: share >= RATE_SHARE_MIN,
    })
}

fn stored(points: &[Point]) -> Option<Goal> {
    let resident_mb = at(points, STORED_BYTES)?.resident_mb?;
    Some(Goal {
        what: "RSS with a million messages of 1 KiB stored",
        limit: format!("≤ {RESIDENT_MB_MAX} MB"),
        measured: format!("{resident_mb:.0} MB"),
        holds: resident_mb <= RESIDENT_MB_MAX,
    })
}

fn stored_growth(points: &[Point]) -> Option<Goal> {
    let (from, to) = (at(points, STORED_BYTES)?, points.last()?);
    let growth = to.resident_mb? / from.resident_mb?;
    (to.value > from.value).then(|| Goal {
        what: "RSS while the log grows on, by that with a million messages",
        limit: format!("≤ {RESIDENT_GROWTH_MAX}"),
        measured: format!("{growth:.2} at {}B", amount(to.value, Scale::Count)),
        holds: growth <= RESIDENT_GROWTH_MAX,
    })
}

fn connections(points: &[Point]) -> Option<Goal> {
    let resident_mb = at(points, 10_000.0)?.resident_mb?;
    Some(Goal {
        what: "RSS with 10,000 idle connections",
        limit: format!("≤ {CONNECTIONS_MB_MAX} MB"),
        measured: format!("{resident_mb:.0} MB"),
        holds: resident_mb <= CONNECTIONS_MB_MAX,
    })
}

fn waiting(points: &[Point]) -> Option<Goal> {
    let percent = at(points, 1000.0)?.idle_cpu_percent?;
    Some(Goal {
        what: "1,000 idle partitions with consumers waiting, % of a core",
        limit: format!("≤ {IDLE_CPU_PERCENT_MAX}"),
        measured: format!("{percent:.2}"),
        holds: percent <= IDLE_CPU_PERCENT_MAX,
    })
}

fn catch_up(points: &[Point], loopback_mb_per_s: f64) -> Option<Goal> {
    let share = points.last()?.mb_per_s? / loopback_mb_per_s;
    Some(Goal {
        what: "catch-up read of 64 KiB messages from the page cache, by a stream through loopback",
        limit: format!("≥ {LOOPBACK_SHARE_MIN}"),
        measured: format!("{share:.2}"),
        holds: share >= LOOPBACK_SHARE_MIN,
    })
}

#[cfg(test)]
mod tests {
    use super::super::shape::Shape;
    use super::*;

    fn report(axis: &'static str, points: Vec<Point>) -> Report {
        let mut report = Report::new(String::new(), 4000.0, false);
        report.shapes.push(Shape::new(axis, ("", Scale::Count), "", points, &[]));
        report
    }

    #[test]
    fn goals_are_judged_by_their_axes() {
        let rate = |value, rate| Point { value, messages_per_s: Some(rate), ..Point::default() };
        let goals = judge(&report("partitions", vec![rate(1.0, 100.0), rate(100.0, 69.0)]));
        assert_eq!((goals.len(), goals[0].holds, goals[0].measured.as_str()), (1, false, "0.69"));
        let stored = |value, mb| Point { value, resident_mb: Some(mb), ..Point::default() };
        let goals = judge(&report("stored", vec![stored(1e9, 50.0), stored(2e10, 55.0)]));
        assert_eq!(goals.iter().map(|goal| goal.holds).collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&report("partitions", vec![Point { value: 1.0, ..Point::default() }])), []);
        assert_eq!(judge(&report("stored", Vec::new())), []);
    }
}
