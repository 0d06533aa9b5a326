//! Stories.

mod named;
mod patterns;
mod states;

use std::collections::{BTreeMap, BTreeSet};

use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};

use super::*;
use crate::request::{ConnectionId, RequestError};
use crate::time::Now;

const PHOTOS: TopicId = TopicId(1);
const LOGS: TopicId = TopicId(2);
const SESSION_MS: u64 = 6_000;

fn photos(partition: u32) -> TopicPartition {
    TopicPartition { topic: PHOTOS, partition: PartitionId(partition) }
}

fn all(partitions: std::ops::Range<u32>) -> Vec<TopicPartition> {
    partitions.map(photos).collect()
}

fn known(topics: &[(TopicId, u32)]) -> Vec<(TopicId, KnownTopic)> {
    let known = |(id, partitions): &(TopicId, u32)| {
        (*id, KnownTopic { name: format!("topic.{id}"), partitions: *partitions })
    };
    topics.iter().map(known).collect()
}

fn caller(connection: u64, member: &str) -> Caller<'_> {
    Caller { connection: ConnectionId(connection), member, claim: None }
}

fn as_member<'a>(member: &'a str, connection: u64, topics: &'a [TopicId], session_ms: u64) -> Join<'a> {
    let identity = Identity::Member(member);
    Join {
        identity,
        connection: ConnectionId(connection),
        client: "story",
        topics,
        patterns: &[],
        session_ms,
    }
}

/// A group and well-behaved clients: each does at once what its assignment says, but for those named `slow`.
struct Story {
    now_ms: u64,
    group: StreamGroup,
    owned: BTreeMap<String, (Generation, Vec<TopicPartition>)>,
    connection_of: BTreeMap<String, ConnectionId>,
    slow: BTreeSet<String>,
    /// Every assignment that went out, as `member: partitions`.
    told: Vec<String>,
}

impl Story {
    fn new(partitions: u32) -> Story {
        let mut group = StreamGroup::new(GroupId(3));
        group.open(Epoch(5));
        group.handle_topics(Now { mono_ms: 0, wall_ms: 0 }, known(&[(PHOTOS, partitions)]));
        Story {
            now_ms: 0,
            group,
            owned: BTreeMap::new(),
            connection_of: BTreeMap::new(),
            slow: BTreeSet::new(),
            told: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 0 }
    }

    fn join(&mut self, member: &str, connection: u64) {
        let connection = ConnectionId(connection);
        let joined = self
            .group
            .handle_join(self.now(), &as_member(member, connection.0, &[PHOTOS], SESSION_MS))
            .unwrap();
        assert_eq!(joined.member.as_str(), member);
        assert_eq!((joined.session_ms, joined.heartbeat_ms), (SESSION_MS, 2_000));
        self.connection_of.insert(member.to_owned(), connection);
        self.settle();
    }

    fn heartbeat(&mut self, member: &str) -> Result<(), MemberError> {
        let (generation, owned) = self.owned.get(member).cloned().unwrap_or_default();
        let result = self.group.handle_heartbeat(
            self.now(),
            &caller(self.connection_of[member].0, member),
            generation,
            &owned,
        );
        self.group.check();
        result
    }

    fn commit(&mut self, member: &str, partition: u32, offset: u64) -> Result<usize, CommitError> {
        let (generation, _) = self.owned[member].clone();
        self.commit_as(member, generation, partition, offset)
    }

    fn commit_as(
        &mut self,
        member: &str,
        generation: Generation,
        partition: u32,
        offset: u64,
    ) -> Result<usize, CommitError> {
        let offsets = [(photos(partition), Offset(offset))];
        let caller = caller(self.connection_of[member].0, member);
        let events = self.group.handle_commit(&caller, generation, &offsets)?;
        for event in &events {
            self.group.apply(event).unwrap();
        }
        Ok(events.len())
    }

    /// Hands out assignments and takes heartbeats until nothing is left to say.
    fn settle(&mut self) {
        loop {
            self.group.check();
            let pushes = self.group.take_assignments();
            if pushes.is_empty() {
                return;
            }
            for push in pushes {
                let member = push.member.to_string();
                let numbers: Vec<String> = push.partitions.iter().map(|p| p.partition.to_string()).collect();
                self.told.push(format!("{member}: {}", numbers.join(" ")));
                if self.slow.contains(&member) {
                    continue;
                }
                self.owned.insert(member.clone(), (push.generation, push.partitions));
                self.heartbeat(&member).unwrap();
            }
        }
    }

