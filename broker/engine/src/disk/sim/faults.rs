//! What goes wrong on purpose, and the count of it.

/// The faults of a simulated disk. Calls are counted per field from when they are set; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimFaults {
    /// Only calls on paths that start with this are counted and fail (empty: all).
    pub only_under: String,
    /// EIO on reading, cached and past the cache.
    pub fail_read: FaultRule,
    /// EIO on writing, cutting or allocating; of a write a random part is done, as of one that came back short.
    pub fail_write: FaultRule,
    /// ENOSPC on writing or allocating; a random part of a write is done.
    pub fail_space: FaultRule,
    /// EIO on a file's sync, with the consequences of [`SimFaults::failed_sync`].
    pub fail_sync: FaultRule,
    /// EIO on a directory's sync; the entries stay visible and are lost in a crash.
    pub fail_sync_dir: FaultRule,
    /// EIO on creating, renaming and removing, without an effect.
    pub fail_entry: FaultRule,
    /// EIO on listing a directory.
    pub fail_list: FaultRule,
    /// [`DiskFile::read_at`](crate::DiskFile::read_at) returns a random part of what was asked for.
    pub short_read: FaultRule,
    /// [`DiskFile::read_cached_at`](crate::DiskFile::read_cached_at) would have to wait.
    pub cold_read: FaultRule,
    /// The write reports success and went to another sector of the same file.
    pub misdirect_write: FaultRule,
    /// What a failed sync leaves on the device.
    pub failed_sync: FailedSync,
    /// What reading past the cache finds of unsynced writes.
    pub past_cache: PastCache,
    /// The size of the disk. Growing beyond it is ENOSPC, after writing what fits.
    pub capacity_bytes: Option<u64>,
}

/// Which calls a fault hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultRule {
    /// None.
    #[default]
    Never,
    /// The n-th, once; the first is 1.
    Nth(u64),
    /// The n-th and all that follow.
    From(u64),
    /// Each with this probability.
    PerMillion(u32),
}

/// What a failed sync leaves on the device. The pages count as clean in any case, as on Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedSync {
    /// Nothing that was not synced.
    #[default]
    LosesAll,
    /// Each unsynced sector, and the length, with a probability of one half.
    LosesSome,
}

/// What reading past the cache finds of unsynced writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PastCache {
    /// Nothing: the durable content with the durable length. Harsher than Linux.
    #[default]
    Durable,
    /// All of them but those that a failed sync has dropped, with the length that readers see: Linux writes the dirty
    /// pages of the range back before a direct read. They are not durable by it.
    AfterWriteBack,
}

/// How long calls take, in simulated milliseconds; nothing by default. The disk only adds it up
/// ([`SimDisk::spent_ms`](super::SimDisk::spent_ms)): whoever keeps the clock lets it pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// A read takes up to this.
    pub read_ms_max: u64,
    /// A write, cut or allocation takes up to this.
    pub write_ms_max: u64,
    /// A sync, of a file or a directory, takes up to this.
    pub sync_ms_max: u64,
    /// Creating, renaming or removing takes up to this.
    pub entry_ms_max: u64,
    /// So many calls in a million hang.
    pub hang_per_million: u32,
    /// For up to this.
    pub hang_ms_max: u64,
}

/// What has been injected so far, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InjectedCounts {
    pub read_errors: u64,
    pub write_errors: u64,
    pub space_errors: u64,
    pub sync_errors: u64,
    pub sync_dir_errors: u64,
    pub entry_errors: u64,
    pub list_errors: u64,
    pub short_reads: u64,
    pub cold_reads: u64,
    pub misdirected_writes: u64,
    /// Failed writes of which a part, and not nothing or all, was done.
    pub short_writes: u64,
    pub hung_calls: u64,
    pub flipped_bits: u64,
    pub power_cuts: u64,
    pub process_kills: u64,
    pub lost_sectors: u64,
    pub lost_lengths: u64,
    pub lost_entries: u64,
}

impl InjectedCounts {
    /// The counts with their names, for printing and adding up.
    pub fn by_kind(&self) -> [(&'static str, u64); 18] {
        [
            ("read errors", self.read_errors),
            ("write errors", self.write_errors),
            ("space errors", self.space_errors),
            ("sync errors", self.sync_errors),
            ("directory sync errors", self.sync_dir_errors),
            ("entry errors", self.entry_errors),
            ("list errors", self.list_errors),
            ("short reads", self.short_reads),
            ("cold reads", self.cold_reads),
            ("misdirected writes", self.misdirected_writes),
            ("short writes", self.short_writes),
            ("hung calls", self.hung_calls),
            ("flipped bits", self.flipped_bits),
            ("power cuts", self.power_cuts),
            ("process kills", self.process_kills),
            ("lost sectors", self.lost_sectors),
            ("lost lengths", self.lost_lengths),
            ("lost entries", self.lost_entries),
        ]
    }
}

/// The calls that reached the disk, failed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct IoCounts {
    /// Opened files and listed directories.
    pub lookups: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    /// Created, renamed and removed.
    pub entry_changes: u64,
}

impl IoCounts {
    /// The calls that change the disk: the boundaries at which a power cut makes a difference.
    pub fn changes(&self) -> u64 {
        self.writes + self.syncs + self.dir_syncs + self.entry_changes
    }
}

/// The rules with their counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) rules: SimFaults,
    pub(super) counts: InjectedCounts,
    calls: [u64; 10],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Read,
    Write,
    Space,
    Sync,
    SyncDir,
    Entry,
    List,
    ShortRead,
    ColdRead,
    MisdirectedWrite,
}

impl Faults {
    pub(super) fn set(&mut self, rules: SimFaults) {
        self.rules = rules;
        self.calls = Default::default();
    }

    /// Counts a call, and whether the fault hits it.
    pub(super) fn hits(&mut self, fault: Fault, path: &str, rng: &mut fastrand::Rng) -> bool {
        if !path.starts_with(&self.rules.only_under) {
            return false;
        }
        let (rules, counts) = (&self.rules, &mut self.counts);
        let (rule, count) = match fault {
            Fault::Read => (rules.fail_read, &mut counts.read_errors),
            Fault::Write => (rules.fail_write, &mut counts.write_errors),
            Fault::Space => (rules.fail_space, &mut counts.space_errors),
            Fault::Sync => (rules.fail_sync, &mut counts.sync_errors),
            Fault::SyncDir => (rules.fail_sync_dir, &mut counts.sync_dir_errors),
            Fault::Entry => (rules.fail_entry, &mut counts.entry_errors),
            Fault::List => (rules.fail_list, &mut counts.list_errors),
            Fault::ShortRead => (rules.short_read, &mut counts.short_reads),
            Fault::ColdRead => (rules.cold_read, &mut counts.cold_reads),
            Fault::MisdirectedWrite => (rules.misdirect_write, &mut counts.misdirected_writes),
        };
        let calls = &mut self.calls[fault as usize];
        *calls += 1;
        let hit = match rule {
            FaultRule::Never => false,
            FaultRule::Nth(n) => *calls == n,
            FaultRule::From(n) => *calls >= n,
            FaultRule::PerMillion(rate) => rng.u32(0..1_000_000) < rate,
        };
        *count += u64::from(hit);
        hit
    }
}
