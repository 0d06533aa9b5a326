//! The commit path: what was decided goes into the commit that is open; a commit is closed and goes out to be
//! written and synced while fewer than the allowed number are in flight; what waits for it happens when it and all
//! before it are durable.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use dure_proto::journal::{Checkpoint, Event};
use dure_proto::{CommitSeq, EntryHeader, Epoch, GroupId, Offset, ShardId, TopicId, TopicPartition};

use crate::catalogue::TopicTable;
use crate::disk::{AlignedBytes, SyncFailed};
use crate::effect::Effect;
use crate::job::{DiskJob, Job};
use crate::journal::{CommitBuilder, CommitStamp, Pieces, piece_path};
use crate::log::{Placement, SegmentMeta};
use crate::mutant::{self, Mutant};

/// Full commits that wait for a flight, from which on nothing comes by itself any more.
const CROWD: usize = 2;
/// Buffers of past commits kept because their memory is warm.
const BUFFERS_KEPT: usize = 4;

/// Something that happens once the commit in which it was decided is durable, in the order decided.
#[derive(Debug)]
pub(crate) enum Step {
    /// An entry goes to its segment.
    Append { partition: TopicPartition, placement: Placement, header: EntryHeader, range: Range<usize> },
    /// A log begins.
    OpenLog(TopicPartition),
    /// A log's start moved, and these segments lie below it.
    MoveStart { partition: TopicPartition, log_start: Offset, dropped: Vec<Offset> },
    /// Compaction put a segment in the place of others.
    Replace { partition: TopicPartition, by: SegmentMeta },
    /// A topic with all its logs is gone.
    DropTopic { topic: TopicId, partitions: u32 },
    /// The published names and settings changed.
    TopicsChanged(Arc<TopicTable>),
    /// What came back to a lease table may be granted again.
    ReleaseHeld { group: GroupId, partition: TopicPartition, upto: u64 },
    /// Something goes out.
    Effect(Effect),
}

/// A commit whose steps may happen now.
pub(crate) struct DurableCommit {
    pub(crate) steps: Vec<Step>,
    /// The whole commit, which the ranges of appends point into.
    pub(crate) bytes: Arc<AlignedBytes>,
    pub(crate) checkpoint: Option<Box<Checkpoint>>,
}

struct InFlight {
    seq: CommitSeq,
    written: bool,
    commit: DurableCommit,
}

/// What stays the same over an epoch.
#[derive(Clone, Debug)]
pub(crate) struct CommitPathConfig {
    pub(crate) salt: u64,
    pub(crate) shard: ShardId,
    pub(crate) epoch: Epoch,
    pub(crate) journal_dir: String,
    pub(crate) piece_bytes: u64,
    pub(crate) commit_bytes_soft: usize,
    pub(crate) flights_max: usize,
}

pub(crate) struct CommitPath {
    config: CommitPathConfig,
    /// The open commit, and what happens with it.
    builder: CommitBuilder,
    steps: Vec<Step>,
    /// Full ones that no flight was free for, in order, before the open one.
    waiting: VecDeque<(CommitBuilder, Vec<Step>)>,
    /// In the order of their numbers, contiguous, the last one being `last_seq`.
    in_flight: VecDeque<InFlight>,
    pieces: Pieces,
    last_seq: CommitSeq,
    last_checksum: u32,
    /// The piece that it was written to, and where it ends in that.
    last_end: (u64, u64),
    /// Not above `last_seq`; everything up to it is synced.
    durable_upto: CommitSeq,
    /// The last commit holds something that no later one names durable yet.
    unstamped: bool,
    bytes_since_checkpoint: u64,
    buffers: Vec<AlignedBytes>,
    sync_failed: SyncFailed,
}

impl CommitPath {
    pub(crate) fn new(
        config: CommitPathConfig,
        pieces: Pieces,
        last_seq: CommitSeq,
        last_checksum: u32,
    ) -> CommitPath {
        CommitPath {
            config,
            builder: CommitBuilder::reuse(AlignedBytes::default()),
            steps: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_end: pieces.end(),
            pieces,
            last_seq,
            last_checksum,
            durable_upto: last_seq,
            unstamped: false,
            bytes_since_checkpoint: 0,
            buffers: Vec::new(),
            sync_failed: SyncFailed::default(),
        }
    }

