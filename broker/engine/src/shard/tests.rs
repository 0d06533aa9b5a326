//! Events that no shard writes, however they came into a journal.
#![allow(clippy::needless_update, reason = "messages grow")]

use dure_proto::journal::{
    Event, GroupCreated, GroupTopicAdded, Leased, LogStartMoved, QueueEvent, QueueEvents, TopicAltered,
    TopicCreated, event, queue_event,
};
use dure_proto::wire;

use super::State;
use crate::time::Now;

const NOW: Now = Now { mono_ms: 0, wall_ms: 0 };

fn topic(topic: u32, partitions: u32) -> event::Event {
    let name = format!("topic-{topic}");
    event::Event::TopicCreated(TopicCreated { topic, name, partitions, ..TopicCreated::default() })
}

fn group(group: u32) -> event::Event {
    let kind = wire::GroupKind::Queue as i32;
    event::Event::GroupCreated(GroupCreated { group, name: format!("group-{group}"), kind, queue: None })
}

fn added(start: Vec<u64>) -> event::Event {
    event::Event::GroupTopicAdded(GroupTopicAdded {
        group: 1,
        topic: 1,
        start,
        first_partition: 0,
        ..Default::default()
    })
}

fn leased(offset: u64, count: u32) -> event::Event {
    let leased =
        Leased { offset, count, epoch: 1, counter: 1, lease_ms: 1, started: true, ..Default::default() };
    let events = vec![QueueEvent { event: Some(queue_event::Event::Leased(leased)) }];
    event::Event::Queue(QueueEvents { group: 1, topic: 1, partition: 0, events, ..Default::default() })
}

#[test]
fn events_whose_numbers_run_over_are_refused_and_change_nothing() {
    let mut state = State::new();
    let mut apply = |event| state.apply(&Event { event: Some(event) }, NOW).map(drop);
    for sound in [topic(1, 2), group(1), added(vec![0, 0]), leased(0, 2)] {
        assert_eq!(apply(sound), Ok(()));
    }
    let moved = LogStartMoved { topic: 1, partition: 0, offset: u64::MAX, ..Default::default() };
    let altered = TopicAltered { topic: 1, partitions: u32::MAX, config: None, ..Default::default() };
    for impossible in [
        topic(u32::MAX, 1),
        topic(2, u32::MAX),
        event::Event::TopicAltered(altered),
        event::Event::LogStartMoved(moved),
        group(u32::MAX),
        added(vec![0, u64::MAX]),
        added(vec![0; 20_000]),
        leased(0, u32::MAX),
        leased(u64::MAX, 1),
    ] {
        assert!(apply(impossible.clone()).is_err(), "{impossible:?}");
    }
    let before = state.snapshot(NOW);
    assert_eq!((before.topic_next, before.group_next, before.logs.len()), (2, 2, 2));
    assert_eq!(State::restore(&before, NOW).expect("restores").snapshot(NOW), before);
}
