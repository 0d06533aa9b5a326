//! The world around one shard: its disk, its clock, its clients' connections, and the threads that would run its jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use dure_engine::{
    ConnectionId, DiskJob, DiskRef, Effect, Input, JobDone, LogView, Now, ReplyTo, Request, Response, Shard,
    SimDisk, TopicTable,
};
use dure_proto::{Epoch, GroupId, KeySeed, LeaseToken, Offset, TopicId, TopicPartition, wire};
use fastrand::Rng;

use super::backup::Backup;
use super::history::{History, Totals};
use super::knobs::Knobs;
use super::model::{Model, SubscriptionKey};
use super::workload::Op;
use super::{Checked, Violation, ensure};

/// The wall clock begins here.
const START_WALL_MS: u64 = 1_700_000_000_000;

/// A record on its way to the dead letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetterRequest {
    pub(crate) group: GroupId,
    pub(crate) source: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) from: (TopicPartition, Offset),
}

/// A record table that a queue group asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableRequest {
    pub(crate) group: GroupId,
    pub(crate) partition: TopicPartition,
    pub(crate) from: Offset,
    pub(crate) seed: KeySeed,
}

/// A subscription of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) group: String,
    pub(crate) topic: String,
    /// Messages that it may be given yet.
    pub(crate) credit_messages: u64,
}

/// A message that a worker has in hand.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) token: LeaseToken,
}

/// What comes next is a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    Kill,
    PowerCut,
}

pub(crate) struct World {
    pub(crate) knobs: Knobs,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    /// For how long anything ran, over all restarts.
    pub(crate) ran_ms: u64,
    pub(crate) disk: SimDisk,
    /// None while nothing runs.
    pub(crate) shard: Option<Shard>,
    /// Given out and not begun.
    pub(crate) jobs: Vec<DiskJob>,
    /// Done, and the shard was not told yet; with the time at which the last call to the disk comes back.
    pub(crate) done: Vec<(u64, JobDone)>,
    pub(crate) letters: Vec<LetterRequest>,
    pub(crate) tables: Vec<TableRequest>,
    pub(crate) views: BTreeMap<TopicPartition, LogView>,
    pub(crate) topics: Arc<TopicTable>,
    /// Dead-letter logs, with the topics that they are of.
    pub(crate) letters_of: BTreeMap<TopicId, TopicId>,
    /// Delay logs, likewise.
    pub(crate) delays_of: BTreeMap<TopicId, TopicId>,
    /// Requests that were not answered yet.
    pub(crate) asked: BTreeMap<ReplyTo, Op>,
    pub(crate) subscriptions: BTreeMap<SubscriptionKey, Subscribed>,
    pub(crate) held: Vec<Held>,
    pub(crate) connections: Vec<ConnectionId>,
    pub(crate) model: Model,
    /// Grants of messages whose commit has no number yet.
    pub(super) grants_open: Vec<(String, TopicPartition, Offset, LeaseToken)>,
    /// Groups that hold a partition, known once everything that is going out has gone out.
    pub(crate) holds: Vec<(String, TopicPartition)>,
    /// Purges that were answered, likewise.
    pub(crate) purged: Vec<String>,
    /// Of members that do not know their names yet.
    pub(crate) assignments: BTreeMap<(String, String), wire::Assignment>,
    answers: BTreeMap<u64, Response>,
    pub(crate) backup: Option<Backup>,
    pub(crate) last_number: u64,
    /// A fault is armed or has struck.
    pub(crate) fault_armed: bool,
    /// It is one that the shard may stop for.
    pub(crate) may_stop: bool,
    /// The disk has a size, for now.
    pub(crate) is_small: bool,
    /// A write went astray: what is on the disk is damaged from here on, and no recovery puts it right.
    pub(crate) damaged: bool,
    /// The last commit that the shard knows to be durable.
    pub(crate) told_commit: u64,
    pub(crate) stopped: bool,
    /// What ends this life when the armed number of changes to the disk is reached.
    pub(crate) armed_crash: Option<Crash>,
    pub(crate) epoch: Epoch,
    /// The last turn had no effect.
    is_idle: bool,
    /// The youngest commit that went out in this life of the shard.
    commit_last: u64,
    pub(crate) clean_shutdown: bool,
    pub(crate) dir_sync_errors_seen: u64,
    pub(crate) history: History,
    pub(crate) totals: Totals,
}

impl World {
    pub(crate) fn new(seed: u64, knobs: Knobs) -> World {
        World {
            knobs,
            rng: Rng::with_seed(seed),
            now: Now { mono_ms: 0, wall_ms: START_WALL_MS },
            ran_ms: 0,
            disk: SimDisk::new(seed),
            may_stop: false,
            is_small: false,
            damaged: false,
            told_commit: 0,
            shard: None,
            jobs: Vec::new(),
            done: Vec::new(),
            letters: Vec::new(),
            tables: Vec::new(),
            views: BTreeMap::new(),
            topics: Arc::default(),
            letters_of: BTreeMap::new(),
            delays_of: BTreeMap::new(),
            asked: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            held: Vec::new(),
            connections: (1..=3).map(ConnectionId).collect(),
            model: Model::default(),
            grants_open: Vec::new(),
            holds: Vec::new(),
            purged: Vec::new(),
            assignments: BTreeMap::new(),
            answers: BTreeMap::new(),
            backup: None,
            last_number: 100,
            fault_armed: false,
            stopped: false,
            armed_crash: None,
            epoch: Epoch(0),
            is_idle: false,
            commit_last: 0,
            clean_shutdown: false,
            dir_sync_errors_seen: 0,
            history: History::default(),
            totals: Totals::default(),
        }
    }

