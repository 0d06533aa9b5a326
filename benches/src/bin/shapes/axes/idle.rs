//! What the broker costs while nothing is to do: with up to 10,000 connections, and with consumers that wait at up to 1,000
//! partitions.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::takers::Takers;
use dure_client::QueueSettings;
use tokio::time::{Instant, sleep};

use super::connections::FLAGS;
use super::{Plan, Point, reader};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const CONNECTIONS: [f64; 5] = [1.0, 100.0, 1000.0, 3000.0, 10_000.0];
const PARTITIONS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];
/// Until what was done to get there has settled, and for how long idleness is measured then.
fn times(plan: &Plan) -> (Duration, Duration) {
    let (settle, measured) = if plan.quick { (1500, 2500) } else { (3000, 10_000) };
    (Duration::from_millis(settle), Duration::from_millis(measured))
}

pub(super) async fn connections(plan: &Plan) -> Res<Shape> {
    let stage = Stage::start(&FLAGS).await?;
    let (mut points, mut clients) = (Vec::new(), Vec::new());
    for connections in plan.values(&CONNECTIONS) {
        // The stage's own is one of them.
        while clients.len() + 1 < connections as usize {
            clients.push(stage.connect().await?);
        }
        points.push(idle(&stage, plan, connections).await);
    }
    Ok(Shape::new(
        "idle-connections",
        ("connections", Scale::Count),
        "Connected, and nothing else.",
        points,
        &[Figure::ResidentPerItem],
    ))
}

pub(super) async fn waiting(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for partitions in plan.values(&PARTITIONS) {
        let stage = Stage::start(&[]).await?;
        stage.topic("waiting", partitions as u32).await?;
        let alone = reader(&stage, "waiting").await?;
        let mut takers = Takers::new(stage.clock);
        takers.read(stage.connect().await?.stream("waiting").group("members").subscribe().await?);
        let admin = stage.client.admin();
        admin.create_queue_group("workers", &["waiting"], &QueueSettings::default()).await?;
        takers.work(stage.connect().await?.queue("waiting", "workers").subscribe().await?);
        points.push(idle(&stage, plan, partitions).await);
        drop((alone, takers));
    }
    Ok(Shape::new(
        "waiting",
        ("partitions", Scale::Count),
        "A reader, a member of a stream group and a worker of a queue group wait at all partitions of an empty topic.",
        points,
        &[Figure::ResidentPerItem],
    ))
}

async fn idle(stage: &Stage, plan: &Plan, value: f64) -> Point {
    let (settle, measured) = times(plan);
    sleep(settle).await;
    let (began, cpu) = (Instant::now(), stage.server.cpu_seconds());
    sleep(measured).await;
    let busy = (stage.server.cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
    Point { idle_cpu_percent: Some(busy * 100.0), ..Point::at(value) }.with_memory(stage)
}
