//! The shipped binary, used as users use it: on the command line, through the client library, and, where the
//! input is hostile, on raw sockets.

mod backup;
mod bench;
mod blocking;
mod compaction;
mod crash;
mod delay;
mod expiry;
mod faults;
mod filters;
mod fsync;
mod full_disk;
mod hostile;
mod http;
mod ids;
mod inspect;
mod key_order;
mod messages;
mod named_letters;
mod named_members;
mod priority;
mod producer;
mod queue;
mod reconnect;
mod refusals;
mod retention;
mod scrub;
mod settling;
mod shutdown;
mod start;
mod streams;
mod topic_patterns;
mod topics;
mod unwritable;
mod volume;
mod work;
