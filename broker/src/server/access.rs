//! Names each request and says what it needs to be allowed.

use dure_proto::TopicId;
use dure_proto::wire::envelope::Body;

use crate::authorize::{Denied, Operation, Principal, Resource, authorize};
use crate::broker::Broker;

/// The name under which a request is counted; `None` for what is no request.
pub(super) fn request_name(body: &Body) -> Option<&'static str> {
    Some(match body {
        Body::Ping(_) => "ping",
        Body::Metadata(_) => "metadata",
        Body::CreateTopic(_) => "create_topic",
        Body::AlterTopic(_) => "alter_topic",
        Body::DeleteTopic(_) => "delete_topic",
        Body::PurgeTopic(_) => "purge_topic",
        Body::DescribeTopics(_) => "describe_topics",
        Body::InitProducer(_) => "init_producer",
        Body::Produce(_) => "produce",
        Body::Read(_) => "read",
        Body::Credit(_) => "credit",
        Body::Unsubscribe(_) => "unsubscribe",
        Body::LocateOffset(_) => "locate_offset",
        Body::CreateGroup(_) => "create_group",
        Body::ListGroups(_) => "list_groups",
        Body::DescribeGroup(_) => "describe_group",
        Body::SeekGroup(_) => "seek_group",
        Body::DeleteGroup(_) => "delete_group",
        Body::WorkQueue(_) => "work_queue",
        Body::Receive(_) => "receive",
        Body::Settle(_) => "settle",
        Body::ListDeadLetters(_) => "list_dead_letters",
        Body::Redrive(_) => "redrive",
        Body::PurgeDeadLetters(_) => "purge_dead_letters",
        Body::JoinGroup(_) => "join_group",
        Body::Heartbeat(_) => "heartbeat",
        Body::CommitOffsets(_) => "commit_offsets",
        Body::LeaveGroup(_) => "leave_group",
        Body::Backup(_) => "backup",
        Body::Error(_)
        | Body::Hello(_)
        | Body::HelloReply(_)
        | Body::Done(_)
        | Body::MetadataReply(_)
        | Body::TopicDescriptions(_)
        | Body::InitProducerReply(_)
        | Body::ProduceReply(_)
        | Body::Records(_)
        | Body::SubscriptionEnded(_)
        | Body::LocateOffsetReply(_)
        | Body::GroupDescriptions(_)
        | Body::Jobs(_)
        | Body::SettleReply(_)
        | Body::DeadLetters(_)
        | Body::Count(_)
        | Body::JoinGroupReply(_)
        | Body::Assignment(_)
        | Body::BackupReply(_)
        | Body::BackupPart(_)
        | Body::BackupEnd(_) => return None,
    })
}

/// Asks the one seam for everything that a request touches.
pub(super) fn check(broker: &Broker, principal: &Principal, body: &Body) -> Result<(), Denied> {
    let may = |operation, resource: Resource<'_>| authorize(principal, operation, resource);
    let topic = |operation, name: &str| may(operation, Resource::Topic(name));
    let topic_id = |operation, id: u32| {
        let topics = broker.shards.topics();
        may(operation, Resource::Topic(topics.by_id(TopicId(id)).map_or("", |topic| &topic.name)))
    };
    let queue = |topic_name: &str, group: &str| {
        topic(Operation::Consume, topic_name)?;
        may(Operation::Consume, Resource::Group(group))
    };
    match body {
        Body::Metadata(m) => m.topics.iter().try_for_each(|name| topic(Operation::Describe, name)),
        Body::DescribeTopics(m) => m.names.iter().try_for_each(|name| topic(Operation::Describe, name)),
        Body::CreateTopic(m) => topic(Operation::Administer, &m.name),
        Body::AlterTopic(m) => topic(Operation::Administer, &m.name),
        Body::DeleteTopic(m) => topic(Operation::Administer, &m.name),
        Body::PurgeTopic(m) => topic(Operation::Administer, &m.name),
        Body::InitProducer(_) => may(Operation::Produce, Resource::Cluster),
        Body::Produce(m) => topic_id(Operation::Produce, m.topic_id),
        Body::Read(m) => topic_id(Operation::Consume, m.topic_id),
        Body::LocateOffset(m) => topic_id(Operation::Describe, m.topic_id),
        Body::CreateGroup(m) => may(Operation::Administer, Resource::Group(&m.name)),
        Body::ListGroups(_) => may(Operation::Describe, Resource::Cluster),
        Body::DescribeGroup(m) => may(Operation::Describe, Resource::Group(&m.name)),
        Body::SeekGroup(m) => may(Operation::Administer, Resource::Group(&m.group)),
        Body::DeleteGroup(m) => may(Operation::Administer, Resource::Group(&m.name)),
        Body::WorkQueue(m) => queue(&m.topic, &m.group),
        Body::Receive(m) => queue(&m.topic, &m.group),
        Body::Settle(m) => queue(&m.topic, &m.group),
        Body::ListDeadLetters(m) => queue(&m.topic, &m.group),
        Body::Redrive(m) => may(Operation::Administer, Resource::Group(&m.group)),
        Body::PurgeDeadLetters(m) => may(Operation::Administer, Resource::Group(&m.group)),
        Body::JoinGroup(m) => {
            m.topics.iter().try_for_each(|name| topic(Operation::Consume, name))?;
            may(Operation::Consume, Resource::Group(&m.group))
        }
        Body::Heartbeat(m) => may(Operation::Consume, Resource::Group(&m.group)),
        Body::CommitOffsets(m) => may(Operation::Consume, Resource::Group(&m.group)),
        Body::LeaveGroup(m) => may(Operation::Consume, Resource::Group(&m.group)),
        Body::Backup(_) => may(Operation::Administer, Resource::Cluster),
        // What concerns the connection alone was allowed when what it belongs to was.
        _ => Ok(()),
    }
}
