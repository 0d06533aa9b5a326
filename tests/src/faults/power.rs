//! Power cuts: everything that was not synced is gone, for the file system and for the broker.

use super::check::Violation;
use super::{Fault, SMALL, Stage};
use crate::harness::{BrokerBuilder, FileSystem, LoopDisk, tools};

/// XFS wants 300 MiB at least.
const VOLUME_BYTES: u64 = 768 << 20;

pub(super) struct PowerCut {
    name: &'static str,
    system: FileSystem,
    volume: Option<LoopDisk>,
}

impl PowerCut {
    pub(super) fn on_ext4() -> PowerCut {
        PowerCut { name: "power-ext4", system: FileSystem::Ext4, volume: None }
    }

    pub(super) fn on_xfs() -> PowerCut {
        PowerCut { name: "power-xfs", system: FileSystem::Xfs, volume: None }
    }
}

impl Fault for PowerCut {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        tools::missing(&["xfs_io"]).or_else(|| LoopDisk::missing(self.system))
    }

    fn prepare(&mut self) -> Result<BrokerBuilder, String> {
        self.volume = None;
        let volume = self.volume.insert(LoopDisk::new(self.system, VOLUME_BYTES)?);
        Ok(BrokerBuilder::default().flags(SMALL).inside(&volume.root()))
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        let volume = self.volume.as_mut().expect("it was prepared");
        stage.run_on(200..900);
        let cut = stage.fault("the power is cut", |stage| {
            volume.cut_power()?;
            // It may notice for a moment, as a disk without power answers nothing.
            stage.run_on(0..20);
            stage.broker.kill();
            volume.remount()?;
            stage.broker.start_again();
            Ok(())
        });
        cut.map_err(|error: String| Violation::conduct(format!("the cut itself failed: {error}")))?;
        stage.run_on(100..500);
        Ok(())
    }
}
