//! Drives a shard on one thread: every job is run at once, every record fetched at once.

#![allow(unreachable_pub, missing_docs, dead_code)] // shared by several test binaries

use std::sync::Arc;

use bytes::Bytes;
use dure_engine::*;
use dure_proto::{BatchBuilder, Compression, EntryHeader, Offset, Records, ShardId, TopicPartition};

pub struct Driver {
    pub disk: DiskRef,
    pub shard: Shard,
    pub report: RecoveryReport,
    pub now: Now,
    pub replies: Vec<(ReplyTo, Result<Response, RequestError>)>,
    pub deliveries: Vec<Deliver>,
    pub views: std::collections::BTreeMap<TopicPartition, LogView>,
    pub topics: Arc<TopicTable>,
    /// Why the shard stopped, where a test lets it.
    pub stopped: Option<String>,
    pub may_stop: bool,
    pub scrubbed: Vec<Scrubbed>,
    /// What was last said of the room on the disk.
    pub shortage: Option<Shortage>,
    pub compaction_failures: Vec<CompactionFailed>,
    /// The logs that the disk was last said to refuse.
    pub unwritable: Vec<Unwritable>,
    correlation: u64,
}

pub fn config() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: JOURNAL_PIECE_BYTES_MIN,
        reserve_bytes: 0,
        salt: 7,
        ..ShardConfig::default()
    }
}

impl Driver {
    pub fn open(disk: DiskRef, now: Now) -> Driver {
        Driver::open_with(disk, now, config())
    }

    pub fn open_with(disk: DiskRef, now: Now, config: ShardConfig) -> Driver {
        let (shard, report) = Shard::open(disk.clone(), ShardId(0), config, now).expect("the shard opens");
        let mut driver = Driver {
            disk,
            shard,
            report,
            now,
            replies: Vec::new(),
            deliveries: Vec::new(),
            views: Default::default(),
            topics: Arc::default(),
            stopped: None,
            may_stop: false,
            scrubbed: Vec::new(),
            shortage: None,
            compaction_failures: Vec::new(),
            unwritable: Vec::new(),
            correlation: 0,
        };
        driver.settle();
        driver
    }

    /// Runs until nothing more happens by itself.
    pub fn settle(&mut self) {
        loop {
            self.shard.turn(self.now);
            let effects = self.shard.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Job(job) => {
                let done = job.run(&*self.disk);
                self.shard.handle(self.now, Input::JobDone(done));
            }
            Effect::Reply { to, result } => self.replies.push((to, result)),
            Effect::Deliver(deliver) => self.deliveries.push(deliver),
            Effect::Publish(view) => drop(self.views.insert(view.partition, view)),
            Effect::Unpublish(partition) => drop(self.views.remove(&partition)),
            Effect::TopicsChanged(table) => self.topics = table,
            Effect::FetchLetter { group, source, offset, from, .. } => {
                let batch = self.letter(from.0, from.1);
                self.shard.handle(self.now, Input::Letter(Letter { group, source, offset, batch }));
            }
            Effect::Scrubbed(scrubbed) => self.scrubbed.push(scrubbed),
            Effect::Shortage(shortage) => self.shortage = shortage,
            Effect::CompactionFailed(failed) => self.compaction_failures.push(failed),
            Effect::Unwritable(logs) => self.unwritable = logs,
            Effect::FetchRecords { group, partition, from, seed } => {
                let (header, records) = self.read_entry(partition, from).expect("it is there");
                let facts = RecordFacts::of_batch(&records, from, header.append_time_ms, seed);
                let table = RecordTable::Records(facts.collect());
                self.shard.handle(self.now, Input::Records(FoundRecords { group, partition, from, table }));
            }
            Effect::EndSubscription { .. } | Effect::Assign { .. } | Effect::CopiesWait(_) => {}
            Effect::Stopped(why) if self.may_stop => self.stopped = Some(why),
            Effect::Stopped(why) => panic!("stopped: {why}"),
        }
    }

    pub fn ask(&mut self, request: Request) -> Result<Response, RequestError> {
        self.try_ask(request).expect("an answer")
    }

