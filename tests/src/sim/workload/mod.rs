//! What the clients do: which requests are sent, and what is learned from the answers.

mod answers;
mod groups;
mod topics;

use dure_engine::{Input, Request, SeekTo};
use dure_proto::{TopicPartition, wire};

use super::Checked;
use super::model::{Member, SettledItem};
use super::world::World;

/// Kinds of client steps, in the order of `Knobs::weights`.
pub(crate) const KINDS: usize = 17;
/// Those without which nothing can be seen: create topics, produce, receive, create groups, settle.
pub(crate) const ALWAYS: [usize; 5] = [0, 4, 6, 7, 8];

const TOPICS: [&str; 3] = ["crops", "faces", "maps"];
const QUEUES: [&str; 2] = ["workers", "archive"];
const STREAMS: [&str; 2] = ["readers", "mirror"];

/// A request that was sent, with what is needed to make sense of the answer.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Its answer is kept for whoever asked.
    Question,
    Backup,
    Topic {
        name: String,
    },
    DeleteTopic {
        name: String,
    },
    PurgeTopic {
        name: String,
    },
    InitProducer {
        session: usize,
    },
    Produce {
        batch: u64,
    },
    Group {
        name: String,
    },
    DeleteGroup {
        name: String,
    },
    SeekGroup {
        name: String,
        partitions: Vec<TopicPartition>,
    },
    Letters {
        name: String,
        partitions: Vec<TopicPartition>,
    },
    Receive {
        group: String,
        topic: String,
    },
    /// Answered only if it is refused.
    Subscribe {
        key: super::model::SubscriptionKey,
    },
    Settle {
        group: String,
        instance: u32,
        items: Vec<(TopicPartition, SettledItem)>,
    },
    Join {
        group: String,
        connection: dure_engine::ConnectionId,
    },
    Heartbeat {
        member: Member,
        /// Somebody had its name before this was sent.
        replaced: bool,
    },
    Commit {
        instance: u32,
        member: Member,
        replaced: bool,
        offsets: Vec<(TopicPartition, u64)>,
    },
    Leave {
        member: Member,
        replaced: bool,
    },
}

impl World {
    /// One thing that a client does.
    pub(crate) fn client_step(&mut self) -> Checked {
        let total: u32 = self.knobs.weights.iter().sum();
        let mut left = self.rng.u32(0..total);
        let kind = self.knobs.weights.iter().position(|weight| {
            let here = left < *weight;
            left = left.saturating_sub(*weight);
            here
        });
        match kind.expect("one of them") {
            0 => self.create_topic(),
            1 => self.alter_topic(),
            2 => self.delete_or_purge_topic(),
            3 => self.read_somewhere()?,
            4 => self.produce(),
            5 => self.produce_in_session(),
            6 => self.create_group(),
            7 => self.receive(),
            8 => self.settle(),
            9 => self.subscribe(),
            10 => self.seek(),
            11 => self.dead_letters(),
            12 => self.join_or_leave(),
            13 => self.commit_offsets(),
            14 => self.close_connection(),
            15 => self.delete_group(),
            16 => self.backup_step()?,
            _ => unreachable!("there are {KINDS} kinds"),
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, request: Request, op: Op) {
        let reply_to = self.next_reply_to();
        self.send_from(reply_to, request, op);
    }

    pub(crate) fn send_from(&mut self, reply_to: dure_engine::ReplyTo, request: Request, op: Op) {
        match &request {
            Request::Produce(produce) => {
                let text = format!("{} {} bytes", produce.partition, produce.batch.len());
                self.note(format_args!("ask {} {op:?} {text}", reply_to.correlation));
            }
            Request::ProduceLater { produce, due } => {
                let text = format!("{} {} bytes, due {due:?}", produce.partition, produce.batch.len());
                self.note(format_args!("ask {} {op:?} {text}", reply_to.correlation));
            }
            other => {
                let text = format!("{other:?}");
                self.note(format_args!("ask {} {text}", reply_to.correlation));
            }
        }
        self.asked.insert(reply_to, op);
        self.handle(Input::Request { reply_to, request });
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(0..of.len())]
    }

