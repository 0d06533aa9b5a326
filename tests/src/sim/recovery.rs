//! How lives end and how the next ones begin.

use std::sync::Arc;

use dure_engine::{
    FailedSync, FaultRule, Finding, InjectedCounts, Latency, PastCache, Shard, SimDisk, SimFaults,
};
use dure_proto::ShardId;
use roaring::RoaringTreemap;

use super::world::{Crash, World};
use super::{Checked, Violation, ensure};

/// Changes to the disk that an armed crash lets through.
const CHANGES_MAX: u64 = 30;
/// Where segments and their indexes lie, of all logs.
const LOGS: &str = "shard-0000/log";
/// What a small disk has left.
const SPACE_BYTES_MAX: u64 = 256 << 10;
/// Openings that may fail one after the other, since something is wrong with the disk in each.
const BAD_OPENINGS_MAX: u32 = 4;

impl World {
    /// A kill, a power cut, or a clean shutdown: now, or in the middle of what the disk does next.
    pub(crate) fn come_to_an_end(&mut self) -> Checked {
        match self.rng.u8(0..8) {
            0 => self.shut_down(),
            1..=4 => {
                let crash = self.choose_crash();
                let changes = self.rng.u64(0..CHANGES_MAX);
                self.note(format_args!("{crash:?} after {changes} changes"));
                self.armed_crash = Some(crash);
                self.disk.power_off_after(changes);
                Ok(())
            }
            _ => self.crash_and_recover(),
        }
    }

    fn choose_crash(&mut self) -> Crash {
        if self.rng.bool() { Crash::Kill } else { Crash::PowerCut }
    }

    pub(crate) fn crash_and_recover(&mut self) -> Checked {
        let crash = match self.armed_crash {
            Some(crash) => crash,
            None => self.choose_crash(),
        };
        let what = self.crash(crash);
        self.recover(what)
    }

