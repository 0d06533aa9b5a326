//! Looking into the files of a broker that is not running: `dure log verify`, `dump` and `rebuild-index`.

mod dump;
mod entries;
mod verify;

pub use dump::{DumpError, DumpLine, KafkaDump, dump, dump_kafka};
pub use verify::{VerifyReport, rebuild_indexes, verify};
