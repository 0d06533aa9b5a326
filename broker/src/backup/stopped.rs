//! The backup of a data directory that no broker runs on. It is recovered as a start would recover it, and then asked for
//! a backup as a running shard would be: what is in the archive is what the next start would serve.

use std::path::Path;

use dure_engine::{
    BackupPlan, ConnectionId, Effect, Finding, Input, OpenError, ReplyTo, Request, RequestError, Response,
    Shard, ShardConfig,
};
use dure_proto::ShardId;

use crate::clock::Clock;
use crate::data_dir::{DataDir, DataDirError};

const US: ReplyTo = ReplyTo { connection: ConnectionId(0), correlation: 1 };

/// A data directory that waits to be copied. No broker can start on it as long as this lives.
pub struct StoppedBackup {
    /// The directory.
    pub data: DataDir,
    /// What its shards named.
    pub plans: Vec<BackupPlan>,
    /// What the recovery found.
    pub findings: Vec<Finding>,
    _shards: Vec<Shard>,
}

/// Why nothing can be named.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A shard cannot be opened.
    #[error("shard {shard} cannot be opened: {source}")]
    Open {
        /// Which.
        shard: ShardId,
        /// Why.
        source: OpenError,
    },
    /// A shard makes no backup.
    #[error("shard {shard} makes no backup: {source}")]
    Refused {
        /// Which.
        shard: ShardId,
        /// Why.
        source: RequestError,
    },
}

/// Recovers a data directory and has it name what a backup consists of.
pub fn name_stopped(path: &Path) -> Result<StoppedBackup, StoppedError> {
    let data = DataDir::open(path)?;
    let clock = Clock::new();
    let (mut plans, mut findings, mut shards) = (Vec::new(), Vec::new(), Vec::new());
    for shard in (0..data.format().shards).map(ShardId) {
        // Nothing expires by being copied: housekeeping never comes round.
        let config = ShardConfig { salt: data.salt(), housekeeping_ms: u64::MAX, ..ShardConfig::default() };
        let disk = std::sync::Arc::new(data.disk());
        let (mut opened, report) = Shard::open(disk.clone(), shard, config, clock.now())
            .map_err(|source| StoppedError::Open { shard, source })?;
        findings.extend(report.findings);
        let request = Input::Request { reply_to: US, request: Request::BeginBackup };
        opened.handle(clock.now(), request);
        let plan =
            run(&mut opened, &*disk, &clock).map_err(|source| StoppedError::Refused { shard, source })?;
        plans.push(plan);
        shards.push(opened);
    }
    Ok(StoppedBackup { data, plans, findings, _shards: shards })
}

/// Runs the shard on this thread until it answers.
fn run(shard: &mut Shard, disk: &dyn dure_engine::Disk, clock: &Clock) -> Result<BackupPlan, RequestError> {
    loop {
        shard.turn(clock.now());
        let effects = shard.take_effects();
        if effects.is_empty() {
            return Err(RequestError::ShardStopped("it has nothing more to do".to_owned()));
        }
        for effect in effects {
            match effect {
                Effect::Job(job) => {
                    let done = job.run(disk);
                    shard.handle(clock.now(), Input::JobDone(done));
                }
                Effect::Reply { to: US, result } => match result? {
                    Response::Backup(plan) => return Ok(plan),
                    other => unreachable!("a backup was answered with {other:?}"),
                },
                Effect::Stopped(why) => return Err(RequestError::ShardStopped(why)),
                _ => {}
            }
        }
    }
}
