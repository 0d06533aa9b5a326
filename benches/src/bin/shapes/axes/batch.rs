//! Batches from a single message to as many as a topic takes by default.

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::payloads::Payloads;

use super::{Plan, Point, flooded};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const BATCHES: [f64; 6] = [1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
const MESSAGE_BYTES: usize = 1024;

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for batch in plan.values(&BATCHES) {
        let stage = Stage::start(&[]).await?;
        stage.topic("batch", 1).await?;
        let producer = stage.client.producer("batch").batch_bytes(batch as usize).build().await?;
        let flood = flooded(&stage, plan, &[producer], &Payloads::new(MESSAGE_BYTES), 1).await?;
        points.push(Point::at(batch).with_flood(flood, MESSAGE_BYTES).with_memory(&stage));
    }
    Ok(Shape::new(
        "batch",
        ("batch at most", Scale::Bytes),
        "One producer, one partition, 1 KiB messages.",
        points,
        &[Figure::Cpu],
    ))
}
