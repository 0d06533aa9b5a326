//! Stories of one stream group on a topic `photos` of four partitions, and on others that come and go: processes by name, each
//! over a connection of its own. One that joins `as NAME` is a member under a name that outlives it; else the member has the
//! name of its process. One that joins `for PATTERN` reads the topics that it means, else `photos`.

use std::collections::BTreeMap;

use dure_engine::{Caller, Claim, ConnectionId, Identity, Join, KnownTopic, Now, StreamGroup, TopicPattern};
use dure_proto::{Epoch, Generation, GroupId, Offset, PartitionId, TopicId, TopicPartition};

use super::Teller;

const TOPIC: TopicId = TopicId(1);
const PARTITIONS: u32 = 4;
const SESSION_MS: u64 = 6_000;

type Told = (Generation, Vec<TopicPartition>);

#[derive(Clone, Debug)]
struct Process {
    member: String,
    named: bool,
    claim: Option<Claim>,
    connection: ConnectionId,
    /// What it was last told: its generation, and what it owns.
    told: Told,
    /// What it was told before that.
    before: Told,
}

impl Process {
    fn caller(&self) -> Caller<'_> {
        Caller { connection: self.connection, member: &self.member, claim: self.claim }
    }
}

pub(crate) struct Stream {
    group: StreamGroup,
    now: Now,
    epoch: Epoch,
    topics: BTreeMap<TopicId, KnownTopic>,
    topic_next: u32,
    processes: BTreeMap<String, Process>,
    connection_next: u64,
}

impl Stream {
    pub(crate) fn new() -> Stream {
        let now = Now { mono_ms: 0, wall_ms: 1_700_000_000_000 };
        let epoch = Epoch(1);
        let photos = KnownTopic { name: "photos".into(), partitions: PARTITIONS };
        let topics = BTreeMap::from([(TOPIC, photos)]);
        let mut group = StreamGroup::new(GroupId(1));
        group.open(epoch);
        group.handle_topics(now, topics.clone());
        Stream { group, now, epoch, topics, topic_next: 2, processes: BTreeMap::new(), connection_next: 1 }
    }

    fn join(&mut self, name: &str, as_name: Option<&str>, pattern: Option<&str>) -> String {
        let connection = ConnectionId(self.connection_next);
        self.connection_next += 1;
        let process = self.processes.entry(name.to_owned()).or_insert_with(|| Process {
            member: as_name.unwrap_or(name).to_owned(),
            named: as_name.is_some(),
            claim: None,
            connection,
            told: Told::default(),
            before: Told::default(),
        });
        process.connection = connection;
        process.told.0 = Generation(0);
        let identity = match process.named {
            true => Identity::Named { name: &process.member, claim: process.claim },
            false => Identity::Member(&process.member),
        };
        let patterns: Vec<TopicPattern> =
            pattern.map(|text| text.parse().expect("a pattern")).into_iter().collect();
        let topics: &[TopicId] = if patterns.is_empty() { &[TOPIC] } else { &[] };
        let client = name;
        let join = Join { identity, connection, client, topics, patterns: &patterns, session_ms: SESSION_MS };
        match self.group.handle_join(self.now, &join) {
            Ok(joined) => {
                process.claim = joined.claim;
                format!("{name} is in, and has to be heard of within {} s", joined.session_ms / 1_000)
            }
            Err(error) => format!("refused: {error}"),
        }
    }

    /// A client says that it is alive, and lists what it owns as far as it knows.
    fn beat(&mut self, name: &str, as_before: bool) -> Option<String> {
        let process = &self.processes[name];
        let (generation, owned) = if as_before { &process.before } else { &process.told };
        let beat = self.group.handle_heartbeat(self.now, &process.caller(), *generation, owned);
        beat.err().map(|error| format!("refused: {error}"))
    }

