//! Opening a shard: the last good checkpoint, then the journal behind it, then a new epoch.
//!
//! Everything is read past the page cache, since nothing remembers which file a failed sync before the stop hit. The
//! journal is synced before it is read, since what it says is acted upon. The segments' unsynced tails are served out of
//! it and written again when the shard runs. The new epoch's first commit is synced before anything is served.

use dure_proto::journal::{EpochOpened, Event, event};
use dure_proto::{CommitSeq, Epoch, ShardId, TopicPartition};

use super::cached::CacheWindow;
use super::commit_path::{CommitPath, CommitPathConfig};
use super::compaction::Compaction;
use super::copies::Copies;
use super::delays::Delays;
use super::queues::QueueSide;
use super::replay::Replay;
use super::space::Space;
use super::state::GroupKind;
use super::sweep::Sweep;
use super::tails::Tails;
use super::{Checkpointing, Shard, ShardConfig};
use crate::checkpoint::{self, Loaded};
use crate::dedup::IdClock;
use crate::disk::{AlignedBytes, DiskError, DiskRef};
use crate::effect::Effect;
use crate::finding::Finding;
use crate::job::{DiskJob, Job};
use crate::journal::{
    COMMIT_BYTES_MAX, CommitBuilder, CommitStamp, Journal, OpenPiece, Pieces, ScanFrom, piece_path, scan,
    sync_pieces,
};
use crate::log::{Freeing, LogLayout, LogWriter};
use crate::mutant::{self, Mutant};
use crate::queue_group::TokenSource;
use crate::retention::RetentionClock;
use crate::scrub::Scrubber;
use crate::time::Now;

/// Smallest journal piece with the default bounds of a commit: the largest one fits.
pub const JOURNAL_PIECE_BYTES_MIN: u64 = 16 << 20;
const _: () = assert!(COMMIT_BYTES_MAX as u64 <= JOURNAL_PIECE_BYTES_MIN);

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// The epoch that was opened.
    pub epoch: Epoch,
    /// The last commit that was kept; that of the new epoch follows it.
    pub last_commit: CommitSeq,
    /// Commits replayed behind the checkpoint.
    pub commits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damage and notes.
    pub findings: Vec<Finding>,
}

/// Why a shard cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// No checkpoint can be read, and the journal does not reach back to the beginning.
    #[error(
        "{dir}: no checkpoint can be read and the journal {}: restore a backup, or put the checkpoint back",
        .first.map_or("holds nothing".to_owned(), |first| format!("begins at commit {first}"))
    )]
    NoCheckpoint {
        /// The shard's directory.
        dir: String,
        /// The first commit that is left, if there is one.
        first: Option<CommitSeq>,
    },
    /// A checkpoint whose checksum is right says what cannot be.
    #[error("{dir}: the checkpoint contradicts itself: {what}")]
    Checkpoint {
        /// The shard's directory.
        dir: String,
        /// What is wrong.
        what: String,
    },
    /// There is no room for the piece of the journal that an opening begins.
    #[error(
        "{dir}: no room to begin a piece of the journal: {needed_bytes} bytes are needed and {available_bytes} are free; \
         make room beside the data directory, or give it a larger disk: nothing in it can be done without ({source})"
    )]
    NoRoom {
        /// The shard's directory.
        dir: String,
        /// What has to be free.
        needed_bytes: u64,
        /// What is.
        available_bytes: u64,
        /// What the disk said.
        source: DiskError,
    },
    /// A setting is out of bounds.
    #[error("{0}")]
    Config(String),
}

/// A shard's directory within a data directory.
pub(crate) fn shard_dir(shard: ShardId) -> String {
    format!("shard-{:04}", shard.0)
}

