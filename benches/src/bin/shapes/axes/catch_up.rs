//! Reading what others read long ago, from the page cache, by the size of messages.

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::payloads::Payloads;

use super::{Plan, Point};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const SIZES: [f64; 4] = [100.0, 1024.0, 8192.0, 65536.0];
/// Less than what the broker keeps in the page cache.
const BYTES: f64 = 600e6;

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let bytes = if plan.quick { BYTES / 2.0 } else { BYTES };
    let mut points = Vec::new();
    for size in plan.values(&SIZES) {
        let stage = Stage::start(&[]).await?;
        stage.topic("catch-up", 1).await?;
        let producers = stage.producers("catch-up", 1).await?;
        let messages = (bytes / size) as u64;
        flood(&producers, &Payloads::new(size as usize), 1, Until::Messages(messages)).await?;
        let done = stage.measured(read(&stage)).await?;
        points.push(Point::at(size).with_flood(done, size as usize).with_memory(&stage));
    }
    Ok(Shape::new(
        "catch-up",
        ("message", Scale::Bytes),
        "A stream reads what is stored from its beginning; the client unpacks every message on the same cores.",
        points,
        &[Figure::CpuPerByte],
    ))
}

async fn read(stage: &Stage) -> Res<u64> {
    let mut stream = stage.client.stream("catch-up").until_high_watermark().subscribe().await?;
    let mut messages = 0;
    while let Some(message) = stream.next().await {
        message?;
        messages += 1;
    }
    Ok(messages)
}
