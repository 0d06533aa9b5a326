//! The lease table against a naive model: random operations, crashes with replay from the beginning or from a
//! snapshot, lost last commits. After every step every offset, every count and every index must agree. Once for a group
//! that grants what is next, once for one that keeps the order of keys.

mod model;
mod ops;
mod world;

use dure_engine::LeaseSettings;
use proptest::prelude::*;
use world::World;

fn settings() -> LeaseSettings {
    LeaseSettings {
        lease_ms: 10_000,
        attempts_max: 3,
        backoff_first_ms: 1_000,
        backoff_max_ms: 3_000,
        messages_max: 12,
        ..LeaseSettings::default()
    }
}

/// What may happen to a table, of whatever kind it is.
pub(crate) fn histories() -> impl Strategy<Value = History> {
    (any::<bool>(), prop::collection::vec(ops::op(), 1..200))
        .prop_map(|(by_key, ops)| History { by_key, ops })
}

/// See [`histories`].
#[derive(Clone, Debug)]
pub(crate) struct History {
    by_key: bool,
    ops: Vec<ops::Op>,
}

/// Lets it happen to the table and to the model: they agree after every step.
pub(crate) fn run(history: &History) {
    let mut world = World::new(LeaseSettings { by_key: history.by_key, ..settings() });
    for op in &history.ops {
        world.step(op);
    }
    world.compare_snapshots();
}

/// Histories for each kind of table, as many as proptest makes of one thing.
fn cases() -> ProptestConfig {
    let one = ProptestConfig::default();
    ProptestConfig { cases: 2 * one.cases, ..one }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_table_does_what_the_model_does(history in histories()) {
        run(&history);
    }
}
