//! Adds the seeds of every fuzz target to the corpus in the repository.

use std::io::Result;
use std::path::Path;

use dure_tests::fuzzing::{TARGETS, seeds};

fn main() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in TARGETS {
        let dir = corpus.join(name);
        std::fs::create_dir_all(&dir)?;
        for (nth, seed) in seeds(name).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{nth:02}")), seed)?;
        }
    }
    println!("{} targets have their seeds in {}", TARGETS.len(), corpus.display());
    Ok(())
}
