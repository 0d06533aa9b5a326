//! A backup of a running broker, as it arrives.

use bytes::Bytes;
use dure_proto::wire::{self, envelope::Body};

use super::Admin;
use crate::client::unexpected;
use crate::connection::{Push, Subscription};
use crate::error::{Error, Result};

/// What may be on its way at once.
const CREDIT_BYTES: u64 = 8 << 20;
/// Parts are large, but for the last one; a broker that sends more than these breaks the protocol.
const PUSHES_MAX: usize = 1024;

/// The archive of a backup, piece by piece. Dropping it gives the backup up.
#[derive(Debug)]
pub struct Backup {
    subscription: Subscription,
    bytes: u64,
    commits: Vec<u64>,
    /// Where the next piece begins.
    position: u64,
    /// Taken by the caller and not yet told to the broker.
    unsaid: u64,
    end: Option<BackupEnd>,
}

/// What the broker says once the archive is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupEnd {
    /// Length of the archive.
    pub bytes: u64,
    /// Files of the data directory in it.
    pub files: u64,
    /// Segments that are damaged on the broker's disk: shorter than they should be.
    pub short: Vec<String>,
}

impl Admin {
    /// Begins a backup of everything that the broker keeps. It holds all that was acknowledged before this is called,
    /// and is one point in time; producers and consumers go on. One can be made at a time.
    ///
    /// # Errors
    /// `Busy` if another one is being made. It is not waited for, and nothing here is tried again: a backup that was
    /// interrupted is begun anew.
    pub async fn backup(&self) -> Result<Backup> {
        let connection = self.client.connection_by(self.client.deadline()).await?;
        let subscription = connection.subscribe(PUSHES_MAX)?;
        let body = Body::Backup(wire::Backup { subscription: subscription.id, credit_bytes: CREDIT_BYTES });
        // Fixing the moment takes as long as syncing what was appended lately; a broker that died is noticed.
        match connection.request(body, Bytes::new()).await?.body {
            Body::BackupReply(wire::BackupReply { bytes, commits }) => {
                Ok(Backup { subscription, bytes, commits, position: 0, unsaid: 0, end: None })
            }
            other => Err(unexpected("backup", &other)),
        }
    }
}

impl Backup {
    /// About how long the archive will be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The last commit of each of the broker's shards that is in it.
    #[must_use]
    pub fn commits(&self) -> &[u64] {
        &self.commits
    }

    /// The next bytes of the archive; `None` once it is complete, which [`Backup::end`] then tells about.
    ///
    /// # Errors
    /// If the broker cannot go on, or the connection is lost. What was received then is no backup.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.unsaid >= CREDIT_BYTES / 4 {
            let bytes = std::mem::take(&mut self.unsaid);
            let credit = wire::Credit { subscription: self.subscription.id, bytes, messages: 0 };
            self.subscription.connection.send(Body::Credit(credit));
        }
        match self.subscription.pushes.recv().await {
            Some(Push::BackupPart { position, bytes }) if position == self.position => {
                self.position += bytes.len() as u64;
                self.unsaid += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Some(Push::BackupEnd(wire::BackupEnd { bytes, files, short, .. })) if bytes == self.position => {
                self.end = Some(BackupEnd { bytes, files, short });
                Ok(None)
            }
            Some(Push::Ended(error)) => Err(error),
            Some(_) => Err(Error::protocol("a part of the backup is missing")),
            None => Err(Error::disconnected("the connection was lost in the middle of the backup")),
        }
    }

    /// What the broker said at the end; `None` before.
    #[must_use]
    pub fn end(&self) -> Option<&BackupEnd> {
        self.end.as_ref()
    }
}
