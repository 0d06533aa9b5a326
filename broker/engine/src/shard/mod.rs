//! The shard: the one writer of its partitions. It takes requests in, lets the machines decide, puts what they
//! decided into commits, and lets answers and views out when those are durable.
//!
//! A produce, read downward: [`Shard::handle`] queues it, [`Shard::turn`] takes it up, `produce` decides and applies
//! it, `commit_path` carries it into the journal, `durable` writes it to its segment and answers.

mod backup;
mod cached;
mod commit_path;
mod compaction;
mod copies;
mod delay_reader;
mod delays;
mod durable;
mod groups;
mod housekeeping;
mod ids;
mod letters;
mod open;
mod produce;
mod queue_topic;
mod queues;
mod record_tables;
mod replay;
mod scrub;
mod settle;
mod space;
mod state;
mod streams;
mod sweep;
mod tails;
#[cfg(test)]
mod tests;
mod topics;
mod unwritable;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dure_proto::journal::{Event, event};
use dure_proto::{GroupId, TopicId, TopicPartition};

use crate::dedup::IdClock;
use crate::disk::{DiskRef, SyncFailed};
use crate::effect::{Effect, Input};
use crate::job::Done;
use crate::journal::{COMMIT_BYTES_MAX, COMMIT_BYTES_SOFT};
use crate::log::{Freeing, LogWriter};
use crate::mutant::{self, Mutant};
use crate::queue_group::{Jitter, LeaseTable, TokenSource};
use crate::request::{ReplyTo, Request, RequestError, Response};
use crate::retention::RetentionClock;
use crate::scrub::Scrubber;
use crate::time::Now;
use cached::CacheWindow;
use commit_path::{CommitPath, Step};
use compaction::Compaction;
use copies::Copies;
pub(crate) use copies::LetterRead;
pub(crate) use delay_reader::{DelayRead, DelayScan};
use delays::Delays;
pub(crate) use open::shard_dir;
pub use open::{JOURNAL_PIECE_BYTES_MIN, OpenError, RecoveryReport};
use queues::QueueSide;
use space::Space;
use state::GroupKind;
pub(crate) use state::State;
pub use state::default_queue_settings;
pub(crate) use sweep::Sweep;
use tails::Tails;
use unwritable::UnwritableLogs;

/// An empty commit follows this long after the last one, so that a later recovery knows that one to be durable.
const STAMP_AFTER_MS: u64 = 20;

/// Topics may be made by the thousand: checkpoints for their sake are that far apart.
const TOPICS_APART_MS: u64 = 5_000;

/// Sizes and intervals of a shard. The salt must stay the same for the life of a data directory.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Size of a journal piece in bytes.
    pub journal_piece_bytes: u64,
    /// A checkpoint is made when the journal has grown by this many bytes.
    pub checkpoint_bytes: u64,
    /// Commits that may be in flight, 1 or 2.
    pub flights_max: usize,
    /// Bytes of the file system that are kept free: producing stops before they are touched. Four journal pieces are
    /// what acking and deleting go on with.
    pub reserve_bytes: u64,
    /// Most messages that wait for their time; at it, one more is refused. Each batch of them takes 16 bytes of memory.
    pub scheduled_max: u64,
    /// Most message ids that are remembered, at about 100 bytes each; at it, messages with further ids are refused.
    pub message_ids_max: usize,
    /// How often retention and free space are looked at, in milliseconds.
    pub housekeeping_ms: u64,
    /// How long a backup may keep segments from being removed, in milliseconds.
    pub backup_ms_max: u64,
    /// Most bytes that compaction reads each second.
    pub compaction_bytes_per_s: u64,
    /// Most keys that one pass of compaction keeps in mind, at about 70 bytes each; a log with more takes several.
    pub compaction_keys_max: usize,
    /// How much of what is sealed is read again in a second, to find what went bad on the disk; 0: nothing.
    pub scrub_bytes_per_s: u64,
    /// How much of what segments took last stays in the page cache, for readers that are that far behind.
    pub page_cache_bytes: u64,
    /// Secret to the data directory; goes into every commit's checksum.
    pub salt: u64,
    /// Seed of what is random: jitter of backoffs.
    pub seed: u64,
    /// A commit takes nothing more once it has grown to this many bytes. A simulation sets less than the default, so
    /// that commits and pieces are many and cheap.
    #[doc(hidden)]
    pub commit_bytes_soft: usize,
    /// Bound of a whole commit, which a journal piece has to hold: the soft bound plus the largest single thing that
    /// may come on top. Whoever sets less than the default sends no larger batches than that leaves room for.
    #[doc(hidden)]
    pub commit_bytes_max: usize,
}

