//! The engine on a simulated disk: a short round of what `simulate` does for as long as one likes.

use dure_tests::sim::{exhaustive, run_seed};

const SEEDS: u64 = 400;

#[test]
fn no_seed_breaks_a_promise() {
    for seed in 0..SEEDS {
        let run = run_seed(seed);
        assert_eq!(
            run.failure, None,
            "seed {seed}: see it with `simulate --seeds 1 --from {seed} --verbose`"
        );
    }
}

/// A pass read the log through a view that did not show yet what the pass before it had put in place.
#[test]
fn what_compaction_took_does_not_come_back_with_the_next_pass() {
    let run = run_seed(13_811);
    assert_eq!(run.failure, None, "{}", run.history.text());
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [3, 77, 1_234] {
        assert_eq!(run_seed(seed).history.text(), run_seed(seed).history.text(), "seed {seed}");
    }
}

#[test]
fn small_stories_survive_a_cut_at_every_boundary() {
    let done = exhaustive(false);
    assert_eq!(done.failure, None);
    for story in done.stories {
        assert!(story.boundaries > 40 && story.crashes > 10 * story.boundaries, "{story}");
    }
}
