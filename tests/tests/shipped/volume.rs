//! More than fits into a segment or a batch. A million messages are `cargo run --release -p dure-tests --bin million`.

use dure_tests::harness::Broker;
use dure_tests::volume::{Volume, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_reach_two_members_once_and_in_order() {
    let mut broker = Broker::start();
    let volume = Volume { messages: 100_000, value_bytes: 1024, partitions: 4, members: 2 };
    let figures = run(&mut broker, &volume).await;
    eprintln!("{figures}");
    // Recovery does not depend on how much is stored; the machine may be busy with other tests.
    assert!(figures.ready_after_kill.as_secs() < 5, "{figures}");
}
