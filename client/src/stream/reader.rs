//! The task that reads one partition: subscribes, checks what is pushed, goes on behind it after a reconnect.

use std::sync::Arc;

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};
use dure_proto::{EntryHeader, split_entries};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::credit::{Held, Returned};
use super::filter::Filters;
use super::{Start, locate};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::connection::{Push, Subscription};
use crate::error::{Error, ErrorCode, Result};
use crate::patience::{Patience, Unseen};

/// No entry is smaller: its header and that of its batch.
const ENTRY_BYTES_MIN: u64 = (dure_proto::ENTRY_HEADER_BYTES + dure_proto::BATCH_HEADER_BYTES) as u64;
/// Pushes that take no credit, such as lost ranges, may come on top of what the credit allows.
const PUSHES_WITHOUT_CREDIT: u64 = 4096;

/// Stands for the stream as a whole; the lanes of partitions count from 1.
pub(super) const NO_LANE: u64 = 0;

/// Something about one partition, in order.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) lane: u64,
    pub(super) event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    /// What follows starts here.
    Positioned { offset: u64 },
    /// Its records are not checked yet.
    Batch { header: EntryHeader, batch: Bytes, held: Held },
    /// These offsets cannot be read.
    Lost { from: u64, to: u64 },
    /// `last`: nothing follows.
    Failed { error: Error, last: bool, _unseen: Unseen },
    /// The topic is, and nothing follows.
    Gone,
}

/// What the readers of a stream have in common.
#[derive(Clone)]
pub(super) struct ReaderConfig {
    pub(super) client: Client,
    pub(super) credit_bytes: u64,
    /// What a record must have to be sent.
    pub(super) filters: Filters,
    /// Bounded by the credit.
    pub(super) out: mpsc::UnboundedSender<Fetched>,
    pub(super) stop: CancellationToken,
}

pub(super) struct Reader {
    pub(super) lane: u64,
    pub(super) topic: Arc<str>,
    pub(super) topic_id: u32,
    pub(super) partition: u32,
    pub(super) start: Start,
    /// That its topic is gone is no failure.
    pub(super) may_vanish: bool,
    pub(super) config: ReaderConfig,
}

/// Why reading was interrupted.
enum Interrupted {
    /// The connection is gone, or the consumer.
    Lost,
    Failed(Error),
}