impl Shard {
    /// Opens a shard, making it if it is not there. May wait for the disk. Effects (views, topics, jobs) are there
    /// to be taken.
    pub fn open(
        disk: DiskRef,
        shard: ShardId,
        config: ShardConfig,
        now: Now,
    ) -> Result<(Shard, RecoveryReport), OpenError> {
        check_config(&config)?;
        let needed_bytes = first_piece_bytes(config.journal_piece_bytes);
        Shard::recover(disk.clone(), shard, config, now).map_err(|error| match error {
            OpenError::Disk(source) if source.is_no_space() => {
                let available_bytes = disk.available_bytes().unwrap_or_default();
                OpenError::NoRoom { dir: shard_dir(shard), needed_bytes, available_bytes, source }
            }
            other => other,
        })
    }

    fn recover(
        disk: DiskRef,
        shard: ShardId,
        config: ShardConfig,
        now: Now,
    ) -> Result<(Shard, RecoveryReport), OpenError> {
        let dir = shard_dir(shard);
        let journal_dir = format!("{dir}/journal");
        make_dirs(&disk, &dir)?;

        let loaded = checkpoint::load(&*disk, &format!("{dir}/checkpoint"))?;
        let Loaded { newest: checkpoint, before, mut findings } = loaded;
        let from = checkpoint.as_ref().map_or_else(ScanFrom::default, ScanFrom::behind);
        if !mutant::is(Mutant::SkipRecoveredSync) {
            sync_pieces(&*disk, &journal_dir, from)?;
        }
        let ShardConfig { salt, commit_bytes_max, .. } = config;
        let scanned = scan(&*disk, &Journal { dir: &journal_dir, shard, salt, commit_bytes_max }, from)?;
        let first = scanned.commits.first().map(|commit| commit.header.seq);
        let reaches_back = first.map_or(findings.is_empty(), |first| first == CommitSeq(1));
        if checkpoint.is_none() && !reaches_back {
            return Err(OpenError::NoCheckpoint { dir, first });
        }
        findings.extend(scanned.findings);

        let mut replay = Replay::new(disk.clone(), &dir, checkpoint.as_ref(), now)?;
        for commit in &scanned.commits {
            replay.commit(commit, now, &mut findings)?;
        }
        findings.extend(replay.findings());
        let Replay { state, mut writers, .. } = replay;

        let last = scanned.commits.last();
        let last_seq = last.map_or(from.seq, |commit| commit.header.seq);
        let last_checksum = last.map_or(from.checksum, |commit| commit.checksum);
        // Behind damage the numbers go on where nobody has used them yet.
        let last_seq = findings.iter().filter_map(Finding::lost_upto).fold(last_seq, CommitSeq::max);
        let epoch = Epoch(last.map_or(from.epoch, |commit| commit.header.epoch).0 + 1);
        let number = scanned.pieces.last().map_or(1, |(number, _)| number + 1);
        // Pieces up to the checkpoint's own are needed should it be damaged: until there is another one, they are all
        // that the one before it, or nothing, can be replayed with. Of those before that one nothing is.
        let needed_from = before.map_or(0, |before| before.piece);
        let needed = |(number, last): &(u64, Option<CommitSeq>)| match last {
            Some(last) => Some((*number, *last)),
            None if mutant::is(Mutant::NeededPieceReused) => None,
            None => (needed_from..=from.piece).contains(number).then_some((*number, from.seq)),
        };
        let full: Vec<(u64, CommitSeq)> = scanned.pieces.iter().filter_map(needed).collect();
        let free = scanned.pieces.iter().map(|(number, _)| *number);
        let free: Vec<u64> = free.filter(|number| !full.iter().any(|(kept, _)| kept == number)).collect();

        let path_config = CommitPathConfig {
            salt: config.salt,
            shard,
            epoch,
            journal_dir: journal_dir.clone(),
            piece_bytes: config.journal_piece_bytes,
            commit_bytes_soft: config.commit_bytes_soft,
            flights_max: config.flights_max,
        };
        let commit_path = open_epoch(&disk, path_config, number, full, free, last_seq, last_checksum, now)?;

        let report = RecoveryReport {
            epoch,
            last_commit: last_seq,
            commits: scanned.commits.len() as u64,
            bytes: scanned.commits.iter().map(|commit| commit.body.len() as u64).sum(),
            findings,
        };
        for (partition, log) in &state.logs {
            let restore = || LogWriter::restore(disk.clone(), &dir, *partition, &LogLayout::new());
            let writer = writers.entry(*partition).or_insert_with(restore);
            writer.set_bounds(log.layout.log_start(), log.layout.log_end());
        }
        let mut shard = Shard {
            random: fastrand::Rng::with_seed(config.seed),
            tokens: TokenSource::new(if mutant::is(Mutant::TokensRepeat) { Epoch(1) } else { epoch }),
            unwritable: Default::default(),
            space: Space::new(config.reserve_bytes, disk.available_bytes().ok()),
            freeing: Freeing::default(),
            id_clock: IdClock::new(now, state.dedup.clock_ms()),
            disk,
            dir,
            state,
            writers,
            commit_path,
            queues: QueueSide::default(),
            delays: Delays::default(),
            copies: Copies::default(),
            producer_next: 0,
            requests: Default::default(),
            effects: Vec::new(),
            compaction: Compaction::new(now, epoch, config.housekeeping_ms),
            stamp_at_ms: None,
            topics_to_tell: false,
            housekeeping_at_ms: now.mono_ms.saturating_add(config.housekeeping_ms),
            retention: RetentionClock::new(
                now,
                checkpoint.as_ref().and_then(|checkpoint| checkpoint.retention_ms),
            ),
            backup: None,
            tails: Tails::default(),
            cached: CacheWindow::new(config.page_cache_bytes),
            scrubber: Scrubber::new(config.scrub_bytes_per_s, now.mono_ms),
            checkpoint: Checkpointing {
                running: false,
                wanted: report.commits > 0 || checkpoint.is_none(),
                last: checkpoint.as_ref().map(|checkpoint| CommitSeq(checkpoint.seq)),
                before: before.map(|before| before.seq),
                ..Checkpointing::default()
            },
            config,
            stopped: None,
            shutting_down: false,
        };
        shard.begin(now, epoch);
        // Damage may be why something is not named.
        if !report.findings.iter().any(Finding::is_damage) {
            shard.retire_what_was_replaced();
            let sweep = Sweep::of(&shard.dir, &shard.state);
            shard.effects.push(Effect::Job(DiskJob(Job::Sweep(sweep))));
        }
        Ok((shard, report))
    }

