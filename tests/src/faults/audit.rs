//! Looks at everything that is there when nobody produces: the logs, the letters, what is committed; and has the queue
//! worked off. What it finds goes into the history.

use std::time::{Duration, Instant};

use dure_client::{Client, Error, Result, Start};

use super::history::{History, Place, What};
use super::load::{EVENTS, JOBS, READERS, REJECTED, WORKERS, acknowledge_all};
use super::payload;

/// For leases to run out, and backoffs to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
/// A reader that is given nothing for so long is told nothing more.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const LETTERS_PER_PAGE: u32 = 200;

/// Looks at all of it.
///
/// # Errors
/// Where the broker does not answer as it should.
pub(super) async fn audit(history: &History, servers: &str) -> Result<()> {
    let builder = Client::builder().servers(servers).request_timeout(Duration::from_secs(10));
    let client = builder.connect_wait(Duration::from_secs(5)).connect().await?;
    for topic in [EVENTS, JOBS] {
        for partition in client.admin().describe_topic(topic).await?.partitions {
            for lost in &partition.lost {
                let (topic, partition) = (topic.to_owned(), partition.partition);
                history.saw(What::Damaged { topic, partition, from: lost.from, to: lost.to });
            }
            let (start, end) = (partition.log_start_offset, partition.high_watermark);
            log(history, &client, topic, partition.partition, start, end).await?;
        }
    }
    let drained_at = Instant::now() + DRAIN_LIMIT;
    while client.admin().describe_group(WORKERS).await?.lag > 0 && Instant::now() < drained_at {
        acknowledge_all(history, &client).await;
    }
    letters(history, &client).await?;
    let begun = history.now();
    let workers = client.admin().describe_group(WORKERS).await?;
    history.since(begun, What::Drained { lag: workers.lag, dead: workers.dead });
    let begun = history.now();
    for row in client.admin().describe_group(READERS).await?.partitions {
        if let Some(offset) = row.committed {
            let place = Place { topic: EVENTS, partition: row.partition, offset };
            history.since(begun, What::Committed { place });
        }
    }
    Ok(())
}

async fn log(
    history: &History,
    client: &Client,
    topic: &'static str,
    partition: u32,
    start: u64,
    end: u64,
) -> Result<()> {
    let begun = history.now();
    let mut records = Vec::new();
    let stream = client.stream(topic).partition(partition).from(Start::Earliest).until_high_watermark();
    let mut stream = stream.subscribe().await?;
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, stream.next()).await;
        let next =
            next.map_err(|_| Error::Timeout { what: format!("reading {topic}/{partition} up to {end}") })?;
        match next {
            None => break,
            Some(Ok(message)) => {
                let (key, value) = (message.key.as_deref(), message.value.as_deref());
                records.push((message.offset, payload::recognise(key, value, &message.headers)));
            }
            Some(Err(Error::Corrupt { topic, partition, from, to })) => {
                history.saw(What::Damaged { topic, partition, from, to });
            }
            Some(Err(error)) => return Err(error),
        }
    }
    history.since(begun, What::Log { topic, partition, start, end, records });
    Ok(())
}

async fn letters(history: &History, client: &Client) -> Result<()> {
    let mut after = None;
    loop {
        let admin = client.admin();
        let page = admin.list_dead_letters(JOBS, WORKERS, after.as_deref(), LETTERS_PER_PAGE).await?;
        after = page.letters.last().map(|letter| letter.id.clone());
        for letter in page.letters {
            let place = Place { topic: JOBS, partition: letter.partition, offset: letter.offset };
            let found = payload::recognise(letter.key.as_deref(), letter.value.as_deref(), &letter.headers);
            let rejected = letter.reason.starts_with(REJECTED);
            history.saw(What::Letter { place, found, attempts: letter.attempts, rejected });
        }
        if !page.more {
            return Ok(());
        }
    }
}