    /// Time passes; whoever is named here keeps sending heartbeats.
    fn pass(&mut self, ms: u64, alive: &[&str]) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms += 500;
            for member in alive {
                let _ = self.heartbeat(member);
            }
            self.group.handle_timeout(self.now());
            self.settle();
        }
    }

    fn owns(&self, member: &str) -> Vec<u32> {
        self.owned[member].1.iter().map(|p| p.partition.0).collect()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }
}

#[test]
fn the_first_member_gets_everything_and_the_second_half_of_it_while_the_other_half_never_pauses() {
    let mut story = Story::new(4);
    story.join("ann", 1);
    assert_eq!(story.told(), ["ann: 0 1 2 3"]);
    story.join("bob", 2);
    // Ann is told what to give up, Bob waits with nothing, and gets it when Ann has said so.
    assert_eq!(story.told(), ["ann: 0 1", "bob: ", "bob: 2 3"]);
    assert_eq!(story.group.state(), StreamGroupState::Stable);
    assert_eq!(story.group.generation, Generation((5 << 32) + 3));
}

#[test]
fn a_partition_waits_for_its_old_owner() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    story.slow.insert("ann".to_owned());
    story.join("bob", 2);
    assert_eq!(story.owns("bob"), [0_u32; 0]);
    assert_eq!(story.group.state(), StreamGroupState::Rebalancing);
    // A heartbeat from before the revocation says nothing, even if it lists nothing.
    let (old, _) = story.owned["ann"];
    story.group.handle_heartbeat(story.now(), &caller(1, "ann"), old, &[]).unwrap();
    story.settle();
    assert_eq!(story.owns("bob"), [0_u32; 0]);
    // While Ann finishes, her commits count.
    let revoked_at = story.group.generation;
    story.group.handle_heartbeat(story.now(), &caller(1, "ann"), revoked_at, &all(0..2)).unwrap();
    story.settle();
    assert_eq!(story.owns("bob"), [0_u32; 0]);
    assert_eq!(story.commit_as("ann", old, 1, 10), Ok(1));
    // Then she is done.
    story.group.handle_heartbeat(story.now(), &caller(1, "ann"), revoked_at, &all(0..1)).unwrap();
    story.settle();
    assert_eq!(story.owns("bob"), [1]);
    let error = story.commit_as("ann", revoked_at, 1, 11).unwrap_err();
    assert!(matches!(error.to_request_error("g"), RequestError::FencedGeneration { .. }));
    assert_eq!(story.group.committed(photos(1)), Some(Offset(10)));
}

#[test]
fn what_a_member_leaves_goes_to_the_others_and_nothing_else_moves() {
    let mut story = Story::new(7);
    for (i, member) in ["ann", "bob", "cid"].into_iter().enumerate() {
        story.join(member, i as u64);
    }
    let (ann, cid) = (story.owns("ann"), story.owns("cid"));
    story.group.handle_leave(story.now(), &caller(1, "bob")).unwrap();
    story.settle();
    assert!(ann.iter().all(|p| story.owns("ann").contains(p)));
    assert!(cid.iter().all(|p| story.owns("cid").contains(p)));
    assert_eq!(story.owns("ann").len() + story.owns("cid").len(), 7);
    let error = story.group.handle_leave(story.now(), &caller(1, "bob"));
    assert_eq!(error, Err(MemberError::UnknownMember { member: "bob".to_owned() }));
}

#[test]
fn a_crashed_member_is_replaced_when_its_session_is_over() {
    let mut story = Story::new(4);
    story.join("ann", 1);
    story.join("bob", 2);
    story.group.handle_connection_closed(ConnectionId(2));
    story.told();
    story.pass(SESSION_MS - 500, &["ann"]);
    assert_eq!(story.told(), [] as [&str; 0]);
    story.pass(500, &["ann"]);
    assert_eq!(story.told(), ["ann: 0 1 2 3"]);
    // It was a long pause, not a crash: what it knows is worth nothing now.
    let zombie = story.commit("bob", 3, 100).unwrap_err();
    assert!(matches!(zombie, CommitError::Member(MemberError::UnknownMember { .. })));
    assert!(matches!(zombie.to_request_error("g"), RequestError::UnknownMember { .. }));
    assert!(story.heartbeat("bob").is_err());
}

#[test]
fn a_restart_within_the_session_moves_nothing() {
    let mut story = Story::new(4);
    story.join("ann", 1);
    story.join("bob", 2);
    story.told();
    let generation = story.group.generation;
    story.group.handle_connection_closed(ConnectionId(2));
    story.pass(SESSION_MS / 2, &["ann"]);
    story.join("bob", 9);
    assert_eq!(story.told(), ["bob: 2 3"]);
    assert_eq!(story.group.generation, generation);
    story.pass(2 * SESSION_MS, &["ann", "bob"]);
    assert_eq!(story.told(), [] as [&str; 0]);
}