    fn commit(&mut self, name: &str, partition: u32, offset: u64) -> String {
        let of = TopicPartition { topic: TOPIC, partition: PartitionId(partition) };
        let process = &self.processes[name];
        let commit = self.group.handle_commit(&process.caller(), process.told.0, &[(of, Offset(offset))]);
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
            let listed = self.listed(&assignment.partitions);
            let of = |process: &Process| process.connection == assignment.connection;
            let (name, process) = self.processes.iter_mut().find(|(_, p)| of(p)).expect("it joined");
            lines.push(format!("{name} is told: {listed}"));
            let told = (assignment.generation, assignment.partitions);
            process.before = std::mem::replace(&mut process.told, told);
        }
        lines
    }

    /// Members and generations are forgotten; offsets are on disk, and processes go on.
    fn restart_broker(&mut self) {
        self.epoch.0 += 1;
        let restored = StreamGroup::restore(GroupId(1), &self.group.snapshot()).expect("its own snapshot");
        self.group = restored;
        self.group.open(self.epoch);
        self.group.handle_topics(self.now, self.topics.clone());
    }

    fn topic_comes(&mut self, name: &str, partitions: u32) {
        self.topics.insert(TopicId(self.topic_next), KnownTopic { name: name.to_owned(), partitions });
        self.topic_next += 1;
        self.group.handle_topics(self.now, self.topics.clone());
    }

    fn topic_goes(&mut self, name: &str) {
        let gone = self.topics.iter().find(|(_, topic)| topic.name == name).map(|(id, _)| *id);
        let gone = gone.expect("it is there");
        self.topics.remove(&gone);
        self.group.apply_topic_deleted(gone);
        self.group.handle_topics(self.now, self.topics.clone());
    }

    /// Partitions of `photos` by their numbers, others with their topic's name.
    fn listed(&self, partitions: &[TopicPartition]) -> String {
        if partitions.is_empty() {
            return "nothing".into();
        }
        let shown = |of: &TopicPartition| match of.topic {
            TOPIC => of.partition.to_string(),
            topic => format!("{}/{}", self.topics[&topic].name, of.partition),
        };
        partitions.iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}

impl Teller for Stream {
    fn tell(&mut self, command: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let words: Vec<&str> = command.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("a number: {command}"));
        match words[..] {
            [name, "joins"] => lines.push(self.join(name, None, None)),
            [name, "joins", "as", member] => lines.push(self.join(name, Some(member), None)),
            [name, "joins", "for", pattern] => lines.push(self.join(name, None, Some(pattern))),
            ["topic", name, "comes", "with", partitions] => self.topic_comes(name, number(partitions) as u32),
            ["topic", name, "goes"] => self.topic_goes(name),
            ["heartbeats", "of", ref names @ ..] => {
                lines.extend(names.iter().filter_map(|name| self.beat(name, false)));
            }
            [name, "beats", "as", "before"] => lines.extend(self.beat(name, true)),
            [name, "commits", partition, "at", offset] => {
                lines.push(self.commit(name, number(partition) as u32, number(offset)));
            }
            [name, "leaves"] => {
                let left = self.group.handle_leave(self.now, &self.processes[name].caller());
                lines.extend(left.err().map(|error| format!("refused: {error}")));
            }
            [name, "loses", "its", "connection"] | [name, "ends"] => {
                self.group.handle_connection_closed(self.processes[name].connection);
            }
            [seconds, "seconds", "pass"] => {
                self.now.mono_ms += 1_000 * number(seconds);
                self.group.handle_timeout(self.now);
            }
            ["the", "broker", "restarts"] => self.restart_broker(),
            _ => panic!("what is that: {command}"),
        }
        lines.extend(self.assignments());
        let described = self.group.describe();
        let members = described.members.iter();
        let members: Vec<String> = members
            .map(|member| format!("{} reads {}", member.id, self.listed(&member.partitions)))
            .collect();
        let members = if members.is_empty() { "nobody is there".to_owned() } else { members.join(", ") };
        lines.push(format!("{}: {members}", described.state));
        lines
    }
}
