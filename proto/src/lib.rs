//! Floor 0 of DureMQ: the numbers, the record batch, the frame and the messages that everything above shares.
//! No I/O here.

mod batch;
mod buffer;
mod checksum;
mod entry;
mod frame;
mod ids;
mod message_id;
mod murmur;
mod priority;
mod siphash;
mod ttl;

pub use batch::*;
pub use buffer::*;
pub use checksum::*;
pub use entry::*;
pub use frame::*;
pub use ids::*;
pub use message_id::*;
pub use murmur::*;
pub use priority::*;
pub use siphash::*;
pub use ttl::*;

/// The native protocol's messages, generated from `native.proto`.
#[allow(missing_docs, clippy::all)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/dure.v1.rs"));
}

/// What the journal and the checkpoints hold beside record batches, generated from `journal.proto`.
#[allow(missing_docs, clippy::all)]
pub mod journal {
    include!(concat!(env!("OUT_DIR"), "/dure.journal.v1.rs"));
}