    /// Shows what was recovered, and arms what was waiting.
    fn begin(&mut self, now: Now, epoch: Epoch) {
        self.effects.push(Effect::TopicsChanged(self.state.catalogue.table().clone()));
        self.effects.extend(self.writers.values().map(|writer| Effect::Publish(writer.view())));
        self.note_tails();
        for group in self.state.groups.values_mut() {
            match &mut group.kind {
                GroupKind::Stream(stream) => stream.open(epoch),
                GroupKind::Queue(queue) => {
                    for (topic, side) in &mut queue.topics {
                        for (partition, table) in side.tables_mut() {
                            let partition = TopicPartition { topic: *topic, partition };
                            if let Some(writer) = self.writers.get(&partition) {
                                table.handle_log_start(writer.view().log_start);
                                table.handle_high_watermark(writer.high_watermark());
                            }
                            table.recovered(now);
                        }
                        self.queues.touch([(group.id, *topic)]);
                    }
                }
            }
        }
        self.settle_lost_ranges(now);
        self.begin_delays(now);
        self.begin_copies();
        self.decide(now);
    }

    /// Offsets that no record has any more are nobody's work.
    fn settle_lost_ranges(&mut self, now: Now) {
        let lost: Vec<_> = self
            .state
            .logs
            .iter()
            .flat_map(|(partition, log)| log.layout.lost().iter().map(|range| (*partition, range.clone())))
            .collect();
        for (partition, range) in lost {
            for group in self.state.queue_groups_of(partition.topic) {
                let Some(table) = self.state.table(group, partition) else { continue };
                let mut events = Vec::new();
                table.handle_lost(range.start, range.end, now, &mut events);
                self.commit_queue_events(group, partition, events);
            }
        }
    }
}

