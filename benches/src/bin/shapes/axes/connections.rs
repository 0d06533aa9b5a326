//! 1 to 10,000 producers, each on a connection of its own, with one modest rate for all of them together.

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::payloads::Payloads;

use super::{Plan, Point, reader};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const CONNECTIONS: [f64; 5] = [1.0, 10.0, 100.0, 1000.0, 10_000.0];
/// With ours and the reader's.
pub(super) const FLAGS: [&str; 2] = ["--connections-max", "10100"];
const MESSAGE_BYTES: usize = 100;
const RATE: f64 = 2000.0;

pub(super) async fn measure(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for connections in plan.values(&CONNECTIONS) {
        let stage = Stage::start(&FLAGS).await?;
        stage.topic("connections", 1).await?;
        let producers = stage.producers("connections", connections as usize).await?;
        let payloads = Payloads::new(MESSAGE_BYTES);
        // Each is asked for a session before its first message, which is not what is measured.
        flood(&producers, &payloads, 1, Until::Messages(producers.len() as u64)).await?;
        let takers = reader(&stage, "connections").await?;
        let steady = stage.steady(&producers, &payloads, RATE, plan.steady_time(), &takers).await?;
        points.push(Point::at(connections).with_steady(steady).with_memory(&stage));
    }
    Ok(Shape::new(
        "connections",
        ("producers", Scale::Count),
        "100 B at 2,000/s of all of them together, each message alone on its connection, to one reader.",
        points,
        &[Figure::SteadyCpu, Figure::P99, Figure::ResidentPerItem],
    ))
}
