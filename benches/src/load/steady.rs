//! Messages at a fixed rate, whatever the broker does meanwhile.

use dure_client::{Message, Producer};

use crate::Res;
use crate::ages::Clock;
use crate::pace::{Pace, Schedule};
use crate::payloads::Payloads;

/// Sends what the schedule says, stamped; the producers take turns, and so do the partitions of each.
///
/// # Errors
/// If one of the last ones failed; what failed before is missed by who waits for it.
pub async fn send(producers: &[Producer], payloads: &Payloads, clock: Clock, schedule: Schedule) -> Res {
    let pace = Pace::start();
    let count = producers.len() as u64;
    for number in 0..schedule.messages() {
        let due = schedule.due(number);
        pace.wait_until(due).await;
        let producer = &producers[(number % count) as usize];
        let partition = (number / count + number) % u64::from(producer.partitions());
        let message = Message::new(payloads.stamped(number, &clock.stamp(due)));
        drop(producer.enqueue(message.partition(partition as u32)).await?);
    }
    for producer in producers {
        producer.flush().await?;
    }
    Ok(())
}
