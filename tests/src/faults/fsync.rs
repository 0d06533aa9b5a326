//! A sync that fails, once: it is not tried again, what is pending fails, health is red, and the next start has
//! everything that was acknowledged.

use std::process::Command;
use std::time::{Duration, Instant};

use dure_client::{Client, ErrorCode, Message};

use super::check::Violation;
use super::load::EVENTS;
use super::{Fault, Stage};
use crate::harness::{FailingSyncs, Process, http_get, tools};

const RED_LIMIT: Duration = Duration::from_secs(10);
/// The call of each thread that fails.
const CALL_MAX: u32 = 25;
/// How long one waits for a call that must not come.
const AFTER: Duration = Duration::from_millis(300);

pub(crate) struct FailedSync;

impl Fault for FailedSync {
    fn name(&self) -> &'static str {
        "fsync"
    }

    fn missing(&self) -> Option<String> {
        tools::missing(&["strace"]).or_else(|| {
            let mut command = Command::new("sleep");
            command.arg("20");
            let bystander = Process::spawn("sleep", command);
            FailingSyncs::attach(bystander.id(), "1+").err()
        })
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(100..500);
        stage.fault("a sync fails", |stage| {
            let call = stage.rng.u32(1..=CALL_MAX);
            let pid = stage.broker.process().id();
            let syncs = FailingSyncs::attach(pid, &call.to_string()).map_err(Violation::conduct)?;
            let stopped = stops(stage, &syncs);
            drop(syncs);
            let stopped = stopped.and_then(|()| stays_stopped(stage));
            stage.broker.crash();
            stopped?;
            match http_get(stage.broker.http(), "/readyz") {
                (200, _) => Ok(()),
                (code, body) => {
                    Err(Violation::conduct(format!("after the restart /readyz is {code}: {body}")))
                }
            }
        })?;
        stage.run_on(100..500);
        Ok(())
    }
}

/// Health turns red, and no file that failed is synced again.
fn stops(stage: &mut Stage, syncs: &FailingSyncs) -> Result<(), Violation> {
    let deadline = Instant::now() + RED_LIMIT;
    let red = || http_get(stage.broker.http(), "/readyz").0 == 503;
    while !red() {
        if Instant::now() > deadline {
            let failed = syncs.calls().iter().filter(|call| call.contains("INJECTED")).count();
            return Err(Violation::conduct(format!("{failed} syncs failed and /readyz is not red")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, reasons) = http_get(stage.broker.http(), "/readyz");
    if reasons.contains("panicked") {
        return Err(Violation::conduct(format!("it did not stop in order: {reasons}")));
    }
    if http_get(stage.broker.http(), "/livez").0 != 200 {
        return Err(Violation::conduct("it is not alive any more"));
    }
    std::thread::sleep(AFTER);
    let calls = syncs.calls();
    let Some(failure) = calls.iter().position(|call| call.contains("INJECTED")) else {
        return Err(Violation::conduct("health is red, and no sync failed"));
    };
    match again(&calls[failure], &calls[failure + 1..]) {
        Some(call) => Err(Violation::conduct(format!("{} and then {call}", calls[failure]))),
        None => Ok(()),
    }
}

/// A later call for the file of the one that failed. Two commits are in flight: the other one may have been on its way
/// to the disk already, and that one call is no second try.
fn again<'c>(failed: &str, later: &'c [String]) -> Option<&'c String> {
    let path = |call: &str| Some(call.split_once('<')?.1.split_once('>')?.0.to_owned());
    // What ends later than it began is told as "resumed", without a path.
    later.iter().filter(|call| path(call).is_some() && path(call) == path(failed)).nth(1)
}

/// The disk works again, and that changes nothing.
fn stays_stopped(stage: &Stage) -> Result<(), Violation> {
    let sent = stage.block_on(async {
        let client = Client::builder().servers(stage.servers()).request_timeout(Duration::from_secs(2));
        let producer = client.connect().await?.producer(EVENTS).build().await?;
        producer.send(Message::new("must not be taken")).await
    });
    match sent {
        Err(error) if error.code() == Some(ErrorCode::ShardStopped) => Ok(()),
        other => Err(Violation::conduct(format!("a produce to a stopped shard ended in {other:?}"))),
    }
}
