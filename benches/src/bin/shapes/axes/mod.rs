//! The axes: what grows, and what is done at each value. Latencies are measured first, beside an idle broker, then what goes
//! as fast as it can.

mod backlog;
mod batch;
mod catch_up;
mod connections;
mod groups;
mod idle;
mod partitions;
mod size;
mod stored;

use std::time::Duration;

use clap::ValueEnum;
use dure_benches::Res;
use dure_benches::ages::Ages;
use dure_benches::load::Done;
use dure_benches::load::Stage;
use dure_benches::load::flood::{Until, flood};
use dure_benches::load::takers::Takers;
use dure_benches::payloads::Payloads;
use dure_client::Producer;

use super::shape::{Point, Shape};

/// One of them.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Axis {
    Size,
    Batch,
    Partitions,
    StreamGroups,
    QueueGroups,
    Connections,
    Stored,
    Backlog,
    IdleConnections,
    Waiting,
    CatchUp,
}

/// How far and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) stored_bytes_max: f64,
    pub(crate) backlog_max: f64,
}

impl Axis {
    pub(crate) const ALL: [Axis; 11] = [
        Axis::Size,
        Axis::Batch,
        Axis::Partitions,
        Axis::StreamGroups,
        Axis::QueueGroups,
        Axis::Connections,
        Axis::Stored,
        Axis::Backlog,
        Axis::IdleConnections,
        Axis::Waiting,
        Axis::CatchUp,
    ];

    /// One shape, or several of one run.
    pub(crate) async fn measure(self, plan: &Plan) -> Res<Vec<Shape>> {
        Ok(match self {
            Axis::Size => vec![size::measure(plan).await?],
            Axis::Batch => vec![batch::measure(plan).await?],
            Axis::Partitions => vec![partitions::measure(plan).await?],
            Axis::StreamGroups => vec![groups::streams(plan).await?],
            Axis::QueueGroups => vec![groups::queues(plan).await?],
            Axis::Connections => vec![connections::measure(plan).await?],
            Axis::Stored => vec![stored::measure(plan).await?],
            Axis::Backlog => backlog::measure(plan).await?,
            Axis::IdleConnections => vec![idle::connections(plan).await?],
            Axis::Waiting => vec![idle::waiting(plan).await?],
            Axis::CatchUp => vec![catch_up::measure(plan).await?],
        })
    }
}

impl Plan {
    fn flood_time(&self) -> Duration {
        if self.quick { Duration::from_millis(1200) } else { Duration::from_secs(4) }
    }

    fn steady_time(&self) -> Duration {
        if self.quick { Duration::from_millis(1500) } else { Duration::from_secs(5) }
    }

    /// In a quick run every second one, and the last.
    fn values(&self, all: &[f64]) -> Vec<f64> {
        let last = all.len() - 1;
        let wanted = |at: &usize| !self.quick || at.is_multiple_of(2) || *at == last;
        (0..all.len()).filter(wanted).map(|at| all[at]).collect()
    }
}

/// Sends as fast as it goes for the plan's time, after a warm-up; `run` messages in a row go to one partition.
async fn flooded(
    stage: &Stage,
    plan: &Plan,
    producers: &[Producer],
    payloads: &Payloads,
    run: u64,
) -> Res<Done> {
    flood(producers, payloads, run, Until::Time(plan.flood_time() / 4)).await?;
    stage.measured(flood(producers, payloads, run, Until::Time(plan.flood_time()))).await
}

impl Point {
    fn at(value: f64) -> Point {
        Point { value, ..Point::default() }
    }

    fn with_flood(self, done: Done, message_bytes: usize) -> Point {
        Point {
            messages_per_s: Some(done.messages_per_s()),
            mb_per_s: Some(done.messages_per_s() * message_bytes as f64 / 1e6),
            cpu_us: Some(done.cpu_us()),
            ..self
        }
    }

    fn with_steady(self, (done, ages): (Done, Ages)) -> Point {
        Point {
            p50_ms: ages.at_ms(0.5),
            p99_ms: ages.at_ms(0.99),
            steady_cpu_us: Some(done.cpu_us()),
            ..self
        }
    }

    fn with_memory(self, stage: &Stage) -> Point {
        Point { resident_mb: Some(stage.resident_mb()), ..self }
    }
}

/// A reader of a whole topic, from its end on.
async fn reader(stage: &Stage, topic: &str) -> Res<Takers> {
    let mut takers = Takers::new(stage.clock);
    let stream = stage.connect().await?.stream(topic).from(dure_client::Start::Latest);
    takers.read(stream.subscribe().await?);
    Ok(takers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_keeps_both_ends() {
        let plan = |quick| Plan { quick, stored_bytes_max: 0.0, backlog_max: 0.0 };
        assert_eq!(plan(true).values(&[1.0, 2.0, 3.0, 4.0]), [1.0, 3.0, 4.0]);
        assert_eq!(plan(true).values(&[1.0, 2.0, 3.0]), [1.0, 3.0]);
        assert_eq!(plan(false).values(&[1.0, 2.0]), [1.0, 2.0]);
    }
}
