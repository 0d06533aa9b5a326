//! A shard on one thread: every job of its is run at once, every record that it wants is read at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use dure_engine::{
    ConnectionId, Cursor, DeliverTo, Effect, FoundRecords, Input, LeaseGrant, Letter, LetterError, LogView,
    Now, ReadOutcome, RecordFacts, RecordTable, RecoveryReport, ReplyTo, Request, RequestError, Response,
    Shard, ShardConfig, SimDisk, TopicTable, Wait, letter_batch,
};
use dure_proto::{BatchLimits, EntryHeader, Offset, Records, ShardId, TopicPartition, split_entries};

use crate::sim::Violation;

/// Turns until nothing more happens.
const TURNS_MAX: u32 = 10_000;
const CONNECTION: ConnectionId = ConnectionId(1);

pub(super) struct Driver {
    disk: SimDisk,
    pub(super) shard: Shard,
    pub(super) report: RecoveryReport,
    pub(super) now: Now,
    pub(super) views: BTreeMap<TopicPartition, LogView>,
    pub(super) topics: Arc<TopicTable>,
    replies: Vec<(u64, Result<Response, RequestError>)>,
    deliveries: Vec<(u64, Vec<LeaseGrant>)>,
    correlation: u64,
}

impl Driver {
    pub(super) fn open(disk: SimDisk, config: ShardConfig, now: Now) -> Result<Driver, Violation> {
        let opened = Shard::open(Arc::new(disk.clone()), ShardId(0), config, now);
        let (shard, report) = opened.map_err(|error| Violation(format!("opening failed: {error}")))?;
        let mut driver = Driver {
            disk,
            shard,
            report,
            now,
            views: BTreeMap::new(),
            topics: Arc::default(),
            replies: Vec::new(),
            deliveries: Vec::new(),
            correlation: 0,
        };
        driver.settle()?;
        Ok(driver)
    }

    /// Runs until nothing more happens by itself.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        for _ in 0..TURNS_MAX {
            self.shard.turn(self.now);
            let effects = self.shard.take_effects();
            if effects.is_empty() {
                return Ok(());
            }
            for effect in effects {
                self.perform(effect)?;
            }
        }
        Err(Violation("the shard comes to no rest".into()))
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Job(job) => {
                let done = job.run(&self.disk);
                self.shard.handle(self.now, Input::JobDone(done));
            }
            Effect::Reply { to, result } => self.replies.push((to.correlation, result)),
            Effect::Deliver(deliver) => {
                if let DeliverTo::Receive(correlation) = deliver.target {
                    self.deliveries.push((correlation, deliver.leases));
                }
            }
            Effect::Publish(view) => _ = self.views.insert(view.partition, view),
            Effect::Unpublish(partition) => _ = self.views.remove(&partition),
            Effect::TopicsChanged(table) => self.topics = table,
            Effect::FetchLetter { group, source, offset, from, .. } => {
                let batch =
                    self.letter(from.0, from.1).ok_or(LetterError::Damaged("its checksum is wrong".into()));
                self.shard.handle(self.now, Input::Letter(Letter { group, source, offset, batch }));
            }
            Effect::FetchRecords { group, partition, from, seed } => {
                let table = match self.batch(partition, from) {
                    Some((header, records)) => RecordTable::Records(
                        RecordFacts::of_batch(&records, from, header.append_time_ms, seed).collect(),
                    ),
                    None => RecordTable::Failed,
                };
                self.shard.handle(self.now, Input::Records(FoundRecords { group, partition, from, table }));
            }
            Effect::EndSubscription { .. } | Effect::Assign { .. } => {}
            Effect::Scrubbed(_)
            | Effect::Shortage(_)
            | Effect::Unwritable(_)
            | Effect::CopiesWait(_)
            | Effect::CompactionFailed(_) => {}
            Effect::Stopped(why) => return Err(Violation(format!("the shard stopped: {why}"))),
        }
        Ok(())
    }

    fn letter(&self, partition: TopicPartition, offset: Offset) -> Option<bytes::Bytes> {
        let (_, records) = self.batch(partition, offset)?;
        Some(letter_batch(Ok(&records.at(offset)?)))
    }

    /// The batch that holds a record.
    fn batch(&self, partition: TopicPartition, offset: Offset) -> Option<(EntryHeader, Records)> {
        let read = self.views.get(&partition)?.read(&mut Cursor::at(offset), 1, Wait::MayWait).ok()?;
        let ReadOutcome::Entries(entries) = read else { return None };
        let (header, batch) = split_entries(entries).next()?.ok()?;
        Some((header, Records::decode(&batch, &BatchLimits::stored()).ok()?))
    }

    pub(super) fn ask(&mut self, request: Request) -> Result<Result<Response, RequestError>, Violation> {
        let correlation = self.send(request)?;
        let at = self.replies.iter().position(|(to, _)| *to == correlation);
        Ok(self.replies.swap_remove(at.ok_or_else(|| Violation("a request got no answer".into()))?).1)
    }

    /// An answer that has to be one.
    pub(super) fn expect(&mut self, request: Request) -> Result<Response, Violation> {
        self.ask(request)?.map_err(|error| Violation(format!("refused: {error}")))
    }

    /// What a queue has to give out. What it refuses (a topic or a group that is not there) is nothing.
    pub(super) fn receive(
        &mut self,
        topic: &str,
        group: &str,
        count: u32,
    ) -> Result<Vec<LeaseGrant>, Violation> {
        let receive = dure_proto::wire::Receive {
            topic: topic.into(),
            group: group.into(),
            count,
            wait_ms: 0,
            lease_ms: Some(60_000),
        };
        let correlation = self.send(Request::Receive(receive))?;
        let at = self.deliveries.iter().position(|(to, _)| *to == correlation);
        Ok(at.map(|at| self.deliveries.swap_remove(at).1).unwrap_or_default())
    }

    fn send(&mut self, request: Request) -> Result<u64, Violation> {
        self.correlation += 1;
        let reply_to = ReplyTo { connection: CONNECTION, correlation: self.correlation };
        self.shard.handle(self.now, Input::Request { reply_to, request });
        self.settle()?;
        Ok(self.correlation)
    }

    pub(super) fn advance(&mut self, ms: u64) -> Result<(), Violation> {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        self.settle()
    }

    pub(super) fn shut_down(&mut self) -> Result<(), Violation> {
        self.shard.begin_shutdown(self.now);
        self.settle()?;
        match self.shard.is_drained() {
            true => Ok(()),
            false => Err(Violation("a shutdown came to no end".into())),
        }
    }
}
