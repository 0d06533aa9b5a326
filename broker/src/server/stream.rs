//! `Read`: pushes a partition's entries as they lie, for as long as the client gives credit.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use dure_engine::{Cursor, LogView, ReadError, ReadOutcome, RequestError, Wait};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use dure_proto::{PartitionId, TopicId, TopicPartition};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;

use super::connection::{Connection, PUSH_BYTES_MAX};
use super::convert::{checked_offset, error_message, message, read_error};
use crate::broker::Broker;
use crate::health::Phase;
use crate::records::{HeaderFilters, Sieve};
use crate::runtime::{Outgoing, OutgoingFrame};

/// Streams of one connection.
const STREAMS_MAX: usize = 10_000;
/// Reads below this are better off with the kernel's reading ahead.
const PAST_CACHE_BYTES_MIN: usize = 256 << 10;
/// What is read at once.
const READ_BYTES_MAX: usize = 256 << 10;
/// A reader with filters hears after so many bytes, of which nothing matched, how far it is.
const PASSED_BYTES_MAX: usize = 16 << 20;
/// Credit never counts further than this.
const CREDIT_BYTES_MAX: i64 = 1 << 40;

/// What a client is willing to take. Below zero after an entry that was larger than the rest.
#[derive(Debug)]
pub(super) struct Credit {
    bytes: AtomicI64,
    closed: AtomicBool,
    changed: Notify,
}

impl Credit {
    fn new(bytes: u64) -> Credit {
        let bytes = i64::try_from(bytes).unwrap_or(CREDIT_BYTES_MAX).min(CREDIT_BYTES_MAX);
        Credit { bytes: AtomicI64::new(bytes), closed: AtomicBool::new(false), changed: Notify::new() }
    }

    pub(super) fn add(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(CREDIT_BYTES_MAX).min(CREDIT_BYTES_MAX);
        let sum = |now: i64| Some(now.saturating_add(bytes).min(CREDIT_BYTES_MAX));
        let _ = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, sum);
        self.changed.notify_one();
    }

    /// The client wants no more, or nothing more comes.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(i64::try_from(bytes).expect("a frame's length has 32 bits"), Ordering::AcqRel);
    }

    /// Waits until there is some; `None` once closed.
    pub(super) async fn available(&self) -> Option<usize> {
        loop {
            if self.is_closed() {
                return None;
            }
            match usize::try_from(self.bytes.load(Ordering::Acquire)) {
                Ok(bytes @ 1..) => return Some(bytes),
                _ => self.changed.notified().await,
            }
        }
    }
}

impl Connection {
    /// Starts a stream. It is not answered: records follow, or the end of the subscription, which is also how it
    /// fails where no answer was asked for.
    pub(super) fn read(&mut self, correlation: u64, read: &wire::Read) -> Result<(), RequestError> {
        match self.start_stream(read) {
            Err(error) if correlation == 0 => {
                self.outbox.frame(ended(read.subscription, error_message(&error)));
                Ok(())
            }
            started => started,
        }
    }

    fn start_stream(&mut self, read: &wire::Read) -> Result<(), RequestError> {
        let partition =
            TopicPartition { topic: TopicId(read.topic_id), partition: PartitionId(read.partition) };
        let offset = checked_offset(read.offset)?;
        let filters = HeaderFilters::new(&read.filters)?;
        let credit = self.open_stream(read.subscription, read.credit_bytes)?;
        let Some(views) = self.broker.shards.log(partition) else {
            credit.close();
            return Err(self.broker.shards.missing(partition));
        };
        let stream = Stream {
            subscription: read.subscription,
            partition,
            broker: self.broker.clone(),
            views,
            cursor: Cursor::at(offset),
            past_cache: false,
            sieve: filters.map(|filters| Sieve::new(filters, partition)),
            credit,
            answers: self.outbox.answers.clone(),
            pushes: self.pushes.clone(),
        };
        self.tasks.spawn(stream.run());
        Ok(())
    }
}

