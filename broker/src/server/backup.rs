//! `Backup`: the shards name their files, a thread that may wait makes an archive of them, and this pushes it as the
//! client gives credit. The thread waits for the task, the task for the client: what lies between them is bounded.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dure_engine::{BackupPlan, ConnectionId, Request, RequestError, Response};
use dure_proto::wire::envelope::Body;
use dure_proto::wire::{self, ErrorCode, Retry};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::connection::{Connection, PUSH_BYTES_MAX};
use super::convert::{error_message, message};
use super::dispatch::Room;
use super::stream::{Credit, ended};
use crate::backup::{BackupError, Written, write};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::health::Phase;
use crate::runtime::{AnswerTo, Message, Outbox, OutgoingFrame, Pending};

/// One push.
const PART_BYTES: usize = 256 << 10;
/// Parts that are made and not yet pushed.
const PARTS_READY: usize = 4;
/// A client that takes nothing for as long keeps the broker from deleting for nothing.
const STALLED_MAX: Duration = Duration::from_secs(60);

const _: () = assert!(PART_BYTES <= PUSH_BYTES_MAX as usize);

impl Connection {
    pub(super) fn backup(
        &mut self,
        correlation: u64,
        backup: &wire::Backup,
        room: Room,
    ) -> Result<(), (RequestError, Room)> {
        let credit = match self.open_stream(backup.subscription, backup.credit_bytes) {
            Ok(credit) => credit,
            Err(error) => return Err((error, room)),
        };
        let push = BackupPush {
            connection: self.id,
            subscription: backup.subscription,
            broker: self.broker.clone(),
            outbox: self.outbox.clone(),
            pushes: self.pushes.clone(),
            credit,
        };
        self.tasks.spawn(push.run(correlation, room));
        Ok(())
    }
}

struct BackupPush {
    connection: ConnectionId,
    subscription: u64,
    broker: Arc<Broker>,
    outbox: Outbox,
    pushes: Arc<Semaphore>,
    credit: Arc<Credit>,
}

impl BackupPush {
    async fn run(self, correlation: u64, room: Room) {
        let plans = match self.plans().await {
            Ok(plans) => plans,
            Err(error) => {
                self.credit.close();
                let body = Body::Error(error_message(&error));
                return self.outbox.frame(OutgoingFrame::answer(correlation, body, Some(room.connection)));
            }
        };
        let reply = wire::BackupReply {
            bytes: plans.iter().map(BackupPlan::bytes).sum(),
            commits: plans.iter().map(|plan| plan.seq.0).collect(),
        };
        tracing::info!(connection = self.connection.0, bytes = reply.bytes, "a backup is being made");
        let permit = Some(room.connection);
        self.outbox.frame(OutgoingFrame::answer(correlation, Body::BackupReply(reply), permit));
        drop(room.global);
        let pushed = self.push(plans).await;
        self.credit.close();
        self.end();
        match pushed {
            Ok(Some(end)) => {
                tracing::info!(connection = self.connection.0, bytes = end.bytes, "a backup is complete");
                self.outbox.frame(OutgoingFrame::push(Body::BackupEnd(end)));
            }
            Ok(None) => tracing::info!(connection = self.connection.0, "a backup was given up by its client"),
            Err(error) => {
                tracing::error!(connection = self.connection.0, error = error.message, "a backup failed");
                self.outbox.frame(ended(self.subscription, error));
            }
        }
    }

    /// What each shard names. Those that did are told if another does not.
    async fn plans(&self) -> Result<Vec<BackupPlan>, RequestError> {
        let mut plans = Vec::new();
        for shard in self.broker.shards.iter() {
            let (answer, answered) = oneshot::channel();
            let pending = Pending::unmetered(AnswerTo::Task(answer));
            // A refusal drops the sender, which the receiver hears of.
            let _ = shard.send(self.connection, Request::BeginBackup, pending);
            match answered.await.unwrap_or(Err(RequestError::ShuttingDown)) {
                Ok(Response::Backup(plan)) => plans.push(plan),
                Ok(other) => unreachable!("a backup was answered with {other:?}"),
                Err(error) => {
                    if !plans.is_empty() {
                        self.end();
                    }
                    return Err(error);
                }
            }
        }
        Ok(plans)
    }