    /// The whole story of a seed.
    pub(crate) fn run(&mut self) -> Checked {
        self.disk.set_latency(self.knobs.latency);
        self.recover("the first start")?;
        for _ in 0..self.knobs.steps {
            self.step()?;
        }
        if self.knobs.goes_astray { self.end_damaged() } else { self.end() }
    }

    fn step(&mut self) -> Checked {
        if self.stopped {
            return self.crash_and_recover();
        }
        if self.rng.u32(0..1_000) < self.knobs.crash_per_mille {
            return self.come_to_an_end();
        }
        if self.rng.u32(0..1_000) < self.knobs.fault_per_mille {
            self.arm_fault();
        }
        self.client_or_machine_step()?;
        if self.disk.is_off() {
            return self.crash_and_recover();
        }
        Ok(())
    }

    pub(crate) fn client_or_machine_step(&mut self) -> Checked {
        if self.rng.u32(0..100) < self.knobs.clients_percent {
            self.client_step()?;
        } else {
            self.machine_step()?;
        }
        self.pump()
    }

    pub(crate) fn handle(&mut self, input: Input) {
        let now = self.now;
        self.shard.as_mut().expect("it runs").handle(now, input);
    }

    /// Lets the shard take its turn, and carries out what it wants.
    pub(crate) fn pump(&mut self) -> Checked {
        let Some(shard) = self.shard.as_mut() else { return Ok(()) };
        shard.turn(self.now);
        shard.check_queues();
        let effects = shard.take_effects();
        self.is_idle = effects.is_empty();
        for effect in effects {
            self.perform(effect)?;
        }
        self.everything_went_out();
        if self.stopped {
            let waits = self.asked.iter().find(|(_, op)| !matches!(op, Op::Subscribe { .. }));
            ensure!(waits.is_none(), "the shard stopped, and {waits:?} was told nothing");
        }
        Ok(())
    }

