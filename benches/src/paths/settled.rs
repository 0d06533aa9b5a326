//! The set of what is settled, as acknowledgements out of order meet it: a thousand at a time, the second half of them
//! before the first.

use dure_engine::{LeaseSettings, LeaseTable};
use dure_proto::Offset;
use dure_proto::journal::{QueueEvent, Settled, queue_event::Event};

use super::{NOW, Path, Round};

/// Acknowledged out of order, before the next begin.
const SPAN: u64 = 1_024;
const SPANS: u64 = 4;

pub(super) const PATHS: &[Path] = &[Path {
    name: "settled-set",
    operation: "message settled out of order",
    operations: SPAN * SPANS,
    bytes: 0,
    prepare,
    only: None,
}];

fn prepare() -> Round {
    let mut table = LeaseTable::new(LeaseSettings::default(), Offset::ZERO);
    let mut floor = 0;
    Box::new(move || {
        for _ in 0..SPANS {
            // An odd factor meets every offset of the span once, far from the one before.
            for nth in 0..SPAN {
                let offset = floor + (nth * 389 + SPAN / 2) % SPAN;
                let settled = Settled { offset, count: 1, expired: false };
                let event = QueueEvent { event: Some(Event::Settled(settled)) };
                table.apply(&event, NOW).expect("it is not settled yet");
            }
            floor += SPAN;
            assert_eq!(table.floor(), Offset(floor), "nothing is left out");
        }
    })
}
