//! The threads that wait for the disk so that the shard's thread need not.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use dure_engine::{DiskJob, DiskRef, JobKind};
use dure_proto::ShardId;

use super::Message;
use crate::health::Health;
use crate::metrics::Metrics;

/// Two commits are in flight, each on a thread.
const JOURNAL_THREADS: usize = 2;

/// Where a shard's jobs go. The threads end when this is dropped.
pub(super) struct Jobs {
    commits: Sender<DiskJob>,
    background: Sender<DiskJob>,
    reads: Sender<DiskJob>,
    idle: Sender<DiskJob>,
}

impl Jobs {
    pub(super) fn run(&self, job: DiskJob) {
        let queue = match job.kind() {
            JobKind::Commit => &self.commits,
            JobKind::Background => &self.background,
            JobKind::Read => &self.reads,
            JobKind::Idle => &self.idle,
        };
        // The threads live as long as this does, unless one panicked, which turned health red.
        let _ = queue.send(job);
    }
}

pub(super) fn start(
    shard: ShardId,
    disk: &DiskRef,
    inbox: &Sender<Message>,
    health: &Health,
    metrics: &Arc<Metrics>,
    joins: &mut Vec<JoinHandle<()>>,
) -> Jobs {
    let (commits, commit_jobs) = crossbeam_channel::unbounded();
    let (background, background_jobs) = crossbeam_channel::unbounded();
    let (reads, read_jobs) = crossbeam_channel::unbounded();
    let (idle, idle_jobs) = crossbeam_channel::unbounded();
    let mut spawn = |name: String, jobs: Receiver<DiskJob>| {
        let (disk, inbox, metrics) = (disk.clone(), inbox.clone(), metrics.clone());
        let guard = PanicGuard { shard, health: health.clone(), thread: name.clone() };
        let run = move || {
            let _guard = guard;
            run_jobs(&disk, &jobs, &inbox, &metrics);
        };
        joins.push(thread::Builder::new().name(name).spawn(run).expect("the system has room for a thread"));
    };
    for n in 0..JOURNAL_THREADS {
        spawn(format!("journal-{shard}-{n}"), commit_jobs.clone());
    }
    spawn(format!("disk-{shard}"), background_jobs);
    spawn(format!("delay-{shard}"), read_jobs);
    spawn(format!("scrub-{shard}"), idle_jobs);
    Jobs { commits, background, reads, idle }
}

fn run_jobs(disk: &DiskRef, jobs: &Receiver<DiskJob>, inbox: &Sender<Message>, metrics: &Metrics) {
    for job in jobs {
        let commit_bytes = job.commit_bytes();
        let begun = Instant::now();
        let done = job.run(&**disk);
        if let Some(bytes) = commit_bytes {
            metrics.commit(bytes, begun.elapsed());
        }
        if inbox.send(Message::Done(done)).is_err() {
            return;
        }
    }
}

/// A thread that panics takes its shard's health with it: whoever waits for it would wait for ever.
pub(super) struct PanicGuard {
    pub(super) shard: ShardId,
    pub(super) health: Health,
    pub(super) thread: String,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.health.shard_stopped(self.shard.0, format!("its thread `{}` panicked", self.thread));
        }
    }
}
