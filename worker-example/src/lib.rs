//! An example on DureMQ: real photos go through a durable queue to a pool of workers.
//!
//! A photo lies once in a content-addressed [`Store`]; the message is a [`Job`] that refers to it
//! and names the [`ops`]. A worker does the job with [`run_and_record`], which leaves the result
//! and its record in the out directory under names that derive from the job, and then acks: work
//! that is done twice changes nothing. A [`JobError`] tells what may pass from what never will. At
//! the end [`results`] makes one line per photo of what is there, and [`report`] two pictures.
//!
//! Nothing in this library knows the broker. Pixels are worked on in [`picture`], which knows
//! neither files nor jobs.

mod atomic;
pub mod job;
pub mod ops;
pub mod picture;
pub mod report;
pub mod results;
pub mod sample;
mod store;

pub use atomic::FileError;
pub use job::{Job, JobError, JobId, JobResult, run_job};
pub use ops::Ops;
pub use picture::{OutputFormat, Picture, Quality};
pub use results::{Record, Status, run_and_record};
pub use store::{BadHash, PHOTO_BYTES_MAX, PhotoHash, Store, StoreError};
