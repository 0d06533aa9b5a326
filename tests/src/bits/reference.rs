//! The data directory whose bits are flipped: several segments of several topics, their indexes, pieces of the journal,
//! two checkpoints, dead letters, groups of both kinds, producer sessions, and an end without a clean shutdown.

use dure_engine::Now;
use dure_engine::{
    Produce, Request, Response, SeekTo, Settle, SettleAction, SettleItem, ShardConfig, SimDisk, Survival,
    default_queue_settings, default_topic_config,
};
use dure_proto::{
    BatchBuilder, BatchHeader, Compression, EntryHeader, Offset, PartitionId, ProducerId, ProducerStamp,
    Receipt, Sequence, TopicPartition, patch_base, wire,
};
use fastrand::Rng;

use super::driver::Driver;
use crate::sim::Violation;

pub(super) const START: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
/// A start of every recovery, later than all that was done.
pub(super) const LATER: Now = Now { mono_ms: 5_000_000, wall_ms: 1_700_005_000_000 };
pub(super) const WORK: &str = "photos";
pub(super) const MAIL: &str = "mails";
/// Made behind the last checkpoint.
pub(super) const LATE: &str = "late";
pub(super) const QUEUE: &str = "resize";
pub(super) const STREAM: &str = "readers";
const ROUNDS: u32 = 24;
const ROUNDS_AT_THE_END: u32 = 5;
const VALUE_BYTES_MAX: usize = 1_600;

pub(super) fn config() -> ShardConfig {
    ShardConfig {
        journal_piece_bytes: 16 << 10,
        checkpoint_bytes: 48 << 10,
        commit_bytes_soft: 4 << 10,
        commit_bytes_max: 16 << 10,
        reserve_bytes: 0,
        salt: 7,
        seed: 1,
        ..ShardConfig::default()
    }
}

/// A batch of a session that may be sent again.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) produce: Produce,
}

struct Builder {
    driver: Driver,
    rng: Rng,
    sessions: Vec<(ProducerId, u32)>,
    /// The last batch of each session.
    last: Vec<Option<Sent>>,
}

/// The directory, and the last batch of each of its producer sessions.
pub(super) fn build() -> Result<(SimDisk, Vec<Sent>), Violation> {
    let disk = SimDisk::new(1);
    let driver = Driver::open(disk.clone(), config(), START)?;
    let mut builder = Builder { driver, rng: Rng::with_seed(1), sessions: Vec::new(), last: vec![None; 2] };
    builder.begin()?;
    for round in 0..ROUNDS {
        builder.round()?;
        if round == ROUNDS / 2 {
            // Killed in the middle: a second epoch.
            builder.reopen(&disk)?;
        }
    }
    builder.driver.shut_down()?;
    builder.reopen(&disk)?;
    builder.create_topic(LATE, 1)?;
    for _ in 0..ROUNDS_AT_THE_END {
        builder.round()?;
        builder.produce(LATE, 0, None)?;
        builder.driver.advance(5)?;
    }
    let stream =
        Request::SeekGroup { group: STREAM.into(), topic: MAIL.into(), to: SeekTo::Offset(Offset(9)) };
    builder.driver.expect(stream)?;
    // The last commit is followed by nothing that names it durable.
    builder.produce(MAIL, 0, None)?;
    let last = builder.last.iter().flatten().cloned().collect();
    drop(builder);
    disk.crash_with(|_| Survival::Kept);
    Ok((disk, last))
}