impl Default for ShardConfig {
    fn default() -> ShardConfig {
        ShardConfig {
            journal_piece_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            flights_max: 2,
            reserve_bytes: 256 << 20,
            scheduled_max: 1 << 24,
            message_ids_max: 1 << 21,
            housekeeping_ms: 1_000,
            backup_ms_max: 6 * 3_600_000,
            compaction_bytes_per_s: 64 << 20,
            compaction_keys_max: 1 << 20,
            scrub_bytes_per_s: 0,
            page_cache_bytes: 1 << 30,
            salt: 0,
            seed: 0,
            commit_bytes_soft: COMMIT_BYTES_SOFT,
            commit_bytes_max: COMMIT_BYTES_MAX,
        }
    }
}

/// One shard. It does no waiting: what takes time goes out as a [`DiskJob`](crate::DiskJob).
pub struct Shard {
    disk: DiskRef,
    dir: String,
    config: ShardConfig,
    state: State,
    /// Files of every log that is durable; a log that was just decided on has none yet.
    writers: BTreeMap<TopicPartition, LogWriter>,
    commit_path: CommitPath,
    queues: QueueSide,
    delays: Delays,
    copies: Copies,
    tokens: TokenSource,
    random: fastrand::Rng,
    producer_next: u64,
    /// Not taken up yet.
    requests: VecDeque<(ReplyTo, Request)>,
    effects: Vec<Effect>,
    /// When the next empty commit is due, if one is wanted.
    stamp_at_ms: Option<u64>,
    /// There are other topics to read than stream groups know of.
    topics_to_tell: bool,
    housekeeping_at_ms: u64,
    retention: RetentionClock,
    id_clock: IdClock,
    compaction: Compaction,
    space: Space,
    freeing: Freeing,
    unwritable: UnwritableLogs,
    checkpoint: Checkpointing,
    tails: Tails,
    cached: CacheWindow,
    backup: Option<backup::Backup>,
    scrubber: Scrubber,
    /// Set once the shard met an error that it cannot go on from.
    stopped: Option<String>,
    shutting_down: bool,
}

/// How far checkpoints are.
#[derive(Debug, Default)]
struct Checkpointing {
    /// One is attached to a commit or being written.
    running: bool,
    /// Wanted whatever the journal's growth: after a recovery, and before a shutdown.
    wanted: bool,
    /// When one is made because nothing happens any more, so that a start has nothing to replay.
    idle_at_ms: Option<u64>,
    /// When one is made because topics were made, altered or deleted: what is lost with such a commit is more than it
    /// holds itself.
    topics_at_ms: Option<u64>,
    /// Not before.
    topics_not_before_ms: u64,
    /// The last one written, and the one before it.
    last: Option<dure_proto::CommitSeq>,
    before: Option<dure_proto::CommitSeq>,
    /// The sync of a directory failed: names that a checkpoint would go by may be lost.
    dir_sync_failed: SyncFailed,
}

impl Checkpointing {
    /// A topic is another one from here on.
    fn note_topics(&mut self, now: Now) {
        self.topics_at_ms.get_or_insert(now.mono_ms.max(self.topics_not_before_ms));
    }

    /// Notes those that are due by time.
    fn handle_timeouts(&mut self, now: Now) {
        let idles = self.idle_at_ms.take_if(|at| *at <= now.mono_ms);
        let topics = self.topics_at_ms.take_if(|at| *at <= now.mono_ms);
        self.topics_not_before_ms =
            topics.map_or(self.topics_not_before_ms, |_| now.mono_ms + TOPICS_APART_MS);
        self.wanted |= idles.or(topics).is_some();
    }
}

