//! The checkers, in the order in which they are asked: a few seeds of the simulator, then what is quick and sees what the
//! simulator cannot, then as many seeds as are allowed.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use dure_tests::sim::{exhaustive, run_seed};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use crate::stories::STORIES;

#[path = "../../../../broker/engine/tests/priority_model.rs"]
#[allow(dead_code)]
mod priority_model;
/// The lease table and the stream group beside their models, as the engine's own tests have them.
#[path = "../../../../broker/engine/tests/queue_model/main.rs"]
#[allow(dead_code)]
mod queue_model;
#[path = "../../../../broker/engine/tests/stream_group_model.rs"]
#[allow(dead_code)]
mod stream_group_model;

/// Seeds of the simulator before anything else is asked.
const FIRST_SEEDS: u64 = 60;
/// Random histories of each model.
const HISTORIES: u32 = 300;
/// Of what was seen, so much is shown.
const SHOWN_CHARS_MAX: usize = 110;

/// A fault was seen.
pub(crate) struct Caught {
    pub(crate) by: &'static str,
    /// Where it was seen, by seed or by name.
    pub(crate) at: String,
    pub(crate) what: String,
}

impl Caught {
    /// How what was seen begins, in one line.
    pub(crate) fn line(&self) -> String {
        let line = self.what.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(SHOWN_CHARS_MAX).collect()
    }
}

/// One way of looking.
pub(crate) struct Checker {
    name: &'static str,
    /// Gets the number of seeds allowed; says where something was seen, and what.
    look: fn(u64) -> Option<(String, String)>,
}

pub(crate) const CHECKERS: [Checker; 7] = [
    Checker { name: "simulator", look: |seeds| simulate(0..FIRST_SEEDS.min(seeds)) },
    Checker { name: "stories", look: |_| tell_stories() },
    Checker {
        name: "queue group's model",
        look: |_| follow(queue_model::histories(), |ops| queue_model::run(&ops)),
    },
    Checker {
        name: "priorities' model",
        look: |_| follow(priority_model::histories(), |ops| priority_model::run(&ops)),
    },
    Checker {
        name: "stream group's model",
        look: |_| follow(stream_group_model::storms(), |(a, b, c, d)| stream_group_model::storm(&a, b, c, d)),
    },
    Checker { name: "simulator", look: |seeds| simulate(FIRST_SEEDS.min(seeds)..seeds) },
    Checker {
        name: "exhaustive story",
        look: |_| exhaustive(false).failure.map(|what| (String::new(), what)),
    },
];

impl Checker {
    pub(crate) fn run(&self, seeds: u64) -> Option<Caught> {
        PANICKED_IN.take();
        let (at, what) = (self.look)(seeds)?;
        // A panic within the engine is an assertion that ships, whoever drove it there.
        let by =
            if PANICKED_IN.take().contains("engine/src") { "engine's own assertions" } else { self.name };
        let at = if by == self.name { at } else { format!("{}, {at}", self.name) };
        Some(Caught { by, at, what })
    }
}

fn simulate(seeds: Range<u64>) -> Option<(String, String)> {
    seeds.into_iter().find_map(|seed| Some((format!("seed {seed}"), run_seed(seed).failure?)))
}

fn tell_stories() -> Option<(String, String)> {
    STORIES.iter().find_map(|(name, tell)| {
        let panic = catch_unwind(AssertUnwindSafe(tell)).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Some(((*name).to_owned(), text.unwrap_or_default()))
    })
}

/// The same histories each time.
fn follow<S: Strategy>(histories: S, run: impl Fn(S::Value)) -> Option<(String, String)> {
    let config =
        Config { cases: HISTORIES, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let ran = Cell::new(0);
    let result = runner.run(&histories, |history| {
        ran.set(ran.get() + 1);
        run(history);
        Ok(())
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, _) | TestError::Abort(why)) => {
            Some((format!("history {}", ran.get()), why.message().to_owned()))
        }
    }
}

thread_local! {
    /// The source file of this thread's last panic.
    static PANICKED_IN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are what is looked for here: they are noted and not printed.
pub(crate) fn note_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let file = panic.location().map(|location| location.file().to_owned()).unwrap_or_default();
        PANICKED_IN.set(file);
    }));
}
