//! Whether a cost bends upward along an axis.

use serde::Serialize;

use super::figure::Figure;
use super::shape::{Point, Scale, amount, short};

/// What is to be said of one figure along one axis.
#[derive(Debug, Serialize)]
pub(crate) struct Judgement {
    pub(crate) figure: &'static str,
    /// At the largest value, by that at the smallest one.
    pub(crate) ratio: f64,
    /// The most by which it rises from any value to any larger one: a dip on the way hides nothing.
    pub(crate) rise: f64,
    pub(crate) rise_max: f64,
    pub(crate) flat: bool,
    /// The same for people.
    pub(crate) words: String,
}

impl Judgement {
    /// Of what was measured; `None` with fewer than two costs. What is not above zero is lost in what cannot be told
    /// apart, as ten connections are among megabytes.
    pub(crate) fn of(figure: Figure, points: &[Point], scale: Scale) -> Option<Judgement> {
        let mut costs = figure.along(points);
        costs.retain(|(_, cost)| *cost > 0.0);
        let (first, last) = (costs.first()?, costs.last()?);
        let (from, to) = steepest(&costs)?;
        let (ratio, rise, rise_max) = (last.1 / first.1, to.1 / from.1, figure.rise_max());
        let flat = rise <= rise_max;
        let at = |(value, cost): &(f64, f64)| format!("{} at {}", short(*cost), amount(*value, scale));
        let verdict = match (flat, rise > 1.0) {
            (true, false) => "never rises".to_owned(),
            (true, true) => format!("flat: rises at most {rise:.2}-fold"),
            (false, _) => format!("bends upward: {rise:.2}-fold from {} to {}", at(&from), at(&to)),
        };
        let words = format!(
            "{}: {}, {}: {ratio:.2}-fold; {verdict} ({rise_max:.2} is allowed)",
            figure.name(),
            at(first),
            at(last),
        );
        Some(Judgement { figure: figure.name(), ratio, rise, rise_max, flat, words })
    }
}

type Cost = (f64, f64);

/// The pair, in order, between which the cost rises most (or falls least).
fn steepest(costs: &[Cost]) -> Option<(Cost, Cost)> {
    let pairs =
        costs.iter().enumerate().flat_map(|(at, from)| costs[at + 1..].iter().map(move |to| (*from, *to)));
    pairs.max_by(|(from, to), (other_from, other_to)| (to.1 / from.1).total_cmp(&(other_to.1 / other_from.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(costs: &[f64]) -> Judgement {
        let point = |(at, cost): (usize, &f64)| Point {
            value: 10f64.powi(at as i32),
            cpu_us: Some(*cost),
            ..Point::default()
        };
        let points: Vec<Point> = costs.iter().enumerate().map(point).collect();
        Judgement::of(Figure::Cpu, &points, Scale::Count).unwrap()
    }

    #[test]
    fn a_cost_that_falls_is_flat() {
        let judgement = judged(&[8.0, 4.0, 2.0]);
        assert!(judgement.flat && judgement.rise < 1.0 && judgement.ratio == 0.25);
        assert!(judgement.words.contains("never rises"), "{}", judgement.words);
    }

    #[test]
    fn a_rise_behind_a_dip_is_seen_although_the_ends_agree() {
        let judgement = judged(&[2.0, 1.0, 2.0]);
        assert!(!judgement.flat);
        assert_eq!((judgement.ratio, judgement.rise), (1.0, 2.0));
        assert!(
            judgement.words.contains("bends upward: 2.00-fold from 1.00 at 10 to 2.00 at 100"),
            "{}",
            judgement.words
        );
    }

    #[test]
    fn seven_tenths_of_the_rate_are_allowed_and_less_is_not() {
        assert!(judged(&[0.71, 1.0]).flat);
        assert!(!judged(&[0.69, 1.0]).flat);
    }

    #[test]
    fn what_is_below_zero_is_no_cost() {
        let judgement = judged(&[-19.0, 5.0, -78.0, 6.0]);
        assert!(judgement.flat);
        assert_eq!((judgement.ratio, judgement.rise), (1.2, 1.2));
    }

    #[test]
    fn one_point_is_no_shape() {
        assert!(Judgement::of(Figure::Cpu, &[Point::default()], Scale::Count).is_none());
    }
}
