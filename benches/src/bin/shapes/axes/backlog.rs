//! A queue group that works at the head of up to 100 million unsettled messages: in order, and with every third
//! acknowledged first, so that what is settled is full of holes.

use std::time::Duration;

use dure_benches::Res;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::payloads::Payloads;
use dure_client::{Client, Job, JobStream, QueueSettings};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};

use super::{Plan, Point};
use crate::figure::Figure;
use crate::shape::{Scale, Shape};

/// The least is little more than what is worked off.
const BACKLOGS: [f64; 5] = [1e6, 3e6, 1e7, 3e7, 1e8];
const MESSAGE_BYTES: usize = 16;
const WARM_UP_BYTES: usize = 1024;
const PREFETCH: u32 = 1000;
/// How long what is not acknowledged at once goes back for: until all of it has been looked at.
const HOLES: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of a message that comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// It is acknowledged.
    AsItComes,
    /// Every third is, the others go back and are when they come again.
    ThirdsFirst,
}

pub(super) async fn measure(plan: &Plan) -> Res<Vec<Shape>> {
    let stage = Stage::start(&[]).await?;
    stage.topic("backlog", 1).await?;
    let admin = stage.client.admin();
    admin.create_queue_group("workers", &["backlog"], &QueueSettings::default()).await?;
    let producers = stage.producers("backlog", 1).await?;
    let payloads = Payloads::new(MESSAGE_BYTES);
    warm_up(&stage, plan).await?;
    let worked = if plan.quick { 50_000 } else { 100_000 };
    let (mut in_order, mut thirds, mut sent, mut settled) = (Vec::new(), Vec::new(), 0, 0);
    for backlog in values(plan.backlog_max) {
        let more = backlog as u64 + settled - sent;
        let filled = stage.measured(flood(&producers, &payloads, 1, Until::Messages(more))).await?;
        sent += more;
        for (order, points) in [(Order::AsItComes, &mut in_order), (Order::ThirdsFirst, &mut thirds)] {
            let client = stage.connect().await?;
            let began = Instant::now();
            let done = stage.measured(work(&client, worked, order)).await?;
            settled += worked;
            let point = Point { cpu_us: Some(done.cpu_us()), ..Point::at(backlog) }.with_memory(&stage);
            let rate = (order == Order::AsItComes).then(|| worked as f64 / began.elapsed().as_secs_f64());
            points.push(Point { messages_per_s: rate, ..point });
        }
        eprintln!("backlog {backlog:.0}: filled at {:.0} messages/s", filled.messages_per_s());
    }
    let values = ("unsettled messages", Scale::Count);
    Ok(vec![
        Shape::new(
            "backlog",
            values,
            "16 B messages in one partition; one worker takes from the head of them and acknowledges each by itself.",
            in_order,
            &[Figure::Cpu, Figure::Resident],
        ),
        Shape::new(
            "backlog-thirds",
            values,
            "The same, but only every third is acknowledged when it comes first; the others are released for a second, \
             and acknowledged when they come again.",
            thirds,
            &[Figure::Cpu, Figure::Resident],
        ),
    ])
}

/// Buffers that any load leaves behind are there before memory is looked at.
async fn warm_up(stage: &Stage, plan: &Plan) -> Res {
    stage.topic("warm-up", 1).await?;
    let producers = stage.producers("warm-up", 1).await?;
    flood(&producers, &Payloads::new(WARM_UP_BYTES), 1, Until::Time(plan.flood_time())).await.map(drop)
}

/// Those that are asked for, and the most that is.
fn values(max: f64) -> Vec<f64> {
    let mut values: Vec<f64> = BACKLOGS.into_iter().filter(|value| *value < 0.99 * max).collect();
    values.push(max);
    values
}

/// Settles so many messages for good.
async fn work(client: &Client, messages: u64, order: Order) -> Res<u64> {
    let mut jobs = client.queue("backlog", "workers").prefetch(PREFETCH).subscribe().await?;
    let (mut fresh, mut acked, mut doing) = (0, 0, FuturesUnordered::new());
    while acked < messages {
        tokio::select! {
            job = next(&mut jobs) => {
                let job = job?;
                if job.attempt() == 1 {
                    if fresh == messages {
                        // Somebody else's turn: it goes back as it came.
                        drop(job);
                        continue;
                    }
                    fresh += 1;
                }
                let ack = job.attempt() > 1 || order == Order::AsItComes || job.offset() % 3 == 0;
                doing.push(settle(job, ack));
            }
            Some(settled) = doing.next() => acked += u64::from(settled?),
        }
    }
    Ok(messages)
}

async fn next(jobs: &mut JobStream) -> Res<Job> {
    let job = timeout(PATIENCE, jobs.next()).await.map_err(|_| "no message came")?;
    Ok(job.ok_or("the worker's stream ended")??)
}

/// Whether it is settled for good.
async fn settle(job: Job, ack: bool) -> Res<bool> {
    match ack {
        true => job.ack().await?,
        false => job.release_after(HOLES).await?,
    }
    Ok(ack)
}
