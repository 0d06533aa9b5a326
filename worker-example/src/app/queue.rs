//! The topic and the group of this application: made, and what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use dure_client::{Admin, Client, Error, ErrorCode, QueueSettings, TopicConfig};
use photo_pipeline::results::Death;
use photo_pipeline::{Job, JobId};
use tokio::time::{Instant, sleep};

use super::args::QueueArgs;
use super::failure::Failure;

/// Workers share a partition, so one is enough for any number of them.
const PARTITIONS: u32 = 1;
/// How long a broker may be away before one gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// Dead letters asked for at a time.
const LETTERS_PER_PAGE: u32 = 500;

/// Connects; a broker that is just being started is waited for.
pub(crate) async fn connect(queue: &QueueArgs, name: &str, wait: Duration) -> Result<Client, Failure> {
    let name = format!("{name}-{}", std::process::id());
    let connecting = Client::builder().servers(&queue.server).name(name).connect_wait(wait).connect();
    connecting.await.map_err(|error| match error {
        Error::InvalidArgument { .. } => Failure::Usage(format!("--server: {error}")),
        error => Failure::failed(format!(
            "{error}; is a broker running at {}? Start one with `dure serve`, or name it with --server",
            queue.server
        )),
    })
}

/// Creates topic and group where they are missing; those that are there stay as they are.
pub(crate) async fn ensure(
    client: &Client,
    queue: &QueueArgs,
    settings: &QueueSettings,
) -> Result<(), Failure> {
    let admin = client.admin();
    let QueueArgs { topic, group, .. } = queue;
    let config = TopicConfig::default();
    create("topic", topic, ErrorCode::TopicExists, || admin.create_topic(topic, PARTITIONS, &config)).await?;
    let topics = [topic.as_str()];
    create("group", group, ErrorCode::GroupExists, || admin.create_queue_group(group, &topics, settings))
        .await
}

/// Creating is not done twice by the client, since it could not tell the second from somebody else's. Here it
/// makes no difference who did it.
async fn create<F>(
    kind: &str,
    name: &str,
    exists: ErrorCode,
    mut attempt: impl FnMut() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = dure_client::Result<()>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(error) if error.code() == Some(exists) => return Ok(()),
            Err(error) if error.is_retriable() && Instant::now() < deadline => sleep(RETRY_DELAY).await,
            Err(error) => return Err(Failure::failed(format!("cannot create the {kind} {name}: {error}"))),
        }
    }
}

/// Where the broker put a job: partition and offset.
pub(crate) type Position = (u32, u64);

/// All dead letters of the group, by the job that each was. `positions` tells for those whose message is no job.
pub(crate) async fn deaths(
    admin: &Admin,
    queue: &QueueArgs,
    positions: &BTreeMap<Position, JobId>,
) -> Result<BTreeMap<JobId, Death>, Failure> {
    let mut deaths = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = admin.list_dead_letters(&queue.topic, &queue.group, after.as_deref(), LETTERS_PER_PAGE);
        let page = page.await.map_err(Failure::during("cannot read the dead letters"))?;
        for letter in &page.letters {
            let by_position = positions.get(&(letter.partition, letter.offset)).cloned();
            let by_message = || Job::from_json(letter.value.as_deref()?).ok().map(|job| job.id());
            if let Some(job) = by_position.or_else(by_message) {
                deaths.insert(job, Death { reason: letter.reason.clone(), attempts: letter.attempts });
            }
        }
        match page.letters.last() {
            Some(last) if page.more => after = Some(last.id.clone()),
            _ => return Ok(deaths),
        }
    }
}
