//! Hardly any descriptors, and a flood of connections that say nothing: established clients go on, storage works.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use dure_client::Client;

use super::check::Violation;
use super::history::{At, Event, Outcome, What};
use super::{Fault, SMALL, Stage};
use crate::harness::{BrokerBuilder, tools};

/// 256 of them are the storage's own.
const LIMIT: u64 = 300;
const FLOOD: usize = 400;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const FLOOD_LASTS: Duration = Duration::from_millis(1_200);
/// What established clients get done meanwhile, at least.
const DONE_MIN: usize = 20;
/// After the flood. Connections without a greeting are closed after 5 s.
const FREE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Descriptors;

impl Fault for Descriptors {
    fn name(&self) -> &'static str {
        "descriptors"
    }

    fn missing(&self) -> Option<String> {
        tools::missing(&["prlimit"])
    }

    fn prepare(&mut self) -> Result<BrokerBuilder, String> {
        Ok(BrokerBuilder::default().flags(SMALL).under(&format!("prlimit --nofile={LIMIT}:{LIMIT}")))
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(300..600);
        let pid = stage.broker.process().id();
        let begun = stage.now();
        let (flood, used) = stage.fault("a flood of connections", |stage| {
            let address = stage.broker.native();
            let connect = |_| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).ok();
            // What the broker does not accept waits in the queue of its socket; what does not fit there, times out.
            let flood: Vec<TcpStream> = (0..FLOOD).map_while(connect).collect();
            std::thread::sleep(FLOOD_LASTS);
            let used = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            (flood, used)
        });
        let done = done_since(&stage.events(), begun);
        let flooded = flood.len();
        drop(flood);
        if used as u64 >= LIMIT || flooded < 50 {
            let text = format!("{used} of {LIMIT} descriptors in use under {flooded} connections");
            return Err(Violation::conduct(text));
        }
        if done < DONE_MIN {
            return Err(Violation::conduct(format!("under the flood established clients did {done} things")));
        }
        let asked = Instant::now();
        let builder = Client::builder().servers(stage.servers()).connect_wait(FREE_LIMIT);
        let newcomer = stage.block_on(builder.connect());
        newcomer.map_err(|error| {
            Violation::conduct(format!("{:?} after the flood nobody gets in: {error}", asked.elapsed()))
        })?;
        stage.run_on(100..300);
        Ok(())
    }
}

/// Messages that were acknowledged to those who were there before.
fn done_since(events: &[Event], begun: At) -> usize {
    let since = events.iter().filter(|event| event.begun > begun);
    since.filter(|event| matches!(event.what, What::Produce { outcome: Outcome::Ok, .. })).count()
}