    /// Ends the life. What the kernel shows of a directory whose sync failed is not to be believed by anyone, and a
    /// file system that could not write its own journal is mounted anew: such a life ends in a power cut.
    fn crash(&mut self, crash: Crash) -> &'static str {
        let stopped = self.stopped;
        let dir_sync_failed = self.disk.injected().sync_dir_errors > self.dir_sync_errors_seen;
        self.dir_sync_errors_seen = self.disk.injected().sync_dir_errors;
        self.forget_life();
        self.disk.set_faults(SimFaults::default());
        if crash == Crash::Kill && !dir_sync_failed {
            self.note(format_args!("killed"));
            self.disk.crash_process();
            return if stopped { "kill of a stopped shard" } else { "kill" };
        }
        let report = self.disk.crash(&mut self.rng);
        self.note(format_args!("power cut: {} kept, {} lost", report.kept, report.lost));
        if stopped { "power cut of a stopped shard" } else { "power cut" }
    }

    /// A clean shutdown leaves nothing to replay, if it does not take long.
    fn shut_down(&mut self) -> Checked {
        self.note(format_args!("shut down"));
        let now = self.now;
        let without_room = self.disk.injected().space_errors;
        self.shard.as_mut().expect("it runs").begin_shutdown(now);
        self.settle_down()?;
        if self.stopped || self.disk.is_off() {
            return self.crash_and_recover();
        }
        ensure!(self.shard.as_ref().expect("it runs").is_drained(), "a shutdown came to no end");
        // In the time that a slow disk takes for the last checkpoint leases run out, and commits follow it; and one that
        // finds no room for it leaves the journal instead.
        let found_room = self.disk.injected().space_errors == without_room;
        self.clean_shutdown = self.now == now && found_room;
        let crash = self.choose_crash();
        self.crash(crash);
        self.recover("clean shutdown")
    }

    /// One call to the disk will fail, some time.
    pub(crate) fn arm_fault(&mut self) {
        if self.fault_armed {
            return;
        }
        let used_bytes = self.disk.used_bytes();
        let faults = random_fault(&mut self.rng, 40, used_bytes);
        self.note(format_args!("fault {faults:?}"));
        self.fault_armed = true;
        self.may_stop = stops_a_shard(&faults);
        self.is_small = faults.capacity_bytes.is_some();
        self.disk.set_faults(faults);
    }

    /// Somebody has made room. What failed before may still have to be told.
    pub(crate) fn let_space_come_back(&mut self) {
        self.note(format_args!("space comes back"));
        self.count("times that space came back");
        self.is_small = false;
        self.disk.set_faults(SimFaults::default());
    }

    /// Opens the shard until that works, and checks what is there.
    pub(crate) fn recover(&mut self, after: &'static str) -> Checked {
        *self.totals.restarts.entry(after).or_default() += 1;
        let past_cache = if self.rng.bool() { PastCache::Durable } else { PastCache::AfterWriteBack };
        self.recover_with(past_cache)
    }

    pub(crate) fn recover_with(&mut self, past_cache: PastCache) -> Checked {
        let before_ms = self.now.mono_ms;
        self.now.mono_ms = self.rng.u64(0..100_000);
        self.now.wall_ms += self.rng.u64(0..2_000);
        for _ in 0..BAD_OPENINGS_MAX {
            if self.rng.u32(0..100) >= self.knobs.bad_recovery_percent {
                break;
            }
            self.open_badly(past_cache)?;
        }
        self.disk.set_faults(SimFaults { past_cache, ..SimFaults::default() });
        self.compare_with_older_checkpoint()?;
        let spent_before_ms = self.disk.spent_ms();
        let opened = Shard::open(self.disk_ref(), ShardId(0), self.knobs.shard.clone(), self.now);
        let (shard, report) = opened.map_err(|error| Violation(format!("opening failed: {error}")))?;
        self.note(format_args!("opened with {past_cache:?}: {report:?}"));
        check_findings(&report.findings)?;
        if std::mem::take(&mut self.clean_shutdown) {
            ensure!(report.commits == 0, "{} commits to replay after a clean shutdown", report.commits);
        }
        self.shard = Some(shard);
        let opened_at = self.now;
        self.advance(self.disk.spent_ms() - spent_before_ms);
        // Bad openings that left their mark have a commit each, and it is all that they have.
        let bad_openings = report.epoch.0 - 1 - std::mem::replace(&mut self.epoch, report.epoch).0;
        self.model.restart(report.last_commit.0 - bad_openings, before_ms, opened_at.mono_ms);
        self.told_commit = report.last_commit.0;
        self.keep_some_receipts();
        self.pump()?;
        *self.totals.checks.entry("recoveries checked").or_default() += 1;
        self.check_recovered()
    }

    /// An opening in which the disk fails or the process dies; it may succeed all the same, and is then killed.
    pub(crate) fn open_badly(&mut self, past_cache: PastCache) -> Checked {
        let dies = self.rng.bool();
        let before = self.disk.injected();
        if dies {
            self.disk.set_faults(SimFaults { past_cache, ..SimFaults::default() });
            self.disk.power_off_after(self.rng.u64(0..CHANGES_MAX));
        } else {
            let used_bytes = self.disk.used_bytes();
            let faults = SimFaults { past_cache, ..random_fault(&mut self.rng, 12, used_bytes) };
            self.disk.set_faults(faults);
        }
        let opened = Shard::open(self.disk_ref(), ShardId(0), self.knobs.shard.clone(), self.now);
        let off = self.disk.is_off();
        match opened {
            Ok((_, mut report)) => {
                // A checkpoint that the disk refused to read is named, and the one before it stood in.
                let refused = self.disk.injected().read_errors > before.read_errors;
                report.findings.retain(|f| !(refused && matches!(f, Finding::CheckpointDamaged { .. })));
                check_findings(&report.findings)?;
            }
            Err(error) => {
                self.note(format_args!("a bad opening: {error}"));
                ensure!(
                    off || faults_struck(before, self.disk.injected()),
                    "opening failed, and nothing was wrong with the disk: {error}"
                );
            }
        }
        *self.totals.restarts.entry("opening that met a fault or a crash").or_default() += 1;
        self.clean_shutdown = false;
        let crash = self.choose_crash();
        self.crash(crash);
        Ok(())
    }

    /// Workers outlive the broker, and come back with receipts of which some never were durable.
    fn keep_some_receipts(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|_| self.rng.u8(0..4) > 0);
        self.held = held;
    }

    /// The end of a seed: everything is worked off, and a last clean shutdown leaves exactly that.
    pub(crate) fn end(&mut self) -> Checked {
        self.disk.set_latency(Latency::default());
        if self.stopped || self.disk.is_off() || self.armed_crash.is_some() || self.fault_armed {
            self.crash_and_recover()?;
        }
        self.settle_down()?;
        self.drain_delays()?;
        self.drain_queues()?;
        self.settle_down()?;
        self.check_copied()?;
        self.shut_down()
    }

    /// The same disk, recovered from the newest checkpoint and from the one before it, gives the same state: so what
    /// was decided live (which the newest holds) is what replaying it gives, and a damaged checkpoint costs nothing.
    fn compare_with_older_checkpoint(&mut self) -> Checked {
        if self.rng.u32(0..100) >= self.knobs.fork_percent {
            return Ok(());
        }
        let Some(newest) = newest_checkpoint(&self.disk) else { return Ok(()) };
        *self.totals.checks.entry("recoveries from two checkpoints compared").or_default() += 1;
        let with = self.final_state(self.disk.fork(), false)?;
        let damaged = self.disk.fork();
        damaged.flip_bit(&newest, 40, 3).map_err(|error| Violation(error.to_string()))?;
        let without = self.final_state(damaged, true)?;
        ensure!(
            with == without,
            "replay from the checkpoint before {newest} gives another state:\n{with:#?}\ninstead of\n{without:#?}"
        );
        Ok(())
    }

    /// What a recovery and a clean shutdown leave in the checkpoint, but for what differs by its nature.
    fn final_state(
        &mut self,
        disk: SimDisk,
        damaged: bool,
    ) -> Result<dure_proto::journal::Checkpoint, Violation> {
        let opened = Shard::open(Arc::new(disk.clone()), ShardId(0), self.knobs.shard.clone(), self.now);
        let (mut shard, report) =
            opened.map_err(|error| Violation(format!("opening a copy failed: {error}")))?;
        let named = report.findings.iter().filter(|f| matches!(f, Finding::CheckpointDamaged { .. })).count();
        ensure!(named == usize::from(damaged), "a damaged checkpoint is reported: {:?}", report.findings);
        let others: Vec<Finding> =
            report.findings.into_iter().filter(|f| !matches!(f, Finding::CheckpointDamaged { .. })).collect();
        check_findings(&others)?;
        shard.begin_shutdown(self.now);
        while !shard.is_drained() {
            let jobs: Vec<_> = shard.take_effects().into_iter().collect();
            ensure!(!jobs.is_empty(), "the shutdown of a copy came to no end");
            for effect in jobs {
                if let dure_engine::Effect::Job(job) = effect {
                    shard.handle(self.now, dure_engine::Input::JobDone(job.run(&disk)));
                }
            }
            shard.turn(self.now);
        }
        ensure!(shard.stopped().is_none(), "a copy stopped: {:?}", shard.stopped());
        let path = newest_checkpoint(&disk).ok_or(Violation("no checkpoint after a shutdown".into()))?;
        let bytes = &disk.snapshot()[&path];
        let decoded = <dure_proto::journal::Checkpoint as prost::Message>::decode(&bytes[32..]);
        let mut state = decoded.map_err(|error| Violation(format!("{path}: {error}")))?;
        (state.seq, state.epoch, state.checksum, state.piece, state.wall_ms) = (0, 0, 0, 0, 0);
        (state.retention_ms, state.position, state.id_clock_ms) = (None, None, 0);
        for queue in state.groups.iter_mut().flat_map(|group| &mut group.queues) {
            let settled = RoaringTreemap::deserialize_from(&*queue.settled);
            let settled = settled.map_err(|error| Violation(format!("{path}: {error}")))?;
            // The same set may be stored in several ways.
            queue.settled = settled.iter().flat_map(u64::to_le_bytes).collect();
        }
        for delay in state.logs.iter_mut().filter_map(|log| log.delay.as_mut()) {
            let settled = RoaringTreemap::deserialize_from(&*delay.settled);
            let settled = settled.map_err(|error| Violation(format!("{path}: {error}")))?;
            delay.settled = settled.iter().flat_map(u64::to_le_bytes).collect();
        }
        Ok(state)
    }
}

