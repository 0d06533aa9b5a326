//! Readers: members of a group that commit and come and go, one who follows alone, and one who asks how far they are.

use std::time::Duration;

use dure_client::{Error, MessageStream, Start, StreamMessage};
use fastrand::Rng;

use super::{Common, EVENTS, READERS, SESSION, next};
use crate::faults::history::{Outcome, Place, What};
use crate::faults::payload;

const ASK_EVERY: Duration = Duration::from_millis(120);

/// One member after the other. Some say goodbye.
pub(super) async fn member(common: Common, mut rng: Rng) {
    let Some(client) = common.client().await else { return };
    while !common.stop.is_cancelled() {
        let reader = next(&common.numbers.reader_next);
        common.history.saw(What::Subscribe { reader, in_group: true });
        let builder = client.stream(EVENTS).group(READERS).from(Start::Earliest).session(SESSION);
        let Some(Ok(mut stream)) = common.unless_stopped(builder.subscribe()).await else {
            common.pause().await;
            continue;
        };
        let messages = rng.u32(200..6_000);
        let commit_every = rng.u32(1..60);
        for nth in 1..=messages {
            let Some(Some(message)) =
                common.unless_stopped(next_message(&common, &mut stream, reader, true)).await
            else {
                break;
            };
            if nth.is_multiple_of(commit_every) {
                commit(&common, &stream, reader, &message).await;
            }
        }
        // Otherwise it leaves in the background.
        if rng.bool() {
            let _ = stream.close().await;
        }
    }
}

async fn commit(common: &Common, stream: &MessageStream, reader: u32, message: &StreamMessage) {
    let place = Place { topic: EVENTS, partition: message.partition, offset: message.offset + 1 };
    let open = common.history.begin(What::Commit { reader, place, outcome: Outcome::Unknown });
    let answer = stream.commit(message).await;
    common.history.end(open, |what| {
        let What::Commit { outcome, .. } = what else { unreachable!("it began as a commit") };
        *outcome = Outcome::of(&answer);
    });
}

/// Reads what is new, without a group.
pub(super) async fn follower(common: Common) {
    let Some(client) = common.client().await else { return };
    let reader = next(&common.numbers.reader_next);
    common.history.saw(What::Subscribe { reader, in_group: false });
    let mut stream = loop {
        let subscribing = client.stream(EVENTS).from(Start::Latest).subscribe();
        match common.unless_stopped(subscribing).await {
            None => return,
            Some(Ok(stream)) => break stream,
            Some(Err(_)) => common.pause().await,
        }
    };
    while common.unless_stopped(next_message(&common, &mut stream, reader, false)).await.flatten().is_some() {
    }
}

/// The next message; what fails on the way passes, or is damage and stands in the history.
async fn next_message(
    common: &Common,
    stream: &mut MessageStream,
    reader: u32,
    in_group: bool,
) -> Option<StreamMessage> {
    loop {
        match stream.next().await? {
            Ok(message) => {
                let found =
                    payload::recognise(message.key.as_deref(), message.value.as_deref(), &message.headers);
                let place = Place { topic: EVENTS, partition: message.partition, offset: message.offset };
                common.history.saw(What::Read { reader, in_group, place, found });
                return Some(message);
            }
            Err(Error::Corrupt { topic, partition, from, to }) => {
                common.history.saw(What::Damaged { topic, partition, from, to });
            }
            Err(_) => common.pause().await,
        }
    }
}

/// Asks the broker every now and then what is committed.
pub(super) async fn observer(common: Common) {
    let Some(client) = common.client().await else { return };
    let admin = client.admin();
    while common.unless_stopped(tokio::time::sleep(ASK_EVERY)).await.is_some() {
        let begun = common.history.now();
        let Some(Ok(group)) = common.unless_stopped(admin.describe_group(READERS)).await else { continue };
        for row in group.partitions {
            if let Some(offset) = row.committed {
                let place = Place { topic: EVENTS, partition: row.partition, offset };
                common.history.since(begun, What::Committed { place });
            }
        }
    }
}
