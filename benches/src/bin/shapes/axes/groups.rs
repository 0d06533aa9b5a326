//! 1 to 100 groups on one topic, each of which gets every message.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::takers::Takers;
use dure_benches::payloads::Payloads;
use dure_client::QueueSettings;

use super::{Plan, Point};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

const GROUPS: [f64; 5] = [1.0, 3.0, 10.0, 30.0, 100.0];
const MESSAGE_BYTES: usize = 100;
const STREAM_RATE: f64 = 1000.0;
const QUEUE_RATE: f64 = 100.0;
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const PREFETCH: u32 = 1000;

/// Not latency: a message has as many deliveries as there are groups, and on the same cores the last waits for the others.
const JUDGED: [Figure; 2] = [Figure::SteadyCpu, Figure::ResidentPerItem];

pub(super) async fn streams(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for groups in plan.values(&GROUPS) {
        let stage = Stage::start(&[]).await?;
        stage.topic("groups", 1).await?;
        let mut takers = Takers::new(stage.clock);
        for group in 0..groups as u32 {
            let stream = stage.connect().await?.stream("groups").group(format!("group-{group}"));
            takers.read(stream.auto_commit(COMMIT_EVERY).subscribe().await?);
        }
        points.push(measure(&stage, plan, groups, STREAM_RATE, &takers).await?);
    }
    Ok(Shape::new(
        "stream-groups",
        ("stream groups", Scale::Count),
        "100 B at 1,000/s into one partition, to one member of each group; a message is counted once for each group.",
        points,
        &JUDGED,
    ))
}

pub(super) async fn queues(plan: &Plan) -> Res<Shape> {
    let mut points = Vec::new();
    for groups in plan.values(&GROUPS) {
        let stage = Stage::start(&[]).await?;
        stage.topic("groups", 1).await?;
        let mut takers = Takers::new(stage.clock);
        for group in 0..groups as u32 {
            let group = format!("group-{group}");
            let admin = stage.client.admin();
            admin.create_queue_group(&group, &["groups"], &QueueSettings::default()).await?;
            let jobs = stage.connect().await?.queue("groups", group).prefetch(PREFETCH);
            takers.work(jobs.subscribe().await?);
        }
        points.push(measure(&stage, plan, groups, QUEUE_RATE, &takers).await?);
    }
    Ok(Shape::new(
        "queue-groups",
        ("queue groups", Scale::Count),
        "100 B at 100/s into one partition, to one worker of each group, which acknowledges each message by itself; a \
         message is counted once for each group.",
        points,
        &JUDGED,
    ))
}

async fn measure(stage: &Stage, plan: &Plan, groups: f64, rate: f64, takers: &Takers) -> Res<Point> {
    let producers = stage.producers("groups", 1).await?;
    let payloads = Payloads::new(MESSAGE_BYTES);
    let steady = stage.steady(&producers, &payloads, rate, plan.steady_time(), takers).await?;
    Ok(Point::at(groups).with_steady(steady).with_memory(stage))
}