fn check_config(config: &ShardConfig) -> Result<(), OpenError> {
    let ShardConfig { journal_piece_bytes, flights_max, commit_bytes_soft, commit_bytes_max, .. } = *config;
    let piece_bytes_min = match commit_bytes_max {
        COMMIT_BYTES_MAX => JOURNAL_PIECE_BYTES_MIN,
        smaller => smaller as u64,
    };
    if journal_piece_bytes < piece_bytes_min || !(1..=2).contains(&flights_max) {
        return Err(OpenError::Config(format!(
            "journal pieces of {journal_piece_bytes} bytes and {flights_max} flights: at least {piece_bytes_min} bytes \
             and 1 or 2"
        )));
    }
    if commit_bytes_soft > commit_bytes_max || commit_bytes_max > COMMIT_BYTES_MAX {
        return Err(OpenError::Config(format!(
            "commits of {commit_bytes_soft} to {commit_bytes_max} bytes: at most {COMMIT_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// How long a piece is made that an opening has to wait for: no more zeroes are written than it takes to begin with.
fn first_piece_bytes(piece_bytes: u64) -> u64 {
    piece_bytes.min(JOURNAL_PIECE_BYTES_MIN)
}

/// The directories of a shard, with their names durable.
fn make_dirs(disk: &DiskRef, dir: &str) -> Result<(), DiskError> {
    for child in ["journal", "checkpoint", "log"] {
        disk.create_dir_all(&format!("{dir}/{child}"))?;
    }
    // A checkpoint that a killed process has renamed and not synced is built upon from here on.
    disk.sync_dir(&format!("{dir}/checkpoint"))?;
    disk.sync_dir(dir)?;
    disk.sync_dir("")
}

/// The first commit of an epoch: durable before anything is granted or answered under it. It begins a piece of its
/// own, so that nothing of an epoch before is ever written over.
#[allow(clippy::too_many_arguments)]
fn open_epoch(
    disk: &DiskRef,
    config: CommitPathConfig,
    piece: u64,
    full: Vec<(u64, CommitSeq)>,
    mut free: Vec<u64>,
    last_seq: CommitSeq,
    last_checksum: u32,
    now: Now,
) -> Result<CommitPath, DiskError> {
    let recycle = free.pop().map(|number| piece_path(&config.journal_dir, number));
    // One that is used again keeps its length, if it has so much.
    let bytes = first_piece_bytes(config.piece_bytes);
    let current = OpenPiece::prepare(&**disk, &config.journal_dir, piece, bytes, recycle.as_deref())?;
    let seq = CommitSeq(last_seq.0 + 1);
    let mut pieces = Pieces::new(current, full, free, seq);
    let mut builder = CommitBuilder::reuse(AlignedBytes::default());
    let opened = EpochOpened { epoch: config.epoch.0, last_kept: last_seq.0, wall_ms: now.wall_ms };
    builder.push_event(&Event { event: Some(event::Event::EpochOpened(opened)) });
    let (bytes, checksum) = builder.finish(&CommitStamp {
        salt: config.salt,
        shard: config.shard,
        epoch: config.epoch,
        seq,
        durable_upto: last_seq,
        piece,
        prev_checksum: last_checksum,
        opens_epoch: true,
    });
    let slot = pieces.take(bytes.len() as u64, seq);
    slot.file.write_all_at(slot.position, &bytes)?;
    if !mutant::is(Mutant::SkipEpochSync) {
        slot.file.sync()?;
    }
    Ok(CommitPath::new(config, pieces, seq, checksum))
}