#[test]
fn the_process_before_a_restart_is_fenced_though_it_has_the_same_name() {
    let mut story = Story::new(4);
    story.join("ann", 1);
    story.join("ann", 2);
    let (generation, owned) = story.owned["ann"].clone();
    let now = story.now();
    let fenced = Err(MemberError::FencedGeneration { member: MemberId::new("ann") });
    assert_eq!(story.group.handle_heartbeat(now, &caller(1, "ann"), generation, &owned), fenced);
    assert_eq!(story.group.handle_leave(now, &caller(1, "ann")), fenced);
    let offsets = [(photos(0), Offset(1))];
    assert!(story.group.handle_commit(&caller(1, "ann"), generation, &offsets).is_err());
    assert_eq!(story.commit("ann", 0, 1), Ok(1));
}

#[test]
fn a_zombie_that_came_back_cannot_commit_under_the_generation_it_had() {
    let mut story = Story::new(1);
    story.join("ann", 1);
    let (zombie, _) = story.owned["ann"];
    story.join("bob", 2);
    story.pass(SESSION_MS, &["bob"]);
    assert_eq!(story.owns("bob"), [0]);
    assert_eq!(story.commit("bob", 0, 50), Ok(1));
    story.join("ann", 1);
    story.group.handle_leave(story.now(), &caller(2, "bob")).unwrap();
    story.settle();
    assert_eq!(story.owns("ann"), [0]);
    let error = story.commit_as("ann", zombie, 0, 70).unwrap_err();
    assert_eq!(error, CommitError::FencedGeneration { member: MemberId::new("ann"), partition: photos(0) });
    assert_eq!(story.commit("ann", 0, 60), Ok(1));
}

#[test]
fn a_member_that_never_gives_up_what_it_must_is_fenced() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    story.slow.insert("ann".to_owned());
    story.join("bob", 2);
    // It is alive all the time, and never takes notice.
    story.pass(SESSION_MS - 500, &["ann", "bob"]);
    assert_eq!(story.owns("bob"), [0_u32; 0]);
    story.pass(500, &["ann", "bob"]);
    assert_eq!(story.owns("bob"), [1], "what was revoked is taken by force");
    assert!(matches!(story.heartbeat("ann"), Err(MemberError::FencedGeneration { .. })));
    assert!(story.commit("ann", 0, 1).is_err());
    // Partition 0 was never revoked from it before: it may read it until its session ends.
    story.pass(SESSION_MS, &["ann", "bob"]);
    assert_eq!(story.owns("bob"), [0, 1]);
    assert_eq!(story.group.state(), StreamGroupState::Stable);
}

#[test]
fn a_member_that_never_confirms_a_grant_is_fenced() {
    let mut story = Story::new(2);
    story.slow.insert("ann".to_owned());
    story.join("ann", 1);
    story.pass(SESSION_MS, &["ann"]);
    assert!(matches!(story.heartbeat("ann"), Err(MemberError::FencedGeneration { .. })));
    story.pass(SESSION_MS, &["ann"]);
    assert_eq!(story.group.state(), StreamGroupState::Empty);
}

#[test]
fn one_that_was_fenced_and_joins_again_is_as_good_as_new() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    story.slow.insert("ann".to_owned());
    story.join("bob", 2);
    story.pass(SESSION_MS, &["ann", "bob"]);
    story.slow.clear();
    story.join("ann", 3);
    assert_eq!((story.owns("ann"), story.owns("bob")), (vec![0], vec![1]));
    assert_eq!(story.group.state(), StreamGroupState::Stable);
}

#[test]
fn a_grant_that_never_went_out_needs_no_answer() {
    let mut story = Story::new(2);
    let now = story.now();
    // Both join before anything is sent: Ann never hears of what Bob gets.
    for (member, connection) in [("ann", 1), ("bob", 2)] {
        let connection = ConnectionId(connection);
        story.group.handle_join(now, &as_member(member, connection.0, &[PHOTOS], 0)).unwrap();
        story.connection_of.insert(member.to_owned(), connection);
        story.group.check();
    }
    story.settle();
    assert_eq!(story.told(), ["ann: 0", "bob: 1"]);
}

