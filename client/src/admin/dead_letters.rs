//! Dead letters.

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};

use super::Admin;
use crate::client::{Retries, unexpected};
use crate::error::{Error, Result};
use crate::message::Header;
use crate::queue::{Parts, unpack};

/// A message that a queue group gave up. Serializes as in `dure dlq show -o json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it within its topic and group.
    pub id: String,
    /// The source topic.
    pub topic: String,
    /// The partition within it.
    pub partition: u32,
    /// The offset in the source.
    pub offset: u64,
    /// When it was appended to the source, in milliseconds since the epoch.
    pub timestamp_ms: u64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The body; absent in a tombstone.
    pub value: Option<Bytes>,
    /// The headers in the order given.
    pub headers: Vec<Header>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
    /// When it was given up, in milliseconds since the epoch.
    pub dead_time_ms: u64,
}

/// Some of the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterPage {
    /// In the order of their ids.
    pub letters: Vec<DeadLetter>,
    /// There are more behind the last one.
    pub more: bool,
}

impl Admin {
    /// Up to `count_max` dead letters of a topic's group, behind the one with the id `after` if given.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_GROUP`.
    pub async fn list_dead_letters(
        &self,
        topic: &str,
        group: &str,
        after: Option<&str>,
        count_max: u32,
    ) -> Result<DeadLetterPage> {
        let after = after.unwrap_or_default().to_owned();
        self.dead_letters(topic, group, None, after, count_max).await
    }

    /// One dead letter; `None` if there is no such.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_GROUP`.
    pub async fn dead_letter(&self, topic: &str, group: &str, id: &str) -> Result<Option<DeadLetter>> {
        let page = self.dead_letters(topic, group, Some(id.to_owned()), String::new(), 1).await?;
        Ok(page.letters.into_iter().next())
    }

    async fn dead_letters(
        &self,
        topic: &str,
        group: &str,
        id: Option<String>,
        after: String,
        count_max: u32,
    ) -> Result<DeadLetterPage> {
        let (source, group) = (topic.to_owned(), group.to_owned());
        let body =
            Body::ListDeadLetters(wire::ListDeadLetters { topic: source, group, id, after, count_max });
        let reply = self.client.call(body, Retries::Idempotent).await?;
        let page = match reply.body {
            Body::DeadLetters(page) => page,
            other => return Err(unexpected("ListDeadLetters", &other)),
        };
        let mut bytes = reply.attachment;
        let letters = page.letters.into_iter().map(|letter| read(topic, letter, &mut bytes));
        Ok(DeadLetterPage { letters: letters.collect::<Result<_>>()?, more: page.more })
    }

    /// Gives dead letters back to the group, up to `count_max` of them if given, and says how many. They are
    /// delivered again as the same messages, from attempt 1.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_GROUP`.
    pub async fn redrive(&self, topic: &str, group: &str, count_max: Option<u64>) -> Result<u64> {
        if count_max == Some(0) {
            return Ok(0); // to the broker 0 means all
        }
        let (topic, group) = (topic.to_owned(), group.to_owned());
        let count_max = count_max.unwrap_or(0);
        self.counted("Redrive", Body::Redrive(wire::Redrive { topic, group, count_max })).await
    }

    /// Deletes all dead letters of a topic's group and says how many.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_GROUP`.
    pub async fn purge_dead_letters(&self, topic: &str, group: &str) -> Result<u64> {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        let body = Body::PurgeDeadLetters(wire::PurgeDeadLetters { topic, group });
        self.counted("PurgeDeadLetters", body).await
    }
}

fn read(topic: &str, letter: wire::DeadLetter, bytes: &mut Bytes) -> Result<DeadLetter> {
    let job = letter.job.ok_or_else(|| Error::protocol(format!("dead letter {} is empty", letter.id)))?;
    let Parts { key, value, headers } = unpack(&job, bytes)?;
    Ok(DeadLetter {
        id: letter.id,
        topic: topic.to_owned(),
        partition: job.partition,
        offset: job.offset,
        timestamp_ms: job.append_time_ms,
        key,
        value,
        headers,
        attempts: letter.attempts,
        reason: letter.reason,
        dead_time_ms: letter.dead_time_ms,
    })
}
