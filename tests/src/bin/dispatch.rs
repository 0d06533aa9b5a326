//! What it costs a shard's thread to serve a queue group: messages granted and acknowledged per second, by how many
//! partitions the topic has. Only the shard is timed; the disk is a simulated one and takes no time.
//!
//! `cargo run --release -p dure-tests --bin dispatch`

use std::sync::Arc;
use std::time::{Duration, Instant};

use dure_engine::{
    ConnectionId, Deliver, DiskRef, Effect, Input, JOURNAL_PIECE_BYTES_MIN, LeaseGrant, Now, Produce,
    ReplyTo, Request, Sent, Settle, SettleAction, SettleItem, Shard, ShardConfig, SimDisk, SubscriptionId,
};
use dure_proto::{BatchBuilder, Compression, Receipt, ShardId, TopicPartition, wire};

const PARTITIONS: [u32; 3] = [1, 100, 1_000];
/// Messages that are granted and acknowledged for each figure, by this many workers that hold one each.
const WORKED: u64 = 20_000;
const WORKERS: [u32; 2] = [1, 64];
const TOPIC: &str = "photos";
const GROUP: &str = "resize";
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
const WORKER: ConnectionId = ConnectionId(7);
const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

fn main() {
    for workers in WORKERS {
        for partitions in PARTITIONS {
            let per_s: Vec<f64> = (0..3).map(|_| Bench::new(partitions).work(workers)).collect();
            let shown: Vec<String> = per_s.iter().map(|per_s| format!("{per_s:.0}")).collect();
            println!("{partitions:>5} partitions, {workers:>3} in hand: {} messages/s", shown.join(", "));
        }
    }
}

struct Bench {
    disk: DiskRef,
    shard: Shard,
    spent: Duration,
    partitions: Vec<TopicPartition>,
    delivered: Vec<LeaseGrant>,
    correlation: u64,
}

impl Bench {
    /// A topic whose messages are spread over its partitions.
    fn new(partitions: u32) -> Bench {
        let disk: DiskRef = Arc::new(SimDisk::new(0));
        let config = ShardConfig {
            journal_piece_bytes: JOURNAL_PIECE_BYTES_MIN,
            reserve_bytes: 0,
            scrub_bytes_per_s: 0,
            ..ShardConfig::default()
        };
        let (shard, _) = Shard::open(disk.clone(), ShardId(0), config, NOW).expect("it opens");
        let mut bench = Bench {
            disk,
            shard,
            spent: Duration::ZERO,
            partitions: Vec::new(),
            delivered: Vec::new(),
            correlation: 0,
        };
        let create = wire::CreateTopic { name: TOPIC.into(), partitions, config: None };
        bench.ask(Request::CreateTopic(create));
        let each = WORKED / u64::from(partitions);
        for partition in bench.partitions.clone() {
            let mut builder = BatchBuilder::new(Compression::None);
            (0..each).for_each(|_| builder.push(None, Some(b"a"), &[], 0).expect("it fits"));
            let batch = builder.build(None);
            bench.ask(Request::Produce(Produce {
                partition,
                batch,
                keyed: false,
                all_keyed: false,
                record_bytes_max: 10,
                expiring: false,
                ids: Vec::new(),
            }));
        }
        bench
    }

    /// Whoever holds a message acknowledges it, and takes the next one. Messages per second.
    fn work(mut self, workers: u32) -> f64 {
        self.ask(Request::WorkQueue(wire::WorkQueue {
            subscription: SUBSCRIPTION.0,
            topic: TOPIC.into(),
            group: GROUP.into(),
            credit_messages: workers,
            credit_bytes: 1 << 30,
            limit_bytes: None,
            lease_ms: None,
        }));
        self.spent = Duration::ZERO;
        let mut done = 0;
        while done < WORKED {
            let held = std::mem::take(&mut self.delivered);
            assert!(!held.is_empty(), "{done} messages were granted, and then none");
            for lease in held {
                let receipt = Receipt {
                    partition: lease.partition.partition,
                    offset: lease.offset,
                    token: lease.token,
                };
                let items = vec![SettleItem { receipt, action: SettleAction::Ack }];
                let settle = Settle { topic: TOPIC.into(), group: GROUP.into(), items };
                self.send(Request::Settle(settle));
                let sent = Sent { messages: 1, bytes: 1, ..Sent::default() };
                self.send(Request::QueueSent { subscription: SUBSCRIPTION, sent });
                self.ask(Request::QueueCredit { subscription: SUBSCRIPTION, messages: 1, bytes: 1 });
                done += 1;
            }
        }
        WORKED as f64 / self.spent.as_secs_f64()
    }

    fn send(&mut self, request: Request) {
        self.correlation += 1;
        let reply_to = ReplyTo { connection: WORKER, correlation: self.correlation };
        let begun = Instant::now();
        self.shard.handle(NOW, Input::Request { reply_to, request });
        self.spent += begun.elapsed();
    }

    /// Until nothing more happens by itself.
    fn ask(&mut self, request: Request) {
        self.send(request);
        loop {
            let begun = Instant::now();
            self.shard.turn(NOW);
            let effects = self.shard.take_effects();
            self.spent += begun.elapsed();
            if effects.is_empty() {
                return;
            }
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Job(job) => {
                let done = job.run(&*self.disk);
                let begun = Instant::now();
                self.shard.handle(NOW, Input::JobDone(done));
                self.spent += begun.elapsed();
            }
            Effect::Deliver(Deliver { leases, .. }) => self.delivered.extend(leases),
            Effect::TopicsChanged(table) => {
                let visible = table.by_name(TOPIC).map(|topic| topic.all_partitions().collect());
                self.partitions = visible.unwrap_or_default();
            }
            Effect::Reply { result, .. } => drop(result.expect("nothing is refused")),
            Effect::Stopped(why) => panic!("stopped: {why}"),
            _ => {}
        }
    }
}