impl Shard {
    /// Takes an input. Requests wait for the next [`Shard::turn`]; nothing here waits for the disk.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Request { reply_to, request } => match self.refusal() {
                Some(error) => self.reply(reply_to, Err(error)),
                None => self.requests.push_back((reply_to, request)),
            },
            Input::ConnectionClosed(connection) => {
                self.requests.retain(|(reply_to, request)| {
                    reply_to.connection != connection || !request.ends_with_connection()
                });
                self.end_backup_of(connection);
                self.queue_connection_closed(now, connection);
                self.stream_connection_closed(now, connection);
            }
            Input::JobDone(done) => self.handle_job(now, done.0),
            Input::Letter(letter) => self.bury_letter(now, &letter),
            Input::Records(found) => self.records_found(now, &found),
        }
    }

    /// Does what is due, takes requests up, and sends commits out while they may fly.
    pub fn turn(&mut self, now: Now) {
        if self.stopped.is_some() {
            return;
        }
        self.decide(now);
        self.write_tails();
    }

    fn decide(&mut self, now: Now) {
        // Heartbeats and acks that have arrived count before a session or a lease is called over.
        self.take_requests(now);
        self.handle_timeouts(now);
        loop {
            self.take_requests(now);
            self.serve_queues(now);
            self.assign_streams(now);
            self.send_commits(now);
            if self.requests.is_empty() || self.commit_path.is_full() {
                break;
            }
        }
        self.serve_delays(now);
        self.serve_copies(now);
        self.effects.extend(self.commit_path.wanted_piece().map(Effect::Job));
        self.scrub(now);
        self.tend_space();
        self.tell_unwritable();
    }

    /// What is to happen outside, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Shard::turn`] wants to be called again, on the monotonic clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.stopped.is_some() {
            return None;
        }
        // What has to wait for a commit is woken by its end.
        let queues_wait = self.queues.is_touched() && !self.commit_path.is_full();
        let timers = [
            queues_wait.then_some(0),
            Some(self.housekeeping_at_ms),
            self.stamp_at_ms,
            self.checkpoint.idle_at_ms,
            self.checkpoint.topics_at_ms,
            (!self.tails.is_empty()).then_some(0),
            self.queues.poll_timeout(),
            self.delays.poll_timeout(),
            self.copies.poll_timeout(self.commit_path.is_crowded()),
            self.stream_timeout(),
            self.compaction.poll_timeout(),
            self.scrubber.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Refuses what comes from now on, finishes what is under way, and makes a last checkpoint.
    pub fn begin_shutdown(&mut self, now: Now) {
        self.shutting_down = true;
        self.checkpoint.wanted = true;
        self.end_backup(Some(RequestError::ShuttingDown));
        self.retry_for_room();
        self.give_up_rejects();
        self.write_all_tails();
        self.turn(now);
    }

    /// A shutdown is complete, or there is nothing that could still be done.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let done = self.requests.is_empty()
            && self.commit_path.is_quiet()
            && !self.checkpoint.running
            && !self.checkpoint.wanted;
        self.stopped.is_some() || (self.shutting_down && done)
    }

    /// Why the shard stopped, if it did.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    fn refusal(&self) -> Option<RequestError> {
        match &self.stopped {
            Some(why) => Some(RequestError::ShardStopped(why.clone())),
            None => self.shutting_down.then_some(RequestError::ShuttingDown),
        }
    }

    fn take_requests(&mut self, now: Now) {
        while !self.commit_path.is_full()
            && let Some((reply_to, request)) = self.requests.pop_front()
        {
            self.handle_request(now, reply_to, request);
        }
    }

    /// Every handler answers by itself: now where nothing changes, with the commit where something does.
    fn handle_request(&mut self, now: Now, reply_to: ReplyTo, request: Request) {
        let result = match request {
            Request::Produce(produce) => self.produce(now, reply_to, &produce),
            Request::ProduceLater { produce, due } => self.produce_later(now, reply_to, &produce, due),
            Request::InitProducer => self.init_producer(reply_to),
            Request::CreateTopic(create) => self.create_topic(now, reply_to, &create),
            Request::AlterTopic(alter) => self.alter_topic(now, reply_to, &alter),
            Request::DeleteTopic(delete) => self.delete_topic(now, reply_to, &delete),
            Request::PurgeTopic(purge) => self.purge_topic(now, reply_to, &purge),
            Request::DescribeTopics(describe) => self.describe_topics(now, reply_to, &describe),
            Request::CreateGroup(create) => self.create_group(now, reply_to, &create),
            Request::ListGroups => self.describe_groups(now, reply_to, None),
            Request::DescribeGroup(describe) => self.describe_groups(now, reply_to, Some(&describe.name)),
            Request::SeekGroup { group, topic, to } => self.seek_group(now, reply_to, &group, &topic, &to),
            Request::DeleteGroup(delete) => self.delete_group(now, reply_to, &delete.name),
            Request::WorkQueue(work) => self.work_queue(now, reply_to, &work),
            Request::Receive(receive) => self.receive(now, reply_to, &receive),
            Request::QueueCredit { subscription, messages, bytes } => {
                self.queue_credit(reply_to.connection, subscription, messages, bytes);
                Ok(())
            }
            Request::QueueSent { subscription, sent } => {
                self.queue_sent(reply_to.connection, subscription, sent);
                Ok(())
            }
            Request::Unsubscribe { subscription } => {
                self.unsubscribe(now, reply_to.connection, subscription);
                Ok(())
            }
            Request::Settle(settle) => self.settle(now, reply_to, &settle),
            Request::ListDeadLetters(list) => self.list_dead_letters(reply_to, &list),
            Request::Redrive(redrive) => self.redrive(now, reply_to, &redrive),
            Request::PurgeDeadLetters(purge) => self.purge_dead_letters(now, reply_to, &purge),
            Request::JoinGroup { join, client } => self.join_group(now, reply_to, &join, client),
            Request::Heartbeat(heartbeat) => self.heartbeat(now, reply_to, &heartbeat),
            Request::CommitOffsets(commit) => self.commit_offsets(now, reply_to, &commit),
            Request::LeaveGroup(leave) => self.leave_group(now, reply_to, &leave),
            Request::BeginBackup => self.begin_backup(now, reply_to),
            Request::EndBackup => {
                self.end_backup_of(reply_to.connection);
                Ok(())
            }
        };
        if let Err(error) = result {
            self.reply(reply_to, Err(error));
        }
    }

    fn handle_job(&mut self, now: Now, done: Done) {
        // Of two commits in flight the first may fail and the second be written all the same: it comes to nothing.
        if self.stopped.is_some() {
            return;
        }
        match done {
            Done::CommitWritten { seq, result: Ok(()) } => self.handle_durable(now, seq),
            Done::CommitWritten { seq, result: Err(error) } => {
                self.stop(format!("commit {seq} could not be written and synced: {error}"));
            }
            Done::PiecePrepared(Ok(piece)) => self.commit_path.pieces().handle_prepared(piece),
            Done::PiecePrepared(Err(error)) => self.stop(format!("no room for the journal: {error}")),
            Done::CheckpointWritten { seq, result: Ok(content) } => self.handle_checkpoint(seq, content),
            Done::CheckpointWritten { seq, result: Err(error) } => {
                self.stop(format!("checkpoint {seq} could not be made: {error}"));
            }
            // A file that stays behind costs space and nothing else; recovery removes it.
            Done::Removed(nameless) => self.handle_removed(nameless.unwrap_or_default()),
            Done::Freed { segments } => self.handle_freed(segments),
            Done::Space(available) => self.handle_look(available),
            Done::NoRoom { job, error } => self.handle_no_room(job, &error),
            Done::Compacted { pass, result } => self.handle_compacted(now, pass, result),
            Done::Scrubbed(read) => self.handle_scrubbed(now, read),
            Done::DelayedRead(read) => self.enter_due(now, read),
            Done::DelayedFound(scan) => self.note_found(now, scan),
            Done::LettersRead(read) => self.copy_letters(now, read),
        }
    }

    /// Makes an event true and puts it into the open commit.
    fn commit_event(&mut self, now: Now, event: event::Event) {
        if matches!(
            event,
            event::Event::TopicCreated(_) | event::Event::TopicAltered(_) | event::Event::TopicDeleted(_)
        ) {
            self.checkpoint.note_topics(now);
        }
        let event = Event { event: Some(event) };
        let steps = self.state.apply(&event, now).expect("an event decided on this state fits it");
        self.commit_path.push_event(&event);
        if mutant::is(Mutant::RemovesBeforeDurable) {
            return self.carry_out_now(steps);
        }
        steps.into_iter().for_each(|step| self.commit_path.then(step));
    }

    fn reply(&mut self, to: ReplyTo, result: Result<Response, RequestError>) {
        if to.correlation != 0 {
            self.effects.push(Effect::Reply { to, result });
        }
    }

    /// Answers once everything decided so far is durable.
    fn reply_durably(&mut self, to: ReplyTo, response: Response) {
        if mutant::is(Mutant::AnswerBeforeSync) {
            return self.reply(to, Ok(response));
        }
        if to.correlation != 0 {
            self.commit_path.then(Step::Effect(Effect::Reply { to, result: Ok(response) }));
        }
    }

    fn jitter(&mut self) -> Jitter {
        Jitter(self.random.u64(..))
    }

    /// Panics if an invariant of the queue groups does not hold. Walks everything: for tests.
    pub fn check_queues(&self) {
        for group in self.state.groups.values() {
            let GroupKind::Queue(queue) = &group.kind else { continue };
            for topic in queue.topics.values() {
                topic.tables().iter().for_each(LeaseTable::check);
                topic.dispatcher.check();
                topic.check();
            }
        }
    }

    /// The queue sides of a topic have something to look at.
    fn touch_queues_of(&mut self, topic: TopicId) {
        let groups = self.state.queue_groups_of(topic);
        self.queues.touch(groups.into_iter().map(|group| (group, topic)));
    }
}

impl Request {
    /// Nobody is left to make use of it once its connection is gone; everything else was asked and is done.
    fn ends_with_connection(&self) -> bool {
        matches!(
            self,
            Request::WorkQueue(_) | Request::Receive(_) | Request::JoinGroup { .. } | Request::BeginBackup
        )
    }
}

/// A queue group's side of one topic.
type QueueKey = (GroupId, TopicId);
type QueueKeys = BTreeSet<QueueKey>;