#[test]
fn a_storm_of_joins_and_leaves_moves_little_and_settles() {
    let mut story = Story::new(64);
    for round in 0..40_u64 {
        let member = format!("m{:02}", round % 16);
        if story.connection_of.contains_key(&member) && round % 3 == 0 {
            let connection = story.connection_of.remove(&member).unwrap();
            story.group.handle_leave(story.now(), &caller(connection.0, &member)).unwrap();
            story.owned.remove(&member);
            story.settle();
        } else {
            story.join(&member, round);
        }
        assert_eq!(story.group.state(), StreamGroupState::Stable);
        let owned: BTreeSet<_> = story.owned.values().flat_map(|(_, owned)| owned.iter().copied()).collect();
        assert_eq!(owned.len(), 64);
    }
}

#[test]
fn a_join_moves_no_more_than_its_share() {
    for partitions in 1..40 {
        let mut story = Story::new(partitions);
        for members in 1..12_u32 {
            let before = story.owned.clone();
            story.join(&format!("m{members:02}"), u64::from(members));
            let mut moved = 0;
            for (member, (_, old)) in before {
                let kept = story.owned[&member].1.iter().filter(|p| old.contains(p)).count();
                assert_eq!(kept, story.owned[&member].1.len(), "{member} got something from a join");
                moved += old.len() - kept;
            }
            assert!(
                moved as u32 <= partitions / members,
                "{moved} of {partitions} moved to member {members}"
            );
        }
    }
}

#[test]
fn a_commit_below_is_passed_over_and_a_seek_moves_back() {
    let mut story = Story::new(1);
    story.join("ann", 1);
    assert_eq!(story.commit("ann", 0, 0), Ok(1), "the first commit counts even at 0");
    assert_eq!(story.commit("ann", 0, 10), Ok(1));
    assert_eq!(story.commit("ann", 0, 7), Ok(0));
    assert_eq!(story.commit("ann", 0, 10), Ok(0));
    assert_eq!(story.group.committed(photos(0)), Some(Offset(10)));
    assert_eq!(story.group.seek(photos(0), Offset(2)), Err(SeekError::GroupNotEmpty { members: 1 }));
    story.group.handle_leave(story.now(), &caller(1, "ann")).unwrap();
    let event = story.group.seek(photos(0), Offset(2)).unwrap();
    assert_eq!(story.group.committed(photos(0)), Some(Offset(10)), "decided, not applied");
    story.group.apply(&event).unwrap();
    assert_eq!(story.group.committed(photos(0)), Some(Offset(2)));
}

#[test]
fn a_commit_counts_whole_or_not_at_all() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    story.join("bob", 2);
    let (generation, _) = story.owned["ann"];
    let mut commit = |offsets: &[(TopicPartition, Offset)]| {
        story.group.handle_commit(&caller(1, "ann"), generation, offsets)
    };
    assert!(commit(&[(photos(0), Offset(5)), (photos(1), Offset(5))]).is_err());
    assert!(matches!(commit(&[(photos(0), Offset(u64::MAX))]), Err(CommitError::OffsetTooLarge { .. })));
    let many = vec![(photos(0), Offset(1)); COMMIT_ITEMS_MAX + 1];
    assert!(matches!(commit(&many), Err(CommitError::TooManyItems { .. })));
    let events = commit(&[(photos(0), Offset(5)), (photos(0), Offset(4))]).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].offset, 5);
}

#[test]
fn a_restart_of_the_broker_keeps_offsets_and_makes_old_generations_older() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    assert_eq!(story.commit("ann", 1, 33), Ok(1));
    let old = story.group.generation;
    let snapshot = story.group.snapshot();
    let mut group = StreamGroup::restore(GroupId(3), &snapshot).unwrap();
    group.open(Epoch(6));
    group.handle_topics(story.now(), known(&[(PHOTOS, 2)]));
    group.check();
    assert_eq!(group.snapshot(), snapshot);
    story.group = group;
    assert!(story.commit("ann", 1, 34).is_err());
    story.join("ann", 1);
    assert!(story.owned["ann"].0 > old);
    assert!(story.commit_as("ann", old, 1, 34).is_err(), "granted anew since");
    assert_eq!(story.commit("ann", 1, 34), Ok(1));
}

#[test]
fn what_another_group_wrote_is_not_applied() {
    let mut group = StreamGroup::new(GroupId(3));
    let foreign = dure_proto::journal::OffsetsCommitted { group: 4, topic: 1, partition: 0, offset: 1 };
    assert_eq!(group.apply(&foreign), Err(OffsetNotApplied::OtherGroup { group: 3, found: 4 }));
    let wild = dure_proto::journal::OffsetsCommitted { group: 3, topic: 1, partition: 0, offset: u64::MAX };
    assert!(group.apply(&wild).is_err());
    assert!(StreamGroup::restore(GroupId(3), &[wild]).is_err());
    assert_eq!(group.snapshot(), []);
}

