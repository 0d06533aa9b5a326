//! Producers: single messages and bursts, each sent once, under whatever name comes next.

use std::time::Duration;

use dure_client::{Compression, Error, Producer};
use fastrand::Rng;

use super::{Common, next};
use crate::faults::history::{Id, Outcome, Place, What};
use crate::faults::payload;

const BURST_MAX: usize = 24;

/// Makes one producer after the other until it is time to stop.
pub(super) async fn run(common: Common, topic: &'static str, mut rng: Rng) {
    let Some(client) = common.client().await else { return };
    while !common.stop.is_cancelled() {
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][rng.usize(0..3)];
        let Ok(producer) = client.producer(topic).compression(compression).build().await else {
            common.pause().await;
            continue;
        };
        let mut session = Session { common: &common, topic, producer, number: 0, sequence: 0 };
        session.number = next(&common.numbers.producer_next);
        for _ in 0..rng.u32(20..200) {
            if common.stop.is_cancelled() {
                break;
            }
            let messages = if rng.bool() { 1 } else { rng.usize(2..=BURST_MAX) };
            if !session.burst(messages).await {
                common.pause().await;
            }
            let pause = common.pause_max.as_micros() as u64;
            tokio::time::sleep(Duration::from_micros(rng.u64(0..=pause))).await;
        }
    }
}

struct Session<'c> {
    common: &'c Common,
    topic: &'static str,
    producer: Producer,
    number: u32,
    sequence: u64,
}

impl Session<'_> {
    /// Sends some messages without waiting in between; true if all of them are acknowledged.
    async fn burst(&mut self, messages: usize) -> bool {
        let history = &self.common.history;
        let mut under_way = Vec::with_capacity(messages);
        let mut all_ok = true;
        for _ in 0..messages {
            let id = Id { producer: self.number, sequence: self.sequence };
            self.sequence += 1;
            let sent = What::Produce { id, topic: self.topic, place: None, outcome: Outcome::Unknown };
            let open = history.begin(sent);
            match self.producer.enqueue(payload::message(id)).await {
                Ok(delivery) => under_way.push((open, id, delivery)),
                Err(error) => {
                    all_ok = false;
                    history.end(open, |what| answered(what, Err(error)));
                }
            }
        }
        for (open, id, delivery) in under_way {
            let answer = delivery.await.map(|ack| (ack.partition, ack.offset.expect("nothing waits")));
            all_ok &= answer.is_ok();
            if let Err(error) = answer.as_ref()
                && !error.is_retriable()
            {
                history.saw(What::RefusedForGood { id, error: error.to_string() });
            }
            history.end(open, |what| answered(what, answer));
        }
        all_ok
    }
}

fn answered(what: &mut What, answer: Result<(u32, u64), Error>) {
    let What::Produce { topic, place, outcome, .. } = what else { unreachable!("it began as a produce") };
    *outcome = Outcome::of(&answer);
    *place = answer.ok().map(|(partition, offset)| Place { topic, partition, offset });
}
