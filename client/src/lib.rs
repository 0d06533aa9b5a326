//! Client of DureMQ, a durable message queue broker.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use dure_client::{Client, Message, Start};
//!
//! # async fn handle(_: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
//! # fn backoff(_: &std::io::Error) -> Duration { Duration::from_secs(1) }
//! # async fn example(body: Vec<u8>) -> dure_client::Result<()> {
//! let client = Client::connect("127.0.0.1:7650").await?;
//! let producer = client.producer("photos").build().await?;
//! let receipt = producer.send(Message::new(body).key("user-7")).await?;      // durable when this returns
//!
//! let mut jobs = client.queue("photos", "resize").prefetch(16).subscribe().await?;
//! while let Some(job) = jobs.next().await {
//!     let job = job?;                                                        // lease renewed by itself while held
//!     match handle(job.value()).await { Ok(()) => job.ack().await?, Err(e) => job.release_after(backoff(&e)).await? }
//! }
//! let mut events = client.stream("photos").group("audit").from(Start::Earliest).subscribe().await?;
//! # Ok(())
//! # }
//! ```
//!
//! An operation either succeeds, fails with a typed [`Error`], or says that its outcome is unknown. Everything
//! reconnects by itself and is bounded: in time by the client's `request_timeout`, in memory by the producer's
//! bytes in flight, a stream's credit and a queue consumer's prefetch.
//!
//! It runs on tokio. Leases are renewed by a task of their own: a handler that blocks its thread belongs into
//! [`tokio::task::spawn_blocking`].

mod admin;
mod autoscale;
mod backoff;
mod client;
mod connection;
mod error;
mod json;
mod message;
mod patience;
mod producer;
mod queue;
mod stream;

pub use admin::*;
pub use autoscale::*;

pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorCode, Result, Retry};
pub use message::{Ack, Header, Message, StreamMessage};
pub use producer::{Delivery, Producer, ProducerBuilder};
pub use queue::{Action, Job, JobStream, QueueBuilder, ReceivedJob, Settled};
pub use stream::{HighWatermark, MessageStream, Start, StreamBuilder};

pub use dure_proto::{Compression, CompressionParseError, Receipt, ReceiptParseError};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
