//! Backups of the shard while everything goes on: read file by file, restored on a disk of their own, and looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use dure_engine::{
    BackupFile, BackupPlan, Disk, DiskResult, Effect, Input, OpenMode, RESTORED_EPOCHS_MIN, ReplyTo, Request,
    Shard, SimDisk, verify,
};
use dure_proto::{Offset, ShardId, TopicPartition};

use super::model::read_log;
use super::workload::Op;
use super::world::World;
use super::{Checked, Violation, ensure};

/// One that was asked for.
pub(crate) struct Backup {
    owner: ReplyTo,
    /// Ends of the logs that were shown when it was asked for.
    shown: BTreeMap<TopicPartition, Offset>,
    /// Once the shard has named it.
    plan: Option<BackupPlan>,
    files: BTreeMap<String, Vec<u8>>,
}

impl World {
    /// A client asks for a backup, reads one file more of it, or loses interest.
    pub(crate) fn backup_step(&mut self) -> Checked {
        if self.damaged {
            return Ok(());
        }
        let Some(backup) = &self.backup else {
            let owner = self.next_reply_to();
            let shown =
                self.views.iter().map(|(partition, view)| (*partition, view.high_watermark)).collect();
            self.backup = Some(Backup { owner, shown, plan: None, files: BTreeMap::new() });
            self.send_from(owner, Request::BeginBackup, Op::Backup);
            return Ok(());
        };
        let Some(plan) = &backup.plan else { return Ok(()) };
        if self.rng.u8(0..16) == 0 {
            self.end_backup("backups that nobody wanted any more");
            return Ok(());
        }
        match plan.segments.get(backup.files.len()).cloned() {
            None => self.backup_is_read(),
            Some(file) => self.read_backup_file(&file),
        }
    }

    /// What became of the request.
    pub(crate) fn backup_named(&mut self, plan: Option<BackupPlan>) {
        match (&mut self.backup, plan) {
            (Some(backup), Some(plan)) => backup.plan = Some(plan),
            _ => {
                self.backup = None;
                self.count("backups refused");
            }
        }
    }

    /// The connection with this one is closed, and so is its backup.
    pub(crate) fn backup_closed(&mut self, closed: dure_engine::ConnectionId) {
        self.backup = self.backup.take().filter(|backup| backup.owner.connection != closed);
    }

    fn end_backup(&mut self, how: &'static str) {
        let Some(backup) = self.backup.take() else { return };
        self.note(format_args!("end the backup: {how}"));
        self.count(how);
        let reply_to = ReplyTo { correlation: 0, ..backup.owner };
        self.handle(Input::Request { reply_to, request: Request::EndBackup });
    }

    fn read_backup_file(&mut self, file: &BackupFile) -> Checked {
        let read = || -> DiskResult<Vec<u8>> {
            let mut content = vec![0; file.bytes as usize];
            self.disk.open(&file.path, OpenMode::Read)?.read_exact_at(0, &mut content)?;
            Ok(content)
        };
        let read = read();
        let backup = self.backup.as_mut().expect("it is under way");
        let given_up = backup.plan.as_ref().is_some_and(BackupPlan::is_given_up);
        match read {
            _ if given_up => self.end_backup("backups given up"),
            Ok(content) => drop(backup.files.insert(file.path.clone(), content)),
            Err(error) => {
                ensure!(self.fault_armed || self.disk.is_off(), "a file of a backup cannot be read: {error}");
                self.end_backup("backups that met a fault");
            }
        }
        Ok(())
    }

    /// What is restored is whole, and holds what was shown before it was asked for.
    fn backup_is_read(&mut self) -> Checked {
        let Some(Backup { plan: Some(plan), files, shown, .. }) = &self.backup else { return Ok(()) };
        let disk = SimDisk::new(0);
        let wrong = |error: dure_engine::DiskError| Violation(format!("a restore failed: {error}"));
        let checkpoint = dure_engine::restored_checkpoint(ShardId(0), &plan.checkpoint, RESTORED_EPOCHS_MIN)
            .map_err(Violation)?;
        for (path, bytes) in files.iter().chain([(&checkpoint.path, &checkpoint.bytes)]) {
            disk.create_dir_all(path.rsplit_once('/').expect("in a directory").0).map_err(wrong)?;
            let file = disk.open(path, OpenMode::Create).map_err(wrong)?;
            // The start and the verification believe what is on the device.
            file.write_all_at(0, bytes).and_then(|()| file.sync()).map_err(wrong)?;
        }
        for dir in ["journal", "log"] {
            disk.create_dir_all(&format!("shard-0000/{dir}")).map_err(wrong)?;
        }
        let verified = verify(&disk, ShardId(0), self.knobs.shard.salt).map_err(wrong)?;
        ensure!(verified.is_ok(), "a backup is damaged: {:?}", verified.findings);
        let shown = shown.clone();
        let opened = Shard::open(Arc::new(disk), ShardId(0), self.knobs.shard.clone(), self.now);
        let (mut shard, report) =
            opened.map_err(|error| Violation(format!("a backup cannot be opened: {error}")))?;
        ensure!(report.findings.is_empty(), "a backup is damaged: {:?}", report.findings);
        for effect in shard.take_effects() {
            let Effect::Publish(view) = effect else { continue };
            let shown = shown.get(&view.partition).copied().unwrap_or_default();
            ensure!(
                view.high_watermark >= shown,
                "a backup of {view:?} ends before {shown}, which was shown"
            );
            let known = self.model.logs.contains_key(&view.partition)
                && !self.letters_of.contains_key(&view.partition.topic)
                && !self.delays_of.contains_key(&view.partition.topic)
                && !self.is_compacted(view.partition);
            if known {
                let mut found = Vec::new();
                read_log(&view, view.log_start, |header, batch| {
                    found.push((header, batch));
                    Ok(())
                })?;
                for (header, batch) in found {
                    self.check_batch(view.partition, &header, &batch)?;
                }
            }
        }
        *self.totals.checks.entry("backups restored and read").or_default() += 1;
        self.end_backup("backups read to their end");
        Ok(())
    }
}
