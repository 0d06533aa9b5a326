//! The lease table against a naive model: random operations, crashes with replay from the beginning or from a
//! snapshot, lost last commits. After every step every offset, every count and every index must agree: for groups that
//! grant what is next, that keep the order of keys, and whose messages expire.

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
    let ops = prop::collection::vec(ops::op(), 1..200);
    (any::<bool>(), any::<bool>(), any::<bool>(), ops).prop_map(|(by_key, expired_die, looks, ops)| History {
        by_key,
        expired_die,
        looks,
        ops,
    })
}

/// See [`histories`].
#[derive(Clone, Debug)]
pub(crate) struct History {
    by_key: bool,
    /// What is expired goes to the dead letters.
    expired_die: bool,
    /// The group looks into messages from the beginning; one that keeps the order of keys always does.
    looks: bool,
    ops: Vec<ops::Op>,
}

/// Lets it happen to the table and to the model: they agree after every step.
pub(crate) fn run(history: &History) {
    let History { by_key, expired_die, looks, ref ops } = *history;
    let mut world = World::new(LeaseSettings { by_key, expired_die, ..settings() }, by_key || looks);
    for op in ops {
        world.step(op);
    }
    world.compare_snapshots();
}

/// Histories for each kind of table, as many as proptest makes of one thing.
fn cases() -> ProptestConfig {
    let one = ProptestConfig::default();
    ProptestConfig { cases: 4 * one.cases, ..one }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_table_does_what_the_model_does(history in histories()) {
        run(&history);
    }
}
