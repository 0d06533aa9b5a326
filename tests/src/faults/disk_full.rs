//! A full disk: producing is refused before it is really full, everything else goes on, and deleting makes room again.

use std::time::{Duration, Instant};

use dure_client::{Action, Client, Error, ErrorCode, Message, Start, TopicConfig};

use super::check::Violation;
use super::{Fault, Stage};
use crate::harness::{BrokerBuilder, FileSystem, LoopDisk};

const VOLUME_BYTES: u64 = 256 << 20;
/// More than a second of producing, and some pieces of the journal.
const FLAGS: &str = "--journal-piece 16MiB --checkpoint 8MiB --reserve 80MiB";
const FULL_LIMIT: Duration = Duration::from_secs(30);
const ROOM_LIMIT: Duration = Duration::from_secs(10);
const BALLAST: &str = "ballast";
const BALLAST_BYTES: usize = 256 << 10;
const HAULERS: &str = "haulers";
const LEASE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct DiskFull {
    volume: Option<LoopDisk>,
}

impl Fault for DiskFull {
    fn name(&self) -> &'static str {
        "disk-full"
    }

    fn missing(&self) -> Option<String> {
        LoopDisk::missing(FileSystem::Ext4)
    }

    fn prepare(&mut self) -> Result<BrokerBuilder, String> {
        self.volume = None;
        let volume = self.volume.insert(LoopDisk::new(FileSystem::Ext4, VOLUME_BYTES)?);
        Ok(BrokerBuilder::default().flags(FLAGS).inside(&volume.root()))
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), Violation> {
        stage.run_on(100..300);
        let servers = stage.servers();
        let outcome = stage.block_on(fill_and_empty(&servers));
        outcome.map_err(|(doing, error)| Violation::conduct(format!("disk full: {doing}: {error}")))?;
        stage.run_on(100..300);
        Ok(())
    }
}

type Step<T> = Result<T, (&'static str, String)>;

trait During<T> {
    fn during(self, doing: &'static str) -> Step<T>;
}

impl<T> During<T> for Result<T, Error> {
    fn during(self, doing: &'static str) -> Step<T> {
        self.map_err(|error| (doing, error.to_string()))
    }
}

async fn fill_and_empty(servers: &str) -> Step<()> {
    let builder = Client::builder().servers(servers).request_timeout(Duration::from_secs(10));
    let client = builder.connect().await.during("connecting")?;
    let admin = client.admin();
    let config = TopicConfig { segment_bytes: 4 << 20, ..TopicConfig::default() };
    admin.create_topic(BALLAST, 1, &config).await.during("creating a topic")?;
    let kept = fill(&client).await?;
    // Full. What was promised to go on, goes on.
    let jobs = client.receive(BALLAST, HAULERS, 2, Duration::from_secs(5), Some(LEASE)).await;
    let jobs = jobs.during("receiving")?;
    let items = jobs.iter().map(|job| (job.receipt, Action::Ack)).collect();
    for settled in client.settle(BALLAST, HAULERS, items).await.during("acking")? {
        settled.during("acking")?;
    }
    let read = client.stream(BALLAST).from(Start::Earliest).until_high_watermark().subscribe().await;
    let mut read = read.during("reading")?;
    let mut count = 0;
    while let Some(message) = read.next().await {
        message.during("reading")?;
        count += 1;
    }
    if count != kept || jobs.is_empty() {
        return Err(("reading", format!("{kept} messages were kept, {count} read, {} leased", jobs.len())));
    }
    // Retention has something to do, and deleting the rest.
    let lower = TopicConfig { retention_bytes: Some(8 << 20), ..config };
    let change = dure_client::TopicChange { config: Some(lower), ..Default::default() };
    admin.alter_topic(BALLAST, &change).await.during("lowering retention")?;
    admin.delete_group(HAULERS).await.during("deleting a group")?;
    admin.delete_topic(BALLAST).await.during("deleting a topic")?;
    make_sure_there_is_room(&client).await
}

/// Produces until that is refused; says how much was taken.
async fn fill(client: &Client) -> Step<u64> {
    let producer = client.producer(BALLAST).build().await.during("producing")?;
    let deadline = Instant::now() + FULL_LIMIT;
    let mut kept = 0;
    while Instant::now() < deadline {
        match producer.send(Message::new(vec![b'x'; BALLAST_BYTES])).await {
            Ok(_) => kept += 1,
            Err(error) if error.code() == Some(ErrorCode::DiskFull) => return Ok(kept),
            Err(error) => return Err(("filling", error.to_string())),
        }
    }
    Err(("filling", format!("{kept} messages were taken and none refused")))
}

async fn make_sure_there_is_room(client: &Client) -> Step<()> {
    let admin = client.admin();
    admin.create_topic(BALLAST, 1, &TopicConfig::default()).await.during("creating a topic again")?;
    let producer = client.producer(BALLAST).build().await.during("producing again")?;
    let deadline = Instant::now() + ROOM_LIMIT;
    loop {
        match producer.send(Message::new("room again")).await {
            Ok(_) => break,
            Err(error) if error.code() == Some(ErrorCode::DiskFull) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(("producing again", error.to_string())),
        }
    }
    admin.delete_topic(BALLAST).await.during("deleting a topic again")
}