    /// Runs everything that is under way, in order, until nothing more happens, or a shutdown is complete.
    pub(crate) fn settle_down(&mut self) -> Checked {
        loop {
            self.pump()?;
            let is_drained = self.shard.as_ref().is_some_and(dure_engine::Shard::is_drained);
            if self.stopped || self.disk.is_off() || is_drained {
                return Ok(());
            }
            if !self.jobs.is_empty() {
                let job = self.jobs.remove(0);
                self.run_job(job);
            } else if let Some(first) = (0..self.done.len()).min_by_key(|i| self.done[*i].0) {
                let (at_ms, done) = self.done.remove(first);
                self.advance(at_ms.saturating_sub(self.now.mono_ms));
                self.tell_done(done);
            } else if !self.letters.is_empty() {
                self.return_a_letter()?;
            } else if !self.tables.is_empty() {
                self.return_a_table()?;
            } else if self.is_idle {
                return Ok(());
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Checked {
        match effect {
            Effect::Job(job) => {
                self.note(format_args!("job {job:?}"));
                if let Some(seq) = job.commit_seq() {
                    self.number_grants(seq.0);
                }
                self.jobs.push(job);
            }
            Effect::Reply { to, result } => return self.answered(to, result),
            Effect::Deliver(deliver) => return self.delivered(deliver),
            Effect::EndSubscription { connection, subscription, error } => {
                self.note(format_args!("end {connection:?} {subscription:?}: {error}"));
                self.unsubscribed((connection, subscription));
            }
            Effect::Assign { connection, assignment } => self.assigned(connection, assignment),
            Effect::Publish(view) => return self.published(view),
            Effect::Unpublish(partition) => {
                self.note(format_args!("unpublish {partition}"));
                self.views.remove(&partition);
            }
            Effect::TopicsChanged(table) => {
                self.delays_of.extend(table.iter().filter_map(|t| Some((t.id, t.delayed_of?.0))));
                self.letters_of.extend(table.iter().filter_map(|t| Some((t.id, t.dead_letters_of?.1))));
                self.topics = table;
            }
            Effect::FetchLetter { group, source, offset, reason, from } => {
                self.note(format_args!("fetch {source} {offset} from {} {}: {reason}", from.0, from.1));
                self.letters.push(LetterRequest { group, source, offset, from });
            }
            Effect::Scrubbed(scrubbed) => {
                for finding in &scrubbed.findings {
                    self.note(format_args!("scrubbed: {finding}"));
                    ensure!(
                        self.fault_armed || self.damaged || self.disk.is_off(),
                        "the scrubber found damage, and nothing was wrong with the disk: {finding}"
                    );
                }
            }
            Effect::Shortage(shortage) => self.note(format_args!("shortage: {shortage:?}")),
            Effect::CopiesWait(waits) => self.note(format_args!("copies wait: {waits:?}")),
            Effect::CompactionFailed(failed) => {
                self.note(format_args!("{failed:?}"));
                ensure!(
                    self.fault_armed || self.disk.is_off(),
                    "compaction failed for no reason: {failed:?}"
                );
            }
            Effect::Unwritable(logs) => {
                self.note(format_args!("unwritable: {logs:?}"));
                self.count("times that logs were found or no longer found unwritable");
            }
            Effect::FetchRecords { group, partition, from, seed } => {
                self.note(format_args!("look at {partition} from {from} on"));
                self.tables.push(TableRequest { group, partition, from, seed });
            }
            Effect::Stopped(why) => {
                self.note(format_args!("stopped: {why}"));
                ensure!(
                    self.may_stop || self.disk.is_off(),
                    "the shard stopped, and nothing was wrong with the disk: {why}"
                );
                self.stopped = true;
            }
        }
        Ok(())
    }

    fn published(&mut self, view: LogView) -> Checked {
        let LogView { partition, log_start, high_watermark, .. } = view;
        self.note(format_args!("publish {partition} {log_start}..{high_watermark}"));
        if !self.damaged {
            self.check_log_start(&view)?;
            self.model.logs.entry(partition).or_default().see(&view)?;
            self.see_what_entered(&view)?;
        }
        self.views.insert(partition, view);
        Ok(())
    }

    /// Everything decided before a commit goes out for the first time is in it or in one before. One that found no room
    /// goes out again, and may do so behind a younger one.
    fn number_grants(&mut self, seq: u64) {
        if seq <= self.commit_last {
            return;
        }
        self.commit_last = seq;
        for (group, partition, offset, token) in std::mem::take(&mut self.grants_open) {
            let part = self.model.groups.get_mut(&group).and_then(|group| group.parts.get_mut(&partition));
            let grant = part.and_then(|part| part.messages.get_mut(&offset.0)?.grant.as_mut());
            if let Some(grant) = grant.filter(|grant| grant.token == token) {
                grant.commit = Some(seq);
            }
        }
    }

    fn everything_went_out(&mut self) {
        for (group, partition) in std::mem::take(&mut self.holds) {
            let part = self.model.groups.get_mut(&group).and_then(|group| group.parts.get_mut(&partition));
            part.into_iter().for_each(|part| part.holds = true);
        }
        for name in std::mem::take(&mut self.purged) {
            let id = self.model.topics.get(&name).and_then(|topic| topic.id);
            for (_, log) in self.model.logs.iter_mut().filter(|(partition, _)| Some(partition.topic) == id) {
                log.purge_bound = log.purge_bound.max(log.end);
            }
        }
    }

    pub(crate) fn unsubscribed(&mut self, key: SubscriptionKey) {
        if self.subscriptions.remove(&key).is_some() {
            self.subscription_gone(|of| of == key);
        }
    }

    pub(crate) fn subscription_gone(&mut self, gone: impl Fn(SubscriptionKey) -> bool) {
        for group in self.model.groups.values_mut() {
            group.parts.values_mut().for_each(|part| part.unsubscribe(&gone));
        }
    }

    /// Asks something that is answered without a commit.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Response, Violation> {
        let what = format!("{request:?}");
        let reply_to = self.next_reply_to();
        self.asked.insert(reply_to, Op::Question);
        self.handle(Input::Request { reply_to, request });
        self.settle_down()?;
        let answer = self.answers.remove(&reply_to.correlation);
        answer.ok_or_else(|| Violation(format!("no answer to {what}")))
    }

    pub(crate) fn keep_answer(&mut self, to: ReplyTo, response: Response) {
        self.answers.insert(to.correlation, response);
    }

    pub(crate) fn next_reply_to(&mut self) -> ReplyTo {
        let connection = self.connections[self.rng.usize(0..self.connections.len())];
        ReplyTo { connection, correlation: self.next_number() }
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(crate) fn disk_ref(&self) -> DiskRef {
        Arc::new(self.disk.clone())
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let at = self.now.mono_ms;
        self.history.note(format_args!("{at:>8} {what}"));
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.totals.operations.entry(what).or_default() += 1;
    }

    /// Takes over what the disk counted.
    pub(crate) fn count_disk(&mut self) {
        for (kind, count) in self.disk.injected().by_kind() {
            *self.totals.faults.entry(kind).or_default() += count;
        }
    }

    pub(crate) fn forget_life(&mut self) {
        self.shard = None;
        self.jobs.clear();
        self.done.clear();
        self.letters.clear();
        self.tables.clear();
        self.views.clear();
        self.letters_of.clear();
        self.delays_of.clear();
        self.asked.clear();
        self.subscriptions.clear();
        self.grants_open.clear();
        self.commit_last = 0;
        self.holds.clear();
        self.purged.clear();
        self.assignments.clear();
        self.answers.clear();
        self.backup = None;
        (self.fault_armed, self.may_stop, self.is_small) = (false, false, false);
        (self.stopped, self.armed_crash) = (false, None);
    }
}
