//! A million messages of 1 KiB through the shipped binary to two members of a stream group on four partitions, each
//! once and in order per partition; then `kill -9`, and how long until it is ready. Fails when any of that is not so.
//!
//! `cargo run --release -p dure-tests --bin million [MESSAGES]`

use dure_tests::harness::Broker;
use dure_tests::volume::{Volume, run};

#[tokio::main]
async fn main() {
    let messages = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 1_000_000,
        Some(Ok(messages)) if messages >= 4 => messages - messages % 4,
        Some(_) => {
            eprintln!("usage: million [MESSAGES], at least 4");
            std::process::exit(2);
        }
    };
    let mut broker = Broker::start();
    let volume = Volume { messages, value_bytes: 1024, partitions: 4, members: 2 };
    println!("{}", run(&mut broker, &volume).await);
    let took = broker.stop();
    println!("  stopped after SIGTERM: {:.3} s", took.as_secs_f64());
}
