//! A shard and whoever runs it: hands requests in, runs the disk's jobs at once, and hands their outcomes back, until
//! nothing more happens by itself.

use dure_engine::{
    ConnectionId, DiskRef, Effect, Input, LeaseGrant, LogView, Now, Produce, ReplyTo, Request, Shard,
    ShardConfig,
};
use dure_proto::{IdHash, ShardId, TopicPartition, wire};

use super::NOW;
use bytes::Bytes;

pub(super) const TOPIC: &str = "photos";

/// One shard with one topic of one partition.
pub(super) struct DrivenShard {
    disk: DiskRef,
    shard: Shard,
    pub(super) now: Now,
    /// What was granted and not taken from here.
    pub(super) granted: Vec<(ConnectionId, Vec<LeaseGrant>)>,
    /// The log's last view.
    pub(super) view: Option<LogView>,
    partition: Option<TopicPartition>,
    asked: u64,
    answered: u64,
}

impl DrivenShard {
    pub(super) fn new(disk: DiskRef, topic: Option<wire::TopicConfig>) -> DrivenShard {
        // Checkpoints, and what is done each second, are not a part of any path.
        let config = ShardConfig {
            journal_piece_bytes: 64 << 20,
            checkpoint_bytes: u64::MAX,
            reserve_bytes: 0,
            ..ShardConfig::default()
        };
        let (shard, _) = Shard::open(disk.clone(), ShardId(0), config, NOW).expect("it opens");
        let (granted, view, partition) = (Vec::new(), None, None);
        let mut driven =
            DrivenShard { disk, shard, now: NOW, granted, view, partition, asked: 0, answered: 0 };
        let create = wire::CreateTopic { name: TOPIC.into(), partitions: 1, config: topic };
        driven.ask(ConnectionId(0), Request::CreateTopic(create));
        driven.run();
        driven
    }

    /// The topic's one partition.
    pub(super) fn partition(&self) -> TopicPartition {
        self.partition.expect("the topic is there")
    }

    /// Hands in a request that is answered.
    pub(super) fn ask(&mut self, connection: ConnectionId, request: Request) {
        self.asked += 1;
        let reply_to = ReplyTo { connection, correlation: self.asked };
        self.shard.handle(self.now, Input::Request { reply_to, request });
    }

    /// Hands in a request that nobody waits for.
    pub(super) fn tell(&mut self, connection: ConnectionId, request: Request) {
        let reply_to = ReplyTo { connection, correlation: 0 };
        self.shard.handle(self.now, Input::Request { reply_to, request });
    }

    /// Hands in a batch as it comes from a connection.
    pub(super) fn produce(&mut self, batch: Bytes, record_bytes_max: u32, ids: Vec<Option<IdHash>>) {
        let partition = self.partition();
        let produce = Produce {
            partition,
            batch,
            keyed: false,
            all_keyed: false,
            record_bytes_max,
            expiring: false,
            ids,
        };
        self.ask(ConnectionId(1), Request::Produce(produce));
    }

    /// Until nothing more happens by itself: everything that was decided is durable then.
    pub(super) fn run(&mut self) {
        loop {
            self.shard.turn(self.now);
            let effects = self.shard.take_effects();
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    /// Panics unless everything that was asked has been answered.
    pub(super) fn check_answers(&self) {
        assert_eq!(self.asked, self.answered, "every request is answered once it is durable");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Job(job) => {
                let done = job.run(&*self.disk);
                self.shard.handle(self.now, Input::JobDone(done));
            }
            Effect::Deliver(deliver) => self.granted.push((deliver.connection, deliver.leases)),
            Effect::Publish(view) => self.view = Some(view),
            Effect::TopicsChanged(table) => {
                self.partition = table.by_name(TOPIC).and_then(|topic| topic.all_partitions().next());
            }
            Effect::Reply { result, .. } => {
                drop(result.expect("nothing is refused"));
                self.answered += 1;
            }
            Effect::Stopped(why) => panic!("stopped: {why}"),
            _ => {}
        }
    }
}
