//! Messages as fast as the broker takes them.

use std::time::Duration;

use dure_client::{Message, Producer};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Res;
use crate::payloads::Payloads;

/// Messages between two looks at the clock.
const LOOK_EVERY: u64 = 64;

/// When it is over.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many of all producers together.
    Messages(u64),
    /// After so long.
    Time(Duration),
}

/// Sends until it is over and everything is acknowledged; returns how many messages that were. `run` messages in a row go
/// to one partition.
///
/// # Errors
/// If one of them failed.
pub async fn flood(producers: &[Producer], payloads: &Payloads, run: u64, until: Until) -> Res<u64> {
    let mut tasks = JoinSet::new();
    for (index, producer) in producers.iter().enumerate() {
        let (producer, payloads, index) = (producer.clone(), payloads.clone(), index as u64);
        let (messages, end) = match until {
            Until::Messages(all) => (share(all, producers.len() as u64, index), None),
            Until::Time(time) => (u64::MAX, Some(Instant::now() + time)),
        };
        tasks.spawn(async move {
            let partitions = u64::from(producer.partitions());
            let mut sent = 0;
            while sent < messages {
                if sent % LOOK_EVERY == 0 && end.is_some_and(|end| Instant::now() >= end) {
                    break;
                }
                let partition = (sent / run + index) % partitions;
                let message = Message::new(payloads.share(sent)).partition(partition as u32);
                // What fails is told by the flush.
                drop(producer.enqueue(message).await?);
                sent += 1;
            }
            producer.flush().await?;
            Res::Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(done) = tasks.join_next().await {
        sent += done??;
    }
    Ok(sent)
}

/// What one of `parts` does of `all`.
fn share(all: u64, parts: u64, index: u64) -> u64 {
    all / parts + u64::from(index < all % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        let shares: Vec<u64> = (0..3).map(|index| share(11, 3, index)).collect();
        assert_eq!(shares, [4, 4, 3]);
    }
}
