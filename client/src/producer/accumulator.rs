//! Where messages wait to be sent: one open batch per partition, and full ones behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dure_proto::wire::produce::Due;
use dure_proto::{BATCH_HEADER_BYTES, BATCH_RECORDS_MAX, BatchBuilder, Compression};
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use super::delivery::{Appended, Delivery, Outcome};
use crate::error::{Error, Result};
use crate::message::Message;

/// An upper bound of what a record takes beside its key, value and headers, and what each header adds.
const RECORD_OVERHEAD_BYTES: usize = 40;
const HEADER_OVERHEAD_BYTES: usize = 12;

#[derive(Debug)]
pub(super) struct Batching {
    pub(super) compression: Compression,
    pub(super) linger: Duration,
    pub(super) batch_bytes_max: usize,
    pub(super) inflight_bytes_max: usize,
    /// How long a batch may take from its first message to its acknowledgement.
    pub(super) timeout: Duration,
}

/// A batch that is being filled.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) builder: BatchBuilder,
    pub(super) reply: oneshot::Sender<Result<Appended>>,
    /// Bytes to give back once it is answered.
    pub(super) reserved: usize,
    pub(super) deadline: Instant,
    /// When its messages enter the topic: all of one batch at one time.
    pub(super) due: Option<Due>,
    outcome: Outcome,
    /// When it may be sent although it is not full.
    lingers_until: Instant,
}

#[derive(Debug, Default)]
struct Waiting {
    full: VecDeque<OpenBatch>,
    open: Option<OpenBatch>,
    /// What the last full one took: the next will, too.
    full_bytes: usize,
    /// It is in `State::dirty`.
    dirty: bool,
}

#[derive(Debug)]
struct State {
    closed: bool,
    partitions: Vec<Waiting>,
    /// Partitions that the sender should look at.
    dirty: Vec<u32>,
    /// Where messages without a key go until its batch is sent.
    sticky: u32,
    /// Batches that may not be answered yet, oldest first.
    outstanding: VecDeque<Outcome>,
}

#[derive(Debug)]
pub(super) struct Accumulator {
    state: Mutex<State>,
    room: Semaphore,
    wake: Notify,
    batching: Batching,
}

/// What the sender finds when it looks for a batch of a partition.
#[derive(Debug)]
pub(super) enum Taken {
    Batch(Box<OpenBatch>),
    /// One lingers until then.
    NotBefore(Instant),
    Nothing,
}

impl Accumulator {
    pub(super) fn new(partitions: u32, batching: Batching) -> Accumulator {
        let state = State {
            closed: false,
            partitions: (0..partitions).map(|_| Waiting::default()).collect(),
            dirty: Vec::new(),
            sticky: fastrand::u32(0..partitions),
            outstanding: VecDeque::new(),
        };
        let room = Semaphore::new(batching.inflight_bytes_max);
        Accumulator { state: Mutex::new(state), room, wake: Notify::new(), batching }
    }

    /// Nothing that can panic runs between two changes that belong together.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room, then adds the message to the batch of its partition, or of the sticky one.
    pub(super) async fn append(
        &self,
        topic: &Arc<str>,
        partition: Option<u32>,
        message: Message,
    ) -> Result<Delivery> {
        let bytes = message.bytes() + RECORD_OVERHEAD_BYTES + message.headers.len() * HEADER_OVERHEAD_BYTES;
        let reserved = bytes.min(self.batching.inflight_bytes_max);
        let permit = self.room.acquire_many(reserved as u32).await.expect("the semaphore is never closed");
        let timestamp_ms = now_ms();

        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        let partition = partition.unwrap_or(state.sticky);
        let State { partitions, outstanding, sticky, dirty, .. } = &mut *state;
        let spread = partitions.len() as u32;
        let waiting = &mut partitions[partition as usize];
        let fits = |open: &mut OpenBatch| {
            open.builder.bytes() + bytes <= self.batching.batch_bytes_max
                && open.builder.len() < BATCH_RECORDS_MAX as usize
                && open.due == message.due
        };
        if let Some(full) = waiting.open.take_if(|open| !fits(open)) {
            waiting.full_bytes = full.builder.bytes();
            waiting.full.push_back(full);
            if *sticky == partition {
                *sticky = (partition + 1) % spread;
            }
        }
        let fresh = waiting.open.is_none();
        // Behind a full batch another is likely: it gets all of its room at once, since growing copies.
        let room = if waiting.full.is_empty() { BATCH_HEADER_BYTES } else { waiting.full_bytes } + bytes;
        let open = waiting.open.get_or_insert_with(|| self.open_batch(message.due, room));
        let index = open.builder.len() as u32;
        let Message { key, value, headers, .. } = &message;
        if let Err(error) = open.builder.push_owned(key.as_deref(), value.as_deref(), headers, timestamp_ms) {
            if fresh {
                waiting.open = None;
            }
            return Err(Error::invalid(format!("this message cannot be sent: {error}")));
        }
        open.reserved += reserved;
        permit.forget();
        if fresh {
            while outstanding.front().is_some_and(|outcome| outcome.peek().is_some()) {
                outstanding.pop_front();
            }
            outstanding.push_back(open.outcome.clone());
        }
        let outcome = open.outcome.clone();
        let news = !std::mem::replace(&mut waiting.dirty, true);
        if news {
            dirty.push(partition);
        }
        drop(state);
        if news {
            self.wake.notify_one();
        }
        Ok(Delivery { topic: Arc::clone(topic), partition, index, outcome })
    }

