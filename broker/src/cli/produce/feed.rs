//! The task that makes messages and enqueues them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dure_client::{Delivery, Message, Producer};
use dure_proto::BATCH_BYTES_MAX;
use memchr::memmem::Finder;
use tokio::sync::mpsc;

use super::super::failure::{Failure, explain};
use super::input::{Block, lines};

/// Messages whose acknowledgements are handed on together.
pub(super) const PIECE_MAX: usize = 1024;

/// What was done, in order.
#[derive(Debug)]
pub(super) enum Fed {
    /// These were enqueued; `first` is the number of the first one, from 1.
    Sent { first: u64, deliveries: VecDeque<Delivery> },
    /// The next one was not, and nothing follows.
    Refused(Failure),
}

/// What every message has, and where they go.
pub(super) struct Feed {
    pub(super) producer: Producer,
    pub(super) sink: mpsc::Sender<Fed>,
    pub(super) key: Option<Bytes>,
    pub(super) separator: Option<Vec<u8>>,
    pub(super) headers: Vec<(Bytes, Bytes)>,
    pub(super) partition: Option<u32>,
    pub(super) empty_as_null: bool,
    pub(super) ttl: Option<Duration>,
    pub(super) priority: Option<u8>,
    pub(super) message_id: Option<Bytes>,
    pub(super) id_from_key: bool,
    pub(super) delay: Option<Duration>,
    pub(super) at: Option<SystemTime>,
}

/// Nobody waits for acknowledgements any more.
struct Gone;

impl Feed {
    /// Sends each line as a message.
    pub(super) async fn lines(self, mut blocks: mpsc::Receiver<Block>) {
        let finder = self.separator.as_deref().map(Finder::new);
        let mut sent = 0;
        while let Some(block) = blocks.recv().await {
            let done = match block {
                Ok(block) => self.block(&block, finder.as_ref(), &mut sent).await,
                Err(failure) => self.refuse(failure).await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn block(&self, block: &Bytes, finder: Option<&Finder<'_>>, sent: &mut u64) -> Result<(), Gone> {
        let mut deliveries = VecDeque::new();
        let mut first = *sent + 1;
        for line in lines(block) {
            let number = *sent + 1;
            let message = match split(line, finder) {
                Some((None, value)) => self.message(self.key.clone(), value),
                Some((key, value)) => self.message(key, value),
                None => {
                    self.pass(first, deliveries).await?;
                    let separator = String::from_utf8_lossy(self.separator.as_deref().unwrap_or_default());
                    let text = format!("line {number} of stdin has no `{separator}` between key and value");
                    return self.refuse(Failure::Failed(text)).await;
                }
            };
            match self.producer.enqueue(message).await {
                Ok(delivery) => deliveries.push_back(delivery),
                Err(error) => {
                    self.pass(first, deliveries).await?;
                    let text = format!("cannot send line {number} of stdin: {}", explain(&error));
                    return self.refuse(Failure::Failed(text)).await;
                }
            }
            *sent = number;
            if deliveries.len() == PIECE_MAX {
                self.pass(first, std::mem::take(&mut deliveries)).await?;
                first = *sent + 1;
            }
        }
        self.pass(first, deliveries).await
    }

    /// Sends each file as a message.
    pub(super) async fn files(self, paths: Vec<PathBuf>) {
        for (number, path) in (1..).zip(paths) {
            let failed = |why: String| Failure::failed(format!("cannot send {}: {why}", path.display()));
            let body = match read_file(&path).await {
                Ok(body) => body,
                Err(why) => return drop(self.refuse(failed(why)).await),
            };
            match self.producer.enqueue(self.message(self.key.clone(), body)).await {
                Ok(delivery) => {
                    if self.pass(number, VecDeque::from([delivery])).await.is_err() {
                        return;
                    }
                }
                Err(error) => return drop(self.refuse(failed(explain(&error))).await),
            }
        }
    }

    fn message(&self, key: Option<Bytes>, value: Bytes) -> Message {
        let is_null = value.is_empty() && self.empty_as_null;
        let mut message = if is_null { Message::default() } else { Message::new(value) };
        let id = if self.id_from_key { key.clone() } else { self.message_id.clone() };
        if let Some(key) = key {
            message = message.key(key);
        }
        for (name, value) in &self.headers {
            message = message.header(name.clone(), value.clone());
        }
        if let Some(id) = id {
            message = message.id(id);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(level) = self.priority {
            message = message.priority(level);
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(at) = self.at {
            message = message.deliver_at(at);
        }
        match self.partition {
            Some(partition) => message.partition(partition),
            None => message,
        }
    }

    async fn pass(&self, first: u64, deliveries: VecDeque<Delivery>) -> Result<(), Gone> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.sink.send(Fed::Sent { first, deliveries }).await.map_err(|_| Gone)
    }

    /// Always `Err`: nothing follows.
    async fn refuse(&self, failure: Failure) -> Result<(), Gone> {
        let _ = self.sink.send(Fed::Refused(failure)).await;
        Err(Gone)
    }
}

/// The key, if there is a separator to look for, and the value; `None` if the line does not have it.
fn split(line: Bytes, finder: Option<&Finder<'_>>) -> Option<(Option<Bytes>, Bytes)> {
    let Some(finder) = finder else { return Some((None, line)) };
    let at = finder.find(&line)?;
    Some((Some(line.slice(..at)), line.slice(at + finder.needle().len()..)))
}

async fn read_file(path: &std::path::Path) -> Result<Bytes, String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::metadata(&path)?.len();
        // Told before it is in memory.
        if bytes > BATCH_BYTES_MAX as u64 {
            let text = format!("its {bytes} bytes are more than a message can have ({BATCH_BYTES_MAX})");
            return Err(std::io::Error::other(text));
        }
        std::fs::read(&path)
    });
    match read.await {
        Ok(Ok(body)) => Ok(body.into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &'static str, separator: Option<&str>) -> Option<(Option<Bytes>, Bytes)> {
        split(line.into(), separator.map(Finder::new).as_ref())
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(parts("a:b:c", Some(":")), Some((Some("a".into()), "b:c".into())));
        assert_eq!(parts("a=>b", Some("=>")), Some((Some("a".into()), "b".into())));
        assert_eq!(parts(":b", Some(":")), Some((Some("".into()), "b".into())));
        assert_eq!(parts("a:", Some(":")), Some((Some("a".into()), "".into())));
        assert_eq!(parts("ab", Some(":")), None);
        assert_eq!(parts("a:b", None), Some((None, "a:b".into())));
    }
}
