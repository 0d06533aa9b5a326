//! The threads that wait for the disk so that the shard's thread need not. Two changes of threads cost more than a small
//! commit does, so that one which nobody else waits beside is written by the shard's thread itself.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use dure_engine::{DiskJob, DiskRef, JobDone, JobKind};
use dure_proto::ShardId;

use super::Message;
use crate::health::Health;
use crate::metrics::Metrics;

/// Two commits are in flight, each on a thread.
const JOURNAL_THREADS: usize = 2;

/// Priority of the threads that an answer passes through, from -20 (first) to 19.
const GOES_FIRST: i32 = -10;
/// A commit up to this length takes about as long as an empty one.
const HERE_BYTES_MAX: usize = 64 << 10;

/// Where a shard's jobs go. The threads end when this is dropped.
pub(super) struct Jobs {
    disk: DiskRef,
    metrics: Arc<Metrics>,
    /// Commits that have not come back.
    commits_out: usize,
    commits: Sender<DiskJob>,
    background: Sender<DiskJob>,
    reads: Sender<DiskJob>,
    idle: Sender<DiskJob>,
}

impl Jobs {
    /// Gives a job to its thread; or back, if the shard's thread should run it. `alone`: that one has nothing else to do.
    pub(super) fn run(&mut self, job: DiskJob, alone: bool) -> Option<DiskJob> {
        if let Some(bytes) = job.commit_bytes() {
            self.commits_out += 1;
            if alone && self.commits_out == 1 && bytes <= HERE_BYTES_MAX {
                return Some(job);
            }
        }
        let queue = match job.kind() {
            JobKind::Commit => &self.commits,
            JobKind::Background => &self.background,
            JobKind::Read => &self.reads,
            JobKind::Idle => &self.idle,
        };
        // The threads live as long as this does, unless one panicked, which turned health red.
        let _ = queue.send(job);
        None
    }

    pub(super) fn run_here(&self, job: DiskJob) -> JobDone {
        run_job(&self.disk, job, &self.metrics)
    }

    pub(super) fn note_done(&mut self, done: &JobDone) {
        self.commits_out -= usize::from(done.kind() == JobKind::Commit);
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
    let mut spawn = |name: String, jobs: Receiver<DiskJob>, first: bool| {
        let (disk, inbox, metrics) = (disk.clone(), inbox.clone(), metrics.clone());
        let guard = PanicGuard { shard, health: health.clone(), thread: name.clone() };
        let run = move || {
            let _guard = guard;
            if first {
                go_first();
            }
            run_jobs(&disk, &jobs, &inbox, &metrics);
        };
        joins.push(thread::Builder::new().name(name).spawn(run).expect("the system has room for a thread"));
    };
    for n in 0..JOURNAL_THREADS {
        spawn(format!("journal-{shard}-{n}"), commit_jobs.clone(), true);
    }
    spawn(format!("disk-{shard}"), background_jobs, false);
    spawn(format!("delay-{shard}"), read_jobs, false);
    spawn(format!("scrub-{shard}"), idle_jobs, false);
    let (disk, metrics) = (disk.clone(), metrics.clone());
    Jobs { disk, metrics, commits_out: 0, commits, background, reads, idle }
}

fn run_jobs(disk: &DiskRef, jobs: &Receiver<DiskJob>, inbox: &Sender<Message>, metrics: &Metrics) {
    for job in jobs {
        if inbox.send(Message::Done(run_job(disk, job, metrics))).is_err() {
            return;
        }
    }
}

fn run_job(disk: &DiskRef, job: DiskJob, metrics: &Metrics) -> JobDone {
    let commit_bytes = job.commit_bytes();
    let begun = Instant::now();
    let done = job.run(&**disk);
    if let Some(bytes) = commit_bytes {
        metrics.commit(bytes, begun.elapsed());
    }
    done
}

/// Everybody waits for this thread, and it never works long: it should not have to wait for those that do. Where the
/// system does not let us (it takes root or `CAP_SYS_NICE`), it takes its turn like any other.
pub(super) fn go_first() {
    let _ = rustix::process::setpriority_process(None, GOES_FIRST);
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
