//! A queue group in which urgent messages go first, against a naive model: random messages, grants, acks, releases and
//! restarts. Each grant is the one that the rule names, and nobody who waits is passed over for ever.

use dure_engine::{
    Jitter, LeaseSettings, LeaseTable, LeaseTerms, Now, PRIORITY_ROUND, RecordFacts, RecordTable,
    SettleAction, TokenSource,
};
use dure_proto::{Epoch, LeaseToken, Offset, PartitionId, Priority, TopicId, TopicPartition};
use proptest::prelude::*;

const OF: TopicPartition = TopicPartition { topic: TopicId(1), partition: PartitionId(0) };
const TERMS: LeaseTerms = LeaseTerms { lease_ms: 30_000, started: true };
const NOW: Now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };

/// What may happen.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Messages of these levels come.
    Come(Vec<u8>),
    Grant(u32),
    /// One of those that are out, by its place among them.
    Ack(usize),
    Release(usize),
    Restart,
}

pub(crate) fn histories() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => prop::collection::vec(0_u8..10, 1..12).prop_map(Op::Come),
        6 => (1_u32..6).prop_map(Op::Grant),
        3 => any::<usize>().prop_map(Op::Ack),
        2 => any::<usize>().prop_map(Op::Release),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..150)
}

struct World {
    table: LeaseTable,
    tokens: TokenSource,
    /// Of each offset.
    levels: Vec<u8>,
    /// Who can be granted, in the order in which they became so.
    waiting: Vec<u64>,
    out: Vec<(u64, LeaseToken)>,
    /// Grants since the last one that was by turn alone.
    granted: u32,
}

fn settings() -> LeaseSettings {
    LeaseSettings { by_priority: true, attempts_max: u32::MAX, ..LeaseSettings::default() }
}

/// Lets it happen to the table and to the model.
pub(crate) fn run(ops: &[Op]) {
    let mut world = World {
        table: LeaseTable::new(settings(), Offset::ZERO),
        tokens: TokenSource::new(Epoch(1)),
        levels: Vec::new(),
        waiting: Vec::new(),
        out: Vec::new(),
        granted: 0,
    };
    for op in ops {
        world.step(op);
        world.table.check();
        assert_eq!(world.table.grantable(), world.waiting.len() as u64);
    }
    // Whoever waits is granted in the end, though urgent ones never cease to come.
    let most = 8 * (world.waiting.len() + 1);
    for nth in 0.. {
        assert!(nth <= most, "somebody is passed over for ever");
        if !world.waiting.iter().any(|offset| world.levels[*offset as usize] == 0) {
            break;
        }
        world.step(&Op::Come(vec![9]));
        world.step(&Op::Grant(1));
    }
}

impl World {
    fn step(&mut self, op: &Op) {
        match op {
            Op::Come(levels) => {
                let first = self.levels.len() as u64;
                self.levels.extend(levels);
                let end = self.levels.len() as u64;
                self.table.handle_high_watermark(Offset(end));
                self.look();
                self.waiting.extend(first..end);
            }
            Op::Grant(count) => self.grant(*count),
            Op::Ack(at) => drop(self.settle(*at, SettleAction::Ack)),
            Op::Release(at) => {
                let release = SettleAction::Release { delay_ms: Some(0), reason: String::new() };
                let back = self.settle(*at, release);
                self.waiting.extend(back);
            }
            Op::Restart => self.restart(),
        }
    }

    fn look(&mut self) {
        while let Some(from) = self.table.take_wanted_records(NOW) {
            let facts = self.levels[from.0 as usize..].iter().map(|level| RecordFacts {
                priority: Priority::of_level(*level).expect("at most 9"),
                ..RecordFacts::default()
            });
            self.table.handle_records(from, &RecordTable::Records(facts.collect()), NOW);
        }
    }

    fn grant(&mut self, count: u32) {
        for grant in self.table.grant(NOW, count, TERMS, &mut self.tokens, &mut Vec::new()) {
            let by_turn = self.granted + 1 == PRIORITY_ROUND;
            self.granted = (self.granted + 1) % PRIORITY_ROUND;
            let level = |at: &usize| self.levels[self.waiting[*at] as usize];
            let all = 0..self.waiting.len();
            let next = if by_turn { 0 } else { all.rev().max_by_key(level).expect("somebody waits") };
            let due = self.waiting.remove(next);
            assert_eq!(grant.offset, Offset(due), "by turn: {by_turn}");
            self.out.push((due, grant.token));
        }
    }

    fn settle(&mut self, at: usize, action: SettleAction) -> Option<u64> {
        let at = at.checked_rem(self.out.len())?;
        let (offset, token) = self.out.remove(at);
        self.table
            .settle(Offset(offset), token, &action, Jitter(0), NOW, &mut Vec::new())
            .expect("it is held");
        Some(offset)
    }

    /// Who is out stays out. The others are looked at again, and stand in the order of the log.
    fn restart(&mut self) {
        let snapshot = self.table.snapshot(OF);
        self.table = LeaseTable::restore(&snapshot, settings(), NOW).expect("it is its own");
        self.table.handle_high_watermark(Offset(self.levels.len() as u64));
        self.table.recovered(NOW);
        self.look();
        self.waiting.sort_unstable();
        self.granted = 0;
    }
}

proptest! {
    #[test]
    fn each_grant_is_the_one_that_the_rule_names(ops in histories()) {
        run(&ops);
    }
}
