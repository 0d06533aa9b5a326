//! Limited memory, many eager producers, and consumers that ask for everything and read nothing: backpressure, not a
//! process that grows until it is ended.

use std::fs;
use std::time::Duration;

use dure_proto::wire::{self, envelope::Body};

use super::check::Violation;
use super::history::{At, Event, Outcome, What};
use super::load::{EVENTS, Shape};
use super::{Fault, SMALL, Stage};
use crate::harness::{BrokerBuilder, RawClient, tools};

/// Of the address space, which the memory is a part of.
const ADDRESS_SPACE: u64 = 1 << 30;
/// Of memory: 32 MiB of requests, 8 MiB of decoded batches, what the connections have in hand, and the rest.
const RESIDENT_MAX: u64 = 256 << 20;
const SLOW_READERS: u64 = 8;
const CREDIT: u64 = 1 << 30;
const LASTS_MS: std::ops::Range<u64> = 700..1_000;
const DONE_MIN: usize = 50;

#[derive(Default)]
pub(crate) struct Memory {
    resident_max: u64,
}

impl Fault for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn missing(&self) -> Option<String> {
        tools::missing(&["prlimit"])
    }

    fn prepare(&mut self) -> Result<BrokerBuilder, String> {
        let broker =
            BrokerBuilder::default().flags(SMALL).flags("--inflight-max 32MiB --batch-cache-max 8MiB");
        Ok(broker.under(&format!("prlimit --as={ADDRESS_SPACE}")))
    }

    fn shape(&self) -> Shape {
        Shape { producers: (16, 3), pause_max: Duration::ZERO, ..Shape::default() }
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(200..400);
        let begun = stage.now();
        let slow: Vec<RawClient> = (0..SLOW_READERS).map(|nth| slow_reader(stage, nth)).collect();
        stage.run_on(LASTS_MS);
        let done = done_since(&stage.events(), begun);
        drop(slow);
        let resident = resident_peak(stage.broker.process().id())
            .ok_or_else(|| Violation::conduct("the broker is gone: out of memory?"))?;
        self.resident_max = self.resident_max.max(resident);
        if resident > RESIDENT_MAX {
            return Err(Violation::conduct(format!("{} MiB resident", resident >> 20)));
        }
        if done < DONE_MIN {
            return Err(Violation::conduct(format!("others were acknowledged {done} messages meanwhile")));
        }
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        let (most, limit) = (self.resident_max >> 20, RESIDENT_MAX >> 20);
        Some(format!("at most {most} MiB resident, {limit} allowed"))
    }
}

/// Asks for a whole log with a credit of 1 GiB and never reads an answer.
fn slow_reader(stage: &Stage, nth: u64) -> RawClient {
    let topic = stage.block_on(async {
        let client = dure_client::Client::connect(stage.servers()).await?;
        client.admin().describe_topic(EVENTS).await
    });
    let topic_id = topic.expect("the broker answers").id;
    let mut client = RawClient::connect(stage.broker.native());
    for partition in 0..3 {
        let subscription = nth * 3 + u64::from(partition) + 1;
        let read = wire::Read {
            subscription,
            topic_id,
            partition,
            offset: 0,
            credit_bytes: CREDIT,
            filters: Vec::new(),
        };
        let bytes = client.encoded(Body::Read(read), &[]);
        assert!(client.send_bytes(&bytes), "the broker closed the connection");
    }
    client
}

fn done_since(events: &[Event], begun: At) -> usize {
    let since = events.iter().filter(|event| event.begun > begun);
    since.filter(|event| matches!(event.what, What::Produce { outcome: Outcome::Ok, .. })).count()
}

/// The most memory that a process ever had at once, in bytes.
fn resident_peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