    /// `None` if there is no answer, since the shard stopped or the disk is off.
    pub fn try_ask(&mut self, request: Request) -> Option<Result<Response, RequestError>> {
        self.correlation += 1;
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation: self.correlation };
        self.shard.handle(self.now, Input::Request { reply_to, request });
        self.settle();
        let at = self.replies.iter().position(|(to, _)| *to == reply_to)?;
        Some(self.replies.remove(at).1)
    }

    pub fn topic(&mut self, name: &str, partitions: u32) -> TopicPartition {
        let create = dure_proto::wire::CreateTopic { name: name.into(), partitions, config: None };
        self.ask(Request::CreateTopic(create)).expect("created");
        self.partition(name)
    }

    pub fn partition(&self, name: &str) -> TopicPartition {
        let topic = self.topics.by_name(name).expect("there").id;
        TopicPartition { topic, partition: dure_proto::PartitionId(0) }
    }

    pub fn produce(&mut self, partition: TopicPartition, values: &[&str]) -> Result<Offset, RequestError> {
        match self.ask(Request::Produce(produce(partition, batch(values))))? {
            Response::Produced { base_offset, .. } => Ok(base_offset),
            other => panic!("{other:?}"),
        }
    }

    pub fn produce_later(
        &mut self,
        partition: TopicPartition,
        batch: Bytes,
        due: Due,
    ) -> Result<Response, RequestError> {
        self.ask(Request::ProduceLater { produce: produce(partition, batch), due })
    }

    /// Messages of a topic that wait for their time.
    pub fn scheduled(&mut self, topic: &str) -> u64 {
        let describe = dure_proto::wire::DescribeTopics { names: vec![topic.into()] };
        match self.ask(Request::DescribeTopics(describe)).expect("described") {
            Response::Topics(topics) => topics[0].scheduled,
            other => panic!("{other:?}"),
        }
    }

    pub fn read_batch(&self, partition: TopicPartition, offset: Offset) -> Option<(Offset, Records)> {
        self.read_entry(partition, offset).map(|(header, records)| (header.base_offset, records))
    }

    pub fn read_entry(&self, partition: TopicPartition, offset: Offset) -> Option<(EntryHeader, Records)> {
        let mut cursor = Cursor::at(offset);
        match self.views[&partition].read(&mut cursor, 1, Wait::MayWait).expect("read") {
            ReadOutcome::Entries(entries) => {
                let (header, batch) = dure_proto::split_entries(entries).next()?.expect("valid");
                let records = Records::decode(&batch, &Default::default()).expect("decodes");
                Some((header, records))
            }
            ReadOutcome::AtEnd => None,
            other => panic!("{other:?}"),
        }
    }

    fn letter(&self, partition: TopicPartition, offset: Offset) -> Result<Bytes, LetterError> {
        let entries = match self.views[&partition].read(&mut Cursor::at(offset), 1, Wait::MayWait) {
            Ok(ReadOutcome::Entries(entries)) => entries,
            Ok(other) => return Err(LetterError::Damaged(format!("{other:?}"))),
            Err(error) => return Err(LetterError::Unread(error.to_string())),
        };
        let (_, batch) = dure_proto::split_entries(entries).next().expect("one").expect("valid");
        let records = Records::decode(&batch, &Default::default()).expect("decodes");
        let index = offset.since(records.offset(0)) as usize;
        Ok(letter_batch(Ok(&records.get(index).expect("a record"))))
    }

    /// All values from an offset on.
    pub fn read_all(&self, partition: TopicPartition, from: Offset) -> Vec<String> {
        let mut values = Vec::new();
        let mut offset = from;
        while let Some((base, records)) = self.read_batch(partition, offset) {
            for i in offset.since(base) as usize..records.len() {
                values.push(String::from_utf8(records.value(i).expect("a value").to_vec()).expect("text"));
            }
            offset = base.plus(records.len() as u64);
        }
        values
    }

    pub fn receive(&mut self, topic: &str, group: &str, count: u32) -> Vec<LeaseGrant> {
        self.correlation += 1;
        let reply_to = ReplyTo { connection: ConnectionId(1), correlation: self.correlation };
        let receive = dure_proto::wire::Receive {
            topic: topic.into(),
            group: group.into(),
            count,
            wait_ms: 0,
            lease_ms: None,
        };
        self.shard.handle(self.now, Input::Request { reply_to, request: Request::Receive(receive) });
        self.settle();
        let at = self.deliveries.iter().position(|d| d.target == DeliverTo::Receive(self.correlation));
        self.deliveries.remove(at.expect("an answer")).leases
    }

    /// A queue group that works a topic.
    pub fn group_of(&mut self, topic: &str, group: &str) {
        let kind = dure_proto::wire::GroupKind::Queue as i32;
        let (name, topics) = (group.into(), vec![topic.into()]);
        let create = dure_proto::wire::CreateGroup { name, kind, topics, queue: None };
        self.ask(Request::CreateGroup(create)).expect("created");
    }

    pub fn settle_one(
        &mut self,
        topic: &str,
        group: &str,
        lease: &LeaseGrant,
        action: SettleAction,
    ) -> Result<Settled, RequestError> {
        let receipt = dure_proto::Receipt {
            partition: lease.partition.partition,
            offset: lease.offset,
            token: lease.token,
        };
        let items = vec![SettleItem { receipt, action }];
        match self.ask(Request::Settle(Settle { topic: topic.into(), group: group.into(), items }))? {
            Response::Settled(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub fn advance(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
        self.settle();
    }

    pub fn group(&mut self, name: &str) -> dure_proto::wire::GroupDescription {
        let describe = dure_proto::wire::DescribeGroup { name: name.into() };
        match self.ask(Request::DescribeGroup(describe)).expect("described") {
            Response::Groups(mut groups) => groups.remove(0),
            other => panic!("{other:?}"),
        }
    }
}

/// A batch without keys, times to live and ids, whose records are small.
pub fn produce(partition: TopicPartition, batch: Bytes) -> Produce {
    Produce {
        partition,
        batch,
        keyed: false,
        all_keyed: false,
        record_bytes_max: 10,
        expiring: false,
        ids: Vec::new(),
    }
}

pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(None, Some(value.as_bytes()), &[], 0).expect("fits");
    }
    builder.build(None)
}