    /// The shards need not keep the files any longer. If this task is dropped, they hear of the connection's end.
    fn end(&self) {
        for shard in self.broker.shards.iter() {
            let (connection, request, permits) = (self.connection, Request::EndBackup, [None, None]);
            shard.post(Message::OneWay { connection, request, permits });
        }
    }

    /// `None`: the client wants no more.
    async fn push(&self, plans: Vec<BackupPlan>) -> Result<Option<wire::BackupEnd>, wire::Error> {
        let (sender, mut parts) = mpsc::channel(PARTS_READY);
        let broker = self.broker.clone();
        let archive = spawn_blocking(move || {
            let mut out = Parts { ready: BytesMut::new(), sender };
            write(&*broker.disk, &broker.format, Clock::new().now().wall_ms, &plans, &mut out)
        });
        let mut position = 0;
        while let Some(part) = parts.recv().await {
            match timeout(STALLED_MAX, self.push_part(position, &part)).await {
                Ok(true) => position += part.len() as u64,
                Ok(false) => return Ok(None),
                Err(_) => {
                    let seconds = STALLED_MAX.as_secs();
                    let text = format!("the backup was given up: its client took nothing for {seconds} s");
                    return Err(message(ErrorCode::Busy, text, Retry::Later));
                }
            }
        }
        match archive.await {
            Ok(Ok(Written { bytes, files, short })) => {
                Ok(Some(wire::BackupEnd { subscription: self.subscription, bytes, files, short }))
            }
            Ok(Err(_)) if self.broker.health.now().phase == Phase::Stopping => {
                Err(error_message(&RequestError::ShuttingDown))
            }
            Ok(Err(error)) => Err(backup_error(&error)),
            Err(error) => {
                let text = format!("making the archive failed: {error}");
                Err(message(ErrorCode::ReadFailed, text, Retry::Later))
            }
        }
    }

    /// False if the client wants no more.
    async fn push_part(&self, position: u64, part: &Bytes) -> bool {
        if self.credit.available().await.is_none() {
            return false;
        }
        let bytes = u32::try_from(part.len()).unwrap_or(u32::MAX).min(PUSH_BYTES_MAX);
        let permit = self.pushes.clone().acquire_many_owned(bytes).await.expect("never closed");
        self.credit.take(part.len());
        self.broker.metrics.bytes_out.increment(part.len() as u64);
        let header = wire::BackupPart { subscription: self.subscription, position };
        let envelope = wire::Envelope { correlation: 0, body: Some(Body::BackupPart(header)) };
        self.outbox.frame(OutgoingFrame { envelope, attachment: vec![part.clone()], permit: Some(permit) });
        true
    }
}

fn backup_error(error: &BackupError) -> wire::Error {
    let (code, retry) = match error {
        BackupError::Disk(_) => (ErrorCode::ReadFailed, Retry::Never),
        BackupError::Io(_) | BackupError::GivenUp => (ErrorCode::Busy, Retry::Later),
    };
    message(code, error.to_string(), retry)
}

/// Cuts what is written into parts, and waits while nobody takes them.
struct Parts {
    ready: BytesMut,
    sender: mpsc::Sender<Bytes>,
}

impl Parts {
    fn send(&mut self, bytes: usize) -> io::Result<()> {
        let part = self.ready.split_to(bytes).freeze();
        self.sender.blocking_send(part).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(PART_BYTES)];
        self.ready.extend_from_slice(part);
        if self.ready.len() >= PART_BYTES {
            self.send(PART_BYTES)?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.ready.is_empty() {
            self.send(self.ready.len())?;
        }
        Ok(())
    }
}
