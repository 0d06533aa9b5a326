//! The lease table alone: a message is granted and acknowledged.

use dure_engine::{Jitter, LeaseSettings, LeaseTable, LeaseTerms, SettleAction, TokenSource};
use dure_proto::{Epoch, Offset};

use super::{NOW, Path, Round};

/// Of one round.
const MESSAGES: u32 = 4_096;
const TERMS: LeaseTerms = LeaseTerms { lease_ms: 30_000, started: true };
/// More than all rounds together work off.
const BACKLOG: Offset = Offset(1 << 40);

const ONE_AT_A_TIME: Path = Path {
    name: "lease-table",
    operation: "message granted and acknowledged, one in hand",
    operations: MESSAGES as u64,
    bytes: 0,
    prepare: || grant_and_ack(1),
    only: None,
};

pub(super) const PATHS: &[Path] = &[
    ONE_AT_A_TIME,
    Path {
        name: "lease-table-256",
        operation: "message granted and acknowledged, 256 in hand",
        prepare: || grant_and_ack(256),
        ..ONE_AT_A_TIME
    },
];

/// With so many in the hands of workers, who take and acknowledge one each.
fn grant_and_ack(in_hand: u32) -> Round {
    let mut table = LeaseTable::new(LeaseSettings::default(), Offset::ZERO);
    table.handle_high_watermark(BACKLOG);
    let mut tokens = TokenSource::new(Epoch(1));
    let mut events = Vec::new();
    let mut held = Vec::new();
    Box::new(move || {
        for _ in 0..MESSAGES / in_hand {
            (0..in_hand).for_each(|_| held.extend(table.grant(NOW, 1, TERMS, &mut tokens, &mut events)));
            for grant in held.drain(..) {
                let ack = SettleAction::Ack;
                let done = table.settle(grant.offset, grant.token, &ack, Jitter(0), NOW, &mut events);
                done.expect("it is held");
            }
            events.clear();
        }
    })
}
