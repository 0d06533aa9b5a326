//! The figures of a point: how each is called, and how far it may rise along an axis.

use serde::Serialize;

use super::shape::Point;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Figure {
    Rate,
    Bytes,
    Cpu,
    /// For an axis whose values are bytes of a message.
    CpuPerByte,
    P50,
    P99,
    SteadyCpu,
    IdleCpu,
    Resident,
    /// What each more of the axis takes, from the first value on.
    ResidentPerItem,
}

/// What is written as fast with the largest value as with the smallest to seven tenths costs no more than this.
const CPU_RISE_MAX: f64 = 1.0 / 0.7;
const LATENCY_RISE_MAX: f64 = 2.0;
const MEMORY_RISE_MAX: f64 = 1.5;

impl Figure {
    /// Those that a table shows.
    pub(crate) const COLUMNS: [Figure; 8] = [
        Figure::Rate,
        Figure::Bytes,
        Figure::Cpu,
        Figure::P50,
        Figure::P99,
        Figure::SteadyCpu,
        Figure::IdleCpu,
        Figure::Resident,
    ];

    /// With its unit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Figure::Rate => "messages/s",
            Figure::Bytes => "MB/s",
            Figure::Cpu => "broker µs/message",
            Figure::CpuPerByte => "broker µs/KiB",
            Figure::P50 => "p50 ms",
            Figure::P99 => "p99 ms",
            Figure::SteadyCpu => "broker µs/message at that rate",
            Figure::IdleCpu => "idle, % of a core",
            Figure::Resident => "RSS, MB",
            Figure::ResidentPerItem => "KB for each more",
        }
    }

    /// What it may rise by, from any value of an axis to any larger one, and still be called flat.
    pub(crate) fn rise_max(self) -> f64 {
        match self {
            Figure::P50 | Figure::P99 => LATENCY_RISE_MAX,
            Figure::Resident | Figure::ResidentPerItem => MEMORY_RISE_MAX,
            _ => CPU_RISE_MAX,
        }
    }

    /// As a point alone shows it.
    pub(crate) fn in_point(self, point: &Point) -> Option<f64> {
        match self {
            Figure::Rate => point.messages_per_s,
            Figure::Bytes => point.mb_per_s,
            Figure::Cpu => point.cpu_us,
            Figure::CpuPerByte => point.cpu_us.map(|cpu_us| cpu_us * 1024.0 / point.value),
            Figure::P50 => point.p50_ms,
            Figure::P99 => point.p99_ms,
            Figure::SteadyCpu => point.steady_cpu_us,
            Figure::IdleCpu => point.idle_cpu_percent,
            Figure::Resident => point.resident_mb,
            Figure::ResidentPerItem => None,
        }
    }

    /// As it is along an axis, by value.
    pub(crate) fn along(self, points: &[Point]) -> Vec<(f64, f64)> {
        let Some(first) = points.first() else { return Vec::new() };
        let of = |point: &Point| match self {
            Figure::ResidentPerItem if point.value > first.value => {
                let more = point.resident_mb? - first.resident_mb?;
                Some(more * 1e3 / (point.value - first.value))
            }
            _ => self.in_point(point),
        };
        points.iter().filter_map(|point| Some((point.value, of(point)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_each_more_leaves_out_what_is_there_anyway() {
        let point = |value, mb| Point { value, resident_mb: Some(mb), ..Point::default() };
        let points = [point(0.0, 20.0), point(1000.0, 40.0), point(10_000.0, 120.0)];
        assert_eq!(Figure::ResidentPerItem.along(&points), [(1000.0, 20.0), (10_000.0, 10.0)]);
        assert_eq!(Figure::Resident.along(&points).len(), 3);
    }

    #[test]
    fn a_cost_by_bytes_is_by_those_of_the_message() {
        let point = Point { value: 2048.0, cpu_us: Some(3.0), ..Point::default() };
        assert_eq!(Figure::CpuPerByte.in_point(&point), Some(1.5));
    }
}
