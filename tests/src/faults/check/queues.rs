//! The group of workers: leases, attempts, dead letters, and that every message ends in one way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::facts::Facts;
use super::{Kind, Rules, Violation};
use crate::faults::history::{At, Event, Outcome, Place, Settle, Token, What};

/// The broker counts whole milliseconds, so a lease may end one early.
const CLOCK_STEP_US: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Delivery {
    token: Token,
    attempt: u32,
    worker: u32,
    begun: At,
    ended: At,
    leased_for_us: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Settling {
    token: Token,
    settle: Settle,
    outcome: Outcome,
    already: bool,
    begun: At,
    ended: At,
}

#[derive(Clone, Copy, Debug)]
struct Letter {
    attempts: u32,
    rejected: bool,
}

/// Everything about one message, deliveries in the order in which they were granted.
#[derive(Debug, Default)]
struct Job {
    deliveries: Vec<Delivery>,
    settlings: Vec<Settling>,
}

struct Checker<'a> {
    facts: &'a Facts,
    rules: &'a Rules,
    jobs: BTreeMap<Place, Job>,
    /// Receives without an answer.
    unseen: Vec<(At, At)>,
    found: &'a mut Vec<Violation>,
}

pub(super) fn check(events: &[Event], facts: &Facts, rules: &Rules, found: &mut Vec<Violation>) {
    let mut checker = Checker { facts, rules, jobs: BTreeMap::new(), unseen: Vec::new(), found };
    checker.gather(events);
    for (place, job) in std::mem::take(&mut checker.jobs) {
        checker.check_attempts(place, &job);
        checker.check_comes_back(place, &job);
        checker.check_leases(place, &job);
        checker.jobs.insert(place, job);
    }
    checker.check_audits(events);
}

