//! Reading a topic in order: [`reader`] fetches each partition, [`MessageStream`] unpacks and yields, [`member`]
//! takes part in a stream group.

mod builder;
mod credit;
mod filter;
mod member;
mod ownership;
mod progress;
mod reader;
mod session;
mod subscription;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dure_proto::{BatchLimits, EntryHeader, Records};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::message::StreamMessage;
use credit::Held;
use filter::Filters;
use member::Member;
use progress::{Handled, Progress};
use reader::{Event, Fetched};

pub(crate) use builder::locate;
pub use builder::{Start, StreamBuilder};

/// The end of a partition when the stream was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighWatermark {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition within it.
    pub partition: u32,
    /// The offset behind its last message.
    pub offset: u64,
}

/// The messages of a topic: a [`futures::Stream`](futures_core::Stream) of `Result<StreamMessage>`, in order
/// within each partition.
///
/// It reconnects by itself and goes on behind the last message yielded. An error does not end it: a range that
/// is damaged is reported once as [`Error::Corrupt`] and skipped, and while there is no broker,
/// [`Error::Disconnected`] is yielded from time to time. It ends when nothing more can come.
#[derive(Debug)]
pub struct MessageStream {
    fetched: mpsc::UnboundedReceiver<Fetched>,
    progress: Arc<Progress>,
    current: Option<Current>,
    /// The lane of the message yielded last, until the next one is asked for.
    yielded: Option<u64>,
    high_watermarks: Vec<HighWatermark>,
    filters: Filters,
    stop: CancellationToken,
    member: Option<Member>,
    /// More topics may appear.
    watches: bool,
}

/// A batch that is being yielded.
#[derive(Debug)]
struct Current {
    lane: u64,
    topic: Arc<str>,
    partition: u32,
    header: EntryHeader,
    records: Records,
    index: usize,
    _held: Held,
}

impl Drop for MessageStream {
    /// A member leaves its group in the background, after committing what is handled if it does so by itself.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl MessageStream {
    fn new(
        fetched: mpsc::UnboundedReceiver<Fetched>,
        progress: Arc<Progress>,
        high_watermarks: Vec<HighWatermark>,
        filters: Filters,
        stop: CancellationToken,
        member: Option<Member>,
    ) -> MessageStream {
        let (current, yielded, watches) = (None, None, false);
        MessageStream { fetched, progress, current, yielded, high_watermarks, filters, stop, member, watches }
    }

    /// The next message.
    pub async fn next(&mut self) -> Option<Result<StreamMessage>> {
        std::future::poll_fn(|context| self.poll_message(context)).await
    }

    /// Where each partition ended when the stream was started. Empty for a member of a group.
    #[must_use]
    pub fn high_watermarks(&self) -> &[HighWatermark] {
        &self.high_watermarks
    }

    /// The offset that the next message of this partition will have at least; `None` if it is not being read.
    #[must_use]
    pub fn position(&self, topic: &str, partition: u32) -> Option<u64> {
        self.progress.lanes().of(topic, partition).map(|lane| lane.position)
    }

    /// Commits this message and all before it in its partition, for the group.
    ///
    /// # Errors
    /// [`Error::Broker`] with `FENCED_GENERATION` if the partition belongs to another member by now: it will
    /// read the message again.
    pub async fn commit(&self, message: &StreamMessage) -> Result<()> {
        self.commit_through(&message.topic, message.partition, message.offset).await
    }