fn newest_checkpoint(disk: &SimDisk) -> Option<String> {
    disk.snapshot_paths().into_iter().rfind(|path| path.ends_with(".checkpoint"))
}

/// Nothing of what was acknowledged is damaged: crashes and failed calls leave no more than a torn end.
fn check_findings(findings: &[Finding]) -> Checked {
    let damage: Vec<String> = findings.iter().filter(|f| f.is_damage()).map(ToString::to_string).collect();
    ensure!(damage.is_empty(), "damage without a cause: {}", damage.join("; "));
    Ok(())
}

/// Whether a call failed. Those that were slow or short only are to be borne.
fn faults_struck(before: InjectedCounts, after: InjectedCounts) -> bool {
    let harmless =
        |counts: InjectedCounts| InjectedCounts { short_reads: 0, cold_reads: 0, hung_calls: 0, ..counts };
    harmless(before) != harmless(after)
}

/// Readers get an error, or less than they asked for; what is written is none of it. A log that cannot be written is the
/// only one to suffer.
fn stops_a_shard(faults: &SimFaults) -> bool {
    let SimFaults { only_under, fail_read, short_read, cold_read, .. } = faults;
    only_under.is_empty()
        && [fail_read, short_read, cold_read].into_iter().all(|rule| *rule == FaultRule::Never)
}

