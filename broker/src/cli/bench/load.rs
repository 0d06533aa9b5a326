//! What one producer sends, and when.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use dure_client::{Client, Compression, Delivery, Error, Message, Producer};
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::args;
use super::super::failure::{Failure, Outcome};
use super::pace::Pace;
use super::report::{Progress, histogram, micros};
use super::stamp::Stamp;

/// Random bytes that payloads are cut from: longer than a batch, so that none holds a piece twice.
const POOL_BYTES: usize = 16 << 20;
/// At full speed, messages between two looks at the clock.
const LOOK_EVERY: u64 = 16;
/// Acknowledgements at most that have one time.
const TIMED_TOGETHER_MAX: usize = 256;
/// The largest payload.
const PAYLOAD_BYTES_MAX: u64 = POOL_BYTES as u64 / 2;

/// A payload's size.
pub(super) fn payload_size(text: &str) -> Result<u64, String> {
    match args::size(text)? {
        size if size <= PAYLOAD_BYTES_MAX => Ok(size),
        _ => Err(format!("a payload has at most {} bytes", PAYLOAD_BYTES_MAX)),
    }
}

/// How much is sent, and how fast.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Of each message.
    pub(super) size: usize,
    /// Messages of all producers together; `None`: until the time is over.
    pub(super) messages: Option<u64>,
    pub(super) time: Duration,
    /// Messages per second of all producers together; `None`: as fast as it goes.
    pub(super) rate: Option<f64>,
    pub(super) producers: u32,
    pub(super) batch_bytes: usize,
    pub(super) inflight_bytes: usize,
    pub(super) compression: Compression,
}

impl Plan {
    /// Of one producer with the client's usual settings, as fast as it goes.
    pub(super) fn of(size: u64, compression: Compression) -> Plan {
        Plan {
            size: size as usize,
            messages: None,
            time: Duration::from_secs(10),
            rate: None,
            producers: 1,
            batch_bytes: 1 << 20,
            inflight_bytes: 32 << 20,
            compression,
        }
    }

    /// How many messages in a row go to one partition: a batch of them at full speed, one at a given rate, as keys
    /// would spread them.
    fn per_partition(&self) -> u64 {
        if self.rate.is_some() { 1 } else { (self.batch_bytes / self.size.max(1)).max(1) as u64 }
    }
}

/// The producers of a run, connected and ready.
pub(super) struct Load {
    plan: Plan,
    producers: Vec<Producer>,
    pool: Bytes,
}

impl Load {
    /// `clients`: one for each producer.
    pub(super) async fn new(plan: Plan, topic: &str, clients: &[Client]) -> Result<Load, Error> {
        let mut producers = Vec::new();
        for client in clients {
            let producer = client.producer(topic).compression(plan.compression);
            producers.push(
                producer.batch_bytes(plan.batch_bytes).inflight_bytes(plan.inflight_bytes).build().await?,
            );
        }
        let mut pool = vec![0; POOL_BYTES];
        fastrand::Rng::new().fill(&mut pool);
        Ok(Load { plan, producers, pool: pool.into() })
    }

    /// Sends all of it. Returns microseconds from when each message was to be sent until it was acknowledged. With a
    /// `stamp`, payloads carry when they were to be sent.
    pub(super) async fn run(self, stamp: Option<Stamp>, progress: &Progress) -> Outcome<Histogram<u64>> {
        let started = Instant::now();
        let Plan { messages, time, rate, producers, .. } = self.plan;
        let pace = rate.map(|_| Pace::start());
        let mut lines = JoinSet::new();
        for (index, producer) in self.producers.into_iter().enumerate() {
            let line = Line {
                pool: self.pool.clone(),
                size: self.plan.size,
                run: self.plan.per_partition(),
                messages: messages.map_or(u64::MAX, |all| share(all, producers, index as u64)),
                until: messages.is_none().then_some(started + time),
                started,
                rate: rate.map(|rate| rate / f64::from(producers)),
                pace: pace.clone(),
                first_partition: index as u32,
                stamp,
                progress: progress.clone(),
            };
            lines.spawn(line.run(producer));
        }
        let mut acked = histogram();
        while let Some(done) = lines.join_next().await {
            let part = done.map_err(|error| Failure::failed(format!("a producer failed: {error}")))?;
            let part = part.map_err(|error| Failure::cannot("produce", &error))?;
            acked.add(part).expect("they are of one kind");
        }
        Ok(acked)
    }
}