impl Connection {
    /// A place for pushes under the client's number, with what it is willing to take to begin with.
    pub(super) fn open_stream(
        &mut self,
        subscription: u64,
        credit_bytes: u64,
    ) -> Result<Arc<Credit>, RequestError> {
        // Streams that ended by themselves leave their number.
        if self.streams.len() >= STREAMS_MAX {
            self.streams.retain(|_, credit| !credit.is_closed());
        }
        if self.streams.len() >= STREAMS_MAX {
            return Err(RequestError::Busy(format!("the connection has {STREAMS_MAX} subscriptions")));
        }
        let credit = Arc::new(Credit::new(credit_bytes));
        match self.streams.entry(subscription) {
            Entry::Occupied(taken) if !taken.get().is_closed() => {
                return Err(RequestError::SubscriptionInUse(subscription));
            }
            Entry::Occupied(mut ended) => _ = ended.insert(credit.clone()),
            Entry::Vacant(free) => _ = free.insert(credit.clone()),
        }
        Ok(credit)
    }
}

struct Stream {
    subscription: u64,
    partition: TopicPartition,
    broker: Arc<Broker>,
    views: watch::Receiver<LogView>,
    cursor: Cursor,
    /// The last read was past the page cache.
    past_cache: bool,
    /// What a reader with filters does not want stays in it.
    sieve: Option<Sieve>,
    credit: Arc<Credit>,
    answers: mpsc::UnboundedSender<Outgoing>,
    pushes: Arc<Semaphore>,
}

impl Stream {
    async fn run(mut self) {
        let end = self.push_all().await;
        self.credit.close();
        if let Err(error) = end {
            let _ = self.answers.send(Outgoing::Frame(ended(self.subscription, error)));
        }
    }

    /// Until the client wants no more.
    async fn push_all(&mut self) -> Result<(), wire::Error> {
        while let Some(credit) = self.credit.available().await {
            let bytes_max = credit.min(READ_BYTES_MAX);
            let room = self.room(self.cursor.read_bytes(bytes_max)).await;
            let view = self.views.borrow_and_update().clone();
            let high_watermark = view.high_watermark.0;
            match self.read(view, bytes_max).await? {
                ReadOutcome::Entries(entries) => match self.sieve.take() {
                    None => self.push(high_watermark, vec![entries], room),
                    Some(sieve) => self.sift(high_watermark, sieve, entries, room).await,
                },
                ReadOutcome::Lost(lost) => {
                    self.tell_passed(high_watermark, room);
                    let lost = wire::OffsetRange { from: lost.start.0, to: lost.end.0 };
                    let subscription = self.subscription;
                    let records = wire::Records { subscription, high_watermark, lost: Some(lost) };
                    let _ = self.answers.send(Outgoing::Frame(OutgoingFrame::push(Body::Records(records))));
                }
                ReadOutcome::AtEnd | ReadOutcome::WouldWait => {
                    self.tell_passed(high_watermark, room);
                    let more = tokio::select! {
                        changed = self.views.changed() => changed.is_ok(),
                        () = self.credit.changed.notified() => true,
                    };
                    if !more {
                        return Err(self.log_is_gone());
                    }
                }
            }
        }
        Ok(())
    }