    pub(crate) fn push_event(&mut self, event: &Event) {
        self.builder.push_event(event);
    }

    pub(crate) fn push_batch(
        &mut self,
        partition: TopicPartition,
        placement: Placement,
        header: EntryHeader,
        batch: &[u8],
    ) {
        let range = self.builder.push_batch(partition, &header, batch);
        self.steps.push(Step::Append { partition, placement, header, range });
    }

    /// To happen once what is open now is durable.
    pub(crate) fn then(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Nothing more should be taken up before a commit was sent.
    pub(crate) fn is_full(&self) -> bool {
        self.builder.is_full(self.config.commit_bytes_soft) || !self.waiting.is_empty()
    }

    /// Even what cannot wait for [`CommitPath::is_full`] to change should wait: producers fill commits as fast as they
    /// are written, but the disk does not keep up with both.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.len() >= CROWD
    }

    /// What comes next belongs together and gets a commit with room in it. Whatever cannot wait for
    /// [`CommitPath::is_full`] to change calls this before each thing that must not be torn apart.
    pub(crate) fn make_room(&mut self) {
        let full = self.builder.is_full(self.config.commit_bytes_soft);
        let split = [
            Mutant::DeadLetterInTwoCommits,
            Mutant::EntersInTwoCommits,
            Mutant::IdsInTwoCommits,
            Mutant::CopiedInTwoCommits,
        ]
        .into_iter()
        .any(mutant::is);
        if full || split && !self.builder.is_empty() {
            let builder = std::mem::replace(&mut self.builder, CommitBuilder::reuse(AlignedBytes::default()));
            self.waiting.push_back((builder, std::mem::take(&mut self.steps)));
        }
    }

    fn nothing_open(&self) -> bool {
        self.builder.is_empty() && self.waiting.is_empty()
    }