#[test]
fn a_deleted_topic_takes_its_offsets_and_assignments_along() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    assert_eq!(story.commit("ann", 1, 5), Ok(1));
    story.told();
    story.group.apply_topic_deleted(PHOTOS);
    story.group.handle_topics(story.now(), known(&[(LOGS, 1)]));
    story.settle();
    assert_eq!(story.told(), ["ann: "]);
    assert_eq!(story.group.committed(photos(1)), None);
    assert!(story.commit("ann", 1, 6).is_err());
}

#[test]
fn new_partitions_are_given_out_without_moving_old_ones() {
    let mut story = Story::new(2);
    story.join("ann", 1);
    story.join("bob", 2);
    story.told();
    story.group.handle_topics(story.now(), known(&[(PHOTOS, 4)]));
    story.settle();
    assert_eq!(story.told(), ["ann: 0 2", "bob: 1 3"]);
}

#[test]
fn members_beyond_the_partitions_stand_by() {
    let mut story = Story::new(1);
    for (i, member) in ["ann", "bob", "cid"].into_iter().enumerate() {
        story.join(member, i as u64);
    }
    assert_eq!(story.owns("ann"), [0], "the single active consumer stays");
    story.group.handle_leave(story.now(), &caller(0, "ann")).unwrap();
    story.settle();
    assert_eq!((story.owns("bob"), story.owns("cid")), (vec![0], vec![]));
}

#[test]
fn each_subscription_gets_only_its_topics() {
    let mut story = Story::new(4);
    let now = story.now();
    story.group.handle_topics(now, known(&[(PHOTOS, 4), (LOGS, 4)]));
    for (member, connection, topics) in
        [("both", 1, &[PHOTOS, LOGS][..]), ("logs", 2, &[LOGS]), ("photos", 3, &[PHOTOS])]
    {
        story.group.handle_join(now, &as_member(member, connection, topics, 0)).unwrap();
        story.connection_of.insert(member.to_owned(), ConnectionId(connection));
    }
    story.settle();
    assert!(story.owned["logs"].1.iter().all(|p| p.topic == LOGS));
    assert!(story.owned["photos"].1.iter().all(|p| p.topic == PHOTOS));
    let loads: Vec<usize> = story.owned.values().map(|(_, owned)| owned.len()).collect();
    assert_eq!(loads.iter().sum::<usize>(), 8);
    assert!(loads.iter().all(|load| (2..=3).contains(load)), "{loads:?}");
}

#[test]
fn a_group_is_bounded_and_names_are_its_own() {
    let mut story = Story::new(1);
    let now = story.now();
    let mut join = |member: Option<&str>, topics: &[TopicId], session_ms| {
        story.group.handle_join(now, &as_member(member.unwrap_or_default(), 1, topics, session_ms))
    };
    assert_eq!(join(None, &[], 0), Err(JoinError::NoTopics));
    assert_eq!(join(None, &[PHOTOS], 99), Err(JoinError::SessionOutOfRange { session_ms: 99 }));
    assert_eq!(join(Some(&"x".repeat(250)), &[PHOTOS], 0), Err(JoinError::NameTooLong { bytes: 250 }));
    let topics: Vec<TopicId> = (0..257).map(TopicId).collect();
    assert_eq!(join(None, &topics, 0), Err(JoinError::TooManyTopics { topics: 257 }));
    assert_eq!(join(Some("member-5-1"), &[PHOTOS], 0).unwrap().member.as_str(), "member-5-1");
    assert_eq!(join(None, &[PHOTOS], 0).unwrap().member.as_str(), "member-5-2");
    for _ in 2..MEMBERS_MAX {
        join(Some(""), &[PHOTOS], 0).unwrap();
    }
    let full = join(None, &[PHOTOS], 0).unwrap_err();
    assert!(matches!(full.to_request_error("g"), RequestError::Busy(_)));
    join(Some("member-5-1"), &[PHOTOS], 0).unwrap();
    story.group.check();
}

#[test]
fn describe_shows_each_partition_once() {
    let mut story = Story::new(2);
    assert_eq!(story.group.state().to_string(), "empty");
    story.join("ann", 1);
    story.slow.insert("ann".to_owned());
    story.join("bob", 2);
    assert_eq!(story.commit("ann", 0, 4), Ok(1));
    let description = story.group.describe();
    assert_eq!(description.state.to_string(), "rebalancing");
    let shown: Vec<_> = description.members.iter().map(|m| (m.id.as_str(), m.partitions.len())).collect();
    assert_eq!(shown, [("ann", 2), ("bob", 0)]);
    assert_eq!(description.committed, [(photos(0), Offset(4))]);
}
