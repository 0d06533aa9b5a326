//! How soon a broker is ready again. As much as is promised: `cargo run --release -p dure-tests --bin start`.

use std::time::Duration;

use dure_tests::startup::{Startup, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_is_ready_again_soon_whatever_it_holds() {
    let figures = run(&Startup {
        sealed_bytes: 4 << 30,
        partitions: 40,
        messages: 20_000,
        rounds: 2,
        pause: Duration::ZERO,
    })
    .await;
    eprintln!("{figures}");
    // The machine may be busy with other tests.
    assert!(figures.median().as_secs() < 10, "{figures}");
}
