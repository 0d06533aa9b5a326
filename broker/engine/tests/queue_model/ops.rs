//! What is done to table and model, at random.

use dure_engine::SettleAction;
use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Messages, each with the key of its number, 0 for none, and how long it is good for.
    Append(Vec<(u8, Option<u64>)>),
    /// A record table of so many records is asked for, and comes.
    Scan(u64),
    /// The batch of so many records cannot be decoded.
    ScanUndecodable(u64),
    ScanFailed,
    LogStart(u8),
    Grant {
        count: u32,
        lease_ms: u64,
        started: bool,
    },
    Settle {
        pick: usize,
        action: SettleAction,
    },
    /// Everything up to an offset is acknowledged, by nobody who holds it.
    AckUpTo(u8),
    Forge {
        offset: u64,
        epoch: u64,
        counter: u64,
    },
    Advance(u64),
    ReleaseUnstarted(usize),
    TakeDying(usize),
    Bury,
    LetterFailed,
    Undeliverable(u8),
    Lost {
        from: u8,
        count: u64,
    },
    Redrive(u64),
    Purge(u64),
    Seek(u8),
    Checkpoint,
    Crash {
        from_checkpoint: bool,
        lose_last: bool,
        down_ms: u64,
    },
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let action = prop_oneof![
        4 => Just(SettleAction::Ack),
        3 => Just(SettleAction::Start),
        3 => proptest::option::of(0u64..5_000).prop_map(|delay_ms| {
            SettleAction::Release { delay_ms, reason: "why not".into() }
        }),
        2 => Just(SettleAction::Reject { reason: "no".into() }),
        2 => proptest::option::of(1u64..20_000).prop_map(|lease_ms| SettleAction::Extend { lease_ms }),
        1 => Just(SettleAction::AckUpTo),
    ];
    prop_oneof![
        4 => prop::collection::vec((0u8..4, prop::option::weighted(0.2, 0u64..20_000)), 1..6).prop_map(Op::Append),
        6 => (1u64..9).prop_map(Op::Scan),
        1 => (1u64..4).prop_map(Op::ScanUndecodable),
        1 => Just(Op::ScanFailed),
        1 => any::<u8>().prop_map(Op::LogStart),
        8 => (1u32..6, 1u64..15_000, any::<bool>())
            .prop_map(|(count, lease_ms, started)| Op::Grant { count, lease_ms, started }),
        16 => (0usize..24, action).prop_map(|(pick, action)| Op::Settle { pick, action }),
        1 => any::<u8>().prop_map(Op::AckUpTo),
        1 => (0u64..30, 1u64..3, 1u64..30)
            .prop_map(|(offset, epoch, counter)| Op::Forge { offset, epoch, counter }),
        8 => (0u64..12_000).prop_map(Op::Advance),
        1 => (0usize..12).prop_map(Op::ReleaseUnstarted),
        4 => (1usize..4).prop_map(Op::TakeDying),
        4 => Just(Op::Bury),
        1 => Just(Op::LetterFailed),
        1 => any::<u8>().prop_map(Op::Undeliverable),
        1 => (any::<u8>(), 1u64..5).prop_map(|(from, count)| Op::Lost { from, count }),
        2 => (1u64..3).prop_map(Op::Redrive),
        1 => (1u64..3).prop_map(Op::Purge),
        1 => any::<u8>().prop_map(Op::Seek),
        1 => Just(Op::Checkpoint),
        2 => (any::<bool>(), any::<bool>(), 0u64..5_000)
            .prop_map(|(from_checkpoint, lose_last, down_ms)| Op::Crash { from_checkpoint, lose_last, down_ms }),
    ]
}