    /// From memory if it is there, else on a thread that may wait for the disk. Whoever reads much of what is no longer in
    /// memory gets it past the page cache: to find pages for it costs more than to read it. From then on one byte is asked
    /// for before all of them are, since a read of what is not in memory makes the kernel get it; any byte, since the page
    /// that an earlier reader asked for is there.
    async fn read(&mut self, view: LogView, bytes_max: usize) -> Result<ReadOutcome, wire::Error> {
        let any_byte = fastrand::usize(..self.cursor.read_bytes(bytes_max));
        let asked = match self.past_cache && !view.is_cached(&self.cursor, any_byte) {
            true => Ok(ReadOutcome::WouldWait),
            false => view.read(&mut self.cursor, bytes_max, Wait::CachedOnly),
        };
        self.past_cache = false;
        let outcome = match asked {
            Ok(ReadOutcome::WouldWait) => {
                let mut cursor = self.cursor.clone();
                let much = bytes_max >= PAST_CACHE_BYTES_MIN;
                self.past_cache = much && view.is_sealed_at(cursor.offset());
                let wait = if self.past_cache { Wait::PastCache } else { Wait::MayWait };
                let read = spawn_blocking(move || (view.read(&mut cursor, bytes_max, wait), cursor));
                let (outcome, cursor) = read.await.map_err(|error| {
                    message(ErrorCode::ReadFailed, format!("reading failed: {error}"), Retry::Later)
                })?;
                self.cursor = cursor;
                outcome
            }
            outcome => outcome,
        };
        outcome.map_err(|error| {
            if matches!(error, ReadError::Disk { .. }) {
                tracing::error!(%error, "a stream's read failed");
            }
            read_error(&error)
        })
    }

    /// Waits for room among the pushes, before anything is read: a client which does not read holds up itself alone, and
    /// what its streams have read for it stays bounded however many they are. An entry may be larger than was asked for, and
    /// counts as what was: eight of them, at most.
    async fn room(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(PUSH_BYTES_MAX);
        self.pushes.clone().acquire_many_owned(bytes).await.expect("never closed")
    }

    fn push(&self, high_watermark: u64, entries: Vec<Bytes>, mut room: OwnedSemaphorePermit) {
        let bytes = entries.iter().map(Bytes::len).sum();
        drop(room.split(room.num_permits().saturating_sub(bytes)));
        self.credit.take(bytes);
        self.broker.metrics.bytes_out.increment(bytes as u64);
        let records = wire::Records { subscription: self.subscription, high_watermark, lost: None };
        let envelope = wire::Envelope { correlation: 0, body: Some(Body::Records(records)) };
        let frame = OutgoingFrame { envelope, attachment: entries, permit: Some(room) };
        let _ = self.answers.send(Outgoing::Frame(frame));
    }

    /// Pushes of a chunk what matches the reader's filters.
    async fn sift(&mut self, high_watermark: u64, sieve: Sieve, entries: Bytes, room: OwnedSemaphorePermit) {
        let at_end = self.cursor.offset().0 >= high_watermark;
        let mut sieve = self.broker.records.sieve(sieve, entries, at_end).await;
        if sieve.passed_bytes() >= PASSED_BYTES_MAX {
            sieve.tell_passed();
        }
        self.sieve = Some(sieve);
        self.push_ready(high_watermark, room);
        // A log of which nothing matches is read without a pause; others have their turn in between.
        tokio::task::yield_now().await;
    }

    /// Nothing more is read for now: a reader with filters hears how far it is.
    fn tell_passed(&mut self, high_watermark: u64, room: OwnedSemaphorePermit) {
        if let Some(sieve) = &mut self.sieve {
            sieve.tell_passed();
            self.push_ready(high_watermark, room);
        }
    }

    fn push_ready(&mut self, high_watermark: u64, room: OwnedSemaphorePermit) {
        let ready = self.sieve.as_mut().map(Sieve::take_ready).unwrap_or_default();
        if ready.iter().any(|entries| !entries.is_empty()) {
            self.push(high_watermark, ready, room);
        }
    }

    fn log_is_gone(&self) -> wire::Error {
        if self.broker.health.now().phase == Phase::Stopping {
            return error_message(&RequestError::ShuttingDown);
        }
        error_message(&self.broker.shards.missing(self.partition))
    }
}

/// The push that ends a subscription.
pub(super) fn ended(subscription: u64, error: wire::Error) -> OutgoingFrame {
    let ended = wire::SubscriptionEnded { subscription, error: Some(error) };
    OutgoingFrame::push(Body::SubscriptionEnded(ended))
}