    fn open_batch(&self, due: Option<Due>, room: usize) -> OpenBatch {
        let now = Instant::now();
        let (reply, outcome) = oneshot::channel();
        OpenBatch {
            builder: BatchBuilder::with_room(self.batching.compression, room),
            reply,
            reserved: 0,
            deadline: now + self.batching.timeout,
            due,
            outcome: outcome.shared(),
            lingers_until: now + self.batching.linger,
        }
    }

    /// The next batch of a partition: a full one, or what there is if `idle` says that nothing of the
    /// partition is under way.
    pub(super) fn take(&self, partition: u32, idle: bool) -> Taken {
        let mut state = self.state();
        let State { partitions, sticky, closed, .. } = &mut *state;
        let spread = partitions.len() as u32;
        let waiting = &mut partitions[partition as usize];
        if let Some(full) = waiting.full.pop_front() {
            return Taken::Batch(Box::new(full));
        }
        let Some(open) = &waiting.open else { return Taken::Nothing };
        if !idle {
            return Taken::Nothing; // the answer to what is under way brings the sender back
        }
        if !*closed && open.lingers_until > Instant::now() {
            return Taken::NotBefore(open.lingers_until);
        }
        if *sticky == partition {
            *sticky = (partition + 1) % spread;
        }
        waiting.open.take().map_or(Taken::Nothing, |open| Taken::Batch(Box::new(open)))
    }

    /// Waits until there is something to look at.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The partitions with news.
    pub(super) fn drain_dirty(&self, into: &mut Vec<u32>) {
        let mut state = self.state();
        let State { partitions, dirty, .. } = &mut *state;
        for partition in dirty.drain(..) {
            partitions[partition as usize].dirty = false;
            into.push(partition);
        }
    }

    /// Gives back the bytes of an answered batch.
    pub(super) fn release(&self, reserved: usize) {
        self.room.add_permits(reserved);
    }

    /// Whether it is closed and empty.
    pub(super) fn is_finished(&self) -> bool {
        let state = self.state();
        state.closed && state.partitions.iter().all(|w| w.open.is_none() && w.full.is_empty())
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.mark_all_dirty();
        drop(state);
        self.wake.notify_one();
    }

    /// Makes everything due and waits for all that is outstanding.
    pub(super) async fn flush(&self) -> Result<()> {
        let outstanding = {
            let mut state = self.state();
            let now = Instant::now();
            for waiting in &mut state.partitions {
                if let Some(open) = &mut waiting.open {
                    open.lingers_until = open.lingers_until.min(now);
                }
            }
            state.mark_all_dirty();
            state.outstanding.clone()
        };
        self.wake.notify_one();
        let mut flushed = Ok(());
        for outcome in outstanding {
            let outcome = outcome.await.unwrap_or_else(|_| Err(super::delivery::abandoned()));
            flushed = flushed.and(outcome.map(drop));
        }
        flushed
    }
}

impl State {
    fn mark_all_dirty(&mut self) {
        let State { partitions, dirty, .. } = self;
        for (partition, waiting) in partitions.iter_mut().enumerate() {
            if (waiting.open.is_some() || !waiting.full.is_empty()) && !waiting.dirty {
                waiting.dirty = true;
                dirty.push(partition as u32);
            }
        }
    }
}

/// For people: the broker stamps its own time when it appends.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