/// One failing call, within the next `calls_max` of its kind; or logs that cannot be written; or reads that are slow and short; or a disk that has
/// little room left.
fn random_fault(rng: &mut fastrand::Rng, calls_max: u64, used_bytes: u64) -> SimFaults {
    let rule = FaultRule::Nth(rng.u64(1..=calls_max));
    let failed_sync = if rng.bool() { FailedSync::LosesAll } else { FailedSync::LosesSome };
    let none = SimFaults { failed_sync, ..SimFaults::default() };
    let of_logs = SimFaults { only_under: LOGS.to_owned(), ..SimFaults::default() };
    let lasting = if rng.bool() { rule } else { FaultRule::From(rng.u64(1..=calls_max)) };
    match rng.u8(0..16) {
        10 | 11 => SimFaults { fail_write: lasting, ..of_logs },
        12 => SimFaults { fail_entry: lasting, ..of_logs },
        6 => SimFaults { fail_read: rule, ..none },
        7 => SimFaults {
            short_read: FaultRule::PerMillion(300_000),
            cold_read: FaultRule::PerMillion(300_000),
            ..none
        },
        8 | 9 => SimFaults { capacity_bytes: Some(used_bytes + rng.u64(0..SPACE_BYTES_MAX)), ..none },
        0 => SimFaults { fail_write: rule, ..none },
        1 => SimFaults { fail_space: rule, ..none },
        2 => SimFaults { fail_sync_dir: rule, ..none },
        3 => SimFaults { fail_entry: rule, ..none },
        _ => SimFaults { fail_sync: rule, ..none },
    }
}
