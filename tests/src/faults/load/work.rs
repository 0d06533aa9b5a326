//! Workers: they ack, release, reject, forget, and die with everything in their hands.

use std::time::Duration;

use dure_client::{Action, Client, Job};
use fastrand::Rng;
use tokio::task::JoinSet;

use super::{Common, JOBS, LEASE, REJECTED, WORKERS, next};
use crate::faults::history::{At, Outcome, Place, Settle, Token, What};
use crate::faults::payload;

const PREFETCH: u32 = 12;
const IN_HAND_MAX: usize = 4;
const RECEIVE_MAX: u32 = 5;
/// One job in so many is the last of its worker.
const DEADLY: u32 = 150;

/// What a worker does with a message.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Ack,
    ReleaseAfter(Duration),
    Release,
    Reject,
    /// Let go without a word.
    Drop,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Plan {
        match rng.u32(0..100) {
            0..84 => Plan::Ack,
            84..90 => Plan::ReleaseAfter(Duration::from_millis(rng.u64(0..40))),
            90..94 => Plan::Release,
            94..97 => Plan::Reject,
            _ => Plan::Drop,
        }
    }

    fn settle(self) -> Settle {
        match self {
            Plan::Ack => Settle::Ack,
            Plan::ReleaseAfter(_) | Plan::Release => Settle::Release,
            Plan::Drop => Settle::Drop,
            Plan::Reject => Settle::Reject,
        }
    }
}

/// One worker after the other, each in a runtime of its own: when it dies, so does everything that it started, as with
/// a process that is killed.
pub(super) fn worker(common: &Common, mut rng: Rng) {
    while !common.stop.is_cancelled() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime without threads");
        let number = next(&common.numbers.worker_next);
        // What it holds is let go only when nobody is left to tell the broker.
        let held = runtime.block_on(subscribed(common, number, &mut rng));
        if held.is_some() {
            common.history.saw(What::WorkerDied { worker: number });
        }
        drop(runtime);
        drop(held);
    }
}

/// Works until it is time to stop, or dies: then with what it held.
async fn subscribed(
    common: &Common,
    worker: u32,
    rng: &mut Rng,
) -> Option<(dure_client::JobStream, JoinSet<()>)> {
    let client = common.client().await?;
    let subscribing = client.queue(JOBS, WORKERS).prefetch(PREFETCH).subscribe();
    let Some(Ok(mut jobs)) = common.unless_stopped(subscribing).await else {
        common.pause().await;
        return None;
    };
    let mut in_hand = JoinSet::new();
    loop {
        while in_hand.len() >= IN_HAND_MAX {
            in_hand.join_next().await;
        }
        let Some(Some(job)) = common.unless_stopped(jobs.next()).await else { break };
        let Ok(job) = job else {
            common.pause().await;
            continue;
        };
        let (place, token) = address(&job);
        let found = payload::recognise(job.key(), job.value_bytes().as_deref(), job.headers());
        let attempt = job.attempt();
        common.history.saw(What::Deliver { worker, place, token, attempt, found, leased_for_us: None });
        let takes = Duration::from_micros(if rng.u8(0..40) == 0 { 60_000 } else { rng.u64(0..4_000) });
        let plan = Plan::draw(rng);
        let common = common.clone();
        in_hand.spawn(async move {
            tokio::time::sleep(takes).await;
            settle(&common, worker, job, plan).await;
        });
        if rng.u32(0..DEADLY) == 0 {
            return Some((jobs, in_hand));
        }
    }
    while in_hand.join_next().await.is_some() {}
    drop(jobs);
    // Time to give back what it had not begun.
    common.pause().await;
    None
}

fn address(job: &Job) -> (Place, Token) {
    let token = job.receipt().token;
    let place = Place { topic: JOBS, partition: job.partition(), offset: job.offset() };
    (place, Token(token.epoch.0, token.counter))
}

async fn settle(common: &Common, worker: u32, job: Job, plan: Plan) {
    let (place, token) = address(&job);
    let (settle, outcome) = (plan.settle(), Outcome::Unknown);
    let open = common.history.begin(What::Settled { worker, place, token, settle, outcome, already: false });
    let answer = match plan {
        Plan::Ack => job.ack().await,
        Plan::ReleaseAfter(delay) => job.release_after(delay).await,
        Plan::Release => job.release().await,
        Plan::Reject => job.reject(format!("{REJECTED}, says worker {worker}")).await,
        Plan::Drop => return drop(job),
    };
    common.history.end(open, |what| settled(what, Outcome::of(&answer), false));
}

