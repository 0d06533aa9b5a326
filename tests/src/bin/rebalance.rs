//! How long a stream group of 100 members takes to share out 1,000 partitions anew: when one more joins, when one leaves, when
//! one that has a name is started again, and when all come at once. First the group alone, on one thread, with clients that
//! do at once as they are told: what a rebalance costs the shard's thread. Then through the shipped broker and the client
//! library, from the join or the leave until `group describe` shows every partition with a member, and all shares even.
//!
//! `cargo run --release -p dure-tests --bin rebalance [ROUNDS]`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dure_client::{Client, MessageStream};
use dure_engine::{
    Caller, Claim, ConnectionId, Identity, Join, KnownTopic, Now, StreamGroup, StreamGroupState,
};
use dure_proto::{Epoch, GroupId, TopicId, TopicPartition};
use dure_tests::harness::Broker;
use tokio::time::sleep;

const MEMBERS: usize = 100;
const PARTITIONS: u32 = 1_000;
const TOPIC: TopicId = TopicId(1);
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
const LIMIT: Duration = Duration::from_secs(60);
/// Connections that the members share.
const CLIENTS: usize = 4;

fn main() -> ExitCode {
    let rounds = std::env::args().nth(1).map_or(Ok(10), |text| text.parse());
    let Ok(rounds @ 1..) = rounds else {
        eprintln!("a number of rounds, not below 1");
        return ExitCode::from(2);
    };
    println!("{MEMBERS} members, {PARTITIONS} partitions, {rounds} rounds: median, least, most");
    group_alone(rounds);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(through_the_broker(rounds));
    ExitCode::SUCCESS
}

/// The group and obedient clients.
struct Group {
    group: StreamGroup,
    owned: BTreeMap<String, Vec<TopicPartition>>,
    claims: BTreeMap<String, Option<Claim>>,
    moved: usize,
}

impl Group {
    fn new() -> Group {
        let mut group = StreamGroup::new(GroupId(1));
        group.open(Epoch(1));
        group.handle_topics(NOW, [(TOPIC, KnownTopic { name: "t".into(), partitions: PARTITIONS })]);
        Group { group, owned: BTreeMap::new(), claims: BTreeMap::new(), moved: 0 }
    }

    fn join(&mut self, name: &str) {
        let identity = Identity::Named { name, claim: None };
        let connection = ConnectionId(1);
        let join = Join { identity, connection, client: "", topics: &[TOPIC], patterns: &[], session_ms: 0 };
        let joined = self.group.handle_join(NOW, &join).expect("there is room");
        self.claims.insert(name.to_owned(), joined.claim);
    }

    fn leave(&mut self, name: &str) {
        let claim = self.claims.remove(name).expect("it joined");
        self.owned.remove(name);
        let caller = Caller { connection: ConnectionId(1), member: name, claim };
        self.group.handle_leave(NOW, &caller).expect("it is a member");
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        self.moved = 0;
        loop {
            let told = self.group.take_assignments();
            if told.is_empty() {
                break;
            }
            for assignment in told {
                let name = assignment.member.as_str();
                let caller = Caller { connection: ConnectionId(1), member: name, claim: self.claims[name] };
                let (generation, partitions) = (assignment.generation, assignment.partitions);
                self.group.handle_heartbeat(NOW, &caller, generation, &partitions).expect("it is a member");
                let before = self.owned.insert(name.to_owned(), partitions).unwrap_or_default();
                self.moved += before.iter().filter(|at| !self.owned[name].contains(at)).count();
            }
        }
        assert_eq!(self.group.state(), StreamGroupState::Stable);
    }
}

fn group_alone(rounds: usize) {
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("m{n:03}")).collect();
    let mut figures: BTreeMap<&str, (Vec<Duration>, usize)> = BTreeMap::new();
    let mut measure = |what, group: &mut Group, act: &dyn Fn(&mut Group)| {
        let begun = Instant::now();
        act(group);
        group.settle();
        let (times, moved) = figures.entry(what).or_default();
        times.push(begun.elapsed());
        *moved = group.moved;
    };
    for _ in 0..rounds {
        let mut group = Group::new();
        measure("all join at once", &mut group, &|group| names.iter().for_each(|name| group.join(name)));
        measure("one more joins", &mut group, &|group| group.join("one-more"));
        measure("one leaves", &mut group, &|group| group.leave("m050"));
        measure("one is started again under its name", &mut group, &|group| group.join("m051"));
        let rest = group.claims.keys().cloned().collect::<Vec<_>>();
        let mut one_by_one = Group::new();
        measure("all join one after the other", &mut one_by_one, &|group| {
            for name in &rest {
                group.join(name);
                group.settle();
            }
        });
    }
    for (what, (times, moved)) in figures {
        println!("group alone: {what:<36} {}, {moved} partitions taken away", shown(times));
    }
}

async fn through_the_broker(rounds: usize) {
    let broker = Broker::start();
    broker.dure(&format!("topic create t --partitions {PARTITIONS}")).ok();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(broker.client().await);
    }
    let observer = broker.client().await;
    let mut figures: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..rounds {
        let group = format!("g{round}");
        let begun = Instant::now();
        let joining = (0..MEMBERS).map(|n| member(clients[n % CLIENTS].clone(), group.clone()));
        let mut members = at_once(joining).await;
        even(&observer, &group, MEMBERS).await;
        figures.entry("all join at once").or_default().push(begun.elapsed());

        let begun = Instant::now();
        members.push(member(clients[0].clone(), group.clone()).await);
        even(&observer, &group, MEMBERS + 1).await;
        figures.entry("one more joins").or_default().push(begun.elapsed());

        let begun = Instant::now();
        members.swap_remove(50).close().await.expect("it leaves");
        even(&observer, &group, MEMBERS).await;
        figures.entry("one leaves").or_default().push(begun.elapsed());
        let leaving = members.into_iter().map(MessageStream::close);
        at_once(leaving).await.into_iter().for_each(|left| left.expect("it leaves"));
    }
    for (what, times) in figures {
        println!("through the broker: {what:<29} {}", shown(times));
    }
}

async fn at_once<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let running: Vec<_> = tasks.map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(running.len());
    for task in running {
        results.push(task.await.expect("it does not panic"));
    }
    results
}

async fn member(client: Client, group: String) -> MessageStream {
    client.stream("t").group(group).subscribe().await.expect("it joins")
}

async fn even(client: &Client, group: &str, members: usize) {
    let begun = Instant::now();
    let (least, most) = (PARTITIONS as usize / members, (PARTITIONS as usize).div_ceil(members));
    loop {
        let described = client.admin().describe_group(group).await.expect("it is there");
        let shares: Vec<usize> = described.members.iter().map(|member| member.partitions.len()).collect();
        let all = shares.iter().sum::<usize>() == PARTITIONS as usize;
        if shares.len() == members && all && shares.iter().all(|share| (least..=most).contains(share)) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "not even after {LIMIT:?}: {shares:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    format!("{:>8.2} ms ({:.2} to {:.2})", ms(median), ms(least), ms(most))
}
