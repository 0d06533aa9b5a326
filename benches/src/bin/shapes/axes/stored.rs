//! A log that grows from 1 MB to some 10 GB.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::payloads::Payloads;
use tokio::time::sleep;

use super::{Plan, Point, reader};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const STORED: [f64; 7] = [1e6, 1e7, 1e8, 1e9, 3e9, 1e10, 2e10];
const MESSAGE_BYTES: usize = 1000;
/// The newest of what is stored, by which the rate is measured; less of it would not fill a second.
const MEASURED_BYTES: f64 = 400e6;
const RATE: f64 = 1000.0;
/// Until checkpoints have caught up with what was written.
const SETTLE: Duration = Duration::from_millis(1500);

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let stage = Stage::start(&[]).await?;
    stage.topic("stored", 1).await?;
    let payloads = Payloads::new(MESSAGE_BYTES);
    let producers = stage.producers("stored", 1).await?;
    let (mut points, mut stored) = (Vec::new(), 0.0);
    for value in values(plan.stored_bytes_max) {
        let more = |bytes: f64| {
            let messages = (bytes / MESSAGE_BYTES as f64) as u64;
            flood(&producers, &payloads, 1, Until::Messages(messages))
        };
        let measured = MEASURED_BYTES.min(value - stored);
        more(value - stored - measured).await?;
        let done = stage.measured(more(measured)).await?;
        stored = value;
        sleep(SETTLE).await;
        let takers = reader(&stage, "stored").await?;
        let steady = stage.steady(&producers, &payloads, RATE, plan.steady_time(), &takers).await?;
        let point = Point::at(value).with_steady(steady).with_memory(&stage);
        points.push(if measured < MEASURED_BYTES { point } else { point.with_flood(done, MESSAGE_BYTES) });
    }
    Ok(Shape::new(
        "stored",
        ("bytes stored", Scale::Count),
        "One log of 1,000 B messages that grows; the rate is of the last 400 MB before each value, latency at 1,000/s to a \
         reader of its end.",
        points,
        &[Figure::Cpu, Figure::SteadyCpu, Figure::P99],
    ))
}

/// Those that may be stored, and the most that may.
fn values(max: f64) -> Vec<f64> {
    let mut values: Vec<f64> = STORED.into_iter().filter(|value| *value < 0.99 * max).collect();
    values.push(max);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_as_far_as_it_may() {
        assert_eq!(values(2e9), [1e6, 1e7, 1e8, 1e9, 2e9]);
        assert_eq!(values(2e10).len(), STORED.len());
        assert_eq!(values(5e10).last(), Some(&5e10));
    }
}
