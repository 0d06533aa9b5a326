//! `submit`: photos into the store, a job for each into the queue.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::time::Duration;

use dure_client::{Ack, Client, Delivery, Message, QueueSettings};
use photo_pipeline::{Job, JobId, Store};
use serde_json::json;
use tokio::task::spawn_blocking;

use super::args::{Output, QueueArgs, SubmitArgs};
use super::failure::Failure;
use super::folder::{photos_in, store_photos};
use super::progress::counting;
use super::queue::{Position, connect, ensure};
use super::stop::Stop;

const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Jobs that are sent and not acknowledged yet.
const IN_FLIGHT_MAX: usize = 1000;

/// Sends a job for each; `acked` is called for each that the broker has, in order. Returns where each went.
pub(crate) async fn send(
    client: &Client,
    queue: &QueueArgs,
    jobs: &[Job],
    mut acked: impl FnMut(&Job, &Ack) -> Result<(), Failure>,
) -> Result<BTreeMap<Position, JobId>, Failure> {
    let producer = client.producer(&queue.topic).build().await;
    let producer = producer.map_err(Failure::during(format!("cannot send to the topic {}", queue.topic)))?;
    let mut positions = BTreeMap::new();
    let mut in_flight: VecDeque<(&Job, Delivery)> = VecDeque::new();
    let mut jobs = jobs.iter();
    loop {
        let next = if in_flight.len() < IN_FLIGHT_MAX { jobs.next() } else { None };
        if let Some(job) = next {
            let sent = producer.enqueue(Message::new(job.to_json())).await;
            in_flight
                .push_back((job, sent.map_err(Failure::during(format!("cannot submit {}", job.input)))?));
        } else if let Some((job, delivery)) = in_flight.pop_front() {
            let ack = delivery.await.map_err(Failure::during(format!("cannot submit {}", job.input)))?;
            positions.extend(ack.offset.map(|offset| ((ack.partition, offset), job.id())));
            acked(job, &ack)?;
        } else {
            return Ok(positions);
        }
    }
}

pub(crate) async fn run(args: SubmitArgs, stop: &Stop) -> Result<(), Failure> {
    tokio::select! {
        submitted = submit(args) => submitted,
        _ = stop.asked() => Err(Failure::Interrupted(": some photos may not have been submitted".into())),
    }
}

async fn submit(args: SubmitArgs) -> Result<(), Failure> {
    let SubmitArgs { photos: folder, queue, place, ops, output } = args;
    let photos = photos_in(&folder, &place.out)?;
    let client = connect(&queue, "photo-submit", CONNECT_WAIT).await?;
    ensure(&client, &queue, &QueueSettings::default()).await?;
    let store = Store::open(place.store())?;
    let bar = counting("storing photos", photos.len());
    let storing = spawn_blocking(move || store_photos(&store, &folder, &photos, &ops, || bar.inc(1)));
    let jobs = storing.await.map_err(Failure::during("storing photos"))??;
    let mut out = std::io::stdout().lock();
    let positions = send(&client, &queue, &jobs, |job, ack| match output {
        Output::Table => Ok(()),
        Output::Json => {
            let line = json!({
                "input": job.input, "photo": job.photo, "job": job.id(), "output": job.output_name(),
                "topic": &*ack.topic, "partition": ack.partition, "offset": ack.offset,
            });
            writeln!(out, "{line}").map_err(Failure::during("cannot write to standard output"))
        }
    });
    let count = positions.await?.len();
    client.close().await;
    if output == Output::Table {
        println!("{count} photos submitted to topic {} for group {}", queue.topic, queue.group);
    }
    Ok(())
}