impl Checker<'_> {
    fn report(&mut self, kind: Kind, place: Place, text: String) {
        let id = self.facts.at.get(&place).copied();
        self.found.push(Violation { kind, text, place: Some(place), id });
    }

    fn gather(&mut self, events: &[Event]) {
        let mut tokens: HashMap<Token, Place> = HashMap::new();
        for event in events {
            let Event { begun, ended, .. } = *event;
            match event.what {
                What::Deliver { worker, place, token, attempt, leased_for_us, .. } => {
                    if let Some(other) = tokens.insert(token, place) {
                        self.report(
                            Kind::TokenTwice,
                            place,
                            format!("{token:?} was given out at {other}, too"),
                        );
                    }
                    let delivery = Delivery { token, attempt, worker, begun, ended, leased_for_us };
                    self.jobs.entry(place).or_default().deliveries.push(delivery);
                }
                What::Settled { place, token, settle, outcome, already, .. } => {
                    let settling = Settling { token, settle, outcome, already, begun, ended };
                    self.jobs.entry(place).or_default().settlings.push(settling);
                }
                What::ReceiveLost { count_max: 1.., .. } => self.unseen.push((begun, ended)),
                _ => {}
            }
        }
        for job in self.jobs.values_mut() {
            job.deliveries.sort_by_key(|delivery| delivery.token);
        }
    }

    /// How many attempts may have been started between these moments without anybody here seeing it.
    fn unseen_attempts(&self, from: At, to: At) -> u32 {
        self.unseen.iter().filter(|(begun, ended)| *begun <= to && from <= *ended).count() as u32
    }

    fn check_attempts(&mut self, place: Place, job: &Job) {
        for delivery in &job.deliveries {
            let (attempt, max) = (delivery.attempt, self.rules.attempts_max);
            if attempt > max {
                self.report(Kind::DeadLetter, place, format!("attempt {attempt} where {max} is the last"));
            }
        }
        let mut wrong = Vec::new();
        for (nth, next) in job.deliveries.iter().enumerate() {
            let before = nth.checked_sub(1).map(|before| &job.deliveries[before]);
            let (begun, attempt) = before.map_or((At(0), 0), |before| (before.begun, before.attempt));
            let lost = self.unseen_attempts(begun, next.ended);
            let least = before.map_or(1, |before| self.attempt_least(job, nth, before, next));
            if !(least..=attempt + 1 + lost).contains(&next.attempt) {
                wrong.push(format!("attempt {} follows attempt {attempt}", next.attempt));
            }
        }
        wrong.into_iter().for_each(|text| self.report(Kind::Attempts, place, text));
    }

    /// The least number that the attempt at `nth` may have.
    fn attempt_least(&self, job: &Job, nth: usize, before: &Delivery, next: &Delivery) -> u32 {
        if self.facts.disturbed(before.begun, next.ended) {
            // A delivery leaves before its grant is durable, so a crash forgets those of which nothing was answered.
            let known = job.deliveries[..nth].iter().filter_map(|delivery| self.attempt_known(job, delivery));
            return known.max().unwrap_or(1);
        }
        // What was handed out may not have been said to be started when its worker died, or when the message had gone
        // to another by then.
        let maybe_unstarted = self.facts.died(before.worker, next.ended) || next.ended <= before.begun;
        before.attempt + u32::from(!maybe_unstarted)
    }

    /// The least number behind a delivery of which the broker answered something.
    fn attempt_known(&self, job: &Job, delivery: &Delivery) -> Option<u32> {
        let settled = |s: &&Settling| s.token == delivery.token && s.outcome == Outcome::Ok;
        let settling = job.settlings.iter().find(settled)?;
        // That it was started may have been lost with the connection.
        let surely_started = !self.facts.disturbed(delivery.begun, settling.ended);
        Some(delivery.attempt + u32::from(surely_started))
    }

    fn check_comes_back(&mut self, place: Place, job: &Job) {
        let settled = job.settlings.iter().filter(|s| s.outcome == Outcome::Ok && s.settle.is_final());
        let mut wrong = None;
        for settling in settled.filter(|settling| !settling.already) {
            // What was granted before may still be handed out by its worker, granted after may not be at all.
            let after = |d: &&Delivery| d.token > settling.token && d.ended > settling.ended;
            if let Some(delivery) = job.deliveries.iter().find(after) {
                wrong = Some(format!(
                    "{:?} of {:?} was answered, and {:?} was delivered after that",
                    settling.settle, settling.token, delivery.token
                ));
            }
        }
        wrong.into_iter().for_each(|text| self.report(Kind::CameBack, place, text));
    }

    fn check_leases(&mut self, place: Place, job: &Job) {
        let mut wrong = Vec::new();
        for settling in job.settlings.iter().filter(|s| s.outcome == Outcome::Ok && !s.already) {
            let Settling { token, begun, ended, .. } = *settling;
            let settled_by_another = settling.settle == Settle::Ack
                && job.settlings.iter().any(|other| {
                    let settles = other.settle.is_final() && other.outcome != Outcome::Fail;
                    settles && other.token != token && other.begun < ended
                });
            let anew = job.deliveries.iter().find(|d| d.token > token && d.ended < begun);
            if let Some(anew) =
                anew.filter(|anew| !settled_by_another && !self.facts.disturbed(anew.begun, ended))
            {
                let settle = settling.settle;
                wrong.push(format!(
                    "{settle:?} of {token:?} was taken although {:?} was given out",
                    anew.token
                ));
            }
        }
        for lease in &job.deliveries {
            let Some(leased_for_us) = lease.leased_for_us else { continue };
            let until = At((lease.begun.0 + leased_for_us).saturating_sub(CLOCK_STEP_US));
            let second = job.deliveries.iter().find(|d| d.token > lease.token && d.ended < until);
            let Some(second) = second else { continue };
            let mut tries =
                job.settlings.iter().filter(|s| s.token == lease.token && s.outcome != Outcome::Fail);
            let ended = tries.any(|settling| settling.begun < second.ended);
            if !ended && !self.facts.disturbed(lease.begun, second.ended) {
                wrong.push(format!("{:?} was given out while {:?} was live", second.token, lease.token));
            }
        }
        wrong.into_iter().for_each(|text| self.report(Kind::TwoLeases, place, text));
    }

    /// Every [`What::Drained`] is the end of an audit: the logs and the letters before it are all there is.
    fn check_audits(&mut self, events: &[Event]) {
        let mut accepted: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
        let mut letters: BTreeMap<Place, Letter> = BTreeMap::new();
        for event in events {
            match &event.what {
                What::Log { topic, partition, records, .. } if *topic == self.rules.jobs => {
                    let place = |offset| Place { topic, partition: *partition, offset };
                    accepted.insert(*partition, records.iter().map(|(offset, _)| place(*offset)).collect());
                }
                What::Letter { place, attempts, rejected, .. } => {
                    let letter = Letter { attempts: *attempts, rejected: *rejected };
                    if letters.insert(*place, letter).is_some() {
                        self.report(Kind::DeadLetter, *place, "it is in the dead letters twice".to_owned());
                    }
                }
                What::Drained { lag, dead } => {
                    let letters = std::mem::take(&mut letters);
                    self.check_figures(*lag, *dead, &letters);
                    self.check_letters(&letters);
                    self.check_ends(event.begun, accepted.values().flatten(), &letters);
                }
                _ => {}
            }
        }
    }

    fn check_figures(&mut self, lag: u64, dead: u64, letters: &BTreeMap<Place, Letter>) {
        let mut wrong = Vec::new();
        if lag > 0 {
            wrong.push(format!("{lag} messages are left that nobody is given"));
        }
        if dead != letters.len() as u64 {
            wrong.push(format!("{dead} dead letters are counted and {} are listed", letters.len()));
        }
        for text in wrong {
            self.found.push(Violation { kind: Kind::Accounting, text, place: None, id: None });
        }
    }

    fn check_letters(&mut self, letters: &BTreeMap<Place, Letter>) {
        let nothing = Job::default();
        let mut wrong = Vec::new();
        for (place, letter) in letters {
            let job = self.jobs.get(place).unwrap_or(&nothing);
            // An ack by an older receipt is told that it is done when the message has died since.
            let newest = job.deliveries.last().map(|delivery| delivery.token);
            let acked = job.settlings.iter().any(|s| {
                s.settle == Settle::Ack && s.outcome == Outcome::Ok && !s.already && Some(s.token) >= newest
            });
            let rejected =
                job.settlings.iter().any(|s| s.settle == Settle::Reject && s.outcome != Outcome::Fail);
            let tried = job.deliveries.iter().map(|delivery| delivery.attempt).max().unwrap_or(0);
            let max = self.rules.attempts_max;
            if acked {
                wrong.push((*place, "it is dead, and its ack was answered".to_owned()));
            }
            if letter.rejected && !rejected {
                wrong.push((*place, "it is dead as rejected, and nobody rejected it".to_owned()));
            }
            if !letter.rejected && letter.attempts != max {
                wrong.push((*place, format!("it is dead after {} of {max} attempts", letter.attempts)));
            }
            if !letter.rejected && tried != max && self.unseen.is_empty() {
                wrong.push((*place, format!("it is dead, and its last attempt of {max} was number {tried}")));
            }
        }
        wrong.into_iter().for_each(|(place, text)| self.report(Kind::DeadLetter, place, text));
    }

    /// Accepted = acknowledged + dead, when nothing is left.
    fn check_ends<'p>(
        &mut self,
        by: At,
        accepted: impl Iterator<Item = &'p Place>,
        letters: &BTreeMap<Place, Letter>,
    ) {
        let mut acked = BTreeSet::new();
        let mut wrong = Vec::new();
        for (place, job) in &self.jobs {
            for settling in job.settlings.iter().filter(|s| s.begun < by && s.outcome != Outcome::Fail) {
                match settling.settle {
                    Settle::Ack => drop(acked.insert(*place)),
                    Settle::Reject if settling.outcome == Outcome::Ok && !letters.contains_key(place) => {
                        wrong.push((
                            *place,
                            Kind::DeadLetter,
                            "it was rejected and is not in the dead letters",
                        ));
                    }
                    _ => {}
                }
            }
        }
        let lost = accepted.filter(|place| !acked.contains(place) && !letters.contains_key(place));
        wrong.extend(
            lost.map(|place| (*place, Kind::JobLost, "it is neither acknowledged, nor dead, nor left")),
        );
        wrong.into_iter().for_each(|(place, kind, text)| self.report(kind, place, text.to_owned()));
    }
}