impl Reader {
    pub(super) fn start(self) {
        tokio::spawn(async move {
            let stop = self.config.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run() => {}
            }
        });
    }

    async fn run(self) {
        let mut next = match self.position(self.start).await {
            Ok(offset) => offset,
            Err(error) => {
                let mut patience = Patience::new(self.config.client.inner.request_timeout);
                return self.fail(error, true, &mut patience);
            }
        };
        self.emit(Event::Positioned { offset: next });
        let mut flow = Flow {
            credit_bytes: self.config.credit_bytes,
            outstanding: 0,
            unsaid: 0,
            returned: Arc::default(),
        };
        let mut patience = Patience::new(self.config.client.inner.request_timeout);
        let mut backoff = Backoff::later();
        while !self.config.out.is_closed() {
            let before = next;
            let error = match self.read(&mut next, &mut flow).await {
                Interrupted::Lost => {
                    patience.works();
                    continue;
                }
                Interrupted::Failed(error) => error,
            };
            if next > before {
                backoff.reset();
                patience.works();
            }
            if error.code() == Some(ErrorCode::OffsetOutOfRange) {
                match self.nearest(next).await {
                    Ok(offset) => {
                        tracing::warn!(
                            topic = %self.topic, partition = self.partition, from = next, to = offset,
                            "the log does not hold this offset (any more): reading goes on elsewhere"
                        );
                        next = offset;
                        self.emit(Event::Positioned { offset });
                    }
                    Err(error) => self.fail(error, false, &mut patience),
                }
            } else {
                let last = !error.is_retriable() && !matches!(error, Error::Protocol { .. });
                self.fail(error, last, &mut patience);
                if last {
                    return;
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Reads on one connection until something interrupts it.
    async fn read(&self, next: &mut u64, flow: &mut Flow) -> Interrupted {
        let connection = match self.config.client.connection_by(self.config.client.deadline()).await {
            Ok(connection) => connection,
            Err(error) => return Interrupted::Failed(error),
        };
        let pushes_max = self.config.credit_bytes / ENTRY_BYTES_MIN + PUSHES_WITHOUT_CREDIT;
        let Ok(mut subscription) = connection.subscribe(pushes_max as usize) else {
            return Interrupted::Lost;
        };
        let body = Body::Read(wire::Read {
            subscription: subscription.id,
            topic_id: self.topic_id,
            partition: self.partition,
            offset: *next,
            filters: self.config.filters.to_wire(),
            credit_bytes: flow.credit_for_a_new_subscription(),
        });
        let Ok(submitted) = connection.submit(body, Bytes::new()).await else { return Interrupted::Lost };
        let mut answer = std::pin::pin!(submitted.reply());
        let mut answered = false;
        loop {
            tokio::select! {
                push = subscription.pushes.recv() => match push {
                    Some(push) => {
                        if let Err(interrupted) = self.take_in(push, next, flow) {
                            return interrupted;
                        }
                    }
                    None => return Interrupted::Lost,
                },
                reply = &mut answer, if !answered => match reply {
                    Ok(_) => answered = true,
                    Err(error) if error.code().is_some() => return Interrupted::Failed(error),
                    Err(_) => return Interrupted::Lost,
                },
                () = flow.returned.some() => flow.give_back(&subscription),
                () = self.config.out.closed() => return Interrupted::Lost,
            }
        }
    }

    fn take_in(&self, push: Push, next: &mut u64, flow: &mut Flow) -> Result<(), Interrupted> {
        match push {
            Push::Records { header, entries } => {
                flow.outstanding += entries.len() as u64;
                for entry in split_entries(entries) {
                    let (header, batch) = entry.map_err(|error| self.garbled(*next, &error))?;
                    let held = Held::new(header.entry_bytes() as u64, &flow.returned);
                    let end = header.end_offset().0;
                    if end > *next {
                        *next = end;
                        self.emit(Event::Batch { header, batch, held });
                    }
                }
                if let Some(wire::OffsetRange { from, to }) = header.lost
                    && to > *next
                {
                    self.emit(Event::Lost { from: from.max(*next), to });
                    *next = to;
                }
                Ok(())
            }
            Push::Ended(error) => Err(Interrupted::Failed(error)),
            _ => Err(Interrupted::Failed(Error::protocol("something else came where records belong"))),
        }
    }

    fn garbled(&self, next: u64, error: &dure_proto::EntryError) -> Interrupted {
        let (topic, partition) = (&self.topic, self.partition);
        let reason =
            format!("{topic}/{partition}: what was pushed from offset {next} on is damaged: {error}");
        Interrupted::Failed(Error::protocol(reason))
    }

    async fn position(&self, start: Start) -> Result<u64> {
        match start {
            Start::Offset(offset) => Ok(offset),
            start => Ok(locate(&self.config.client, self.topic_id, self.partition, start).await?.offset),
        }
    }

    /// The offset nearest to this one that the log holds.
    async fn nearest(&self, offset: u64) -> Result<u64> {
        let earliest = locate(&self.config.client, self.topic_id, self.partition, Start::Earliest).await?;
        Ok(offset.clamp(earliest.offset, earliest.high_watermark.max(earliest.offset)))
    }

    fn fail(&self, error: Error, last: bool, patience: &mut Patience) {
        if last && self.may_vanish && error.code() == Some(ErrorCode::UnknownTopic) {
            return self.emit(Event::Gone);
        }
        if let Some(unseen) = patience.tell(&error, last) {
            self.emit(Event::Failed { error, last, _unseen: unseen });
        }
    }

    fn emit(&self, event: Event) {
        // If the consumer is gone, this task ends soon.
        let _ = self.config.out.send(Fetched { lane: self.lane, event });
    }
}

/// The credit of one partition, through all reconnects.
struct Flow {
    credit_bytes: u64,
    /// Pushed, and not yet collected from `returned`.
    outstanding: u64,
    /// Collected, and not yet told to the broker.
    unsaid: u64,
    returned: Arc<Returned>,
}

impl Flow {
    fn collect(&mut self) {
        let bytes = self.returned.collect();
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.unsaid += bytes;
    }

    fn credit_for_a_new_subscription(&mut self) -> u64 {
        self.collect();
        self.unsaid = 0;
        self.credit_bytes.saturating_sub(self.outstanding)
    }

    /// Tells the broker once a good part of the credit is free again, or all of it.
    fn give_back(&mut self, subscription: &Subscription) {
        self.collect();
        if self.unsaid == 0 || (self.unsaid < self.credit_bytes / 4 && self.outstanding > 0) {
            return;
        }
        let bytes = std::mem::take(&mut self.unsaid);
        let credit = wire::Credit { subscription: subscription.id, bytes, messages: 0 };
        subscription.connection.send(Body::Credit(credit));
    }
}
