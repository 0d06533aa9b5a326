//! Messages from 16 bytes to 1 MiB.

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::payloads::Payloads;

use super::{Plan, Point, flooded, reader};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const SIZES: [f64; 9] = [16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
/// At the fixed rate, and no more than that.
const RATE: f64 = 1000.0;
const STEADY_BYTES_PER_S: f64 = 50e6;

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for size in plan.values(&SIZES) {
        let stage = Stage::start(&[]).await?;
        stage.topic("size", 1).await?;
        let payloads = Payloads::new(size as usize);
        let producers = stage.producers("size", 1).await?;
        let rate = RATE.min(STEADY_BYTES_PER_S / size);
        let takers = reader(&stage, "size").await?;
        let steady = stage.steady(&producers, &payloads, rate, plan.steady_time(), &takers).await?;
        drop(takers);
        let flood = flooded(&stage, plan, &producers, &payloads, 1).await?;
        points.push(Point::at(size).with_flood(flood, size as usize).with_steady(steady).with_memory(&stage));
    }
    Ok(Shape::new(
        "size",
        ("message", Scale::Bytes),
        "One producer, one partition; latency at 1,000/s and no more than 50 MB/s, to one reader.",
        points,
        &[Figure::CpuPerByte],
    ))
}
