//! Listing dead letters: the shard says where they lie, their bytes are read here.

use std::sync::Arc;

use dure_engine::{DeadLetterRef, Request, RequestError, Response};
use dure_proto::wire;
use dure_proto::wire::envelope::Body;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::convert::error_message;
use super::delivery::{envelope_bytes, job_of};
use super::dispatch::Room;
use crate::broker::Broker;
use crate::records::{Attachment, record_bytes};
use crate::runtime::{AnswerTo, OutgoingFrame, Pending};

const LETTERS_MAX: u32 = 1000;
/// Bytes of records in one answer; any single one fits.
const LETTERS_BYTES_MAX: usize = 8 << 20;
/// What the letters of one answer may take in its envelope.
const LETTERS_ENVELOPE_BYTES_MAX: usize = 512 << 10;

impl Connection {
    pub(super) fn list_dead_letters(
        &mut self,
        correlation: u64,
        mut list: wire::ListDeadLetters,
        room: Room,
    ) {
        list.count_max = match list.count_max {
            0 => LETTERS_MAX,
            count => count.min(LETTERS_MAX),
        };
        let Room { connection: permit, global } = room;
        let (answer, answered) = oneshot::channel();
        let pending = Pending::metered_globally(AnswerTo::Local(answer), global);
        self.submit(self.broker.shards.catalogue(), Request::ListDeadLetters(list), pending);
        let (broker, outbox) = (self.broker.clone(), self.outbox.clone());
        self.tasks.spawn(async move {
            let frame = match answered.await.unwrap_or(Err(RequestError::ShuttingDown)) {
                Ok(Response::DeadLetters { letters, more }) => {
                    let (letters, attachment) = read(&broker, letters, more).await;
                    let envelope = wire::Envelope { correlation, body: Some(Body::DeadLetters(letters)) };
                    OutgoingFrame { envelope, attachment: attachment.finish(), permit: Some(permit) }
                }
                Ok(other) => unreachable!("a list of dead letters was answered with {other:?}"),
                Err(error) => {
                    OutgoingFrame::answer(correlation, Body::Error(error_message(&error)), Some(permit))
                }
            };
            outbox.frame(frame);
        });
    }
}

async fn read(
    broker: &Arc<Broker>,
    letters: Vec<DeadLetterRef>,
    more: bool,
) -> (wire::DeadLetters, Attachment) {
    let mut answer = wire::DeadLetters { letters: Vec::with_capacity(letters.len()), more };
    let (mut attachment, mut envelope) = (Attachment::default(), 0);
    for letter in letters {
        let mut job = wire::Job::default();
        match broker.records.read(letter.kept_in, letter.letter).await {
            Ok(stored) => {
                let stored = stored.of_letter();
                let bytes = attachment.len() + record_bytes(&stored.record);
                envelope += envelope_bytes(&stored) + letter.reason.len();
                if !answer.letters.is_empty()
                    && (bytes > LETTERS_BYTES_MAX || envelope > LETTERS_ENVELOPE_BYTES_MAX)
                {
                    answer.more = true;
                    break;
                }
                job = job_of(&stored);
                attachment.push(&stored.record, &mut job);
            }
            // What is known of it is told all the same, without its bytes.
            Err(error) => tracing::error!(%error, "a dead letter cannot be read"),
        }
        job.partition = letter.partition.0;
        job.offset = letter.offset.0;
        answer.letters.push(wire::DeadLetter {
            id: format!("{}-{}", letter.partition, letter.offset),
            job: Some(job),
            attempts: letter.attempts,
            reason: letter.reason,
            dead_time_ms: letter.dead_wall_ms,
        });
    }
    (answer, attachment)
}
