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

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [3, 77, 1_234] {
        assert_eq!(run_seed(seed).history.text(), run_seed(seed).history.text(), "seed {seed}");
    }
}

#[test]
fn a_small_story_survives_a_cut_at_every_boundary() {
    let done = exhaustive(false);
    assert_eq!(done.failure, None);
    assert!(done.boundaries > 20 && done.crashes > done.boundaries, "{done:?}");
}
