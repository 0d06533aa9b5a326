//! A queue group through a whole shard: messages are leased, sent, acknowledged, and all of it is durable before the
//! next are taken. On a disk that takes no time.

use std::sync::Arc;

use bytes::Bytes;
use dure_engine::{ConnectionId, Request, Sent, Settle, SettleAction, SettleItem, SubscriptionId};
use dure_proto::{Receipt, wire};

use super::driven_shard::{DrivenShard, TOPIC};
use super::null_disk::NullDisk;
use super::payload;
use super::{Path, Round};

const GROUP: &str = "resize";
const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);
/// Of one round.
const MESSAGES: u64 = 256;
/// What a batch that fills the queue again holds.
const FILL: u64 = 100_000;

const ONE: Path = Path {
    name: "queue-1-worker",
    operation: "message leased and acknowledged, one in hand",
    operations: MESSAGES,
    bytes: 0,
    prepare: || prepare(Hands { workers: 1, each: 1 }),
    only: None,
};

pub(super) const PATHS: &[Path] = &[
    ONE,
    Path {
        name: "queue-1-worker-64",
        operation: "message leased and acknowledged, 64 of them in one request",
        prepare: || prepare(Hands { workers: 1, each: 64 }),
        ..ONE
    },
    Path {
        name: "queue-64-workers",
        operation: "message leased and acknowledged, by 64 workers with one each",
        prepare: || prepare(Hands { workers: 64, each: 1 }),
        ..ONE
    },
];

#[derive(Clone, Copy)]
struct Hands {
    workers: u32,
    /// What each of them holds at a time, and acknowledges in one request.
    each: u32,
}

fn prepare(hands: Hands) -> Round {
    let mut queue = Queue::new(hands);
    Box::new(move || queue.work())
}

struct Queue {
    shard: DrivenShard,
    fill: Bytes,
    /// Messages that nobody has taken yet.
    left: u64,
}

impl Queue {
    fn new(hands: Hands) -> Queue {
        let fill = payload::records(FILL as usize, &[7]).build(None);
        let mut queue = Queue { shard: DrivenShard::new(Arc::new(NullDisk::default()), None), fill, left: 0 };
        queue.refill();
        for worker in 1..=u64::from(hands.workers) {
            let work = Request::WorkQueue(wire::WorkQueue {
                subscription: SUBSCRIPTION.0,
                topic: TOPIC.into(),
                group: GROUP.into(),
                credit_messages: hands.each,
                credit_bytes: 1 << 30,
                limit_bytes: None,
                lease_ms: None,
            });
            queue.shard.tell(ConnectionId(worker), work);
        }
        queue.shard.run();
        queue
    }

    fn refill(&mut self) {
        self.shard.produce(self.fill.clone(), 1, Vec::new());
        self.shard.run();
        self.left += FILL;
    }

    /// What is held is acknowledged, whereupon as many more are granted.
    fn work(&mut self) {
        let mut done = 0;
        while done < MESSAGES {
            let granted = std::mem::take(&mut self.shard.granted);
            assert!(!granted.is_empty(), "{done} messages were granted, and then none");
            for (worker, leases) in granted {
                let count = leases.len() as u32;
                let sent = Sent { messages: count, bytes: u64::from(count), ..Sent::default() };
                self.shard.tell(worker, Request::QueueSent { subscription: SUBSCRIPTION, sent });
                let items = leases.into_iter().map(|lease| SettleItem {
                    receipt: Receipt {
                        partition: lease.partition.partition,
                        offset: lease.offset,
                        token: lease.token,
                    },
                    action: SettleAction::Ack,
                });
                let settle = Settle { topic: TOPIC.into(), group: GROUP.into(), items: items.collect() };
                self.shard.ask(worker, Request::Settle(settle));
                let (messages, bytes) = (count, u64::from(count));
                let credit = Request::QueueCredit { subscription: SUBSCRIPTION, messages, bytes };
                self.shard.tell(worker, credit);
                done += u64::from(count);
            }
            self.shard.run();
        }
        self.shard.check_answers();
        self.left -= done;
        if self.left < 2 * MESSAGES {
            self.refill();
        }
    }
}
