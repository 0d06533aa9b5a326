//! A client's requests, as a connection hands them to the engine: frames one behind the other, then time passes.
//!
//! ```text
//! u8 control: bits 0..1 the connection, bit 2 its end instead of a request, bits 3..7 time that passes
//! field: an Envelope | u8: whether an attachment follows | field: the records of a batch
//! ```

use bytes::Bytes;
use dure_broker::fuzzing;
use dure_engine::{
    ConnectionId, Due, Input as ShardInput, Produce, Request, SeekTo, SimDisk, SubscriptionId,
};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, seek_group};
use dure_proto::{BatchHeader, BatchLimits, Offset, PartitionId, TopicId, TopicPartition};
use prost::Message;

use super::input::Input;
use super::running::Running;
use super::seal::{batch_of, seal_batch};

const REQUESTS_MAX: usize = 48;
/// Each has a log of its own: more would only take time.
const PARTITIONS_MAX: u32 = 8;

pub(super) fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk).expect("an empty disk");
    let mut requests = 0;
    while !input.is_empty() && requests < REQUESTS_MAX {
        requests += 1;
        let control = input.byte();
        let connection = u64::from(control & 3);
        running.advance(u64::from(control >> 3) * 1_000);
        if control & 4 != 0 {
            running.tell(ShardInput::ConnectionClosed(ConnectionId(connection)));
            continue;
        }
        let Ok(envelope) = wire::Envelope::decode(input.field()) else { continue };
        let attachment = attachment(&mut input);
        let Some(request) = envelope.body.and_then(|body| request_of(body, attachment)) else { continue };
        running.ask(connection, 1 + requests as u64, request);
    }
    assert!(!running.stopped, "a request stopped the shard");
    let served = running.read_all();
    // Leases and sessions run out.
    running.advance(3_600_000);
    running.close();
    let again = Running::open(&disk).expect("it was open before");
    assert_eq!(again.report.findings, [], "a clean stop leaves nothing to find");
    let kept = again.read_all();
    for (partition, entries) in served {
        let Some(kept) = kept.get(&partition) else { continue };
        let start = again.views[&partition].log_start;
        let left: Vec<_> = entries.into_iter().filter(|(base, _)| *base >= start).collect();
        assert!(left.iter().all(|entry| kept.contains(entry)), "an entry of {partition} is gone");
    }
}

fn attachment(input: &mut Input<'_>) -> Bytes {
    match input.byte() & 3 {
        0 => Bytes::new(),
        1 => {
            let mut batch = input.field().to_vec();
            seal_batch(&mut batch);
            batch.into()
        }
        count => batch_of(0, i32::from(count) - 1, input.field()).into(),
    }
}

/// What `server::dispatch` makes of a message before the engine sees it; `None` where it answers by itself.
fn request_of(body: Body, attachment: Bytes) -> Option<Request> {
    Some(match body {
        Body::CreateTopic(mut create) => {
            create.partitions = if create.partitions > 10_000 {
                create.partitions
            } else {
                create.partitions % PARTITIONS_MAX
            };
            Request::CreateTopic(create)
        }
        Body::AlterTopic(mut alter) => {
            alter.partitions =
                alter.partitions.map(|n| if n > 100_000 { n } else { n % (2 * PARTITIONS_MAX) });
            Request::AlterTopic(alter)
        }
        Body::DeleteTopic(m) => Request::DeleteTopic(m),
        Body::PurgeTopic(m) => Request::PurgeTopic(m),
        Body::DescribeTopics(m) => Request::DescribeTopics(m),
        Body::InitProducer(_) => Request::InitProducer,
        Body::Produce(produce) => {
            BatchHeader::validate(&attachment, &BatchLimits::default()).ok()?;
            let partition = TopicPartition {
                topic: TopicId(produce.topic_id),
                partition: PartitionId(produce.partition),
            };
            let wire::Produce { keyed, all_keyed, record_bytes_max, expiring, due, .. } = produce;
            let batch = attachment;
            let produce =
                Produce { partition, batch, keyed, all_keyed, record_bytes_max, expiring, ids: Vec::new() };
            match due {
                None => Request::Produce(produce),
                Some(wire::produce::Due::DelayMs(ms)) => {
                    Request::ProduceLater { produce, due: Due::After(ms) }
                }
                Some(wire::produce::Due::DeliverAtMs(ms)) => {
                    Request::ProduceLater { produce, due: Due::At(ms) }
                }
            }
        }
        Body::CreateGroup(m) => Request::CreateGroup(m),
        Body::ListGroups(_) => Request::ListGroups,
        Body::DescribeGroup(m) => Request::DescribeGroup(m),
        Body::DeleteGroup(m) => Request::DeleteGroup(m),
        Body::SeekGroup(wire::SeekGroup { group, topic, position }) => {
            let to = match position? {
                seek_group::Position::Earliest(_) => SeekTo::Earliest,
                seek_group::Position::Latest(_) => SeekTo::Latest,
                seek_group::Position::Offset(offset) => SeekTo::Offset(Offset(offset.min(Offset::MAX.0))),
                seek_group::Position::TimeMs(time) => SeekTo::PerPartition(vec![Offset(time % 8)]),
            };
            Request::SeekGroup { group, topic, to }
        }
        Body::WorkQueue(mut work) => {
            work.credit_messages = work.credit_messages.min(10_000);
            Request::WorkQueue(work)
        }
        Body::Receive(mut receive) => {
            receive.count = receive.count.clamp(1, 1_000);
            Request::Receive(receive)
        }
        Body::Credit(wire::Credit { subscription, messages, bytes }) => Request::QueueCredit {
            subscription: SubscriptionId(subscription),
            messages: messages.min(10_000),
            bytes,
        },
        Body::Unsubscribe(m) => Request::Unsubscribe { subscription: SubscriptionId(m.subscription) },
        Body::Settle(m) => Request::Settle(fuzzing::settle(m).ok()?),
        Body::ListDeadLetters(m) => Request::ListDeadLetters(m),
        Body::Redrive(m) => Request::Redrive(m),
        Body::PurgeDeadLetters(m) => Request::PurgeDeadLetters(m),
        Body::JoinGroup(join) => Request::JoinGroup { join, client: "fuzz".into() },
        Body::Heartbeat(m) => Request::Heartbeat(m),
        Body::CommitOffsets(m) => Request::CommitOffsets(m),
        Body::LeaveGroup(m) => Request::LeaveGroup(m),
        _ => return None,
    })
}
