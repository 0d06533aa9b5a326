//! Topics of 1 to 1,000 partitions, all of them written at once.

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::payloads::Payloads;

use super::{Plan, Point, flooded, reader};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const PARTITIONS: [f64; 7] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];
const MESSAGE_BYTES: usize = 1024;
const RATE: f64 = 1000.0;

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for partitions in plan.values(&PARTITIONS) {
        let stage = Stage::start(&[]).await?;
        stage.topic("partitions", partitions as u32).await?;
        let payloads = Payloads::new(MESSAGE_BYTES);
        let producers = stage.producers("partitions", 1).await?;
        let takers = reader(&stage, "partitions").await?;
        let steady = stage.steady(&producers, &payloads, RATE, plan.steady_time(), &takers).await?;
        drop(takers);
        // Message by message to the next partition: as keys spread them.
        let flood = flooded(&stage, plan, &producers, &payloads, 1).await?;
        let point = Point::at(partitions).with_flood(flood, MESSAGE_BYTES);
        points.push(point.with_steady(steady).with_memory(&stage));
    }
    Ok(Shape::new(
        "partitions",
        ("partitions", Scale::Count),
        "One producer, 1 KiB messages, each to the next partition; latency at 1,000/s, to one reader of all.",
        points,
        &[Figure::Cpu, Figure::SteadyCpu, Figure::P99, Figure::Resident],
    ))
}