impl Builder {
    fn reopen(&mut self, disk: &SimDisk) -> Result<(), Violation> {
        disk.crash_with(|_| Survival::Kept);
        let now = Now { mono_ms: self.driver.now.mono_ms + 1_000, wall_ms: self.driver.now.wall_ms + 1_000 };
        self.driver = Driver::open(disk.clone(), config(), now)?;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Violation> {
        self.create_topic(WORK, 2)?;
        self.create_topic(MAIL, 1)?;
        let queue = wire::QueueSettings { attempts_max: 5, ..default_queue_settings() };
        for (name, kind, topic, queue) in [
            (QUEUE, wire::GroupKind::Queue, WORK, Some(queue)),
            (STREAM, wire::GroupKind::Stream, MAIL, None),
        ] {
            let create =
                wire::CreateGroup { name: name.into(), kind: kind as i32, topics: vec![topic.into()], queue };
            self.driver.expect(Request::CreateGroup(create))?;
        }
        for _ in 0..2 {
            match self.driver.expect(Request::InitProducer)? {
                Response::Producer { producer, .. } => self.sessions.push((producer, 0)),
                other => return Err(Violation(format!("{other:?}"))),
            }
        }
        Ok(())
    }

    fn create_topic(&mut self, name: &str, partitions: u32) -> Result<(), Violation> {
        let config =
            wire::TopicConfig { segment_bytes: 16 << 10, retention_ms: None, ..default_topic_config() };
        let create = wire::CreateTopic { name: name.into(), partitions, config: Some(config) };
        self.driver.expect(Request::CreateTopic(create)).map(|_| ())
    }

    /// A batch to each log; some messages taken, of which one is acknowledged, one dies and others stay leased.
    fn round(&mut self) -> Result<(), Violation> {
        self.produce(WORK, 0, Some(0))?;
        self.produce(WORK, 1, Some(1))?;
        self.produce(MAIL, 0, None)?;
        let leases = self.driver.receive(WORK, QUEUE, 3)?;
        for (lease, action) in
            leases.iter().zip([SettleAction::Ack, SettleAction::Reject { reason: "bad".into() }])
        {
            let receipt =
                Receipt { partition: lease.partition.partition, offset: lease.offset, token: lease.token };
            let items = vec![SettleItem { receipt, action }];
            self.driver.expect(Request::Settle(Settle { topic: WORK.into(), group: QUEUE.into(), items }))?;
        }
        let to = SeekTo::Offset(Offset(self.rng.u64(0..8)));
        self.driver.expect(Request::SeekGroup { group: STREAM.into(), topic: MAIL.into(), to })?;
        let idle_ms = if self.rng.bool() { 2 } else { 30 };
        self.driver.advance(idle_ms)
    }

    fn produce(&mut self, topic: &str, partition: u32, session: Option<usize>) -> Result<(), Violation> {
        let topic = self.driver.topics.by_name(topic).map(|topic| topic.id);
        let topic = topic.ok_or_else(|| Violation("no such topic".into()))?;
        let partition = TopicPartition { topic, partition: PartitionId(partition) };
        let compression = if self.rng.u8(0..4) == 0 { Compression::Lz4 } else { Compression::None };
        let mut batch = BatchBuilder::new(compression);
        let records = self.rng.u32(1..4);
        for _ in 0..records {
            let value = self.value(partition);
            batch.push(Some(b"key"), Some(&value), &[], START.wall_ms as i64).expect("it is small");
        }
        let record_bytes_max = batch.record_bytes_max();
        let stamp = session.map(|session| {
            let (producer, sequence) = &mut self.sessions[session];
            let stamp = ProducerStamp { producer: *producer, epoch: 0, sequence: Sequence(*sequence) };
            *sequence += records;
            stamp
        });
        let produce = Produce {
            partition,
            batch: batch.build(stamp),
            keyed: false,
            all_keyed: false,
            record_bytes_max,
            expiring: false,
            ids: Vec::new(),
        };
        self.driver.expect(Request::Produce(produce.clone()))?;
        if let Some(session) = session {
            self.last[session] = Some(Sent { produce });
        }
        Ok(())
    }

    /// Noise; in one of some cases the image of an entry as it might stand further on in the same log.
    fn value(&mut self, partition: TopicPartition) -> Vec<u8> {
        let bytes = self.rng.usize(20..VALUE_BYTES_MAX / 2);
        let mut value: Vec<u8> = (0..bytes).map(|_| self.rng.u8(..)).collect();
        if self.rng.u8(0..6) == 0 {
            let end = self.driver.views.get(&partition).map(|view| view.high_watermark).unwrap_or_default();
            let mut forged = BatchBuilder::new(Compression::None);
            forged.push(None, Some(b"forged"), &[], 0).expect("it is small");
            let mut batch = forged.build(None).to_vec();
            let header = BatchHeader::parse(&batch).expect("just built");
            let base = end.plus(self.rng.u64(1..6));
            let header = EntryHeader::for_batch(&header, base, START.wall_ms, 1);
            patch_base(&mut batch, base, 1);
            value.extend(header.encode());
            value.extend(batch);
        }
        value
    }
}