/// What one of `parts` does of `all`.
fn share(all: u64, parts: u32, index: u64) -> u64 {
    let parts = u64::from(parts);
    all / parts + u64::from(index < all % parts)
}

/// What one producer sends.
struct Line {
    pool: Bytes,
    size: usize,
    /// Messages in a row to one partition.
    run: u64,
    messages: u64,
    until: Option<Instant>,
    started: Instant,
    /// Per second.
    rate: Option<f64>,
    /// With a rate.
    pace: Option<Pace>,
    first_partition: u32,
    stamp: Option<Stamp>,
    progress: Progress,
}

impl Line {
    /// Sends, and waits for each partition's acknowledgements in a task of its own: in order, so that none is counted
    /// late because of another partition's.
    async fn run(self, producer: Producer) -> Result<Histogram<u64>, Error> {
        let partitions = producer.partitions();
        let mut waits = JoinSet::new();
        // Bounded by the producer's bytes in flight.
        let lanes: Vec<_> = (0..partitions)
            .map(|_| {
                let (lane, sent) = mpsc::unbounded_channel();
                waits.spawn(measure(sent, self.progress.clone()));
                lane
            })
            .collect();
        let mut last = None;
        for number in 0..self.messages {
            let Some(intended) = self.due(number, last).await else { break };
            let partition = (number / self.run + u64::from(self.first_partition)) % u64::from(partitions);
            let message = Message::new(self.payload(number, intended)).partition(partition as u32);
            let mut enqueue = pin!(producer.enqueue(message));
            let at_once = enqueue.as_mut().now_or_never();
            last = at_once.is_some().then_some(intended);
            let delivery = match at_once {
                Some(delivery) => delivery?,
                None => enqueue.await?,
            };
            if lanes[partition as usize].send((intended, delivery)).is_err() {
                break; // it failed and says why below
            }
        }
        drop(lanes);
        let mut acked = histogram();
        while let Some(done) = waits.join_next().await {
            let part = done.unwrap_or(Err(Error::Closed))?;
            acked.add(part).expect("they are of one kind");
        }
        Ok(acked)
    }

    /// When the message is to be sent, once that time has come; `None` when it is over. At full speed some count from
    /// when the `last` one was to be sent, if nothing was waited for since.
    async fn due(&self, number: u64, last: Option<Instant>) -> Option<Instant> {
        let intended = match self.rate {
            None => last.filter(|_| !number.is_multiple_of(LOOK_EVERY)).unwrap_or_else(Instant::now),
            Some(rate) => self.started + Duration::from_secs_f64(number as f64 / rate),
        };
        if self.until.is_some_and(|until| intended >= until) {
            return None;
        }
        if let Some(pace) = &self.pace {
            pace.wait_until(intended).await;
        }
        Some(intended)
    }

    fn payload(&self, number: u64, intended: Instant) -> Bytes {
        let places = (self.pool.len() / self.size.max(1)) as u64;
        let at = (number % places) as usize * self.size;
        let random = self.pool.slice(at..at + self.size);
        match self.stamp {
            Some(stamp) => stamp.put(&random, intended),
            None => random,
        }
    }
}

/// Those that are acknowledged at once when it is their turn are timed together, behind the last of them: a look at the
/// clock for each would be a good part of what a small message costs.
async fn measure(
    mut sent: mpsc::UnboundedReceiver<(Instant, Delivery)>,
    progress: Progress,
) -> Result<Histogram<u64>, Error> {
    let mut acked = histogram();
    let (mut taken, mut done) = (Vec::with_capacity(TIMED_TOGETHER_MAX), Vec::new());
    while sent.recv_many(&mut taken, TIMED_TOGETHER_MAX).await > 0 {
        for (intended, mut delivery) in taken.drain(..) {
            let outcome = match (&mut delivery).now_or_never() {
                Some(outcome) => outcome,
                None => {
                    record(&mut acked, &mut done, &progress);
                    delivery.await
                }
            };
            outcome?;
            done.push(intended);
        }
        record(&mut acked, &mut done, &progress);
    }
    Ok(acked)
}

/// Messages that were to be sent at these times are acknowledged now.
fn record(acked: &mut Histogram<u64>, done: &mut Vec<Instant>, progress: &Progress) {
    let now = Instant::now();
    progress.add(done.len() as u64);
    for intended in done.drain(..) {
        acked.record(micros(now - intended)).expect("it grows with what is recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        let shares: Vec<u64> = (0..3).map(|index| share(10, 3, index)).collect();
        assert_eq!(shares, [4, 3, 3]);
        assert_eq!(share(2, 3, 2), 0);
    }
}
