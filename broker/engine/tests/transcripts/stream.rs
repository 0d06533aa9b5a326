//! Stories of one stream group on a topic of four partitions: members by name, each over a connection of its own.

use std::collections::BTreeMap;

use dure_engine::{ConnectionId, Now, StreamGroup};
use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};

use super::Teller;

const TOPIC: TopicId = TopicId(1);
const PARTITIONS: u32 = 4;
const SESSION_MS: u64 = 6_000;

type Told = (Generation, Vec<TopicPartition>);

pub(crate) struct Stream {
    group: StreamGroup,
    now: Now,
    /// What each client was last told: its generation, and what it owns.
    told: BTreeMap<String, Told>,
    /// What it was told before that.
    before: BTreeMap<String, Told>,
    connections: BTreeMap<String, ConnectionId>,
    connection_next: u64,
}

impl Stream {
    pub(crate) fn new() -> Stream {
        let mut group = StreamGroup::new(GroupId(1));
        let now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
        group.open(Epoch(1));
        group.handle_topics(now, &[(TOPIC, PARTITIONS)]);
        let (told, before, connections) = Default::default();
        Stream { group, now, told, before, connections, connection_next: 1 }
    }

    fn join(&mut self, name: &str) -> String {
        let connection = ConnectionId(self.connection_next);
        self.connection_next += 1;
        self.connections.insert(name.to_owned(), connection);
        self.told.entry(name.to_owned()).or_default().0 = Generation(0);
        let joined = self.group.handle_join(self.now, Some(name), connection, name, &[TOPIC], SESSION_MS);
        match joined {
            Ok(joined) => {
                format!("{name} is in, and has to be heard of within {} s", joined.session_ms / 1_000)
            }
            Err(error) => format!("refused: {error}"),
        }
    }

    /// A client says that it is alive, and lists what it owns as far as it knows.
    fn beat(&mut self, name: &str, (generation, owned): Told) -> Option<String> {
        let beat = self.group.handle_heartbeat(self.now, self.connections[name], name, generation, &owned);
        beat.err().map(|error| format!("refused: {error}"))
    }

    fn commit(&mut self, name: &str, partition: u32, offset: u64) -> String {
        let of = TopicPartition { topic: TOPIC, partition: PartitionId(partition) };
        let generation = self.told[name].0;
        let commit =
            self.group.handle_commit(self.connections[name], name, generation, &[(of, Offset(offset))]);
        match commit {
            Ok(events) if events.is_empty() => "it was further already".into(),
            Ok(events) => {
                events.iter().for_each(|event| self.group.apply(event).expect("it is this group's"));
                format!("committed: partition {partition} goes on at {offset}")
            }
            Err(error) => format!("refused: {error}"),
        }
    }

    /// Clients get what goes out; a silent one is told, too, and does nothing about it.
    fn assignments(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for assignment in self.group.take_assignments() {
            let name = assignment.member.to_string();
            lines.push(format!("{name} is told: {}", listed(&assignment.partitions)));
            let told = self.told.insert(name.clone(), (assignment.generation, assignment.partitions));
            self.before.extend(told.map(|told| (name, told)));
        }
        lines
    }
}

fn listed(partitions: &[TopicPartition]) -> String {
    if partitions.is_empty() {
        return "nothing".into();
    }
    partitions.iter().map(|of| of.partition.to_string()).collect::<Vec<_>>().join(" ")
}

impl Teller for Stream {
    fn tell(&mut self, command: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let words: Vec<&str> = command.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("a number: {command}"));
        match words[..] {
            [name, "joins"] => lines.push(self.join(name)),
            ["heartbeats", "of", ref names @ ..] => {
                lines.extend(names.iter().filter_map(|name| self.beat(name, self.told[*name].clone())));
            }
            [name, "beats", "as", "before"] => lines.extend(self.beat(name, self.before[name].clone())),
            [name, "commits", partition, "at", offset] => {
                lines.push(self.commit(name, number(partition) as u32, number(offset)));
            }
            [name, "leaves"] => {
                let left = self.group.handle_leave(self.now, self.connections[name], name);
                lines.extend(left.err().map(|error| format!("refused: {error}")));
            }
            [name, "loses", "its", "connection"] => {
                self.group.handle_connection_closed(self.connections[name]);
            }
            [seconds, "seconds", "pass"] => {
                self.now.mono_ms += 1_000 * number(seconds);
                self.group.handle_timeout(self.now);
            }
            _ => panic!("what is that: {command}"),
        }
        lines.extend(self.assignments());
        let described = self.group.describe();
        let members = described.members.iter();
        let members: Vec<String> =
            members.map(|member| format!("{} reads {}", member.id, listed(&member.partitions))).collect();
        let members = if members.is_empty() { "nobody is there".to_owned() } else { members.join(", ") };
        lines.push(format!("{}: {members}", described.state));
        lines
    }
}
