//! Some bits of every file of a reference data directory, flipped one at a time: a short round of what `every-bit` does
//! for all of them.

use dure_tests::bits::EveryBit;

const FLIPS_PER_FILE: u64 = 24;

#[test]
fn a_flipped_bit_costs_its_entry_at_most_and_is_never_delivered() {
    let every_bit = EveryBit::build().expect("the reference");
    let files: Vec<(String, u64)> = every_bit.files().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut first, mut sample) = (0, Vec::new());
    for (_, bytes) in &files {
        sample.extend((0..FLIPS_PER_FILE).map(|_| first + rng.u64(0..bytes * 8)));
        first += bytes * 8;
    }
    for ending in [".log", ".index", ".piece", ".checkpoint"] {
        let count = files.iter().filter(|(path, _)| path.ends_with(ending)).count();
        assert!(count >= 2, "{count} files end in {ending}");
    }
    let tally = every_bit.flip(sample.into_iter());
    assert_eq!(tally.violation, None);
    assert_eq!(tally.flips(), FLIPS_PER_FILE * files.len() as u64);
    assert!(tally.outcomes.len() >= 6, "{:?}", tally.outcomes);
}