    /// Nothing is open and nothing in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && self.nothing_open() && self.steps.is_empty()
    }

    /// Everything up to it is durable.
    pub(crate) fn durable_upto(&self) -> CommitSeq {
        self.durable_upto
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.config.epoch
    }

    /// The lower half of the epoch, as entries carry it.
    pub(crate) fn epoch_low(&self) -> u32 {
        self.config.epoch.0 as u32
    }

    pub(crate) fn bytes_since_checkpoint(&self) -> u64 {
        self.bytes_since_checkpoint
    }

    /// Whether an empty commit would tell a later recovery that the last one was durable.
    pub(crate) fn wants_stamp(&self) -> bool {
        self.unstamped && self.is_quiet()
    }

    /// Steps that wait for no entry of their own happen with the last commit; with none in flight, at once.
    pub(crate) fn take_idle_steps(&mut self) -> Vec<Step> {
        match self.nothing_open() && self.in_flight.is_empty() {
            true => std::mem::take(&mut self.steps),
            false => Vec::new(),
        }
    }

    /// Closes the open commit and sends it out, if there is anything in it (or `stamp`), a flight is free and a
    /// piece has room.
    pub(crate) fn send(&mut self, stamp: bool) -> Option<DiskJob> {
        let wanted = !self.nothing_open() || stamp;
        if !wanted || self.in_flight.len() >= self.config.flights_max {
            return None;
        }
        let next = self.waiting.front().map_or(&self.builder, |(builder, _)| builder);
        let bytes = next.padded_bytes() as u64;
        let piece = self.pieces.number_for(bytes)?;
        let seq = CommitSeq(self.last_seq.0 + 1);
        let slot = self.pieces.take(bytes, seq);
        let (builder, steps) = self.waiting.pop_front().unwrap_or_else(|| {
            let empty = CommitBuilder::reuse(self.buffers.pop().unwrap_or_default());
            (std::mem::replace(&mut self.builder, empty), std::mem::take(&mut self.steps))
        });
        self.unstamped = !builder.is_empty();
        let (bytes, checksum) = builder.finish(&CommitStamp {
            salt: self.config.salt,
            shard: self.config.shard,
            epoch: self.config.epoch,
            seq,
            durable_upto: if mutant::is(Mutant::DurableUptoTooHigh) { seq } else { self.durable_upto },
            piece,
            prev_checksum: self.last_checksum,
            opens_epoch: false,
        });
        (self.last_seq, self.last_checksum, self.last_end) = (seq, checksum, self.pieces.end());
        self.bytes_since_checkpoint += bytes.len() as u64;
        let bytes = Arc::new(bytes);
        let commit = DurableCommit { steps, bytes: bytes.clone(), checkpoint: None };
        self.in_flight.push_back(InFlight { seq, written: false, commit });
        let (file, position, failed) = (slot.file, slot.position, self.sync_failed.clone());
        Some(DiskJob(Job::WriteCommit { seq, file, position, bytes, failed }))
    }

    /// What comes next, be it an empty commit, has no room in a piece.
    pub(crate) fn lacks_piece(&self) -> bool {
        let next = self.waiting.front().map_or(&self.builder, |(builder, _)| builder);
        self.pieces.number_for(next.padded_bytes() as u64).is_none()
    }

    /// The path of a piece that nothing needs, which is given away.
    pub(crate) fn free_piece(&mut self) -> Option<String> {
        let number = self.pieces.take_free()?;
        Some(piece_path(&self.config.journal_dir, number))
    }

    /// Everything decided was sent, and the last of it is not durable yet.
    pub(crate) fn can_attach_checkpoint(&self) -> bool {
        self.nothing_open() && !self.in_flight.is_empty()
    }

    /// The state as it is now is the state after the last commit sent: attaches it, to become a checkpoint when that
    /// is durable. Call only where [`CommitPath::can_attach_checkpoint`].
    pub(crate) fn attach_checkpoint(&mut self, mut checkpoint: Checkpoint) {
        assert!(self.can_attach_checkpoint(), "a checkpoint between commits");
        checkpoint.seq = self.last_seq.0;
        checkpoint.checksum = self.last_checksum;
        (checkpoint.piece, checkpoint.position) = (self.last_end.0, Some(self.last_end.1));
        checkpoint.epoch = self.config.epoch.0;
        let last = self.in_flight.back_mut().expect("a commit was just sent");
        last.commit.checkpoint = Some(Box::new(checkpoint));
        self.bytes_since_checkpoint = 0;
    }

    /// A commit was written and synced. Returns those that are durable now, in order.
    pub(crate) fn handle_written(&mut self, seq: CommitSeq) -> Vec<DurableCommit> {
        let waiting = self.in_flight.iter_mut().find(|commit| commit.seq == seq);
        waiting.expect("only commits in flight are written").written = true;
        let mut durable = Vec::new();
        while let Some(commit) = self.in_flight.pop_front_if(|commit| {
            commit.written || mutant::is(Mutant::LaterSyncCountsForEarlier) && commit.seq < seq
        }) {
            assert!(commit.seq.0 == self.durable_upto.0 + 1, "durable in order");
            self.durable_upto = commit.seq;
            durable.push(commit.commit);
        }
        durable
    }

    /// Takes a commit's memory back.
    pub(crate) fn recycle(&mut self, bytes: Arc<AlignedBytes>) {
        if self.buffers.len() < BUFFERS_KEPT
            && let Ok(buffer) = Arc::try_unwrap(bytes)
        {
            self.buffers.push(buffer);
        }
    }

    /// Everything that waits and never happens now, because the journal failed.
    pub(crate) fn abandon(&mut self) -> Vec<Step> {
        let in_flight = self.in_flight.drain(..).flat_map(|commit| commit.commit.steps);
        let waiting = self.waiting.drain(..).flat_map(|(_, steps)| steps);
        let steps = in_flight.chain(waiting).chain(self.steps.drain(..)).collect();
        self.builder = CommitBuilder::reuse(AlignedBytes::default());
        steps
    }

    pub(crate) fn wanted_piece(&mut self) -> Option<DiskJob> {
        let wanted = self.pieces.wants()?;
        let dir = &self.config.journal_dir;
        Some(DiskJob(Job::PreparePiece {
            number: wanted.number,
            bytes: self.config.piece_bytes,
            recycle: wanted.recycle.map(|number| piece_path(dir, number)),
            dir: dir.clone(),
        }))
    }

    pub(crate) fn pieces(&mut self) -> &mut Pieces {
        &mut self.pieces
    }

    /// Pieces whose commits all lie at or below `seq` are free; the superfluous ones are to be removed.
    pub(crate) fn release_pieces(&mut self, seq: CommitSeq) -> Vec<String> {
        let dir = &self.config.journal_dir;
        self.pieces.release(seq).into_iter().map(|number| piece_path(dir, number)).collect()
    }
}
