//! A stream group of 100 members shares out 1,000 partitions, until every one of them owns what it should.

use std::collections::BTreeMap;

use dure_engine::{Caller, Claim, ConnectionId, Identity, Join, KnownTopic, StreamGroup, StreamGroupState};
use dure_proto::{Epoch, GroupId, TopicId};

use super::{NOW, Path, Round};

const MEMBERS: usize = 100;
const PARTITIONS: u32 = 1_000;
const TOPIC: TopicId = TopicId(1);
const CONNECTION: ConnectionId = ConnectionId(1);

const ALL_JOIN: Path = Path {
    name: "stream-group-all-join",
    operation: "rebalance, 100 members join at once on 1,000 partitions",
    operations: 1,
    bytes: 0,
    prepare: all_join,
    only: None,
};

pub(super) const PATHS: &[Path] = &[
    ALL_JOIN,
    Path {
        name: "stream-group-one-joins",
        operation: "rebalance, one more of 100 joins, and leaves again",
        operations: 2,
        prepare: one_joins,
        ..ALL_JOIN
    },
];

fn all_join() -> Round {
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("m{n:03}")).collect();
    Box::new(move || {
        let mut group = Group::new();
        names.iter().for_each(|name| group.join(name));
        group.settle();
    })
}

fn one_joins() -> Round {
    let mut group = Group::new();
    (0..MEMBERS).for_each(|n| group.join(&format!("m{n:03}")));
    group.settle();
    Box::new(move || {
        group.join("one-more");
        group.settle();
        group.leave("one-more");
        group.settle();
    })
}

/// The group, with members who do at once as they are told.
struct Group {
    group: StreamGroup,
    claims: BTreeMap<String, Option<Claim>>,
}

impl Group {
    fn new() -> Group {
        let mut group = StreamGroup::new(GroupId(1));
        group.open(Epoch(1));
        group.handle_topics(NOW, [(TOPIC, KnownTopic { name: "t".into(), partitions: PARTITIONS })]);
        Group { group, claims: BTreeMap::new() }
    }

    fn join(&mut self, name: &str) {
        let identity = Identity::Named { name, claim: None };
        let connection = CONNECTION;
        let join = Join { identity, connection, client: "", topics: &[TOPIC], patterns: &[], session_ms: 0 };
        let joined = self.group.handle_join(NOW, &join).expect("there is room");
        self.claims.insert(name.to_owned(), joined.claim);
    }

    fn leave(&mut self, name: &str) {
        let claim = self.claims.remove(name).expect("it joined");
        let caller = Caller { connection: CONNECTION, member: name, claim };
        self.group.handle_leave(NOW, &caller).expect("it is a member");
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let told = self.group.take_assignments();
            if told.is_empty() {
                break;
            }
            for assignment in told {
                let member = assignment.member.as_str();
                let caller = Caller { connection: CONNECTION, member, claim: self.claims[member] };
                let (generation, partitions) = (assignment.generation, assignment.partitions);
                self.group.handle_heartbeat(NOW, &caller, generation, &partitions).expect("it is a member");
            }
        }
        assert_eq!(self.group.state(), StreamGroupState::Stable);
    }
}