fn settled(what: &mut What, told: Outcome, before: bool) {
    let What::Settled { outcome, already, .. } = what else { unreachable!("it began as a settlement") };
    (*outcome, *already) = (told, before);
}

/// Receives without a subscription and settles by receipts, in one request. Forgets some.
pub(super) async fn receiver(common: Common, mut rng: Rng) {
    let Some(client) = common.client().await else { return };
    let worker = next(&common.numbers.worker_next);
    while !common.stop.is_cancelled() {
        let wait = Duration::from_millis(rng.u64(0..150));
        if receive_and_settle(&common, &client, worker, wait, || Plan::draw(&mut rng)).await.is_none() {
            common.pause().await;
        }
    }
}

/// Says how many it received, `None` if the broker did not answer.
pub(crate) async fn acknowledge_all(history: &super::History, client: &Client) -> Option<usize> {
    let common = Common {
        servers: String::new(),
        history: history.clone(),
        numbers: Default::default(),
        stop: Default::default(),
        pause_max: Duration::ZERO,
    };
    receive_and_settle(&common, client, u32::MAX, Duration::from_millis(100), || Plan::Ack).await
}

async fn receive_and_settle(
    common: &Common,
    client: &Client,
    worker: u32,
    wait: Duration,
    mut plan: impl FnMut() -> Plan,
) -> Option<usize> {
    let (history, begun) = (&common.history, common.history.now());
    let lost = history.begin(What::ReceiveLost { worker, count_max: RECEIVE_MAX });
    let answer = client.receive(JOBS, WORKERS, RECEIVE_MAX, wait, Some(LEASE)).await;
    let unknown = Outcome::of(&answer) == Outcome::Unknown;
    history.end(lost, |what| {
        *what = What::ReceiveLost { worker, count_max: if unknown { RECEIVE_MAX } else { 0 } };
    });
    let jobs = answer.ok()?;
    let count = jobs.len();
    let (mut items, mut opened) = (Vec::new(), Vec::new());
    for job in jobs {
        let place = Place { topic: JOBS, partition: job.partition, offset: job.offset };
        let token = Token(job.receipt.token.epoch.0, job.receipt.token.counter);
        let found = payload::recognise(job.key.as_deref(), job.value.as_deref(), &job.headers);
        deliver(history, begun, worker, place, token, job.attempt, found);
        let plan = plan();
        let action = match plan {
            Plan::Ack => Action::Ack,
            Plan::ReleaseAfter(delay) => Action::Release { delay: Some(delay), reason: String::new() },
            Plan::Release => Action::Release { delay: None, reason: String::new() },
            Plan::Reject => Action::Reject { reason: format!("{REJECTED}, says receiver {worker}") },
            Plan::Drop => continue, // its lease runs out
        };
        let (settle, outcome) = (plan.settle(), Outcome::Unknown);
        opened.push(history.begin(What::Settled { worker, place, token, settle, outcome, already: false }));
        items.push((job.receipt, action));
    }
    if items.is_empty() {
        return Some(count);
    }
    match client.settle(JOBS, WORKERS, items).await {
        Ok(answers) => {
            for (open, answer) in opened.into_iter().zip(answers) {
                let already = answer.as_ref().is_ok_and(|settled| settled.already_settled);
                history.end(open, |what| settled(what, Outcome::of(&answer), already));
            }
        }
        Err(error) => {
            let outcome = Outcome::of::<()>(&Err(error));
            opened.into_iter().for_each(|open| history.end(open, |what| settled(what, outcome, false)));
        }
    }
    Some(count)
}

fn deliver(
    history: &super::History,
    begun: At,
    worker: u32,
    place: Place,
    token: Token,
    attempt: u32,
    found: crate::faults::history::Found,
) {
    let leased_for_us = Some(LEASE.as_micros() as u64);
    history.since(begun, What::Deliver { worker, place, token, attempt, found, leased_for_us });
}
