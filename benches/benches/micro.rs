//! The hot paths in time: `cargo bench -p dure-benches [NAME]`.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use dure_benches::paths::{self, Path};

fn main() {
    divan::main();
}

/// A round of each path: per second, how many operations and how much payload.
#[divan::bench(args = paths::all().filter(|path| path.only.is_none()), sample_count = 50)]
fn path(bencher: Bencher, path: &Path) {
    let mut round = (path.prepare)();
    round();
    let bencher = bencher.counter(ItemsCount::new(path.operations));
    match path.bytes {
        0 => bencher.bench_local(round),
        bytes => bencher.counter(BytesCount::new(bytes)).bench_local(round),
    }
}