    /// As [`commit`](Self::commit), by numbers: everything up to and including `offset`.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_through(&self, topic: &str, partition: u32, offset: u64) -> Result<()> {
        let handled = Handled { topic: topic.into(), partition, offset: offset.saturating_add(1) };
        self.member()?.commit(vec![handled]).await
    }

    /// Commits everything that has been yielded: for whom is done with all of it.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_yielded(&self) -> Result<()> {
        let member = self.member()?;
        let offsets = {
            let mut lanes = self.progress.lanes();
            lanes.handle_all();
            lanes.uncommitted(None)
        };
        member.commit(offsets).await
    }

    /// Ends the stream. A member that commits by itself commits everything that was yielded; every member
    /// leaves its group, so that the others take over at once.
    ///
    /// # Errors
    /// If committing or leaving failed; the group notices the absence by itself then.
    pub async fn close(mut self) -> Result<()> {
        match self.member.take() {
            Some(member) => member.close(&self.progress).await,
            None => Ok(()),
        }
    }

    fn member(&self) -> Result<&Member> {
        self.member.as_ref().ok_or_else(|| Error::invalid("there is nothing to commit without a group"))
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<StreamMessage>>> {
        if let Some(lane) = self.yielded.take() {
            self.progress.handled(lane);
        }
        loop {
            if let Some(message) = self.next_of_current() {
                return Poll::Ready(Some(message));
            }
            if self.member.is_none() && !self.watches && self.progress.lanes().at_end() {
                return Poll::Ready(None);
            }
            match self.fetched.poll_recv(context) {
                Poll::Ready(Some(fetched)) => {
                    if let Some(error) = self.take_in(fetched) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next record of the batch at hand that is still ours and not yielded yet.
    fn next_of_current(&mut self) -> Option<Result<StreamMessage>> {
        let current = self.current.as_mut()?;
        let mut lanes = self.progress.lanes();
        if let Some(lane) = lanes.open.get_mut(&current.lane).filter(|lane| !lane.closing) {
            while let Some(record) = current.records.get(current.index) {
                current.index += 1;
                let offset = current.header.base_offset.0 + u64::from(record.offset_delta);
                if offset < lane.position {
                    continue;
                }
                if lane.end.is_some_and(|end| offset >= end) {
                    break;
                }
                if !self.filters.match_record(&record) {
                    continue;
                }
                lane.position = offset + 1;
                lane.yielded = Some(lane.position);
                self.yielded = Some(current.lane);
                return Some(Ok(StreamMessage {
                    topic: Arc::clone(&current.topic),
                    partition: current.partition,
                    offset,
                    timestamp_ms: current.header.append_time_ms,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                }));
            }
            // Offsets without a record are dealt with when everything before them is.
            let dealt_with = lane.handled == lane.position;
            lane.position = lane.position.max(current.header.end_offset().0);
            if dealt_with {
                lane.handled = lane.position;
            }
        }
        drop(lanes);
        self.current = None;
        None
    }

    /// Makes a fetched batch the current one; returns what has to be reported.
    fn take_in(&mut self, Fetched { lane: id, event }: Fetched) -> Option<Error> {
        if let (reader::NO_LANE, Event::Failed { error, .. }) = (id, &event) {
            return Some(error.clone());
        }
        let mut lanes = self.progress.lanes();
        // Otherwise it was fetched before the partition was given up.
        let lane = lanes.open.get_mut(&id).filter(|lane| !lane.closing)?;
        let corrupt = |from: u64, to: u64| Error::Corrupt {
            topic: lane.topic.to_string(),
            partition: lane.partition,
            from,
            to,
        };
        match event {
            Event::Positioned { offset } => {
                lane.position = lane.position.max(offset);
                // What is in the consumer's hands stays unhandled wherever reading goes on.
                if lane.yielded.is_none() {
                    lane.handled = lane.handled.max(offset);
                }
                None
            }
            Event::Batch { header, batch, held } => match Records::decode(&batch, &BatchLimits::stored()) {
                Ok(records) => {
                    let (topic, partition) = (Arc::clone(&lane.topic), lane.partition);
                    let current =
                        Current { lane: id, topic, partition, header, records, index: 0, _held: held };
                    self.current = Some(current);
                    None
                }
                Err(error) => {
                    tracing::warn!(topic = %lane.topic, partition = lane.partition, %error, "damaged batch");
                    let lost = corrupt(header.base_offset.0.max(lane.position), header.end_offset().0);
                    lane.position = header.end_offset().0;
                    Some(lost)
                }
            },
            Event::Lost { from, to } => {
                let lost = corrupt(from, to);
                lane.position = lane.position.max(to);
                Some(lost)
            }
            Event::Failed { error, last, .. } => {
                if last && let Some(lane) = lanes.open.remove(&id) {
                    tracing::debug!(topic = %lane.topic, partition = lane.partition, "nothing more is read");
                }
                Some(error)
            }
            Event::Gone => {
                lanes.open.remove(&id);
                None
            }
        }
    }
}

impl futures_core::Stream for MessageStream {
    type Item = Result<StreamMessage>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_message(context)
    }
}
