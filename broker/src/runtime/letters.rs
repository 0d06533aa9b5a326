//! Records on their way to the dead-letter log: the shard says which, this reads them and sends them back.

use std::sync::Arc;

use dure_engine::{Letter, LetterError, letter_batch};
use dure_proto::{GroupId, Offset, TopicPartition};
use tokio::sync::{Semaphore, mpsc};

use super::Shards;
use crate::records::RecordReader;

/// Read side by side; the rest wait their turn.
const LETTERS_AT_ONCE: usize = 16;

/// See `Effect::FetchLetter`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LetterRequest {
    pub(crate) group: GroupId,
    pub(crate) source: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) from: (TopicPartition, Offset),
}

/// Runs until the shard that asks is gone.
pub(crate) async fn fetch_letters(
    mut requests: mpsc::UnboundedReceiver<LetterRequest>,
    shards: Shards,
    records: Arc<RecordReader>,
) {
    let permits = Arc::new(Semaphore::new(LETTERS_AT_ONCE));
    while let Some(request) = requests.recv().await {
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        let (shards, records) = (shards.clone(), records.clone());
        tokio::spawn(async move {
            let letter = fetch(request, &records).await;
            shards.of(request.source).letter(letter);
            drop(permit);
        });
    }
}

async fn fetch(request: LetterRequest, records: &RecordReader) -> Letter {
    let LetterRequest { group, source, offset, from } = request;
    let batch = match records.read(from.0, from.1).await {
        // One that was redriven and dies again comes from the dead-letter log itself.
        Ok(stored) if from.0 != source => Ok(letter_batch(Ok(&stored.of_letter().into_letter()))),
        Ok(stored) => Ok(letter_batch(Ok(&stored.into_letter()))),
        Err(error) if error.is_final() => {
            tracing::error!(%source, %offset, %error, "a dead letter's record is lost; the letter says so and is empty");
            Err(LetterError::Damaged(error.to_string()))
        }
        Err(error) => {
            tracing::error!(%source, %offset, %error, "a dead letter's record cannot be read now; it is tried again");
            Err(LetterError::Unread(error.to_string()))
        }
    };
    Letter { group, source, offset, batch }
}