    /// Mostly a topic that queue groups can work, if there is one.
    fn pick_work(&mut self) -> String {
        let can = |name: &&str| {
            let topic = self.topics.by_name(name);
            topic.is_some_and(|topic| topic.config.cleanup() != wire::Cleanup::Compact)
        };
        let workable: Vec<&str> = TOPICS.into_iter().filter(can).collect();
        match self.rng.u8(0..16) {
            0 => self.pick(&TOPICS),
            _ if workable.is_empty() => self.pick(&TOPICS),
            _ => self.pick(&workable),
        }
        .to_owned()
    }

    /// A topic that clients see, by name.
    fn pick_topic(&mut self) -> Option<(String, dure_proto::TopicId, u32)> {
        let name = self.pick(&TOPICS);
        self.topics.by_name(name).map(|topic| (topic.name.clone(), topic.id, topic.partitions))
    }

    /// What a topic consists of as clients see it.
    fn partitions_of(&self, topic: &str) -> Vec<TopicPartition> {
        self.topics.by_name(topic).into_iter().flat_map(|topic| topic.all_partitions()).collect()
    }

    fn pick_partition(&mut self) -> Option<TopicPartition> {
        let (_, topic, partitions) = self.pick_topic()?;
        let partition = dure_proto::PartitionId(self.rng.u32(0..partitions));
        Some(TopicPartition { topic, partition })
    }

    /// Reads a log as a consumer would: what it sees is what was produced, and stays.
    fn read_somewhere(&mut self) -> Checked {
        let visible: Vec<TopicPartition> = self.views.keys().copied().collect();
        if visible.is_empty() || self.damaged {
            return Ok(());
        }
        let partition = visible[self.rng.usize(0..visible.len())];
        let view = self.views[&partition].clone();
        let from = dure_proto::Offset(self.rng.u64(view.log_start.0..=view.high_watermark.0));
        self.count("reads");
        self.check_log_from(&view, from)
    }

    fn close_connection(&mut self) {
        if self.rng.u8(0..3) > 0 {
            return;
        }
        let at = self.rng.usize(0..self.connections.len());
        let closed = self.connections[at];
        self.connections[at] = dure_engine::ConnectionId(self.next_number());
        self.note(format_args!("close {closed:?}"));
        self.count("connections closed");
        self.subscription_gone(|(connection, _)| connection == closed);
        self.subscriptions.retain(|(connection, _), _| *connection != closed);
        self.asked.retain(|to, op| {
            let ends = matches!(op, Op::Receive { .. } | Op::Subscribe { .. } | Op::Join { .. } | Op::Backup);
            to.connection != closed || !ends
        });
        self.backup_closed(closed);
        self.model.members.retain(|member| member.connection != closed);
        self.handle(Input::ConnectionClosed(closed));
    }

    fn seek_target(&mut self) -> SeekTo {
        match self.rng.u8(0..4) {
            0 => SeekTo::Earliest,
            1 => SeekTo::Latest,
            2 => SeekTo::Offset(dure_proto::Offset(self.rng.u64(0..60))),
            _ => SeekTo::PerPartition((0..2).map(|_| dure_proto::Offset(self.rng.u64(0..60))).collect()),
        }
    }
}

/// Settings out of a few that make things happen soon.
fn topic_config(rng: &mut fastrand::Rng) -> wire::TopicConfig {
    let cleanup = match rng.u8(0..10) {
        0 | 1 => wire::Cleanup::DeleteWhenSettled,
        2..=4 => wire::Cleanup::Compact,
        _ => wire::Cleanup::Delete,
    };
    let nth = rng.usize(0..4);
    wire::TopicConfig {
        retention_ms: [None, None, Some(500), Some(8_000)][nth],
        dedup_window_ms: [None, Some(1_000), Some(3_600_000), None][nth].or(Some(120_000)),
        retention_bytes: [None, None, Some(20 << 10)][rng.usize(0..3)],
        segment_bytes: 16 << 10,
        cleanup: cleanup as i32,
        compact_after_ms: [100, 400][rng.usize(0..2)],
        tombstone_retention_ms: [100, 2_000][rng.usize(0..2)],
        ..dure_engine::default_topic_config()
    }
}
